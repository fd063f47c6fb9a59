"""Model versions held ready to draw, and the one worker that draws for everybody who asks.

Requests are drawn one after the other, in the order they came, each alone: an image depends on its request and on
nobody else's, so it is the same, byte for byte, as `fluxline generate` draws.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fluxmodel.drawing_request import RequestError
from fluxmodel.errors import ArtifactError, InputError
from tasks import registry
from tasks.home import Home

if TYPE_CHECKING:
    from fluxmodel.drawing import DrawingModel

Result = TypeVar("Result")
EXAMPLES = 6
"""Prompts of the model's own kind that the page offers."""


@dataclass(frozen=True)
class ServedVersion:
    """A version held ready.

    Attributes:
        label: how requests name it: NAME@VERSION, or a directory as it was given.
        aliases: it had when it was opened.
        prompts: a few it was evaluated on; empty where it was not.
        model: what draws.
    """

    label: str
    aliases: tuple[str, ...]
    prompts: tuple[str, ...]
    model: DrawingModel

    @property
    def names(self) -> set[str]:
        """All by which a request may name it."""
        name, version = self.model.name, self.model.version
        numbered = (
            {version, *self.aliases, *(f"{name}@{alias}" for alias in self.aliases)} if version else set()
        )
        return {self.label, *numbered}

    def told(self) -> dict[str, Any]:
        """Return what a client may want to know, as JSON."""
        model = self.model
        return {
            "label": self.label,
            "model": model.name,
            "version": model.version,
            "aliases": list(self.aliases),
            "digest": model.digest,
            "image_size": model.index.image_size,
            "multiple": model.multiple,
            "default_variant": model.index.name,
            "variants": {name: variant.model_dump() for name, variant in model.variants.items()},
            "loras": model.loras,
            "prompts": list(self.prompts),
        }


def open_versions(
    home: Home, models: Sequence[str], held: Sequence[ServedVersion] = ()
) -> list[ServedVersion]:
    """Read the models to serve, the default one first.

    Args:
        home: whose registry is asked.
        models: NAME@VERSION, NAME@ALIAS or a directory each; of a NAME alone, and of the newest name where nothing
            is said, the champion and beside it the challenger, where that is another version.
        held: versions read earlier; their networks are not read again.

    Raises:
        InputError: there is no such model, or it cannot be read.
    """
    found: dict[str, ServedVersion] = {}
    try:
        for model in models or [""]:
            for served in _open(home, model, {each.label: each.model for each in held}):
                found.setdefault(served.label, served)
    except ArtifactError as error:
        raise InputError(str(error)) from error
    return list(found.values())


class Shelf:
    """The served versions, kept at what the registry says: a promotion is followed while requests go on.

    Args:
        home: whose registry is asked.
        models: as `open_versions` takes them.
    """

    def __init__(self, home: Home, models: Sequence[str]):
        self._home, self._models = home, models
        self.versions = open_versions(home, models)
        self._seen = self._aliases()

    def follow(self) -> bool:
        """Read the versions anew if an alias has moved; return whether one had. A network once read is kept.

        Raises:
            InputError: what is to be served now cannot be read; what was served so far still is.
        """
        seen = self._aliases()
        if seen == self._seen:
            return False
        self.versions = open_versions(self._home, self._models, self.versions)
        self._seen = seen
        return True

    def _aliases(self) -> dict[str, dict[str, str]]:
        """Aliases by model, of all that are served; and under "" which is the newest model, where that is followed."""
        names = {served.model.name for served in self.versions if served.model.version}
        with registry.answering(self._home):
            seen = {name: registry.aliases(self._home, name) for name in sorted(names)}
            if not self._models:
                seen[""] = {"newest": registry.newest_model_name(self._home)}
        return seen


def choose(versions: Sequence[ServedVersion], name: str) -> ServedVersion:
    """Return the version a request names; "" is the default one.

    Raises:
        RequestError: none is called so.
    """
    for version in versions:
        if not name or name in version.names:
            return version
    known = ", ".join(version.label for version in versions)
    raise RequestError("model", f"it is {name!r}; served here: {known}")


