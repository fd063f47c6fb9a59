"""Captions by an endpoint: images as data URLs, a bounded number at once, each image's failure its own.

Nothing is asked anew that was kept: a further image is sent only once an answer is kept, so that whenever this process
is killed at most `concurrency` images have been asked about in vain. Whatever ends the writing cuts off the requests
under way, and what was answered until then is kept.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import unicodedata
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from fluxmodel.data.caption_writers import CaptionFailure, Keep, Result, check_numbers, keep_nothing
from fluxmodel.data.chat_endpoint import (
    CallError,
    ChatAnswer,
    ChatEndpoint,
    EndpointAddress,
    one_line,
    parse_address,
)
from fluxmodel.encoders.captioner import PROMPT, Written
from fluxmodel.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_STABLE = ("id", "root", "parent", "owned_by", "max_model_len")
"""What a server says of a model that a restart does not change."""
EMPTY = "empty"
_MOST_CHARACTERS = 8192
"""Of a caption: far beyond what any encoder reads (512 tokens), and normalised in no time whatever they are."""
_FINISHES = {"stop": "end", "length": "length", "content_filter": "refused"}


class EndpointWriter:
    """A model behind an address. What it is made of cannot be seen: `revision` is what the server says of it."""

    content = (
        "the model's name and what its server says of it; the weights themselves cannot be seen from here"
    )

    def __init__(self, address: str, prompt: str | None = None):
        """Ask the server what it serves.

        Raises:
            InputError: nobody answers there, or the model is not served.
        """
        self._endpoint = ChatEndpoint(parse_address(address))
        given = self._endpoint.address
        try:
            self.name, stable = _looked_up(given, self._endpoint.served())
        except BaseException:
            self.close()
            raise
        self._question = prompt or PROMPT
        self.text: str | None = self._question
        self.prompt_hash = hashlib.sha256(self._question.encode()).hexdigest()[:12]
        self.recipe: dict[str, Any] = {"max_tokens": given.max_tokens}
        identity = {"model": self.name, "said": stable, **self.recipe}
        self.revision = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def close(self) -> None:
        """Close its connections."""
        self._endpoint.close()

    def write(self, images: np.ndarray, ids: Sequence[str], keep: Keep = keep_nothing) -> list[Result]:
        """Return of every image what the model answered, or why there is no answer.

        Raises:
            InputError: the endpoint as a whole refuses.
        """
        check_numbers(images, ids)
        results: dict[int, Result] = {}
        pending: dict[Future[Result], int] = {}
        most, following = self._endpoint.address.concurrency, iter(range(len(images)))
        pool = ThreadPoolExecutor(max_workers=most, thread_name_prefix="captions")
        try:
            while len(results) < len(images):
                while len(pending) < most and (index := next(following, None)) is not None:
                    pending[pool.submit(self._one, images[index])] = index
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                fresh = [(pending[future], future.result()) for future in done]
                for future in done:
                    del pending[future]
                keep(fresh)
                results |= dict(fresh)
        except BaseException:
            self._endpoint.stop()
            pool.shutdown(cancel_futures=True)
            if answered := _answered(pending):
                keep(answered)
            raise
        pool.shutdown()
        return [results[index] for index in range(len(images))]

    def _one(self, image: np.ndarray) -> Result:
        try:
            return _written(self._endpoint.chat(self.name, self._question, _data_url(image)))
        except CallError as error:
            return CaptionFailure(error.reason, error.detail)


def endpoint_revision(address: str) -> str:
    """Return the digest of what a server says of its model.

    Raises:
        InputError: nobody answers there, or the model is not served.
    """
    writer = EndpointWriter(address)
    writer.close()
    return writer.revision


def _answered(pending: dict[Future[Result], int]) -> list[tuple[int, Result]]:
    """Return the captions among requests that all came to their end."""
    whole = {future: index for future, index in pending.items() if not future.cancelled()}
    results = [(index, future.result()) for future, index in whole.items() if future.exception() is None]
    return [pair for pair in results if isinstance(pair[1], Written)]


def _written(answer: ChatAnswer) -> Result:
    choice = answer.choices[0]
    finish = _FINISHES.get(choice.finish_reason or "", "unknown")
    text, said = choice.message.content or "", choice.logprobs.content if choice.logprobs else None
    if choice.message.refusal:
        text, finish = choice.message.refusal, "refused"
    if len(text) > _MOST_CHARACTERS:
        text, finish = text[:_MOST_CHARACTERS], "length" if finish == "end" else finish
    text = _clean(text)
    if not text:
        why = one_line(choice.finish_reason or "none", 40)
        cure = "; raise max_tokens in the address" if finish == "length" else ""
        return CaptionFailure(EMPTY, f"the answer holds no text (finish_reason {why}){cure}")
    score = sum(token.logprob for token in said) / len(said) if said else None
    tokens = answer.usage.completion_tokens if answer.usage else len(said) if said else None
    return Written(text, score, tokens, finish)


def _clean(text: str) -> str:
    """Return the text without controls and lone surrogates (which no file can hold), its white space normalised."""
    blank = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return " ".join(unicodedata.normalize("NFC", blank).split())


def _data_url(image: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _looked_up(address: EndpointAddress, served: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the name of the model, and what the server says of it that lasts."""
    name = address.model
    if not name:
        there = f"it serves {_named(served)}" if served else "it does not list what it serves"
        if len(served) != 1 or not isinstance(served[0].get("id"), str):
            raise InputError(f"{address.base}: which model? {there}; name one by ?model=NAME.")
        name = served[0]["id"]
        if not name.isprintable():
            raise InputError(
                f"{address.base}: its model's name {one_line(name)!r} holds a character that cannot be printed; "
                "serve it under another name."
            )
    said = next((each for each in served if each.get("id") == name), None)
    if served and said is None:
        raise InputError(f"{address.base}: does not serve {name!r}, but {_named(served)}; name one of them.")
    return name, {key: said[key] for key in _STABLE if key in said} if said else {}


def _named(served: Sequence[dict[str, Any]]) -> str:
    return ", ".join(one_line(str(each.get("id")), 100) for each in served[:10])
