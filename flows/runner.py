"""The process that serves the deployments and runs what is due: `python -m deployments.serve`, under a guard."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from flows.lost_runs import go_on_with_crashed_runs, skip_missed_runs, take_up_lost_runs
from fluxmodel.stop_request import StopRequest
from tasks.home import Home
from tasks.launch import end_group, start_child, stop_group
from tasks.whole_file import write_whole

SERVED = "served.json"
"""File of FLUXLINE_HOME in which the runner says what it serves, once it does."""
LOOK_SECONDS = 10.0
STOP_SECONDS = 40.0
"""Prefect gives each run 30 seconds to save its checkpoints and end."""
_COMMAND = [sys.executable, "-m", "tasks.guard", sys.executable, "-m", "deployments.serve"]


class Runner:
    """The runner of a home; started at once, once the runs that an earlier one lost are taken up (`lost` tells which).

    Args:
        home: where its log goes.
        prefect_api: address of the server it asks for work.
    """

    title = "runner"

    def __init__(self, home: Home, prefect_api: str):
        self.home, self.log, self.prefect_api = home, home.logs / "runner.log", prefect_api
        self.lost = self._take_up()
        self._look_at = 0.0
        self.process, self._pipe = self._start()

    def restart(self, stop: StopRequest) -> list[str]:
        """Serve again after it died; return what is to be said of the runs it held."""
        self._end()
        said = [] if stop.is_set() else self._take_up()
        self.process, self._pipe = self._start()
        return said

    def look(self) -> list[str]:
        """Now and then, see to it that crashed runs go on; return what is to be said."""
        if time.monotonic() < self._look_at:
            return []
        self._look_at = time.monotonic() + LOOK_SECONDS
        with suppress(OSError, ValueError):  # Prefect is away: next time
            return go_on_with_crashed_runs(self.prefect_api, served(self.home))
        return []

    def stop(self) -> None:
        """Stop serving; what runs saves checkpoints and ends."""
        stop_group(self.process, grace=STOP_SECONDS)
        self._end()

    def _take_up(self) -> list[str]:
        try:
            return [*take_up_lost_runs(self.prefect_api), *skip_missed_runs(self.prefect_api)]
        except (OSError, ValueError) as error:  # they stay for Prefect's automations to find
            return [f"Prefect did not say which runs were lost: {error}"]

    def _end(self) -> None:
        end_group(self.process, grace=STOP_SECONDS)  # a killed runner leaves its runs behind
        with suppress(OSError):
            os.close(self._pipe)

    def _start(self) -> tuple[subprocess.Popen, int]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            return start_child(_COMMAND, sink, threads=1)


def note_served(home: Home, names: Sequence[str]) -> None:
    """Write down that the runner serves deployments of these names."""
    write_whole(home.root / SERVED, json.dumps(list(names)))


def served(home: Home) -> list[str]:
    """Return the names of the deployments, and of their flows, that are served; none while it still starts."""
    try:
        return json.loads((home.root / SERVED).read_text())
    except FileNotFoundError:
        return []
