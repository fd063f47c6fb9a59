"""Watch data: look at a folder on a schedule, and tell Prefect when its content has changed and come to rest."""

from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from fluxmodel.errors import FluxlineError
from tasks.dataset_watch import announce_change, look
from tasks.home import open_home

MINUTE = 60.0


@flow(name="watch-data", flow_run_name="look at {data}", persist_result=False)
def watch_data(
    data: str = "",
    preset: str = "demo",
    name: str = "",
    quiet_minutes: Annotated[float, Field(ge=0, le=24 * 60)] = 10.0,
) -> State:
    """Look at a folder of images; when it has changed and is quiet again, announce `fluxline.dataset.changed`.

    The automation `fluxline: data changed` starts `retrain` on it. The first look only notes what is there.

    Args:
        data: Folder of images to watch.
        preset: Named size of the model that is retrained.
        name: Registered model that is retrained; empty for fluxline-PRESET.
        quiet_minutes: How long nothing may have changed, minutes: an upload may be half done.
    """
    home = open_home().make()
    more = {"preset": preset, "name": name}
    try:
        found = look(home, data, quiet_minutes * MINUTE, lambda change: announce_change(change, more))
    except FluxlineError as error:
        return Failed(message=str(error))
    return Completed(message=found.said, name=found.state.capitalize())
