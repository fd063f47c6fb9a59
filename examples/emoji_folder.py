"""Draw a folder of captioned pictures to train on: colour emoji with their Unicode names.

    python examples/emoji_folder.py OUT [--size 64] [--limit N] [--with-bad-files]

Every picture NAME.png has its caption beside it in NAME.txt. `--with-bad-files` adds what real folders hold:
a truncated PNG, a web page named .jpg, an empty file, an empty caption, and a 16-bit PNG, which is good.
Needs Pillow and the font of Debian's package fonts-noto-color-emoji (SIL Open Font License 1.1).
"""

import argparse
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
BITMAP_SIZE = 109  # the one size the font's bitmaps exist in
CANVAS = (136, 128)
PLANES = (range(0x203C, 0x3300), range(0x1F000, 0x1FB00))
NOT_PICTURES = (
    range(0x1F1E6, 0x1F200),  # regional indicators: halves of flags
    range(0x1F3FB, 0x1F400),  # skin tones: they modify another emoji
)


def main() -> int:
    """Write the folder; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="OUT", help="where to write; must be new or empty")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default 64)")
    parser.add_argument("--limit", type=int, default=None, help="draw only the first N emoji")
    parser.add_argument("--font", type=Path, default=FONT, help=f"the font file (default {FONT})")
    parser.add_argument("--with-bad-files", action="store_true", help="add files that curation must refuse")
    options = parser.parse_args()
    problem = _problem(options)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    font = ImageFont.truetype(str(options.font), BITMAP_SIZE)
    count = 0
    for character in emoji(font):
        if count == options.limit:
            break
        save(options.folder, character, draw(font, character), options.size)
        count += 1
    print(f"{count} captioned emoji in {options.folder}")
    if options.with_bad_files:
        print("and among them:", ", ".join(add_bad_files(options.folder, options.size)))
    return 0


def _problem(options: argparse.Namespace) -> str | None:
    """Return one sentence on what keeps the folder from being written."""
    if not options.font.is_file():
        return f"{options.font}: the font is missing; install Debian's package fonts-noto-color-emoji or use --font."
    if options.size < 8 or (options.limit is not None and options.limit < 1):
        return "--size must be at least 8 and --limit at least 1."
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        return f"{options.folder}: is not an empty folder; name a new one."
    return None


def emoji(font: ImageFont.FreeTypeFont) -> Iterator[str]:
    """Yield the single characters that the font draws in colour and Unicode names."""
    missing = draw(font, "\U0010fffd").tobytes()  # what the font draws for a character it lacks
    for plane in PLANES:
        for code in plane:
            character = chr(code)
            if any(code in codes for codes in NOT_PICTURES) or not unicodedata.name(character, ""):
                continue
            picture = draw(font, character)
            if picture.getbbox() and picture.tobytes() != missing:
                yield character


def draw(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Return one character as RGBA on nothing."""
    picture = Image.new("RGBA", CANVAS, (255, 255, 255, 0))
    ImageDraw.Draw(picture).text((0, 0), character, font=font, embedded_color=True)
    return picture


def save(folder: Path, character: str, picture: Image.Image, size: int) -> None:
    """Write the picture on a white square, and its caption."""
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    name = unicodedata.name(character).lower()
    stem = f"{ord(character):05x}-{name.replace(' ', '-')}"
    resized = square.convert("RGB").resize((size, size), Image.Resampling.BOX)
    resized.save(folder / f"{stem}.png")
    (folder / f"{stem}.txt").write_text(name + "\n", encoding="utf-8")


def add_bad_files(folder: Path, size: int) -> list[str]:
    """Add four files to be refused and one that only careless decoding spoils; return their names."""
    whole = next(iter(sorted(folder.glob("*.png")))).read_bytes()
    ramp = np.linspace(0, 65535, size * size).reshape(size, size).astype(np.uint16)
    files = {
        "bad-truncated.png": whole[: len(whole) // 2],
        "bad-web-page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
        "bad-no-bytes.png": b"",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text("a picture\n", encoding="utf-8")
    Image.fromarray(ramp[::-1]).save(folder / "bad-empty-caption.png")
    (folder / "bad-empty-caption.txt").write_text(" \n", encoding="utf-8")
    Image.fromarray(ramp).save(folder / "good-16-bit.png")
    (folder / "good-16-bit.txt").write_text("a ramp from black to white\n", encoding="utf-8")
    return [*files, "bad-empty-caption.png", "good-16-bit.png"]


if __name__ == "__main__":
    sys.exit(main())
