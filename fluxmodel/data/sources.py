"""What `--data` may name, each as a stream of undecoded samples."""

import re
from collections.abc import Iterator
from typing import Protocol

from fluxmodel.data.records import Caption, RawSample, UnreadableFile
from fluxmodel.errors import InputError

_SUPPORTED = "supported are a folder of images and procedural:shapes?level=demo&n=20000&seed=0"
_LATER = {
    "hf": "hub data sets (hf:) are not read yet",
    "parquet": "parquet and arrow files are not read yet",
    "arrow": "parquet and arrow files are not read yet",
    "webdataset": "WebDataset tars are not read yet",
    "wds": "WebDataset tars are not read yet",
}
_PROCEDURAL_BATCH = 512


class Source(Protocol):
    """A stream of samples that can be read again from the start."""

    is_procedural: bool

    @property
    def spec(self) -> str:
        """The canonical form of what `--data` named."""
        ...

    @property
    def name(self) -> str:
        """What the artifact calls the source, the same wherever it lies."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[RawSample | UnreadableFile]: ...

    def fingerprint(self) -> str:
        """Return a digest of all that the stream gives."""
        ...


def open_source(data: str, max_file_bytes: int = 256_000_000) -> Source:
    """Open what `--data` names.

    Raises:
        InputError: the scheme is unknown or not built, or what it names is missing, empty or ill-formed.
    """
    text = str(data).strip()
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", text)
    if not text:
        raise InputError(f"--data is empty; {_SUPPORTED}.")
    if scheme is None:
        from fluxmodel.data.image_folder import FolderSource

        _refuse_files_of_other_kinds(text)
        return FolderSource(text, max_file_bytes)
    name = scheme.group(1).lower()
    if name == "procedural":
        return ProceduralScenes(text)
    why = _LATER.get(name, f"the scheme {name!r} is unknown")
    raise InputError(f"--data {text}: {why}; {_SUPPORTED}.")


def _refuse_files_of_other_kinds(text: str) -> None:
    suffix = text.rsplit(".", 1)[-1].lower() if "." in text else ""
    kinds = {"parquet": "parquet", "arrow": "arrow", "tar": "webdataset"}
    if suffix in kinds:
        raise InputError(f"--data {text}: {_LATER[kinds[suffix]]}; {_SUPPORTED}.")


class ProceduralScenes:
    """Scenes drawn on demand, each a function of (level, seed, index)."""

    is_procedural = True

    def __init__(self, spec: str) -> None:
        """Parse the specification; InputError names the field that is wrong."""
        from fluxmodel.data.procedural import ProceduralSource

        self._source = ProceduralSource.parse(spec)

    @property
    def spec(self) -> str:
        """The specification with every field written out."""
        level = getattr(self._source.level, "name", self._source.level)
        return f"procedural:shapes?level={level}&n={self._source.n}&seed={self._source.seed}"

    @property
    def name(self) -> str:
        """The specification: it says all."""
        return self.spec

    def __len__(self) -> int:
        return self._source.n

    def __iter__(self) -> Iterator[RawSample]:
        """Yield the scenes as PNG with their ground truth and three kinds of caption."""
        from fluxmodel.data import procedural
        from fluxmodel.data.decode import encode_png

        level = self._source.level
        level = procedural.LEVELS[level] if isinstance(level, str) else level
        spec, seed = self.spec, self._source.seed
        for start in range(0, len(self), _PROCEDURAL_BATCH):
            indices = range(start, min(start + _PROCEDURAL_BATCH, len(self)))
            scenes = [procedural.draw_scene(level, seed, index) for index in indices]
            for index, scene, image in zip(indices, scenes, procedural.render(scenes), strict=True):
                captions = (
                    Caption(procedural.detailed_caption(scene), "detailed"),
                    Caption(procedural.short_caption(scene), "short"),
                    Caption(procedural.alt_text(scene, seed, index), "alt"),
                )
                yield RawSample(f"{index:09d}", encode_png(image), spec, "CC0-1.0", captions, scene.to_json())

    def fingerprint(self) -> str:
        """Return the digest of the specification; the code that draws it counts elsewhere."""
        import hashlib

        return hashlib.sha256(self.spec.encode()).hexdigest()