def _open(home: Home, model: str, read: Mapping[str, DrawingModel]) -> list[ServedVersion]:
    from fluxmodel.drawing import DrawingModel

    if model and Path(model).is_dir():
        return [ServedVersion(model, (), (), read.get(model) or DrawingModel(model).read_all())]
    if "/" in model:
        raise InputError(f"{model} is no directory; name one, or a registered model such as NAME@champion.")
    with registry.answering(home):
        name, _, which = model.partition("@")
        name = name or registry.newest_model_name(home)
        aliases = registry.aliases(home, name)
        asked = registry.find_version(home, name, which)
        wanted = [asked]
        newest = aliases.get(registry.CHALLENGER, asked.version)
        if not which and newest != asked.version:
            wanted.append(registry.find_version(home, name, newest))
        served = []
        for version in wanted:
            held = tuple(alias for alias, number in sorted(aliases.items()) if number == version.version)
            label = f"{name}@{version.version}"
            drawing = read.get(label)
            if drawing is None:
                place = registry.model_directory(home, version)
                drawing = DrawingModel(place, name, version.version).read_all()
            served.append(ServedVersion(label, held, _prompts(home, version), drawing))
    return served


def _prompts(home: Home, version: registry.RegisteredVersion) -> tuple[str, ...]:
    """A few prompts a version was evaluated on; a version without them is served all the same."""
    try:
        gallery = json.loads((registry.evaluation_directory(home, version) / "gallery.json").read_text())
        prompts = [str(sample["prompt"]) for sample in gallery["samples"]]
    except (ArtifactError, OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(dict.fromkeys(filter(None, prompts)))[:EXAMPLES]


class BusyError(Exception):
    """Too many wait, or the desk is closing; `retry_seconds` says when to ask again."""

    def __init__(self, message: str, retry_seconds: int):
        super().__init__(message)
        self.retry_seconds = retry_seconds


class GoneError(Exception):
    """Whoever asked has left before it was their turn."""


class Desk:
    """Takes requests in order and lets one worker draw them.

    The worker's own queue holds them, so that it goes from one to the next without asking the event loop.

    Args:
        limit: most requests at once, the one being drawn included; another is turned away.
    """

    def __init__(self, limit: int):
        self.limit, self.waiting = limit, 0
        self.drawn = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        self._seconds = 0.1  # a drawing takes lately
        self._closing_at = math.inf

    async def draw(self, work: Callable[[], Result], leaves: Callable[[], Awaitable[object]]) -> Result:
        """Wait for one's turn and return what `work` gives; it runs in the worker's thread.

        Args:
            work: draws.
            leaves: returns when the one who asked has left.

        Raises:
            BusyError: `limit` requests are here already, or the desk closes.
            GoneError: the one who asked has left before it was their turn.
        """
        if self.waiting >= self.limit:
            wait = max(1, math.ceil(self.waiting * self._seconds))
            raise BusyError(f"{self.waiting} requests are waiting; ask again in {wait} s", wait)
        self.waiting += 1
        job = self._worker.submit(self._take, work)
        drawn, gone = asyncio.wrap_future(job), asyncio.ensure_future(leaves())
        try:
            await asyncio.wait({drawn, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not drawn.done() and job.cancel():
                raise GoneError
            return await drawn
        finally:
            gone.cancel()
            self.waiting -= 1

    def _take(self, work: Callable[[], Result]) -> Result:
        start = time.monotonic()
        if start > self._closing_at:
            raise BusyError("the server is stopping; ask again when it is back", 5)
        result = work()
        self._seconds += 0.1 * (time.monotonic() - start - self._seconds)
        self.drawn += 1
        return result

    def close(self, grace_seconds: float) -> None:
        """Begin no drawing later than `grace_seconds` from now."""
        self._closing_at = min(self._closing_at, time.monotonic() + grace_seconds)
