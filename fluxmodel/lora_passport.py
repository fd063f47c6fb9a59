"""A LoRA's passport: what it is, what it was made of, and the proof that its files say the same.

Beside the files as lora.json; in the header of each file too, without the proof, which is of the files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from fluxmodel.errors import InputError, first_fault
from fluxmodel.lora_layouts import find_lora

PASSPORT = "fluxline_passport"
"""Key of the safetensors header."""
PASSPORT_FILE = "lora.json"


class Proof(BaseModel):
    """That a written file was read back and changes every layer as it should."""

    model_config = ConfigDict(frozen=True)

    layout: str = Field(description="peft, kohya or comfy.")
    sha256: str = Field(description="Digest of the file.")
    largest_difference: float = Field(
        ge=0,
        description="Largest relative difference of a layer's change, read back against what was written.",
    )


class Passport(BaseModel):
    """What a LoRA is and was made of; what is not known is empty or zero."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(default="", description="Name of the LoRA.")
    trigger: str = Field(default="", description="Word that asks for what it taught.")
    style: str = Field(default="", description="Name of the style it was taught.")
    rank: int = Field(default=0, ge=0, description="Rank of each adapter as trained.")
    alpha: float = Field(default=0, ge=0, description="Adapters were trained at alpha / rank.")
    strength: float = Field(default=1, description="How much stronger than trained it was kept.")
    targets: str = Field(
        default="", description="Which layers were adapted: a group's name or an expression."
    )
    num_layers: int = Field(default=0, ge=0, description="How many layers were adapted.")
    base: str = Field(default="", description="sha256 of the weights it was trained on.")
    base_name: str = Field(default="", description="What these weights are called.")
    data: str = Field(default="", description="sha256 of the images and captions it was trained on.")
    num_images: int = Field(default=0, ge=0, description="How many images these were.")
    steps: int = Field(default=0, ge=0, description="Optimizer steps.")
    files: dict[str, Proof] = Field(default={}, description="The files, and the proof of each.")

    def write(self, directory: str | Path) -> None:
        """Write lora.json."""
        (Path(directory) / PASSPORT_FILE).write_text(self.model_dump_json(indent=2) + "\n")

    def is_for(self, weights: str | Path) -> bool:
        """Tell whether these weights, a file or a directory of shards, are those it was trained on; reads them all.

        Loading never asks: a LoRA is used on other weights on purpose, one of dev on schnell for example, and 24 GB
        take a minute to digest.
        """
        return bool(self.base) and weights_digest(weights) == self.base


def read_passport(path: str | Path) -> Passport | None:
    """Return the passport of the LoRA that `read_lora` would read; None where there is none.

    Of a directory it is that in lora.json, unless its proof is of other bytes than the file's; then, and of a file,
    that in the header.

    Raises:
        InputError: there is one, but it is damaged, or the directory holds no LoRA.
    """
    file, told = find_lora(path), Path(path) / PASSPORT_FILE
    if told.is_file():
        beside = _passport(told.read_bytes(), told)
        proof = beside.files.get(file.name)
        if not beside.files or (proof is not None and proof.sha256 == file_digest(file)):
            return beside
    text = _header(file).get(PASSPORT)
    return None if text is None else _passport(text, file)


def _passport(text: str | bytes, source: Path) -> Passport:
    try:
        return Passport.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{source}: the passport is damaged, {first_fault(error)}; delete it") from error


def weights_digest(path: str | Path) -> str:
    """Return the sha256 of a weights file; of a directory's several shards that of their digests, in name order."""
    place = Path(path)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    digests = [file_digest(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, read as a stream."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _header(place: Path) -> dict[str, str]:
    try:
        with safe_open(str(place), framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{place}: no LoRA can be read there ({error}); get it again") from error


def data_digest(pixels: bytes, captions: object) -> str:
    """Return the sha256 of training images and their captions."""
    said = json.dumps(captions, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(hashlib.sha256(pixels).digest() + said.encode()).hexdigest()
