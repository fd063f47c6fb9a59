"""The verbs of single stages, from what each may be told: `fluxline curate --data FOLDER --json` and so on."""

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import ValidationError

from flows.command import Json, app
from flows.config import PipelineConfig
from flows.stage_forms import FIELDS, SAID
from fluxmodel.errors import InputError

VERBS = ("prepare", "curate", "caption", "encode", "train", "rectify", "finetune")
"""The others have verbs of their own meaning: `evaluate` and `gate` take models that are there, `run` registers."""

Against = Annotated[
    Path | None, Parameter(help="Directory of a dataset curated before: say and show what differs from it.")
]


def _add(stage: str) -> None:
    """Add the verb of one stage to the command."""

    def verb(*, as_json: bool = False, against: Path | None = None, **values: Any) -> int:
        from flows.run import run_stage

        if against is not None:
            from flows.data_changes import check_dataset, show_changes

            check_dataset(against)
        outcome = run_stage(stage, _config(values))
        if against is not None:
            outcome["changes"] = show_changes(against, Path(outcome["artifact"]))
        if as_json:
            print(json.dumps(outcome))
        return 0

    verb.__name__, verb.__doc__ = stage, SAID[stage]
    asked = [_flag(name) for name in FIELDS[stage]]
    if stage == "curate":
        asked.append(
            inspect.Parameter("against", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Against)
        )
    last = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    verb.__signature__ = inspect.Signature([*asked, last], return_annotation=int)  # pyright: ignore
    verb.__annotations__ = {each.name: each.annotation for each in [*asked, last]}
    app.command(verb, name=stage)


def _config(values: dict[str, Any]) -> PipelineConfig:
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        from flows.sentences import value_sentence

        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise InputError(value_sentence(f"--{name}", first["input"], str(first["msg"]))) from None


def _flag(name: str) -> inspect.Parameter:
    field = PipelineConfig.model_fields[name]
    kind = Annotated[field.annotation, Parameter(help=field.description)]  # pyright: ignore
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=field.get_default(), annotation=kind
    )


for _stage in VERBS:
    _add(_stage)
