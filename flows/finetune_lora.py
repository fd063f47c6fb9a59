"""Finetune a LoRA: a style for a registered model from a few images, measured on that model; no new version."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.chain import Chain
from flows.config import ModelName, PipelineConfig, PresetName, Seed, Steps
from flows.form import form
from flows.outcome import finish, wait_for_all
from flows.pipeline import RUNNER
from flows.plan import Plan, make_plan
from flows.run_name import named
from fluxmodel.errors import InputError
from tasks import registry
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.cards import read_json
from tasks.curate import DataSource, identify_source
from tasks.home import Home, open_home
from tasks.parent_run import pipeline_run

_KINDS = {"train": "model", "rectify": "model", "curate": "dataset", "encode": "latents"}
"""Stages whose artifacts are the model's own, and of what kind these are; the embedded parts besides."""


class LoraConfig(BaseModel):
    """What the form of `finetune-lora` asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: PresetName = "demo"
    style: str = Field(
        default="",
        description="Folder of 10 to 20 captioned images, or style:NAME?n=16&seed=0; empty takes the preset's style.",
    )
    trigger: str = Field(
        default="",
        description="Made-up word that asks for a folder's style at the end of a prompt; a drawn style has its own.",
    )
    version: str = Field(
        default="champion", min_length=1, description="Version to teach: champion, challenger or a number."
    )
    rank: int = Field(default=0, ge=0, le=256, description="Rank of the LoRA; 0 takes the preset's.")
    steps: Steps = Field(default=0, description="Optimizer steps; 0 takes the preset's.")
    seed: Seed = Field(default=0, description="Seed of the training.")
    name: ModelName = Field(default="", description="Registered model to teach; empty is fluxline-PRESET.")


def _words(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": given.get("name") or given.get("preset"),
        "of": given.get("style") or "the preset's style",
    }


@flow(
    name="finetune-lora",
    task_runner=RUNNER,
    persist_result=False,
    flow_run_name=named("LoRA of {of} on {model} {version}", _words),
    description="Teach a registered model a style from 10 to 20 images: a LoRA, evaluated, and where it lies.",
)
@form(LoraConfig)
def finetune_lora(config: LoraConfig) -> dict[str, Any]:
    """Teach a registered model a style, measure it, and say where the LoRA lies."""
    home = open_home().make()
    plan = lora_plan(home, config)
    with pipeline_run(_told(config), plan.source.fingerprint) as run:
        refs = wait_for_all(Chain(plan, run.context).upto("evaluate"))
        outcome = finish(run, refs, plan.name)
        place = ArtifactStore(home).path(refs["finetune"])
        return outcome.model_dump() | show(place, f"{plan.name}@{config.version}", outcome.figures)


def lora_plan(home: Home, config: LoraConfig) -> Plan:
    """Return the plan of a LoRA: the chain with all the model's own artifacts given.

    Raises:
        InputError: a value is wrong, there is no such version, or it is not told what it was made of.
    """
    asked = PipelineConfig(
        preset=config.preset, style=config.style, trigger=config.trigger, seed=config.seed, name=config.name
    ).check()
    with registry.answering(home):
        version = registry.find_version(home, asked.model_name, config.version)
    plan = make_plan(asked, _source(version))
    if plan.style is None:
        raise InputError(
            f"style is {config.style!r}; name a folder of captioned images, or style:NAME?n=16&seed=0."
        )
    lora = plan.lora
    if config.rank:
        lora = lora.model_copy(
            update={"objective": lora.objective | {"rank": config.rank, "alpha": config.rank}}
        )
    if config.steps:
        lora = lora.model_copy(update={"steps": config.steps})
    return replace(plan, lora=lora, given=_own(version, plan))


def show(place: Path, model: str, figures: dict[str, str]) -> dict[str, str]:
    """Show on the run's page where the LoRA lies and how to use it; return the same."""
    from prefect.artifacts import create_markdown_artifact

    about = read_json(place / "lora.json")
    command = f'fluxline generate "a prompt {about["trigger"]}" --model {model} --variant base --lora {place}'
    told = "\n".join(f"- {name}: {value}" for name, value in figures.items())
    text = (
        f"**LoRA {about['name']}**, trigger word `{about['trigger']}`\n\n`{place}`\n\n`{command}`\n\n{told}"
    )
    create_markdown_artifact(text, key="lora", description=f"LoRA {about['name']}")
    return {"lora": str(place), "trigger": str(about["trigger"]), "try": command}


def _told(config: LoraConfig) -> dict[str, Any]:
    return config.model_dump() | {"upto": "finetune-lora"}


def _source(version: registry.RegisteredVersion) -> DataSource:
    """Return the data a version learnt from; of a folder only what it was then, for it is not read again."""
    data = version.tags.get("dataset", "")
    if not data:
        raise InputError(
            f"Version {version.version} of {version.name!r} does not say what it learnt from; choose another."
        )
    if data.startswith("procedural:"):
        return identify_source(data)
    return DataSource(data="", fingerprint=data, is_procedural=False)


def _own(version: registry.RegisteredVersion, plan: Plan) -> dict[str, ArtifactRef]:
    kinds = _KINDS | {f"prepare-{part}": part for part in plan.parts if part != "captioner"}
    found = {stage: registry.stage_artifact(version, stage, kind) for stage, kind in kinds.items()}
    if lost := [stage for stage, ref in found.items() if ref is None]:
        raise InputError(
            f"Version {version.version} of {version.name!r} does not say what its {lost[0]} made; choose a version "
            "that `fluxline run` or `retrain` made."
        )
    return {stage: ref for stage, ref in found.items() if ref is not None}
