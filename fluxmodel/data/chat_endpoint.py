"""An endpoint that speaks OpenAI's chat completions (vLLM and many others): the one file that knows httpx.

`http://HOST:PORT/v1?model=NAME`; further parameters are fields of `EndpointAddress`. The key, if one is needed, stands
in the environment variable FLUXLINE_CAPTIONER_KEY; it is sent to that address alone, follows no redirect, and is
neither stored nor repeated in an error. What may pass (429, 5xx, a timeout, half an answer) is tried again after a
random share of a doubling pause ("full jitter"), on top of Retry-After where the server says one.

Requests run in an event loop in a thread of its own: there alone can one be cut off whatever it waits for (headers
that drip, an endless row of 100 Continue), at its time limit and when the writing ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fluxmodel.errors import InputError, first_fault

KEY = "FLUXLINE_CAPTIONER_KEY"
_TRANSIENT = frozenset({408, 409, 425, 429})
"""Statuses that may pass; so may those from 500 on, except `_LASTING`."""
_LASTING = frozenset({501, 505})
_OWN = frozenset({400, 413, 415, 422})
"""Statuses that speak of one request; any other failure speaks of the endpoint."""
_ABSENT = frozenset({"http_404", "http_405", "http_501"})
"""Reasons that say: there is no such thing here."""
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_WAIT = 0.5, 20.0, 120.0
_MAX_BYTES = 4 << 20
_MOST_TOKENS = 2**31 - 1
"""What the table of captions can hold (int32)."""
_SCHEMES = ("http://", "https://")
_PLAIN_NAME = re.compile("[a-z_]{1,20}")


class EndpointAddress(BaseModel):
    """Where an endpoint is and how it is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(description="Address up to and with /v1.")
    model: str = Field(default="", description="Name of the model; by default the only one that is served.")
    concurrency: int = Field(default=8, gt=0, le=256, description="Requests at once.")
    seconds: float = Field(default=120.0, gt=0, le=86400, description="Longest time for one answer, whole.")
    attempts: int = Field(default=6, gt=0, le=20, description="Times that an image is asked about at most.")
    max_tokens: int = Field(default=256, gt=0, description="Tokens of a caption at most.")


class CallError(Exception):
    """One request came to nothing; `reason` in one word. `wait` is what the server asks for, seconds."""

    def __init__(self, reason: str, detail: str, wait: float | None = None, may_pass: bool = False):
        super().__init__(detail)
        self.reason, self.detail, self.wait, self.may_pass = reason, detail, wait, may_pass


def one_line(text: str, most: int = 300) -> str:
    """Return foreign text as it may stand in a sentence: one line, `most` characters at most, no controls."""
    shown = "".join(c if c.isprintable() else " " for c in text[: 10 * most])
    return " ".join(shown.split())[:most]


def is_endpoint(text: str) -> bool:
    """Return whether this is an address rather than a directory."""
    return text.startswith(_SCHEMES)


