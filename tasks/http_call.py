"""A short question to a server nearby: JSON in and out, no proxy, and no long wait."""

import json
import urllib.request
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

SECONDS = 2.0


def ask(
    url: str,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
) -> Any:
    """Return the JSON at an address; a `body` is posted.

    Raises:
        OSError: no answer within `seconds`, or no success.
        ValueError: no JSON.
    """
    with _open(url, body, headers, seconds) as reply:
        return json.loads(reply.read())


def server_time(url: str) -> float | None:
    """Return what time it is at the server, Unix time in whole seconds; None where its answer does not say.

    Raises:
        OSError: no answer.
    """
    with _open(url, None, None, SECONDS) as reply:
        told = reply.headers.get("Date")
    return parsedate_to_datetime(told).timestamp() if told else None


def _open(url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None, seconds: float) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(request, timeout=seconds)
