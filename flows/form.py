"""A flow's form in Prefect from a configuration class: its fields, one below the other, in its order.

A flow that takes the configuration itself shows all of it as one nested object, a level deeper than need be.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Config = TypeVar("Config", bound=BaseModel)
Result = TypeVar("Result")


def form(
    kind: type[Config], names: Sequence[str] = ()
) -> Callable[[Callable[[Config], Result]], Callable[..., Result]]:
    """Turn a function of one configuration into one of its fields, keyword by keyword, as Prefect's form reads them.

    Types, bounds, defaults and descriptions are those of the class, so nothing is declared twice.

    Args:
        kind: class of the configuration.
        names: the fields to ask for, in this order, the others keeping their defaults; by default all, in the class's.
    """
    fields = {name: kind.model_fields[name] for name in names or kind.model_fields}

    def decorate(function: Callable[[Config], Result]) -> Callable[..., Result]:
        def call(**values: Any) -> Result:
            return function(kind.model_validate(values))

        call.__name__, call.__qualname__ = function.__name__, function.__qualname__
        call.__module__ = function.__module__
        said = "\n".join(f"    {name}: {field.description}" for name, field in fields.items())
        call.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{said}\n"
        call.__signature__ = inspect.Signature([_parameter(name, field) for name, field in fields.items()])  # pyright: ignore
        return call

    return decorate


def fields_of(config: BaseModel) -> dict[str, Any]:
    """Return a configuration's fields by name, as a flow with its form takes them."""
    return {name: getattr(config, name) for name in type(config).model_fields}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra = field.json_schema_extra
    kind: Any = field.annotation
    if isinstance(extra, dict) and "enum" in extra:  # a closed set that is known when the program runs
        kind = Literal[tuple(extra["enum"])]  # pyright: ignore
    elif field.metadata:
        kind = Annotated[kind, *field.metadata]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=field.get_default(), annotation=kind
    )
