"""All images of an evaluation in one lossless PNG, in the order of their rows, read back exactly.

Two models judged on the same prompts and noise are laid side by side from their atlases, image by image, long after
the networks that drew them are gone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fluxmodel.errors import InputError

COLUMNS = 40
MOST_PIXELS = 1 << 26
"""Only the first images where all would be more: Pillow warns of larger files, and an artifact stays small."""
HEADLINE, HELD_OUT = "headline.png", "held_out_all.png"
_NOTE = "atlas"


def write_atlas(path: Path, images: Tensor) -> int:
    """Write uint8 images [n, 3, H, W], 40 a row; return how many of them there was room for.

    Raises:
        ValueError: these are no such images.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(
            f"an atlas is made of uint8 images [n, 3, H, W], not of {images.dtype} {list(images.shape)}"
        )
    height, width = images.shape[2:]
    columns = min(COLUMNS, len(images))
    rows = min(-(-len(images) // columns), max(1, MOST_PIXELS // (columns * width * height)))
    kept = images[: rows * columns].permute(0, 2, 3, 1).numpy()
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[: len(kept)] = kept
    sheet = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    note = PngInfo()
    note.add_text(_NOTE, json.dumps({"n": len(kept), "height": height, "width": width}))
    picture = Image.fromarray(np.ascontiguousarray(sheet.reshape(rows * height, columns * width, 3)))
    picture.save(path, "PNG", pnginfo=note, compress_level=6)
    return len(kept)


def has_atlas(directory: Path, name: str = HEADLINE) -> bool:
    """Return whether an evaluation holds this atlas; those of earlier code have none."""
    return (Path(directory) / name).is_file()


def read_atlas(directory: Path, name: str = HEADLINE) -> Tensor:
    """Return the images of an evaluation directory as uint8 [n, 3, H, W], in the order of its rows.

    Raises:
        InputError: there is no atlas, or it is damaged.
    """
    from PIL import Image

    path = Path(directory) / name
    try:
        with Image.open(path) as picture:
            said = json.loads(picture.info[_NOTE])
            n, height, width = (int(said[field]) for field in ("n", "height", "width"))
            sheet = np.array(picture.convert("RGB"))
        rows, columns = sheet.shape[0] // height, sheet.shape[1] // width
        sheet = sheet.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no atlas of images ({type(error).__name__}); evaluate again.") from error
    images = torch.from_numpy(np.ascontiguousarray(sheet)).reshape(-1, height, width, 3)[:n]
    return images.permute(0, 3, 1, 2).contiguous()
