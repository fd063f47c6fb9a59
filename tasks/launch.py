"""Child processes: every stage that computes runs in one, so that a crash, a kill or a leak stays its own.

A child gets a job file, leads its own process group, dies with its parent (a pipe it holds the read end of;
on Linux also PR_SET_PDEATHSIG), reports through `metrics.jsonl`, and answers SIGTERM with a checkpoint and exit
code 75. Its output goes to a log whose tail is quoted when it fails.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fluxmodel.errors import InputError, InterruptedRun, StageError
from fluxmodel.stop_request import StopRequest
from tasks.leases import AS_WE_ARE, Lease
from tasks.spool import SpoolReader
from tasks.usage import FILE as USAGE
from tasks.usage import UsageSpool

STOP = StopRequest()
"""Set when the whole run is to stop: every child is asked to save a checkpoint and leave."""

POLL_SECONDS = 0.1
GRACE_SECONDS = 20.0
"""For a checkpoint, when a child is asked to stop: Prefect ends a cancelled run's process after 30 seconds, and what
comes after the child (MLflow is told, Prefect is told) must find time in them. FLUXLINE_STOP_SECONDS says otherwise."""
_EX_TEMPFAIL = 75
_QUIET = {
    "PYTHONSAFEPATH": "1",  # a folder named `evaluation` where the user stands must not shadow ours
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def run_child(
    module: str,
    job: dict[str, Any],
    work: Path,
    *,
    threads: int = 1,
    world_size: int = 1,
    timeout_seconds: float = 86_400.0,
    stall_seconds: float = 3600.0,
    progress: Callable[[int, int, str], None] | None = None,
    lease: Lease = AS_WE_ARE,
    keep: tuple[int, ...] = (),
) -> Path:
    """Run `python -m module job.json` to its end and return its `final` directory.

    Args:
        module: module run with the job file as its one argument.
        job: the job; its `output` says where the child reports and leaves its result.
        work: folder of the job file and the log.
        threads: compute threads of each process.
        world_size: processes; above 1 they are started by `torch.distributed.run`.
        timeout_seconds: a child that takes longer is stopped.
        stall_seconds: a child that reports nothing for so long is stopped.
        progress: called as `progress(done, total, message)` with what the child reports.
        lease: the devices it computes with; it inherits their locks.
        keep: further open locks that it inherits.

    Raises:
        InputError: the child refused its input (exit code 2).
        InterruptedRun: the child was asked to stop and saved a checkpoint.
        StageError: it failed in any other way; the text quotes the end of its log.
    """
    output = Path(job["output"])
    output.mkdir(parents=True, exist_ok=True)
    job_file = work / "job.json"
    job_file.write_text(json.dumps(job, indent=1, sort_keys=True))
    command = [sys.executable, "-m", module, str(job_file)]
    if world_size > 1:
        ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
        guard = [sys.executable, "-m", "tasks.guard"]  # torchrun hands no pipe down to its ranks
        command = [*guard, sys.executable, *ranks, "-m", module, str(job_file)]
    log, grace = work / "log.txt", grace_seconds()
    spool = SpoolReader(output / "metrics.jsonl", _size(output / "metrics.jsonl"))
    with log.open("ab") as sink:
        start = sink.tell()
        process, pipe = start_child(command, sink, threads, lease, keep)
        try:
            lease.started(process.pid)
            usage = UsageSpool(process.pid, output / USAGE)
            code = _watch(process, spool, usage, progress, timeout_seconds, stall_seconds, grace)
        finally:
            stop_group(process, grace=0.0 if process.poll() is not None else grace)
            os.close(pipe)
    if code == 0 and (output / "final").is_dir():
        return output / "final"
    raise _failure(module, code, log, start)


def start_child(
    command: list[str], sink: Any, threads: int, lease: Lease = AS_WE_ARE, keep: tuple[int, ...] = ()
) -> tuple[subprocess.Popen, int]:
    """Start a child in its own session; return it and the pipe end whose closing tells it to die."""
    read_end, write_end = os.pipe()  # both ends close on exec; only the read end is handed down
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=child_environment(threads, lease) | {"FLUXLINE_PARENT_PIPE": str(read_end)},
            pass_fds=(
                read_end,
                *lease.descriptors,
                *keep,
            ),  # these alone: another stage's locks stay out of it
            start_new_session=True,
            preexec_fn=death_signal(),
        )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return process, write_end


def child_environment(threads: int, lease: Lease = AS_WE_ARE) -> dict[str, str]:
    """Return the environment of a child: ours, quiet, with `threads` compute threads and the lease's devices."""
    counts = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(max(1, threads))
    )
    return dict(os.environ) | _QUIET | counts | lease.environment()


