"""An endpoint that speaks OpenAI's chat completions (vLLM and many others): the one file that knows httpx.

`http://HOST:PORT/v1?model=NAME`; further parameters are fields of `EndpointAddress`. The key, if one is needed, stands
in the environment variable FLUXLINE_CAPTIONER_KEY; it is sent to that address alone, follows no redirect, and is
neither stored nor repeated in an error. What may pass (429, 5xx, a timeout, half an answer) is tried again after
Retry-After, or a random share of a doubling pause ("full jitter").
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxmodel.errors import InputError, first_fault

KEY = "FLUXLINE_CAPTIONER_KEY"
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OWN = frozenset({400, 413, 415, 422})
"""Statuses that speak of one request; any other failure speaks of the endpoint."""
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_WAIT = 0.5, 20.0, 120.0
_MAX_BYTES = 4 << 20
_SCHEMES = ("http://", "https://")


class EndpointAddress(BaseModel):
    """Where an endpoint is and how it is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(description="Address up to and with /v1.")
    model: str = Field(default="", description="Name of the model; by default the only one that is served.")
    concurrency: int = Field(default=8, gt=0, le=256, description="Requests at once.")
    seconds: float = Field(default=120.0, gt=0, description="Longest time for one answer, whole.")
    attempts: int = Field(default=6, gt=0, le=20, description="Times that an image is asked about at most.")
    max_tokens: int = Field(default=256, gt=0, description="Tokens of a caption at most.")


class CallError(Exception):
    """One request came to nothing; `reason` in one word."""

    def __init__(self, reason: str, detail: str, wait: float | None = None, may_pass: bool = False):
        super().__init__(detail)
        self.reason, self.detail, self.wait, self.may_pass = reason, detail, wait, may_pass


def is_endpoint(text: str) -> bool:
    """Return whether this is an address rather than a directory."""
    return text.startswith(_SCHEMES)


def parse_address(text: str) -> EndpointAddress:
    """Read `http://HOST:PORT/v1?model=NAME`.

    Raises:
        InputError: it is no such address; names the field.
    """
    try:
        parts = urlsplit(text)
        _, host = parts.port, parts.hostname
        query = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError as error:
        shown = text.partition("?")[0].rpartition("@")[2]
        raise InputError(f"{shown}: is no address ({error}); write http://HOST:PORT/v1?model=NAME.") from None
    if "@" in parts.netloc:
        raise InputError(
            f"{host}: no user or password belongs in the address, for addresses are stored; set {KEY} instead."
        )
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    if not host:
        raise InputError(f"{base}: no host there; write http://HOST:PORT/v1?model=NAME.")
    if unknown := sorted({name for name, _ in query} - (set(EndpointAddress.model_fields) - {"base"})):
        raise InputError(
            f"{base}: the parameter {unknown[0]!r} is unknown; there are "
            f"{', '.join(name for name in EndpointAddress.model_fields if name != 'base')}."
            + (f" A key stands in {KEY}." if "key" in unknown[0] else "")
        )
    try:
        return EndpointAddress.model_validate({**dict(query), "base": base})
    except ValidationError as error:
        raise InputError(f"{base}: {first_fault(error)}.") from error


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Token(BaseModel):
    logprob: float = Field(allow_inf_nan=False)


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    completion_tokens: int | None = None


