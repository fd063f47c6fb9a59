"""Which versions wait for a person's approval, asked without loading MLflow (it takes seconds): for people in a hurry.

A server is asked over HTTP; without one the tags are read from the SQLite file, which is opened for reading alone.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tasks.home import Home
from tasks.http_call import ask, mlflow_headers
from tasks.promotion import APPROVAL, PENDING
from tasks.tracking import tracking_uri


@dataclass(frozen=True)
class Awaited:
    """A version that the gate would promote once a person says yes."""

    name: str
    version: str
    reason: str = ""


def versions_awaited(home: Home, server: str = "") -> list[Awaited]:
    """Return them, newest first; MLflow is asked at `server`, else where it is tracked.

    Raises:
        OSError: MLflow, or its file, did not answer.
        ValueError: it answered something else.
    """
    uri = server or tracking_uri(home)
    if uri.startswith("http"):
        return _ask(uri)
    if not uri.startswith("sqlite:"):
        raise OSError("its database is asked only while a server is up")
    place = Path(uri.removeprefix("sqlite:///"))
    if not place.is_file():
        return []
    try:
        return _read(place)
    except sqlite3.Error as error:
        raise OSError(f"{place}: {error}") from error


def _ask(uri: str) -> list[Awaited]:
    query = urlencode({"filter": f"tags.{APPROVAL} = '{PENDING}'", "max_results": 20})
    url = f"{uri.rstrip('/')}/api/2.0/mlflow/model-versions/search?{query}"
    found: dict[str, Any] = ask(url, headers=mlflow_headers())
    told = []
    for each in found.get("model_versions", []):
        tags = {tag["key"]: tag["value"] for tag in each.get("tags", [])}
        told.append(Awaited(each["name"], str(each["version"]), _first(tags.get("approval.reasons", ""))))
    return sorted(told, key=lambda each: (each.name, -int(each.version)))


def _read(place: Path) -> list[Awaited]:
    with closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True, timeout=1)) as store:
        rows = store.execute(
            "select a.name, a.version, r.value from model_version_tags a left join model_version_tags r "
            "on r.name = a.name and r.version = a.version and r.key = 'approval.reasons' "
            "where a.key = ? and a.value = ? order by a.name, a.version desc",
            (APPROVAL, PENDING),
        ).fetchall()
    return [Awaited(name, str(version), _first(reason or "")) for name, version, reason in rows]


def _first(text: str) -> str:
    return text.splitlines()[0] if text else ""
