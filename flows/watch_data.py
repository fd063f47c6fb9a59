"""Watch data: look at a folder on a schedule, and tell Prefect when its content has changed and come to rest."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.form import fields_of, form
from flows.retrain import RetrainConfig
from flows.run_name import named
from fluxmodel.errors import FluxlineError
from tasks.dataset_watch import Change, announce_change, look
from tasks.home import open_home

MINUTE = 60.0


class WatchConfig(RetrainConfig):
    """What is watched, and what `retrain` is told when it changes."""

    data: str = Field(
        default="", description="Folder, files or URI to watch; it is what `retrain` learns from."
    )
    quiet_minutes: float = Field(
        default=10.0,
        ge=0,
        le=24 * 60,
        description="How long nothing may have changed, minutes: an upload may be half done.",
    )


@flow(
    name="watch-data",
    persist_result=False,
    flow_run_name=named("look"),
    description="Look at a folder; once it has changed and is quiet again, announce it, so that `retrain` starts.",
)
@form(WatchConfig)
def watch_data(config: WatchConfig) -> State:
    """Look at a folder; once it has changed and is quiet again, announce it, so that `retrain` starts."""
    asked = {name: value for name, value in fields_of(config).items() if name in RetrainConfig.model_fields}

    def tell(change: Change) -> None:
        announce_change(change, asked | {"data": change.data})

    try:
        found = look(open_home().make(), config.data, config.quiet_minutes * MINUTE, tell)
    except FluxlineError as error:
        return Failed(message=str(error))
    return Completed(message=found.said, name=found.state.capitalize())
