"""An evaluation less how long it took: done twice it has the same content, though never the same timings.

measured.json     what `evaluation.json` says, without timings; the artifact's digest covers it
undigested.json   the files that tell timings as well, which the digest therefore leaves out
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TIMED_NAMES = ("latency_ms", "peak_memory_mib", "cost")
TIMED_FILES = ("evaluation.json", "report.html")


def timeless(value: Any) -> Any:
    """Return a document without what was timed, wherever it stands in it."""
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name not in TIMED_NAMES}
    if isinstance(value, list | tuple):
        timed = [each for each in value if isinstance(each, dict) and each.get("name") in TIMED_NAMES]
        return [timeless(each) for each in value if not any(each is other for other in timed)]
    return value


def write_timeless(directory: Path, document: dict[str, Any]) -> None:
    """Write both files beside an evaluation."""
    text = json.dumps(timeless(document), indent=1, ensure_ascii=False)
    (directory / "measured.json").write_text(text + "\n", encoding="utf-8")
    (directory / "undigested.json").write_text(json.dumps(TIMED_FILES) + "\n", encoding="utf-8")