def parse_address(text: str) -> EndpointAddress:
    """Read `http://HOST:PORT/v1?model=NAME`.

    Raises:
        InputError: it is no such address; names the field. What may be a password or a key is not repeated.
    """
    try:
        text.encode()
        parts = urlsplit(text)
        _, host = parts.port, parts.hostname
        (host or "").encode("idna")
        query = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError:
        shown = "what is given" if "@" in text else one_line(text.partition("?")[0])
        raise InputError(f"{shown}: is no address; write http://HOST:PORT/v1?model=NAME.") from None
    if "@" in parts.netloc:
        raise InputError(
            f"{host}: no user or password belongs in the address, for addresses are stored; set {KEY} instead."
        )
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    if not host:
        raise InputError(f"{base}: no host there; write http://HOST:PORT/v1?model=NAME.")
    if unknown := sorted({name for name, _ in query} - (set(EndpointAddress.model_fields) - {"base"})):
        shown = f"the parameter {unknown[0]!r}" if _PLAIN_NAME.fullmatch(unknown[0]) else "a parameter"
        raise InputError(
            f"{base}: {shown} is unknown; there are "
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
    logprob: float = Field(ge=-1e9, le=1e9)


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    completion_tokens: int | None = Field(default=None, strict=True, ge=0, le=_MOST_TOKENS)


class ChatAnswer(BaseModel):
    """What is read of an answer; anything else in it is passed over."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class _Reply(NamedTuple):
    status: int
    body: bytes
    retry_after: str | None


class ChatEndpoint:
    """Asks an endpoint; threads may share it.

    Args:
        address: where and how.
        pause: waits a number of seconds; by default until `stop` at most.

    Raises:
        InputError: the key or the host cannot be sent.
    """

    def __init__(self, address: EndpointAddress, pause: Callable[[float], object] | None = None):
        import httpx

        self._stopped = threading.Event()
        self.address, self._pause = address, pause or self._stopped.wait
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError(
                f"{KEY}: holds a character that cannot be sent; set it to the key alone, in printable ASCII."
            )
        try:
            httpx.URL(address.base)
        except httpx.InvalidURL as error:
            raise InputError(
                f"{address.base}: is no address ({error}); write http://HOST:PORT/v1?model=NAME."
            ) from None
        is_here = urlsplit(address.base).hostname in ("localhost", "127.0.0.1", "::1")
        limits = httpx.Limits(max_connections=address.concurrency)
        self._client = httpx.AsyncClient(timeout=None, limits=limits, trust_env=not is_here)
        self._wants_logprobs = True
        self._under_way: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cut off what is under way and close the connections."""
        if self._loop.is_closed():
            return
        self._stopped.set()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stop(self) -> None:
        """Cut off what is under way, and ask nothing from now on."""
        self._stopped.set()
        self._loop.call_soon_threadsafe(self._cut_off)

    def _cut_off(self) -> None:
        for task in self._under_way:
            task.cancel()

    async def _end(self) -> None:
        self._cut_off()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._client.aclose()

    def served(self) -> list[dict[str, Any]]:
        """Return what the server says of its models; [] where it does not list them.

        Raises:
            InputError: nobody answers there, or the key is refused.
        """
        try:
            told = self._tried(lambda: self._call("GET", "models", None), 3)
        except CallError as error:
            if error.reason in _ABSENT:
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
            if error.reason not in _ABSENT:
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
                self._pause((error.wait or 0.0) + random.uniform(0, span))
        raise AssertionError("attempts is above 0")

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """Return the JSON of one answer."""
        sent = None if body is None else json.dumps(body).encode()
        answer = asyncio.run_coroutine_threadsafe(self._noted(self._answer(method, path, sent)), self._loop)
        try:
            reply = answer.result()
        except concurrent.futures.CancelledError:
            raise CallError("stopped", "it was cut off, for the writing ended") from None
        if reply.status != 200:
            raise self._refused(reply)
        try:
            return json.loads(reply.body)
        except ValueError:  # a proxy's page, or an answer cut off
            raise CallError("malformed_json", "the answer is no JSON", None, True) from None
        except RecursionError:
            raise CallError("malformed_json", "the answer is JSON nested too deep") from None

    async def _noted(self, answer: Coroutine[Any, Any, _Reply]) -> _Reply:
        """Let a request be cut off while it is under way."""
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            return await answer
        finally:
            self._under_way.discard(task)

    async def _answer(self, method: str, path: str, sent: bytes | None) -> _Reply:
        """Ask once, within the time limit whatever the server does."""
        import httpx

        if self._stopped.is_set():
            raise CallError("stopped", "it was not asked, for the writing ended")
        # Compressed, a few bytes could stand for gigabytes; plain, the bound holds for what is received.
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        told, url = bytearray(), f"{self.address.base}/{path}"
        try:
            async with (
                asyncio.timeout(self.address.seconds),
                self._client.stream(method, url, content=sent, headers=headers) as reply,
            ):
                coding = reply.headers.get("Content-Encoding", "identity")
                if coding.lower() != "identity":
                    raise CallError(
                        "encoded", self._safe(f"the answer is encoded ({coding}), not plain as asked")
                    )
                async for piece in reply.aiter_raw():
                    told += piece
                    if len(told) > _MAX_BYTES:
                        raise CallError("too_long", f"the answer exceeds {_MAX_BYTES} bytes")
        except TimeoutError:
            raise CallError("timeout", f"no whole answer in {self.address.seconds:g} s", None, True) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CallError(
                "unreachable", self._safe(f"{type(error).__name__}: {error}"), None, True
            ) from None
        return _Reply(reply.status_code, bytes(told), reply.headers.get("Retry-After"))

    def _refused(self, reply: _Reply) -> Exception:
        status = reply.status
        detail = self._safe(f"status {status}: {reply.body[:2000].decode(errors='replace')}")
        reason = f"http_{status}"
        if status in _TRANSIENT or (status >= 500 and status not in _LASTING):
            return CallError(reason, detail, _wait(reply.retry_after), True)
        if status in _OWN or reason in _ABSENT:
            return CallError(reason, detail)
        cure = f"set {KEY} to a key it accepts" if status in (401, 403) else "mend the address"
        return InputError(f"{self.address.base}: {detail}; {cure}.")

    def _safe(self, text: str) -> str:
        """Return one line of at most 300 characters without the key."""
        return one_line(text.replace(self._key, "***") if self._key else text)


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
