"""One Prefect server and one finished smoke run for all pipeline tests of a session."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from flows.servers import start_prefect
from tasks.home import Home


@dataclass
class Command:
    """A `fluxline` command as a user runs it: a process with its own environment."""

    home: Path
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.Popen(
            command,
            env=os.environ | self.environment | {"FLUXLINE_HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[dict, str]:
        """Run to the end; return the JSON object of the last line and what stderr said."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=900)
        assert process.returncode == code, err
        assert "Traceback" not in err
        assert "Warning" not in err
        return (json.loads(out.splitlines()[-1]) if out.strip() else {}), err

    def pipeline(self, *arguments: str) -> tuple[dict[str, dict], dict, str]:
        """Run the smoke preset; return its stages by name, the whole outcome and what stderr said."""
        outcome, err = self.run("run", "--preset", "smoke", "--json", *arguments)
        return {stage["name"]: stage for stage in outcome["stages"]}, outcome, err

    def work(self, stage: dict) -> Path:
        """Return the work folder of a stage."""
        return self.home / "work" / stage["run_key"][:32]

    def artifact(self, stage: dict) -> Path:
        """Return the directory of a stage's artifact in this home."""
        return self.home / "artifacts" / Path(stage["artifact"]).parent.name / stage["digest"][:16]


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = start_prefect(Home(tmp_path_factory.mktemp("prefect")).make())
    try:
        server.wait()
        yield server.url
    finally:
        server.stop()


@pytest.fixture(scope="session")
def finished(
    prefect_url: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Command, dict[str, dict], dict, str]:
    """The home of a finished run, and what the run printed; not to be changed."""
    command = Command(tmp_path_factory.mktemp("finished"), {"PREFECT_API_URL": f"{prefect_url}/api"})
    return (command, *command.pipeline())


@pytest.fixture
def again(finished, tmp_path: Path) -> Command:
    """A command with a copy of the finished run's home."""
    shutil.copytree(finished[0].home, tmp_path / "home")
    return Command(tmp_path / "home", finished[0].environment)


Forget = Callable[[Command, dict[str, dict], str], None]


@pytest.fixture
def forget() -> Forget:
    """Make a home forget that a stage was ever run."""

    def call(command: Command, stages: dict[str, dict], name: str) -> None:
        key = stages[name]["run_key"]
        (command.home / "runs" / f"{key}.json").unlink()
        (command.home / "results" / key).unlink()
        shutil.rmtree(command.artifact(stages[name]))
        shutil.rmtree(command.work(stages[name]))
        shutil.rmtree(command.home / "cache")  # or what it made would be found by its content

    return call


@pytest.fixture
def ran() -> Callable[[dict[str, dict]], list[str]]:
    """Name the stages that were not reused."""
    return lambda stages: [name for name, stage in stages.items() if not stage["reused"]]


@pytest.fixture
def kill_tree() -> Callable[[subprocess.Popen], None]:
    """End a command and all it started by SIGKILL, as if at one moment; nothing of it is left afterwards."""

    def call(process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGSTOP)  # it must not see its children go, nor start another
        family = psutil.Process(process.pid).children(recursive=True)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.kill()
        process.communicate()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []

    return call
