"""Training stages whose children only pass the time, in a process of its own.

`python device_stages.py HOME MODE UNTIL`: no child ends before the file UNTIL is there. MODE `plain` starts a stage for
each line of standard input, a number, its seed; `flow` starts those of one line, such as `0 1 2 3`, as tasks of a
Prefect flow. It prints `done` when all have ended.
"""

import sys
import threading
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks import tracking
from tasks.home import Home
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

STEPS, SECONDS_PER_STEP = 20, 0.1


class Settings(BaseModel):
    """What tells one stage from another."""

    seed: int


def run(home: str, until: str, seed: int) -> str:
    def work(run: StageRun, settings: Settings) -> Outcome:
        job = {
            "output": str(run.output),
            "steps": STEPS,
            "seconds_per_step": SECONDS_PER_STEP,
            "until": until,
        }
        return Outcome(run.launch("fake_child", job), "time passed")

    stage = Stage("train", kind="model", modules=("tasks.spool",))
    return stage.run(RunContext(home=home), work, settings=Settings(seed=seed)).digest


def run_flow(home: str, until: str, seeds: list[int]) -> None:
    from prefect import flow, task
    from prefect.task_runners import ThreadPoolTaskRunner

    stage = task(name="train")(run)
    runner: Any = ThreadPoolTaskRunner(max_workers=8)

    @flow(task_runner=runner)
    def stages() -> None:
        for future in [stage.submit(home, until, seed) for seed in seeds]:
            future.result()

    stages()


def main(home: str, mode: str, until: str) -> None:
    def away(_: Home) -> None:
        raise ConnectionError("no MLflow here")

    tracking.client = away  # type: ignore[assignment]
    Path(home).mkdir(parents=True, exist_ok=True)
    if mode == "flow":
        run_flow(home, until, [int(seed) for seed in sys.stdin.readline().split()])
    else:
        threads = []
        for line in sys.stdin:
            threads.append(threading.Thread(target=run, args=(home, until, int(line))))
            threads[-1].start()
        for thread in threads:
            thread.join()
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
