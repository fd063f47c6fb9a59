"""`fluxline run`: the pipeline under a Prefect server, with progress above and a closing table below."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flows.config import PipelineConfig
from flows.environment import keep_log, set_environment
from flows.servers import Server, prefect_for_run
from fluxmodel.errors import FluxlineError, InterruptedRun, StageError
from tasks import tracking
from tasks.home import Home, open_home
from tasks.launch import STOP
from tasks.progress import BarBoard, LineBoard, board, use_board


def run_pipeline(config: PipelineConfig) -> dict[str, Any]:
    """Run the pipeline in this process and show it; return its outcome.

    Raises:
        FluxlineError: it did not end well; the text says what to do.
    """
    return _run_shown(config, "")


def run_stage(stage: str, config: PipelineConfig) -> dict[str, Any]:
    """Run the chain up to a stage in this process and show it; return its outcome, of `curate` what was kept too.

    Raises:
        FluxlineError: it did not end well; the text says what to do.
    """
    outcome = _run_shown(config, stage)
    if stage != "curate":
        return outcome
    from tasks.artifacts import ArtifactRef, ArtifactStore
    from tasks.cards import read_json

    made = outcome["stages"][-1]
    place = ArtifactStore(open_home()).path(
        ArtifactRef(kind="dataset", uri=made["artifact"], digest=made["digest"])
    )
    told = read_json(place / "curation.json")
    counts = {name: told[name] for name in ("seen", "kept", "dropped")}
    return outcome | counts | {"artifact": str(place), "report": str(place / "report.html")}


def _run_shown(config: PipelineConfig, stage: str) -> dict[str, Any]:
    config.check()
    if config.data:
        from fluxmodel.data.sources import open_source

        open_source(config.data)  # what cannot be read is said before anything starts
    home = open_home().make()
    set_environment(home)
    log = keep_log_path(home)
    with shown(), prefect_for_run(home) as server, stoppable():
        outcome = _run(config, stage, home, server, log)
        from flows.summary import print_summary

    print_summary(home, outcome)
    return outcome


def keep_log_path(home: Home) -> str:
    """Return where the full log of the command is kept."""
    return str(home.logs / "fluxline.log")


def _run(config: PipelineConfig, stage: str, home: Home, server: Server | None, log: str) -> dict[str, Any]:
    warming = threading.Thread(target=_warm, args=(home,), daemon=True)
    warming.start()  # MLflow's import and first look at its store take seconds: meanwhile Prefect starts
    from flows.plan import make_plan
    from flows.stage_flows import call_flow

    make_plan(config)  # bad input is found before anything is waited for
    if server is not None:
        server.wait()
        board().say(f"Prefect: {server.url}")
    warming.join()
    keep_log(home)
    try:
        return call_flow(stage, config)
    except FluxlineError:
        raise
    except Exception as error:
        raise StageError(f"{type(error).__name__}: {error}; the full log is {log}.") from error
    finally:
        _send_what_is_queued()


def _send_what_is_queued() -> None:
    """Wait until Prefect's server has our logs and events, before it is stopped."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        with suppress(Exception):
            worker.drain_all(timeout=5)


def _warm(home: Home) -> None:
    with suppress(Exception):  # MLflow away: the run will say so
        tracking.experiment_id(home)


@contextmanager
def shown() -> Iterator[None]:
    """Show progress: bars on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        with BarBoard() as bars:
            use_board(bars)
            yield
    else:
        use_board(LineBoard())
        yield


@contextmanager
def stoppable(said: str = "Stopping: saving checkpoints (this may take a few seconds) ...") -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a stop: children save checkpoints, then the run ends with exit code 75."""

    def stop(*_: object) -> None:
        if not STOP.is_set():
            board().say(said)
        STOP.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRun(
            "Interrupted after saving checkpoints; the same command goes on from there."
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
