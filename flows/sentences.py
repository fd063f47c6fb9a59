"""Usage errors of the command as one sentence: the field, its value, the cure."""

import re
from typing import Any

import cyclopts
from pydantic import ValidationError


def usage_sentence(error: cyclopts.CycloptsError) -> str:
    """Return what is wrong with the command line and what to do about it."""
    if isinstance(cause := _pydantic(error), ValidationError):
        first = cause.errors()[0]
        return value_sentence(
            "--" + str(first["loc"][-1]).replace("_", "-"), first["input"], str(first["msg"])
        )
    if isinstance(error, cyclopts.UnknownCommandError):
        word = (error.unused_tokens or ["?"])[0]
        return f"there is no verb {word!r}; `fluxline --help` lists them."
    if isinstance(error, cyclopts.UnknownOptionError):
        return f"{_plain(error)} `fluxline {' '.join(error.command_chain or ())} --help` lists the options."
    if isinstance(error, cyclopts.CoercionError) and error.token is not None:
        kind = {int: "a whole number", float: "a number", bool: "yes or no"}.get(error.target_type, "valid")  # type: ignore[arg-type]
        name = error.token.keyword or "the argument"
        return f"{name} is {error.token.value!r}, which is not {kind}; `fluxline --help` lists the values."
    if isinstance(error, cyclopts.MissingArgumentError):
        name = error.argument.name if error.argument is not None else "an argument"
        return f"{name.lower().lstrip('-')} is missing; see `fluxline {' '.join(error.command_chain or ())} --help`."
    return _plain(error)


def value_sentence(name: str, value: Any, message: str) -> str:
    """Return pydantic's complaint about one field as our sentence."""
    wanted = re.sub(r"^(Input|Value) should be ", "", message.split(", unable")[0])
    wanted = wanted.replace("a valid integer", "a whole number").replace("a valid ", "a ")
    if wanted.startswith(("greater", "less")):
        wanted = "a number " + wanted
    return f"{name} is {value}; give {wanted}."


def _pydantic(error: BaseException) -> BaseException | None:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ValidationError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _plain(error: cyclopts.CycloptsError) -> str:
    text = " ".join(str(error).split())
    return text[0].lower() + text[1:] if text else "the command line makes no sense."
