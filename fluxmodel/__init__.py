"""The science of Fluxline: torch in, torch out; knows nothing of Prefect or MLflow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxmodel.lora_files import convert_lora, load_lora, read_lora, save_lora, write_lora
    from fluxmodel.mmdit.config import MMDiTConfig
    from fluxmodel.mmdit.transformer import MMDiT
    from fluxmodel.text_to_image import TextToImage
    from fluxmodel.weights import load_mmdit, save_mmdit

__all__ = [
    "MMDiT",
    "MMDiTConfig",
    "TextToImage",
    "convert_lora",
    "load_lora",
    "load_mmdit",
    "read_lora",
    "save_lora",
    "save_mmdit",
    "write_lora",
]

_HOMES = {
    "MMDiT": "fluxmodel.mmdit.transformer",
    "MMDiTConfig": "fluxmodel.mmdit.config",
    "TextToImage": "fluxmodel.text_to_image",
    "convert_lora": "fluxmodel.lora_files",
    "load_lora": "fluxmodel.lora_files",
    "load_mmdit": "fluxmodel.weights",
    "read_lora": "fluxmodel.lora_files",
    "save_lora": "fluxmodel.lora_files",
    "save_mmdit": "fluxmodel.weights",
    "write_lora": "fluxmodel.lora_files",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562): importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fluxmodel' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
