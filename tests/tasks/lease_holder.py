"""A process that takes a lease, for tests that kill it: `python lease_holder.py MODE STAGE GPUS`.

It prints `holds DEVICES CHILD` once it holds them. MODE: `alone`; `child` (gives them to a child that ignores
SIGTERM), `guarded` (the same, watched by tasks.guard), `brief` (lets go after its standard input ends).
"""

import sys
import time
from pathlib import Path

from tasks.launch import start_child
from tasks.leases import Asker, Need, lease

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


def main(mode: str, stage: str, gpus: str) -> None:
    with lease(Need(int(gpus)), Asker(stage, home="elsewhere", priority=1)) as held:
        pid = 0
        if mode in ("child", "guarded"):
            guard = [sys.executable, "-m", "tasks.guard"] if mode == "guarded" else []
            log = Path("child.log")
            with log.open("ab") as sink:
                process, _ = start_child([*guard, sys.executable, "-c", DEAF], sink, 1, held)
            held.started(process.pid)
            while b"deaf" not in log.read_bytes():
                time.sleep(0.01)
            pid = process.pid
        print("holds", held.visible, pid, flush=True)
        if mode == "brief":
            sys.stdin.read()
        else:
            time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