class ChatAnswer(BaseModel):
    """What is read of an answer; anything else in it is passed over."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class ChatEndpoint:
    """Asks an endpoint; threads may share it.

    Args:
        address: where and how.
        pause: waits a number of seconds; by default until `stop` at most.
    """

    def __init__(self, address: EndpointAddress, pause: Callable[[float], object] | None = None):
        import httpx

        self._stopped = threading.Event()
        self.address, self._pause = address, pause or self._stopped.wait
        self._key = os.environ.get(KEY, "").strip()
        is_here = urlsplit(address.base).hostname in ("localhost", "127.0.0.1", "::1")
        limits = httpx.Limits(max_connections=address.concurrency)
        self._client = httpx.Client(timeout=address.seconds, limits=limits, trust_env=not is_here)
        self._wants_logprobs = True

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def stop(self) -> None:
        """Try nothing again from now on."""
        self._stopped.set()

    def served(self) -> list[dict[str, Any]]:
        """Return what the server says of its models; [] where it does not list them.

        Raises:
            InputError: nobody answers there, or the key is refused.
        """
        try:
            told = self._tried(lambda: self._call("GET", "models", None), 3)
        except CallError as error:
            if error.reason == "http_404":
                return []
            raise InputError(
                f"{self.address.base}: no list of models there ({error.detail}); start the server, or mend the address."
            ) from error
        models = told.get("data") if isinstance(told, dict) else None
        return [each for each in models if isinstance(each, dict)] if isinstance(models, list) else []

    def chat(self, model: str, prompt: str, image_url: str) -> ChatAnswer:
        """Ask about one image.

        Raises:
            CallError: this image came to nothing.
            InputError: the endpoint as a whole refuses.
        """
        content = [
            {"type": "image_url", "image_url": {"url": image_url}},
            {"type": "text", "text": prompt},
        ]
        body: dict[str, Any] = {
            "model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "seed": 0,
            "max_tokens": self.address.max_tokens,
        }  # fmt: skip

        def once() -> ChatAnswer:
            wanted = {"logprobs": True} if self._wants_logprobs else {}
            try:
                told = self._call("POST", "chat/completions", body | wanted)
            except CallError as error:
                if not (wanted and error.reason in ("http_400", "http_422") and "logprobs" in error.detail):
                    raise
                self._wants_logprobs = False  # a server that cannot say them
                told = self._call("POST", "chat/completions", body)
            try:
                return ChatAnswer.model_validate(told)
            except ValidationError as error:
                raise CallError(
                    "wrong_schema", f"the answer is no chat completion ({first_fault(error)})"
                ) from None

        try:
            return self._tried(once, self.address.attempts)
        except CallError as error:
            if error.reason != "http_404":
                raise
            raise InputError(
                f"{self.address.base}: {error.detail}; mend the address (it ends with /v1), or name a served model."
            ) from error

    def _tried(self, once: Callable[[], Any], attempts: int) -> Any:
        for attempt in range(1, attempts + 1):
            try:
                return once()
            except CallError as error:
                if not error.may_pass or attempt == attempts or self._stopped.is_set():
                    raise
                span = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1))
                self._pause(error.wait if error.wait is not None else random.uniform(0, span))
        raise AssertionError("attempts is above 0")

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """Return the JSON of one answer."""
        import json

        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        until = time.monotonic() + self.address.seconds
        told = bytearray()
        try:
            url = f"{self.address.base}/{path}"
            with self._client.stream(method, url, json=body, headers=headers) as reply:
                for piece in reply.iter_bytes():
                    told += piece
                    if time.monotonic() > until:
                        raise CallError(
                            "timeout", f"no whole answer in {self.address.seconds:g} s", None, True
                        )
                    if len(told) > _MAX_BYTES:
                        raise CallError("too_long", f"the answer exceeds {_MAX_BYTES} bytes")
        except httpx.TimeoutException:
            raise CallError("timeout", f"no answer in {self.address.seconds:g} s", None, True) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CallError(
                "unreachable", self._safe(f"{type(error).__name__}: {error}"), None, True
            ) from None
        if reply.status_code != 200:
            raise self._refused(reply.status_code, told, reply.headers.get("Retry-After"))
        try:
            return json.loads(told)
        except ValueError:  # a proxy's page, or an answer cut off
            raise CallError("malformed_json", "the answer is no JSON", None, True) from None

    def _refused(self, status: int, told: bytes | bytearray, retry_after: str | None) -> Exception:
        detail = self._safe(f"status {status}: {told[:2000].decode(errors='replace')}")
        if status in _TRANSIENT:
            return CallError(f"http_{status}", detail, _wait(retry_after), True)
        if status in _OWN or status == 404:
            return CallError(f"http_{status}", detail)
        cure = f"set {KEY} to a key it accepts" if status in (401, 403) else "mend the address"
        return InputError(f"{self.address.base}: {detail}; {cure}.")

    def _safe(self, text: str) -> str:
        """Return one line of at most 300 characters without the key."""
        line = " ".join(text.split())
        return (line.replace(self._key, "***") if self._key else line)[:300]


def _wait(retry_after: str | None) -> float | None:
    """Return the seconds that Retry-After asks for, a number or a date; None where it says nothing sensible."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else None
