"""Call one library function in a child process: `python -m tasks.call JOB.json`.

The job names a `function` ("package.module:name"), its `arguments`, and an `output` folder. The function
gets `progress` where it takes one and fills `output/final`; what it returns is kept in `output/returned.json`.
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

from fluxmodel.errors import FluxlineError

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
    output = Path(job["output"])
    arguments = dict(job["arguments"])
    takes = inspect.signature(function).parameters
    if "progress" in takes:
        arguments["progress"] = _Reporter(output / "metrics.jsonl")
    for name, parameter in takes.items():  # paths travel as text
        if parameter.annotation is Path and isinstance(arguments.get(name), str):
            arguments[name] = Path(arguments[name])
    returned = function(**arguments)
    if hasattr(returned, "model_dump"):
        returned = returned.model_dump(mode="json")
    (output / "returned.json").write_text(json.dumps(returned if isinstance(returned, dict) else None))


class _Reporter:
    """Writes progress as spool lines, at most one each `REPORT_SECONDS` and the last."""

    def __init__(self, path: Path):
        self.path = path
        self.started = self.written = time.monotonic()

    def __call__(self, done: int, total: int, message: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self.written < REPORT_SECONDS:
            return
        self.written = now
        line = {"step": done, "total": total, "metrics": {}, "seconds": now - self.started, "message": message}
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
