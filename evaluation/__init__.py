"""The judge: distances, scores, intervals and the report about one model.

`evaluate` judges a model directory; `write_report` tells it as a page; `closing_figures` in a few words; `decide`
says whether it takes the champion's place. The names are looked up when first used, so that importing the package
costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluate import EvaluationReport, evaluate
    from .gate import GateDecision, GateSettings, decide
    from .identity import Identity, Measurement, require_comparable
    from .report import closing_figures, write_report
    from .settings import EvaluationJob, EvaluationSettings

_HOMES = {
    "EvaluationJob": "settings",
    "EvaluationReport": "evaluate",
    "EvaluationSettings": "settings",
    "GateDecision": "gate",
    "GateSettings": "gate",
    "Identity": "identity",
    "Measurement": "identity",
    "closing_figures": "report",
    "decide": "gate",
    "evaluate": "evaluate",
    "require_comparable": "identity",
    "write_report": "report",
}

__all__ = [
    "EvaluationJob",
    "EvaluationReport",
    "EvaluationSettings",
    "GateDecision",
    "GateSettings",
    "Identity",
    "Measurement",
    "closing_figures",
    "decide",
    "evaluate",
    "require_comparable",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # importing evaluation.evaluate would bind the module here, not the function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
