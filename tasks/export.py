"""Writing a model for other programs: diffusers, or those that read the original FLUX.1 names."""

from dataclasses import dataclass
from pathlib import Path

from fluxmodel.errors import InputError
from tasks.generate import find_lora, find_model
from tasks.home import Home
from tasks.progress import board


@dataclass(frozen=True)
class Wanted:
    """What to write.

    Attributes:
        model: a registered NAME, NAME@VERSION, a directory, or a safetensors file of a network.
        layout: "diffusers" or "flux".
        variant: of the model; empty is its default.
        lora: name of one of the model's LoRAs, or a path; empty writes none.
        lora_scale: how strongly it is merged.
        lora_layout: "peft", "kohya" or "comfy" to write it beside the network instead; empty merges it.
        dtype: of the network; empty is as it is stored.
    """

    model: str = ""
    layout: str = "diffusers"
    variant: str = ""
    lora: str = ""
    lora_scale: float = 1.0
    lora_layout: str = ""
    dtype: str = ""


def export_model(home: Home, wanted: Wanted, to: Path) -> dict:
    """Write a model into the directory `to`; return what was written, as JSON.

    Raises:
        InputError: no such model, variant or LoRA, or the directory cannot be written.
    """
    place = Path(wanted.model)
    if "/" in wanted.model and not place.exists():
        raise InputError(f"{wanted.model}: there is nothing there; name a directory, or a registered model.")
    model = place if wanted.model and place.is_file() else find_model(home, wanted.model)
    lora = find_lora(model, wanted.lora) if wanted.lora else None
    from fluxmodel.export import export

    def tell(done: int, total: int, message: str) -> None:
        board().update("copy, MB", done // 10**6, total // 10**6, message)

    made = export(
        model,
        to,
        wanted.layout,  # type: ignore[arg-type]  (checked there, with a sentence)
        variant=wanted.variant,
        lora=lora,
        lora_scale=wanted.lora_scale,
        lora_layout=wanted.lora_layout,
        dtype=wanted.dtype,
        progress=tell,
    )
    return {
        "directory": str(made.directory),
        "layout": made.layout,
        "files": list(made.files),
        "num_bytes": made.num_bytes,
        "note": made.note,
    }
