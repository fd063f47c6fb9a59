"""A home that `fluxline up` serves, with what the tests of its troubles ask it and do to it."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tasks.home import Home
from tasks.run_key import RunBook
from tasks.spool import SpoolReader
from tests.kit import wait_until

PATIENCE = 600.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
CHILDREN = ("fluxmodel.training", "tasks.call")


@dataclass
class ServedHome:
    """`fluxline up` for one home, as a process of its own."""

    home: Path
    prefect: str = ""
    mlflow: str = ""
    process: subprocess.Popen | None = None
    said: Path = field(init=False)

    def __post_init__(self) -> None:
        self.said = self.home.parent / "up.txt"

    def start(self) -> None:
        """Start it, and wait until it serves."""
        from_here = self.said.stat().st_size if self.said.exists() else 0
        with self.said.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "up"],
                env=os.environ | {"FLUXLINE_HOME": str(self.home)},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def text() -> str:
            return self.said.read_text()[from_here:]

        started = self.process
        wait_until(lambda: "Served" in text() or started.poll() is not None, "fluxline up", seconds=PATIENCE)
        assert "Served" in text(), text()
        self.prefect, self.mlflow = re.findall(r"^(?:prefect|mlflow) +(http://\S+)", text(), re.MULTILINE)

    def stop(self) -> None:
        """End it as Ctrl-C does; nothing of it is left."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(PATIENCE) == 0, self.said.read_text()
        assert self.said.read_text().endswith("All stopped.\n")
        assert self.members(guards=True) == []

    def members(self, *words: str, guards: bool = False) -> list[psutil.Process]:
        """Processes of this home, with or without `guards`; with `words`, those with one on their command line."""
        found = []
        for each in psutil.process_iter():
            with suppress(psutil.Error):
                if each.environ().get("FLUXLINE_HOME") != str(self.home):
                    continue
                line = " ".join(each.cmdline())
                is_asked = guards or "tasks.guard" not in line
                is_named = not words or any(word in line for word in words)
                if is_asked and is_named and each.status() != psutil.STATUS_ZOMBIE:
                    found.append(each)
        return found

    def kill(self, *words: str) -> bool:
        """`kill -9` the processes with one of these words; return whether there was one."""
        found = self.members(*words)
        for each in found:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        return bool(found)

    def kill_everything(self) -> None:
        """As a power cut does: nothing of this home lives on."""
        deadline = time.monotonic() + PATIENCE
        while family := self.members(guards=True):
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            assert time.monotonic() < deadline
        assert self.process is not None
        self.process.wait()

    def ask(self, path: str, body: Any = None, server: str = "") -> Any:
        """Ask Prefect's API (or `server`'s), which may be away for a while."""

        def answer() -> list[Any]:
            with suppress(httpx.TransportError), httpx.Client(trust_env=False, timeout=30) as client:
                url = (server or f"{self.prefect}/api") + path
                reply = client.get(url) if body is None else client.post(url, json=body)
                if reply.status_code < 500:
                    assert reply.is_success, reply.text
                    return [reply.json()]
            return []

        return wait_until(answer, path, seconds=PATIENCE)[0]

    def press_run(self, **parameters: Any) -> str:
        """Run the deployment `pipeline`, as the button does; return the flow run's id."""
        deployment = self.ask("/deployments/name/pipeline/pipeline")["id"]
        asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self.ask(f"/deployments/{deployment}/create_flow_run", asked)["id"]

    def press_cancel(self, run: str) -> None:
        """Cancel a flow run, as the button does."""
        self.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def state(self, run: str) -> tuple[str, str]:
        """Return the type of a flow run's state and what it says."""
        state = self.ask(f"/flow_runs/{run}")["state"]
        return state["type"], state["message"] or ""

    def end_of(self, run: str) -> str:
        """Wait until a flow run has ended for good; return its state's type (a crash is not the end, see `up`)."""
        ends = [each for each in ENDED if each != "CRASHED"]
        wait_until(lambda: self.state(run)[0] in ends, f"the end of {run}; {self.said.read_text()}", PATIENCE)
        kind, message = self.state(run)
        return kind if kind == "COMPLETED" else f"{kind}: {message}"

    def unfinished(self) -> list[str]:
        """Names of the flow runs that Prefect thinks are at work."""
        at_work = {"state": {"type": {"any_": ["RUNNING", "CANCELLING", "PENDING"]}}}
        return [run["name"] for run in self.ask("/flow_runs/filter", {"flow_runs": at_work})]

    def forget(self, stage: dict[str, Any]) -> None:
        """Make home and MLflow forget that a stage was ever run."""
        key = stage["run_key"]
        (self.home / "runs" / f"{key}.json").unlink()
        (self.home / "results" / key).unlink(missing_ok=True)
        artifact = self.home / "artifacts" / Path(stage["artifact"]).parent.name / stage["digest"][:16]
        shutil.rmtree(artifact)
        shutil.rmtree(self.work(stage))
        for run in self.runs_of(f"tags.run_key = '{key}'"):
            self._mlflow("runs/delete", {"run_id": run["info"]["run_id"]})

    def work(self, stage: dict[str, Any]) -> Path:
        """Return the work folder of a stage."""
        return self.home / "work" / stage["run_key"][:32]

    def digests(self, stages: dict[str, dict[str, Any]]) -> dict[str, str]:
        """Return the digest of what each stage gave, as the home has it now."""
        book, found = RunBook(Home(self.home)), {}
        for name, stage in stages.items():
            record = book.read(stage["run_key"])
            found[name] = record.artifact.digest if record is not None else "none"
        return found

    def held(self) -> list[str]:
        """Names of the locks that somebody holds: slots, stages, the home itself, runs."""
        places = ("slots/*", "work/*/lock", "locks/in-use", "pipelines/*.json", "devices/*")
        found = []
        for path in (path for place in places for path in self.home.glob(place) if path.is_file()):
            with path.open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    found.append(str(path.relative_to(self.home)))
        return found

    def runs_of(self, asked: str) -> list[dict[str, Any]]:
        """Return MLflow's runs that a filter finds."""
        (experiment,) = self._mlflow(
            "experiments/search", {"max_results": 10, "filter": "name = 'fluxline'"}
        )["experiments"]
        body = {"experiment_ids": [experiment["experiment_id"]], "filter": asked, "max_results": 1000}
        return self._mlflow("runs/search", body).get("runs", [])

    def points(self, run_id: str, name: str) -> Counter:
        """Return how often MLflow has each (step, value) of a metric."""
        path = f"/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key={name}"
        found = self.ask(path, server=self.mlflow).get("metrics", [])
        return Counter((int(point["step"]), float(point["value"])) for point in found)

    def _mlflow(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self.ask(f"/api/2.0/mlflow/{path}", body, server=self.mlflow)


def spooled(spool: Path) -> Iterator[tuple[str, int, float]]:
    """Yield each point of a spool once: a resumed child repeats its steps bit for bit."""
    seen = set()
    for line in SpoolReader(spool).read():
        step = line.step if line.at is None else line.at
        for name, value in line.metrics.items():
            if (name, step) not in seen:
                seen.add((name, step))
                yield name, step, value
