"""A short question to a server nearby: JSON in and out, no proxy, no long wait, the credentials its tool would send."""

import base64
import json
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote, urlsplit

SECONDS = 2.0


def ask(
    url: str,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
) -> Any:
    """Return the JSON at an address; a `body` is posted. A user and password in the address are sent as such.

    Raises:
        OSError: no answer within `seconds`, only a part of one, or no success.
        ValueError: no JSON.
    """
    with _open(url, body, headers, seconds) as reply:
        told = reply.read()
    return json.loads(told)


def server_time(url: str) -> float | None:
    """Return what time it is at the server, Unix time in whole seconds; None where its answer does not say.

    Raises:
        OSError: no answer.
    """
    with _open(url, None, None, SECONDS) as reply:
        told = reply.headers.get("Date")
    return parsedate_to_datetime(told).timestamp() if told else None


def prefect_headers() -> dict[str, str]:
    """Return what Prefect's own client would send to be let in: PREFECT_API_KEY, else PREFECT_API_AUTH_STRING."""
    return _authorization(
        os.environ.get("PREFECT_API_KEY", ""), os.environ.get("PREFECT_API_AUTH_STRING", "")
    )


def mlflow_headers() -> dict[str, str]:
    """Return what MLflow's own client would send to be let in: MLFLOW_TRACKING_USERNAME and _PASSWORD, else _TOKEN."""
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{each}", "") for each in ("USERNAME", "PASSWORD"))
    if user and password:
        return _authorization("", f"{user}:{password}")
    return _authorization(os.environ.get("MLFLOW_TRACKING_TOKEN", ""), "")


def without_login(url: str) -> str:
    """Return an address without user and password: one that may be shown, and opened by whoever sees it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _authorization(token: str, login: str) -> dict[str, str]:
    """A token, else USER:PASSWORD, as a header; none where there is neither."""
    if token:
        return {"Authorization": f"Bearer {token}"}
    if login:
        return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
    return {}


@contextmanager
def _open(
    url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None, seconds: float
) -> Iterator[Any]:
    data = None if body is None else json.dumps(body).encode()
    login = urlsplit(url).netloc.rpartition("@")[0]
    given = {"Content-Type": "application/json", **_authorization("", unquote(login)), **(headers or {})}
    request = urllib.request.Request(without_login(url), data, given)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=seconds) as reply:
            yield reply
    except HTTPException as error:  # such as a server that died in the middle of its answer
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
