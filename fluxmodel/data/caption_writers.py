"""Who writes captions: one port, `CaptionWriter`, and behind it a directory of transformers or an endpoint.

What goes wrong with one image is that image's `CaptionFailure`; what concerns all of them is raised.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fluxmodel.data.chat_endpoint import is_endpoint
from fluxmodel.encoders import captioner as captioner_code
from fluxmodel.encoders.captioner import Captioner, Written
from fluxmodel.errors import InputError

if TYPE_CHECKING:
    import numpy as np

OUT_OF_MEMORY, FAULT = "out_of_memory", "fault"
_REVISION_FILES = ("manifest.json", "card.json")
_OUT_OF_MEMORY_WORDS = ("out of memory", "not enough memory", "DefaultCPUAllocator")


@dataclass(frozen=True)
class CaptionFailure:
    """Why one image has no new caption."""

    reason: str
    detail: str = ""


Result = Written | CaptionFailure
Keep = Callable[[Sequence[tuple[int, Result]]], None]
"""keep([(index, result), ...]), called as soon as results are there, each index once."""


def keep_nothing(results: Sequence[tuple[int, Result]]) -> None:
    """Leave results to who gets the list."""


class CaptionWriter(Protocol):
    """Something that writes captions.

    Attributes:
        name: what it calls itself, an architecture or a served model's name.
        revision: digest of what is known of it.
        text: what it is asked beside the image; None where it takes the image alone.
        prompt_hash: digest of that.
        recipe: further settings that influence what it writes, plain JSON.
        content: what `revision` stands for, in words.
    """

    name: str
    revision: str
    text: str | None
    prompt_hash: str
    recipe: dict[str, Any]
    content: str

    def write(self, images: np.ndarray, ids: Sequence[str], keep: Keep = keep_nothing) -> list[Result]:
        """Return of every image, uint8 RGB [n, h, w, 3], what it wrote, or why it could not."""
        ...

    def close(self) -> None:
        """Give up what is open; nothing can be written afterwards."""
        ...


def open_writer(captioner: str | Path, prompt: str | None = None, batch_size: int = 250) -> CaptionWriter:
    """Open what writes captions: the address of an endpoint, else a directory of transformers.

    Raises:
        InputError: there is none.
    """
    if is_endpoint(str(captioner)):
        from fluxmodel.data.endpoint_writer import EndpointWriter

        return EndpointWriter(str(captioner), prompt)
    return DirectoryWriter(captioner, prompt, batch_size)


class DirectoryWriter:
    """A model in a directory, ours or a hub's, in batches that halve when memory runs out."""

    content = "digest of the directory's files"

    def __init__(self, directory: str | Path, prompt: str | None = None, batch_size: int = 250):
        self.revision = revision_of(directory)
        self._captioner = Captioner.from_directory(directory, prompt)
        self._batch_size = batch_size
        self.name = self._captioner.name
        self.text, self.prompt_hash = self._captioner.text, self._captioner.prompt_hash
        self.recipe: dict[str, Any] = captioner_recipe(self._captioner)

    def write(self, images: np.ndarray, ids: Sequence[str], keep: Keep = keep_nothing) -> list[Result]:
        """Return of every image what the model wrote, or why it could not."""
        check_numbers(images, ids)
        results: list[Result] = []
        start = 0
        while start < len(images):
            said = list(self._halving(images[start : start + self._batch_size]))
            keep(list(enumerate(said, start)))
            results += said
            start += len(said)
        return results

    def close(self) -> None:
        """Nothing is open."""

    def _halving(self, images: np.ndarray) -> Iterator[Result]:
        """Caption a batch; where that fails its halves, down to the images whose own failure it is."""
        failure = None
        try:
            said = self._caption(images)
        except Exception as error:  # whatever a processor or a network says of one image concerns that image
            failure = CaptionFailure(OUT_OF_MEMORY if is_out_of_memory(error) else FAULT, _line(error))
        else:
            yield from said
            return
        if len(images) == 1:
            yield failure
            return
        half = (len(images) + 1) // 2
        if failure.reason == OUT_OF_MEMORY:
            self._batch_size = min(self._batch_size, half)  # the next batch would not fit either
            _free()
        yield from self._halving(images[:half])
        yield from self._halving(images[half:])

    def _caption(self, images: np.ndarray) -> list[Written]:
        import torch

        return self._captioner.caption(torch.from_numpy(images).permute(0, 3, 1, 2), len(images))


def captioner_recipe(captioner: Captioner) -> dict[str, Any]:
    """Return what a caption depends on beside the directory's files, the question and the pixels."""
    from importlib.metadata import version

    import torch

    code = inspect.getsource(captioner_code) + inspect.getsource(DirectoryWriter)
    return {
        "max_tokens": captioner.max_tokens,
        "code": hashlib.sha256(code.encode()).hexdigest(),
        "dtype": str(captioner.model.dtype),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "pillow": version("pillow"),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def check_numbers(images: np.ndarray, ids: Sequence[str]) -> None:
    """Make sure that every image has its id.

    Raises:
        ValueError: they are not equally many.
    """
    if len(images) != len(ids):
        raise ValueError(f"{len(images)} images and {len(ids)} ids")


def revision_of(directory: str | Path) -> str:
    """Return a digest over the files of a captioner's directory.

    Raises:
        InputError: there is no captioner.
    """
    if not (Path(directory) / "config.json").is_file():
        raise InputError(
            f"{directory}: no config.json there; name the directory of an image-text-to-text model of transformers, "
            "or the address of an endpoint (http://HOST:PORT/v1?model=NAME)"
        )
    digest = hashlib.sha256()
    for path in sorted(
        p for p in Path(directory).rglob("*") if p.is_file() and p.name not in _REVISION_FILES
    ):
        digest.update(f"{path.relative_to(directory).as_posix()}\0".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out."""
    import torch

    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY_WORDS)
    )


def _free() -> None:
    """Give back what the failed attempt had reserved on a GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
