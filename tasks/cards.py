"""Reading what an artifact says about itself: `card.json` of trained parts, `evaluation.json` of evaluations."""

import json
import math
from pathlib import Path
from typing import Any


def read_card(directory: Path) -> tuple[str, dict[str, float]]:
    """Return what a trained part can do, as one line and as numbers."""
    metrics = numbers(read_json(directory / "card.json").get("metrics", {}))
    return describe(metrics), metrics


def describe(metrics: dict[str, float], limit: int = 4) -> str:
    """Return the first `limit` numbers in one line."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_readable(value)}" for name, value in list(metrics.items())[:limit]
    )


def _readable(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return the finite numbers among `values`."""
    return {
        str(k): float(v)
        for k, v in values.items()
        if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    }