def stop_group(process: subprocess.Popen, grace: float = GRACE_SECONDS) -> None:
    """Ask the child's process group to end, and after `grace` seconds end it."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    _signal_group(process, signal.SIGKILL)  # what the leader may have left behind
    process.wait()


def end_group(process: subprocess.Popen, grace: float) -> None:
    """End what a process that died left behind in its group: asked first, and after `grace` seconds not any more."""
    _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and _has_members(process.pid):
        time.sleep(POLL_SECONDS)
    _signal_group(process, signal.SIGKILL)


def grace_seconds() -> float:
    """Return how long a child that is asked to stop may take: GRACE_SECONDS, or FLUXLINE_STOP_SECONDS.

    Raises:
        InputError: FLUXLINE_STOP_SECONDS is no number of seconds.
    """
    said = os.environ.get("FLUXLINE_STOP_SECONDS", "")
    try:
        seconds = float(said) if said else GRACE_SECONDS
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 86_400:
        raise InputError(f"FLUXLINE_STOP_SECONDS is {said!r}; give a number of seconds, such as 20.")
    return seconds


def _watch(
    process: subprocess.Popen,
    spool: SpoolReader,
    usage: UsageSpool,
    progress,
    timeout: float,
    stall: float,
    grace: float,
) -> int:
    """Return the child's exit code; a stop that was asked for counts as one, a child out of time as SIGALRM."""
    started = heard = time.monotonic()
    asked = 0.0
    while True:
        usage.poll()
        code = process.poll()
        lines, now = spool.read(), time.monotonic()
        if lines:
            heard = now
            if progress is not None:
                progress(lines[-1].step, lines[-1].total, lines[-1].message)
        if code is not None:
            return _EX_TEMPFAIL if asked and code != 0 else code
        if STOP.is_set() and not asked:
            asked = now
            process.send_signal(signal.SIGTERM)
        if asked and now - asked > grace:
            _signal_group(process, signal.SIGKILL)
            return _EX_TEMPFAIL
        if not asked and (now - heard > stall or now - started > timeout):
            return -signal.SIGALRM
        time.sleep(POLL_SECONDS)


def _failure(module: str, code: int, log: Path, start: int) -> Exception:
    said = _tail(log, start)
    if code == InputError.exit_code and said:
        return InputError(said[-1].removeprefix("error: "))
    if code == _EX_TEMPFAIL:
        return InterruptedRun("Stopped after saving a checkpoint; the same command goes on from there.")
    if code == -signal.SIGALRM:
        how = "took too long, or reported nothing for too long, and was stopped"
    elif code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    else:
        how = f"ended with exit code {code}" if code else "left no result"
    quoted = "\n".join(f"  | {line}" for line in said[-12:])
    return StageError(
        f"`python -m {module}` {how}; its log is {log}" + (f" and ends with\n{quoted}" if said else ".")
    )


def _tail(log: Path, start: int, num_bytes: int = 8000) -> list[str]:
    with log.open("rb") as stream:
        stream.seek(max(start, _size(log) - num_bytes))
        return [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _has_members(group: int) -> bool:
    import psutil

    for member in psutil.process_iter(["status"]):
        with suppress(OSError):
            if os.getpgid(member.pid) == group and member.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def death_signal() -> Callable[[], None] | None:
    """Return what the forked child calls first: on Linux, a kernel-sent SIGTERM when the parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(1, signal.SIGTERM, 0, 0, 0)  # 1 = PR_SET_PDEATHSIG
