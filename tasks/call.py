"""Call one library function in a child process: `python -m tasks.call JOB.json`.

The job names a `function` ("package.module:name"), its `arguments`, and an `output` folder. The function
gets `progress` where it takes one; what it leaves in `output/final` is the result.
"""

import importlib
import inspect
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, validate_call

from fluxmodel.errors import FluxlineError
from fluxmodel.progress import seconds_spooled

REPORT_SECONDS = 0.25


def main(arguments: list[str]) -> int:
    """Run the job file named by the one argument; return the exit code."""
    job = json.loads(Path(arguments[0]).read_text())
    _die_with_parent()
    try:
        _call(job)
    except FluxlineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _call(job: dict[str, Any]) -> None:
    module, _, name = job["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    arguments = dict(job["arguments"])
    if "progress" in inspect.signature(function).parameters:
        arguments["progress"] = _Reporter(Path(job["output"]) / "metrics.jsonl")
    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)
    checked(**arguments)  # text becomes a Path, a dict a settings class, as the function's types say


class _Reporter:
    """Writes progress as spool lines, at most one each `REPORT_SECONDS` and the last."""

    def __init__(self, path: Path):
        self.path = path
        self.written = time.monotonic()
        self.started = self.written - seconds_spooled(path)

    def __call__(self, done: int, total: int, message: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self.written < REPORT_SECONDS:
            return
        self.written = now
        line = {
            "step": done,
            "total": total,
            "metrics": {},
            "seconds": now - self.started,
            "message": message,
        }
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def _die_with_parent() -> None:
    descriptor = os.environ.get("FLUXLINE_PARENT_PIPE")
    if descriptor is None:
        return

    def wait() -> None:
        os.read(int(descriptor), 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
