"""The command itself, which the modules of verbs share: whoever runs `flows.cli` by either name adds to this one."""

from typing import Annotated

from cyclopts import App, Parameter

app = App(
    name="fluxline",
    help="Turn a pile of images into a registered, evaluated, few-step text-to-image model, again and again.",
    version="0.1.0",
)
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object as the last line.")]
