"""Runs one program and sees to it that it ends when its parent does, however that ended.

`python -m tasks.guard PROGRAM ARGUMENTS...` leads the process group it was started in. Programs of others (servers,
torchrun) know nothing of our parent pipe; this small process watches it for them.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from tasks.launch import death_signal
from tasks.leases import LOCKS

GRACE_SECONDS = 30.0


def main(command: list[str]) -> int:
    """Run `command`; return its exit code. SIGTERM, or the parent's end, ends the whole group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = int(os.environ.pop("FLUXLINE_PARENT_PIPE"))
    locks = tuple(int(number) for number in os.environ.pop(LOCKS, "").split(",") if number)
    child = subprocess.Popen(command, preexec_fn=death_signal(), pass_fds=locks)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_end_with_parent, args=(pipe, child), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_with_parent(pipe: int, child: subprocess.Popen) -> None:
    os.read(pipe, 1)  # returns when no one holds the other end any more
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
