"""One Prefect server and one finished smoke run for all pipeline tests of a session."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
        out, err = process.communicate(timeout=400)
        assert process.returncode == code, err
        assert "Traceback" not in err
        assert "Warning" not in err
        return (json.loads(out.splitlines()[-1]) if out.strip() else {}), err

    def pipeline(self, *arguments: str) -> tuple[dict[str, dict], dict, str]:
        """Run the smoke preset; return its stages by name, the whole outcome and what stderr said."""
        outcome, err = self.run("run", "--preset", "smoke", "--json", *arguments)
        return {stage["name"]: stage for stage in outcome["stages"]}, outcome, err


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
        key, artifact = stages[name]["run_key"], Path(stages[name]["artifact"].removeprefix("file://"))
        (command.home / "runs" / f"{key}.json").unlink()
        (command.home / "results" / key).unlink()
        shutil.rmtree(command.home / "artifacts" / artifact.parent.name / artifact.name)
        shutil.rmtree(command.home / "work" / key[:32])

    return call
