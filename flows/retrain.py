"""Retrain: the next version of a model, from scratch or from the champion, trained, evaluated, gated, registered."""

from typing import Any, Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from evaluation.gate_settings import GateSettings
from flows.config import Data, ModelName, PipelineConfig, PresetName, Seed, Steps
from flows.form import form
from flows.pipeline import RUNNER, run_chain
from flows.plan import go_on_from, make_plan
from flows.run_name import named, rename, this_run_id
from tasks.artifacts import ArtifactRef
from tasks.home import Home, open_home
from tasks.warm_start import WarmStart, champions_start, next_seed
from tasks.whole_file import write_whole


class RetrainConfig(BaseModel):
    """What the form of `retrain` asks for: as it stands, it gives the next version of the demo's model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: PresetName = "demo"
    data: Data = ""
    start: Literal["scratch", "champion"] = Field(
        default="scratch",
        description="Begin with random weights, or go on from the champion's base network and autoencoder.",
    )
    seed: Seed = Field(
        default=0,
        description="Seed of the training; 0 takes the next one that no version of the model has.",
    )
    train_steps: Steps = Field(
        default=0,
        description="Budget of the base model, in optimizer steps; 0 takes the preset's.",
    )
    needs_approval: bool = Field(
        default=False, description="Whether a promotion waits for a person, who is asked in Prefect."
    )
    name: ModelName = Field(
        default="",
        description="Registered model that gets the next version; empty is fluxline-PRESET.",
    )

    def pipeline(self, seed: int) -> PipelineConfig:
        """Return the pipeline's configuration with this seed."""
        return PipelineConfig(
            preset=self.preset,
            data=self.data,
            seed=seed,
            name=self.name,
            train_steps=self.train_steps,
            gate=GateSettings(needs_approval=self.needs_approval),
        )


class Settled(BaseModel):
    """What a run has settled on, kept beside the home's pipelines: crashed and started again, it does the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    version: str = ""
    base: ArtifactRef | None = None
    autoencoder: ArtifactRef | None = None


def _words(given: dict[str, Any]) -> dict[str, Any]:
    seed = f"seed {given['seed']}" if given.get("seed") else "next seed"
    start = ", from champion" if given.get("start") == "champion" else ""
    return {"seeded": seed, "started": start, "model": given.get("name") or given.get("preset")}


@flow(
    name="retrain",
    task_runner=RUNNER,
    persist_result=False,
    flow_run_name=named("retrain {model}, {seeded}{started}", _words),
    description="Make the next version of a model: train, evaluate, ask the gate, register. Change what differs.",
)
@form(RetrainConfig)
def retrain(config: RetrainConfig) -> dict[str, Any]:
    """Make the next version of a model: train, evaluate, ask the gate, register."""
    home = open_home().make()
    settled = settle(home, config, this_run_id())
    asked = config.pipeline(settled.seed)
    plan = make_plan(asked)
    if settled.base is not None and settled.autoencoder is not None:
        plan = go_on_from(plan, settled.base, settled.autoencoder)
    start = f"version {settled.version}" if settled.version else config.start
    after = f", from version {settled.version}" if settled.version else ""
    rename(f"retrain {config.name or config.preset}, seed {settled.seed}{after}")
    return run_chain(plan, asked.model_dump() | {"start": start})


def settle(home: Home, config: RetrainConfig, run_id: str) -> Settled:
    """Return the seed and the start of a run: what it has settled on already, else what the registry says now.

    Raises:
        InputError: a value makes no sense, or there is no champion to go on from.
    """
    place = home.root / "pipelines" / f"retrain-{run_id}.json"
    if run_id and place.is_file():
        return Settled.model_validate_json(place.read_text())
    asked = config.pipeline(config.seed).check()
    start: WarmStart | None = None
    if config.start == "champion":
        start = champions_start(home, asked.model_name, make_plan(asked).flow)
    seed = config.seed or next_seed(home, asked.model_name)
    settled = Settled(seed=seed)
    if start is not None:
        settled = Settled(seed=seed, version=start.version, base=start.base, autoencoder=start.autoencoder)
    if run_id:
        write_whole(place, settled.model_dump_json())
    return settled
