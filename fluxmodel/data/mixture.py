"""Several sources as one, named by a YAML file, so that a path may hold any character.

    sources:
    - data: photos            # relative to the YAML file, or anything else that --data may name
      weight: 2
    - data: procedural:shapes?n=1000
      name: drawn             # begins the ids: drawn/000000001; by default the number of the entry

Weight says how often an image of a source is learned from, beside an image of another. Since every kept image is
learned from equally often, this is done by leaving images out: of a source stays the share weight / largest weight,
chosen by the digest of the id, so that a growing folder keeps the choice. None is left out where all weights are equal.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fluxmodel.data.records import RawSample, UnreadableFile
from fluxmodel.data.storage import one_line, storage_at
from fluxmodel.errors import InputError, first_fault

_CHOICES = 1 << 32


class Ingredient(BaseModel):
    """One source of a mixture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(
        min_length=1, description="What `--data` may name; a path is relative to the YAML file."
    )
    weight: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="How often it is learned from beside the others."
    )
    name: str = Field(default="", pattern=r"^[^/]*$", description="Begins the ids of its images.")


class Recipe(BaseModel):
    """The content of the YAML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[Ingredient, ...] = Field(min_length=1, description="What is mixed.")

    @model_validator(mode="after")
    def _names_differ(self) -> "Recipe":
        repeated = [name for name, count in Counter(self.names()).items() if count > 1]
        if repeated:
            raise ValueError(f"two sources are named {repeated[0]!r}; give each a name of its own")
        return self

    def names(self) -> list[str]:
        """Return what the ids of each source begin with."""
        return [each.name or f"{number}" for number, each in enumerate(self.sources, 1)]


class MixtureSource:
    """The items of several sources, one source after another."""

    is_procedural = False

    def __init__(self, path: str, max_file_bytes: int = 256_000_000) -> None:
        """Read the YAML file and open what it names.

        Raises:
            InputError: the file is ill-formed, names itself or another such file, or one of its sources is wrong.
        """
        from fluxmodel.data.sources import open_source

        self._place = storage_at(path)
        self.recipe = _read(self._place.url())
        self.ignored: Counter[str] = Counter()
        largest = max(each.weight for each in self.recipe.sources)
        self._shares = [each.weight / largest for each in self.recipe.sources]
        self.sources = []
        for number, each in enumerate(self.recipe.sources, 1):
            try:
                self.sources.append(open_source(self._resolved(each.data), max_file_bytes))
            except InputError as error:
                raise InputError(
                    f"--data {self.spec}: source {number}: {str(error).removeprefix('--data ')}"
                ) from error

    @property
    def spec(self) -> str:
        """The absolute path of the YAML file."""
        return self._place.url()

    @property
    def name(self) -> str:
        """The name of the YAML file."""
        return f"mixture:{Path(self._place.root).name}"

    def __len__(self) -> int:
        """The expected number of images: which ones are left out is known by reading alone."""
        return sum(round(share * len(each)) for share, each in zip(self._shares, self.sources, strict=True))

    def __iter__(self) -> Iterator[RawSample | UnreadableFile]:
        """Yield what the weights leave of each source, ids beginning with its name."""
        self.ignored.clear()
        for name, share, source in zip(self.recipe.names(), self._shares, self.sources, strict=True):
            for item in source:
                is_problem = isinstance(item, UnreadableFile) and not item.is_image
                if not is_problem and not _is_taken(item.id, share):
                    self.ignored[f"left out by weight: {name}"] += 1
                    continue
                path = f"{name}/{item.path}" if item.path is not None else None
                yield replace(item, id=f"{name}/{item.id}", path=path)  # pyright: ignore[reportArgumentType]
            self.ignored.update(getattr(source, "ignored", {}))

    def fingerprint(self) -> str:
        """Return the digest of names, shares and contents; what else the YAML file says makes no difference."""
        total = hashlib.sha256(b"mixture\n")
        for name, share, source in zip(self.recipe.names(), self._shares, self.sources, strict=True):
            total.update(f"{name} {share!r} {source.fingerprint()}\n".encode())
        return total.hexdigest()

    def _resolved(self, data: str) -> str:
        if data.lower().endswith((".yaml", ".yml")):
            raise InputError(f"--data {data}: a mixture within a mixture is not read; list its sources here.")
        is_scheme = ":" in data.split("/", 1)[0]
        path = os.path.expanduser(data)
        if is_scheme or not self._place.is_local:
            return data
        return os.path.join(os.path.dirname(self._place.root), path)


def _is_taken(item_id: str, share: float) -> bool:
    if share >= 1:
        return True
    digest = hashlib.sha256(b"mixture " + item_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") < share * _CHOICES


def _read(path: str) -> Recipe:
    import yaml

    example = 'write "sources:", below it lines such as "- data: photos" and "  weight: 2"'
    try:
        with storage_at(path).open() as file:
            text = file.read()
    except FileNotFoundError as error:
        raise InputError(f"--data {path}: there is no such file; check the path.") from error
    except OSError as error:
        raise InputError(f"--data {path}: cannot be read ({one_line(error)}); check the path.") from error
    try:
        record = yaml.safe_load(text)
    except Exception as error:  # a wrong value of a tag is an AttributeError, a KeyError, an IndexError, ...
        raise InputError(f"--data {path}: cannot be read as YAML ({one_line(error)}); {example}.") from error
    try:
        return Recipe.model_validate(record)
    except ValidationError as error:
        raise InputError(f"--data {path}: {first_fault(error)}; {example}.") from error
