"""A child as the launcher knows it, without torch: counts steps, checkpoints each, answers SIGTERM, resumes.

Its job file: output, steps, seconds_per_step, and optionally `fail` (exit code), `hang`, `orphan`, `until` (a file
that must be there before it ends).
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from fluxmodel.stop_request import StopRequest


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text())
    output = Path(job["output"])
    stop = StopRequest()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if "FLUXLINE_PARENT_PIPE" in os.environ:
        pipe = int(os.environ["FLUXLINE_PARENT_PIPE"])
        threading.Thread(target=lambda: (os.read(pipe, 1), os._exit(1)), daemon=True).start()
    (output / "visible").write_text(str(os.environ.get("CUDA_VISIBLE_DEVICES")))
    if job.get("orphan"):
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (output / "orphan").write_text(str(orphan.pid))
    if job.get("hang"):
        time.sleep(600)
    if job.get("fail"):
        print("loading the data")
        print("error: the field `colour` is 'mauve'; choose red or blue.", file=sys.stderr)
        return job["fail"]
    checkpoint = output / "checkpoint.json"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "sum": 0}
    while state["step"] < job["steps"]:
        state["step"] += 1
        state["sum"] += state["step"] ** 2
        time.sleep(job.get("seconds_per_step", 0.0))
        line = {
            "step": state["step"],
            "total": job["steps"],
            "metrics": {"loss": 1 / state["step"]},
            "seconds": 0.1,
        }
        with (output / "metrics.jsonl").open("a") as spool:
            spool.write(json.dumps(line) + "\n")
        partial = checkpoint.with_suffix(".partial")
        partial.write_text(json.dumps(state))
        partial.replace(checkpoint)
        if stop.is_set():
            return 75
    while "until" in job and not Path(job["until"]).exists():
        time.sleep(0.02)
    (output / "final").mkdir(exist_ok=True)
    (output / "final" / "weights.json").write_text(json.dumps(state["sum"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
