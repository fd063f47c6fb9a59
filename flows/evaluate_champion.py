"""Evaluate champion: each night the champion is drawn again; a drift beyond its interval is announced.

evaluation/drift.py says what counts as a drift, and why a year of nights on an unchanged champion raises a false alarm
in at most one year of twenty.
"""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from evaluation.drift import DriftSettings, Night
from flows.form import fields_of, form
from flows.retrain import RetrainConfig
from flows.run_name import named, rename
from fluxmodel.errors import FluxlineError
from tasks import registry
from tasks.drift import announce_drift, find_watched, judge, tonight, vigil
from tasks.home import Home, open_home
from tasks.launch import STOP
from tasks.registry import RegisteredVersion
from tasks.stage_run import RunContext

_USUAL = DriftSettings()


class VigilConfig(RetrainConfig):
    """Whose champion is watched, what an alarm takes, and what `retrain` is told where its automation is on."""

    min_effect: float = Field(
        default=_USUAL.min_effect, ge=0, le=1, description="Least loss that counts; 0.01 is a point in 100."
    )
    yearly_alpha: float = Field(
        default=_USUAL.yearly_alpha,
        gt=0,
        lt=1,
        description="Probability of a false alarm in a year of nights, at most.",
    )


_FIRST = ("preset", "name", "min_effect", "yearly_alpha")
"""What is watched and how; below it the form asks for what only a retraining is told."""


@flow(
    name="evaluate-champion",
    persist_result=False,
    flow_run_name=named(
        "evaluate champion of {model}", lambda given: {"model": given.get("name") or given["preset"]}
    ),
    description="Draw the champion's prompts again, with the noise of its promotion and with new noise; tell a drift.",
)
@form(VigilConfig, tuple(dict.fromkeys((*_FIRST, *VigilConfig.model_fields))))
def evaluate_champion(config: VigilConfig) -> State:
    """Draw the champion's prompts again, with the noise of its promotion and with new noise; tell a drift."""
    home = open_home().make()
    name = config.name or f"fluxline-{config.preset}"
    settings = DriftSettings(min_effect=config.min_effect, yearly_alpha=config.yearly_alpha)
    STOP.clear()
    try:
        with registry.answering(home):
            watched = find_watched(home, name)
        version = watched.version
        rename(f"evaluate champion {name} {version.version}")
        context = RunContext(home=str(home.root))
        drawn = vigil(context, **watched.parts, night=tonight(), name=name, version=version.version)
        with registry.answering(home):
            night = judge(home, watched, drawn, settings)
        _show(version, night)
        if night.verdict == "drifted":
            return _alarm(home, config, version, night)
    except FluxlineError as error:
        return Failed(message=str(error))
    except BaseException:
        STOP.set()  # the child saves what it can and leaves
        raise
    return Completed(message=night.said, name=night.verdict.capitalize())


def _alarm(home: Home, config: VigilConfig, version: RegisteredVersion, night: Night) -> State:
    asked = {name: value for name, value in fields_of(config).items() if name in RetrainConfig.model_fields}
    with registry.answering(home):
        is_new = announce_drift(home, version, night, asked | {"name": version.name})
    said = night.said if is_new else f"{night.said} It was announced before."
    return Failed(message=said, name="Drifted")


def _show(version: RegisteredVersion, night: Night) -> None:
    """Put the night on the run's page."""
    from prefect.artifacts import create_markdown_artifact

    rows = "\n".join(
        f"| {look.name} noise | {look.row.champion:.4g} | {look.row.challenger:.4g} | {look.row.p_worse:.2g} | "
        f"{'drifted' if look.drifted else ''} |"
        for look in night.looks
    )
    table = (
        f"\n\n| look | then | tonight | exact p of worse | |\n|---|---|---|---|---|\n{rows}" if rows else ""
    )
    differing = (
        f"\n\nMeasured otherwise than at promotion: {', '.join(night.differing)}." if night.differing else ""
    )
    create_markdown_artifact(
        f"**{night.verdict}**: {night.said}{table}{differing}",
        key="champion",
        description=f"{version.name} version {version.version}, night {night.night}",
    )
