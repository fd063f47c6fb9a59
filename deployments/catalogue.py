"""The one list of what is deployed: `fluxline up`, `fluxline deploy` and prefect.yaml all come from it."""

import importlib
from dataclasses import dataclass, field
from typing import Any

from flows.lost_runs import TAG
from flows.stage_forms import SAID

POOL = "fluxline"
"""The work pool of `fluxline deploy`, for workers of type process."""
SCHEDULES_ARE_OFF = "Its schedules are off until you switch them on."


@dataclass(frozen=True)
class Timetable:
    """When a deployment runs by itself.

    Attributes:
        slug: its name; what a person changes about it in Prefect stays.
        cron: five fields, in UTC.
        parameters: of such a run.

    It is off until somebody switches it on: nobody is surprised by a night's burn.
    """

    slug: str
    cron: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Deployed:
    """One deployment; it has the name of its flow.

    Attributes:
        name: of deployment and flow.
        place: module and name of the flow.
        said: what it is for, as people read it in Prefect.
        tags: to find it by.
        timetables: when it runs by itself.
        limit: how many of its runs at once; further ones wait in line. 0 is no limit.
    """

    name: str
    place: str
    said: str
    tags: tuple[str, ...] = ()
    timetables: tuple[Timetable, ...] = ()
    limit: int = 1

    @property
    def flow(self) -> Any:
        """The flow itself; its module is loaded now."""
        module, _, name = self.place.rpartition(".")
        return getattr(importlib.import_module(module), name)


def _stage(name: str) -> Deployed:
    said = f"{SAID[name]} Stages that stand are reused."
    return Deployed(name, f"flows.stage_flows.{name}", said, tags=(TAG, "stage"))


_WEEKLY = Timetable(
    "weekly-from-champion", "0 3 * * 0", {"preset": "demo", "start": "champion", "train_steps": 800}
)
"""Half the demo's budget: the network knows the data already."""
_MONTHLY = Timetable("monthly-from-scratch", "0 4 1 * *", {"preset": "demo", "start": "scratch"})

CATALOGUE: tuple[Deployed, ...] = (
    Deployed(
        "retrain",
        "flows.retrain.retrain",
        "Make the next version of a model: train, evaluate, ask the gate, register. Press Run and change what differs; "
        f"left as it is, the next seed is trained. {SCHEDULES_ARE_OFF}",
        tags=(TAG, "model"),
        timetables=(_WEEKLY, _MONTHLY),
    ),
    Deployed(
        "pipeline",
        "flows.pipeline.pipeline",
        "Run the whole chain with every setting at hand: from raw images to a registered, evaluated model. What has "
        "run before is reused.",
        tags=(TAG, "model"),
    ),
    Deployed(
        "finetune-lora",
        "flows.finetune_lora.finetune_lora",
        "Teach a registered model a style from 10 to 20 images: a LoRA, evaluated; the run says where it lies.",
        tags=(TAG, "model"),
    ),
    Deployed(
        "compare",
        "flows.compare.compare",
        "Lay two versions side by side: verdict, what changed, every number, the same prompts image by image.",
        tags=(TAG, "judgement"),
    ),
    Deployed(
        "evaluate-champion",
        "flows.evaluate_champion.evaluate_champion",
        "Draw the champion's prompts again, and tell when it falls below its interval. Its nightly schedule is off "
        "until you switch it on.",
        tags=(TAG, "judgement"),
        timetables=(Timetable("nightly", "0 2 * * *", {"preset": "demo"}),),
    ),
    Deployed(
        "watch-data",
        "flows.watch_data.watch_data",
        "Look at a folder, and start `retrain` when it has changed and is quiet again. Give its schedule your folder, "
        "then switch it on.",
        tags=(TAG, "data"),
        timetables=(Timetable("every-ten-minutes", "*/10 * * * *"),),
    ),
    Deployed(
        "approve",
        "flows.approve.approve",
        "Ask a person whether a version may become the champion; started by a run whose promotion waits. Press Resume "
        "on a run of it to answer.",
        tags=(TAG, "judgement"),
        limit=0,
    ),
    *(_stage(name) for name in SAID),
)
