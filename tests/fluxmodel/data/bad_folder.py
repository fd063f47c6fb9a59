"""The folder of bad files: every kind of image, odd captions and metadata, links, pipes and names no text holds."""

import os
from pathlib import Path

from fluxmodel.data.records import Reason
from tests.fluxmodel.data.bad_files import all_kinds
from tests.fluxmodel.data.pictures import encoded, picture

# Files whose captions are what is odd: name, caption bytes, the reason why the image is dropped.
CAPTIONS: tuple[tuple[str, bytes | None, Reason | None], ...] = (
    ("no caption.png", None, Reason.MISSING_CAPTION),
    ("blank caption.png", b" \n\t ", Reason.EMPTY_CAPTION),
    ("long caption.png", b"word " * 200_000, Reason.CAPTION_TOO_LONG),
    ("marks caption.png", b"a" + "\u0315\u0300".encode() * 240_000, Reason.CAPTION_TOO_LONG),
    ("control caption.png", b"a \x00 picture \x1b[31m", Reason.CONTROL_CHARACTERS),
    ("latin caption.png", b"p\xe2t\xe9", Reason.MISSING_CAPTION),
    ("mark of byte order.png", "\ufeffa cafe\u0301".encode(), None),
)


def odd_places(root: bytes) -> dict[bytes, Reason | None]:
    """Create links, pipes and names that no text holds under `root`; return what becomes of each image."""
    outside = encoded(picture(70))
    made: dict[bytes, Reason | None] = {}
    for seed, name in enumerate((b"not \xff utf-8.png", b"two\nlines.png", b"\\xfe.png", b"\xfe.png"), 71):
        with open(os.path.join(root, name), "wb") as file:
            file.write(encoded(picture(seed)))
        _write_caption(root, name, b"an odd name")
        made[name] = None
    # Its printed name is that of the file before: the later of the two is dropped.
    made[b"\xfe.png"] = Reason.DUPLICATE_ID
    os.symlink(b"nowhere.png", os.path.join(root, b"broken link.png"))
    os.symlink(b"loop.png", os.path.join(root, b"loop.png"))
    os.symlink(b".", os.path.join(root, b"loop of folders"))
    os.mkfifo(os.path.join(root, b"pipe.png"))
    os.mkdir(os.path.join(root, b"folder.png"))
    with open(os.path.join(root, b"folder.png", b"inside.png"), "wb") as file:
        file.write(outside)
    _write_caption(root, b"folder.png/inside.png", b"inside a folder")
    made |= dict.fromkeys((b"broken link.png", b"loop.png", b"pipe.png"), Reason.NOT_A_FILE)
    made[b"folder.png/inside.png"] = None
    return made


def _write_caption(root: bytes, name: bytes, text: bytes) -> None:
    with open(os.path.join(root, os.path.splitext(name)[0] + b".txt"), "wb") as file:
        file.write(text)


def write_folder(root: Path) -> dict[str, Reason | None]:
    """Write every kind below `root`; return of each image, by its printed path, why it is dropped."""
    root.mkdir(parents=True)
    fates: dict[str, Reason | None] = {}
    for kind in all_kinds():
        (root / kind.name).write_bytes(kind.data)
        _write_caption(os.fsencode(root), os.fsencode(kind.name), b"one of many kinds")
        fates[kind.name] = kind.reason
    for seed, (name, caption, reason) in enumerate(CAPTIONS, 80):
        (root / name).write_bytes(encoded(picture(seed)))
        if caption is not None:
            _write_caption(os.fsencode(root), os.fsencode(name), caption)
        fates[name] = reason
    (root / "z copy.png").write_bytes((root / "rgb.png").read_bytes())
    _write_caption(os.fsencode(root), b"z copy.png", b"the same again")
    fates["z copy.png"] = Reason.EXACT_DUPLICATE
    for name, reason in odd_places(os.fsencode(root)).items():
        printed = name.decode("utf-8", "backslashreplace")
        fates[f"{printed} (second)" if reason == Reason.DUPLICATE_ID else printed] = reason
    (root / "metadata.jsonl").write_text(_METADATA, encoding="utf-8")
    return fates


_METADATA = """\
{"file_name": "16-bit rgb.png", "text": "a row", "license": "\\ud800 CC0", "source": "https://a.example/\\udfff"}
{"file_name": "../../../../etc/passwd", "text": "outside"}
{"file_name": "rgb.png\\u0000", "text": "a zero in the name"}
{"file_name": "rgb.png", "text": ["lone \\ud800 half"]}
{broken
"""
