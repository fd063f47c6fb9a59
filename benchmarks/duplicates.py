"""Near duplicates: how many copies of emoji are found, kind by kind, and what a million hashes cost.

Copies: 1 360 emoji of Debian's font fonts-noto-color-emoji, each beside a JPEG, resized, blurred or brightened copy.
The colour check's limits were chosen by the copies of every second emoji, but by the false pairs of all of them; the
shares told here are of the other half. Kinds marked `seen` were looked at while choosing, kinds marked `unseen` only
afterwards, with everything fixed. Look-alikes among the glyphs (clocks, speakers, faces) count as false pairs.
Cost: random hashes, hashes in clumps as real ones are, and near-flat images (one colour and a faint gradient), whose
hashes are few; with a thousandth planted as copies; each size in a process
of its own, so that its peak memory is its own. Run: python -m benchmarks.duplicates [--json] [--largest N]
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.measure import Row, peak_mib, publish, show
from fluxmodel.data.dedup import near_groups, similar_groups
from fluxmodel.data.perceptual_hash import color_signatures, perceptual_hashes, thumbnail

DISTANCES = (4, 6, 8)
ASKED_FOUND, ASKED_FALSE = 0.93, 1e-4
MOST_SLOW = 100_000
EXAMPLE = Path(__file__).parents[1] / "examples" / "emoji_folder.py"
Copy = Callable[[Image.Image], Image.Image]


def main() -> int:
    """Measure and publish, or measure one size and print it."""
    parser = argparse.ArgumentParser(description="Copies found, and the cost of finding them.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--largest", type=int, default=1_000_000, help="most hashes")
    parser.add_argument("--side", type=int, default=128, help="side of the emoji in pixels")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "N"), help="measure one size in this process")
    arguments = parser.parse_args()
    if arguments.one:
        kind, count = arguments.one[0], int(arguments.one[1])
        print(json.dumps(cost_of_vectors(kind, count) if "vectors" in kind else cost(kind, count)))
        return 0
    found = recall(arguments.side)
    costs = [
        {"hashes": count, "kind": kind} | in_a_child(kind, count)
        for count in (10_000, 100_000, 1_000_000)
        if count <= arguments.largest
        for kind in ("random", "clumps", "near-flat", "vectors", "even vectors")
        if kind in ("random", "clumps") or count <= MOST_SLOW
    ]
    asked = [each["found at 4"] for each in found if "seen" not in each["copy"]]
    unseen = [each["found at 4"] for each in found if each["copy"].startswith("unseen")]
    worst = max(each["false at 4"] for each in found)
    last = next(each for each in reversed(costs) if each["kind"] == "clumps")
    rows = [
        *(
            Row(f"copies found at distance 4, {name}", share, ASKED_FOUND, share / ASKED_FOUND, "share")
            for name, share in (
                ("unseen kinds, mean", float(np.mean(unseen))),
                ("worst kind", min(each["found at 4"] for each in found)),
                ("asked kinds, mean", float(np.mean(asked))),
            )
        ),
        Row("false pairs at distance 4, worst kind", worst, ASKED_FALSE, ASKED_FALSE / max(worst, 1e-9), "share"),
        Row(f"{last['hashes']} hashes in {last['kind']}", last["seconds"], 300.0, 300.0 / last["seconds"], "seconds"),
    ]  # fmt: skip
    figures = {
        f"{each['copy']}: {name}": value for each in found for name, value in each.items() if name != "copy"
    }
    figures |= {
        f"{each['hashes']} {each['kind']}: {name}": each[name]
        for each in costs
        for name in ("seconds", "peak_mib", "planted_found")
    }
    if not arguments.json:
        _print_tables(found, costs)
    show(publish("duplicates", rows, ("numpy", "pillow"), figures), arguments.json)
    return 0


def kinds() -> dict[str, Copy]:
    """Return the kinds of copy by name; see the module for `seen` and `unseen`."""
    return {
        **{f"JPEG {quality}": _saved("JPEG", quality) for quality in (90, 75, 50)},
        **{f"scaled {factor}": _scaled(factor) for factor in (0.5, 0.75, 1.5, 2.0)},
        **{f"blurred {radius}": _blurred(radius) for radius in (0.5, 1.0, 2.0)},
        **{f"brightness {gain}": _gained(gain) for gain in (0.7, 0.8, 0.9, 1.1, 1.2)},
        "seen: WebP 60": _saved("WEBP", 60),
        "seen: JPEG 30": _saved("JPEG", 30),
        "seen: gamma 0.8": _gamma(0.8),
        "unseen: brightness 0.75": _gained(0.75),
        "seen: half, then JPEG 75": lambda image: _saved("JPEG", 75)(_scaled(0.5)(image)),
        "seen: blurred, 0.8, JPEG 75": lambda image: _saved("JPEG", 75)(_gained(0.8)(_blurred(1.0)(image))),
        "unseen: brightness 1.15": _gained(1.15),
        "unseen: 64 colours": lambda image: image.quantize(64).convert("RGB"),
        "unseen: median of 3 x 3": lambda image: image.filter(ImageFilter.MedianFilter(3)),
        "unseen: sharpened": lambda image: image.filter(ImageFilter.UnsharpMask(2, 150)),
        "unseen: noise of 8 levels": _noisy(8.0),
        "unseen: 1.25, 0.85, WebP 75": lambda image: _saved("WEBP", 75)(_gained(0.85)(_scaled(1.25)(image))),
    }  # fmt: skip


def recall(side: int) -> list[dict]:
    """Return for each kind the share of copies found and of false pairs, at each distance, on unseen glyphs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(EXAMPLE), folder, "--size", str(side)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        images = [Image.open(path).convert("RGB") for path in sorted(Path(folder).glob("*.png"))]
    tuned, unseen = images[::2], images[1::2]
    rows = []
    for name, copy in kinds().items():
        glyphs = unseen if len(unseen) > 1 else tuned
        thumbnails = np.stack([thumbnail(np.asarray(each)) for each in [*glyphs, *map(copy, glyphs)]])
        hashes, signatures = perceptual_hashes(thumbnails), color_signatures(thumbnails)
        row: dict = {"copy": name}
        for distance in DISTANCES:
            groups = near_groups(hashes, signatures, distance)
            row[f"found at {distance}"] = float((groups[: len(glyphs)] == groups[len(glyphs) :]).mean())
            row[f"false at {distance}"] = false_share(groups, len(glyphs))
        rows.append(row)
    return rows


def false_share(groups: np.ndarray, num_glyphs: int) -> float:
    """Share of all pairs of different glyphs of which any two images lie in one group; look-alikes count as false."""
    glyph = np.arange(len(groups)) % num_glyphs
    joined = set()
    for group in np.unique(groups):
        members = np.unique(glyph[groups == group]).tolist()
        joined |= {(a, b) for a in members for b in members if a < b}
    return len(joined) / (num_glyphs * (num_glyphs - 1) / 2)


def in_a_child(kind: str, count: int) -> dict:
    """Measure one size in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.duplicates", "--one", kind, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def cost(kind: str, count: int) -> dict:
    """Time `near_groups` on hashes of a kind; `seconds` of the wall, `peak_mib` of the whole process."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, count, dtype=np.uint64)
    if (
        kind == "clumps"
    ):  # a thousand to a clump on average, the first clumps far larger; 12 bits off the centre
        centres = hashes[: max(count // 1000, 1)].copy()
        hashes = centres[(len(centres) * random.random(count) ** 3).astype(int)]
        for _ in range(12):
            hashes ^= np.uint64(1) << random.integers(0, 64, count, dtype=np.uint64)
    signatures = random.integers(0, 256, (count, 192), np.uint8)
    if kind == "near-flat":
        hashes, signatures = near_flat(count, random)
    planted = max(count // 1000, 1)
    hashes[-planted:] = hashes[:planted]
    for _ in range(4 if kind != "near-flat" else 0):
        hashes[-planted:] ^= np.uint64(1) << random.integers(0, 64, planted, dtype=np.uint64)
    signatures[-planted:] = signatures[:planted]
    start = time.perf_counter()
    groups = near_groups(hashes, signatures, 4)
    seconds = time.perf_counter() - start
    found = float((groups[-planted:] == groups[:planted]).mean())
    return {"seconds": seconds, "peak_mib": round(peak_mib()), "planted_found": found}


def cost_of_vectors(kind: str, count: int) -> dict:
    """Time `similar_groups` on 512 numbers each: `vectors` spread ever less, `even vectors` alike in all directions."""
    random = np.random.default_rng(0)
    spread = np.ones(512) if kind == "even vectors" else (1 + np.arange(512)) ** -0.5
    rows = random.normal(size=(count, 512)).astype(np.float32) * spread.astype(np.float32)
    planted = max(count // 1000, 1)
    rows[-planted:] = rows[:planted]
    rows += random.normal(0, 0.05, rows.shape).astype(np.float32) * spread.astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    start = time.perf_counter()
    groups = similar_groups(rows.astype(np.float16), 0.95)
    seconds = time.perf_counter() - start
    found = float((groups[-planted:] == groups[:planted]).mean())
    return {"seconds": seconds, "peak_mib": round(peak_mib()), "planted_found": found}


def near_flat(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes and signatures of images of one colour with a gradient of a few levels."""
    down, across = np.mgrid[0:32, 0:32] / 31
    waves = np.stack([across, down, np.cos(np.pi * across)]).reshape(3, -1)
    parts = []
    for start in range(0, count, 1000):
        num = min(1000, count - start)
        levels = random.integers(0, 256, (num, 1, 3)) + (random.normal(0, 6, (num, 3)) @ waves)[..., None]
        images = np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(num, 32, 32, 3)
        parts.append((perceptual_hashes(images), color_signatures(images)))
    hashes, signatures = zip(*parts, strict=True)
    return np.concatenate(hashes), np.concatenate(signatures)


def _print_tables(found: list[dict], costs: list[dict]) -> None:
    heads = [f"{what} at {distance}" for distance in DISTANCES for what in ("found", "false")]
    print("copy".ljust(34), *(head.rjust(11) for head in heads))
    for each in found:
        shares = (f"{each[head]:.3f}" if "found" in head else f"{100 * each[head]:.4f} %" for head in heads)
        print(each["copy"].ljust(34), *(share.rjust(11) for share in shares))
    for each in costs:
        print(
            f"{each['hashes']:>9} hashes, {each['kind']:<12} {each['seconds']:8.2f} s "
            f"{1e6 * each['seconds'] / each['hashes']:6.2f} us each, peak {each['peak_mib']} MiB, "
            f"planted found {each['planted_found']:.4f}"
        )


def _saved(form: str, quality: int) -> Copy:
    def copy(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, form, quality=quality)
        return Image.open(stream).convert("RGB")

    return copy


def _scaled(factor: float) -> Copy:
    return lambda image: image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS
    )


def _blurred(radius: float) -> Copy:
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius))


def _gained(gain: float) -> Copy:
    return lambda image: image.point([min(255, round(gain * level)) for level in range(256)] * 3)


def _noisy(deviation: float) -> Copy:
    def copy(image: Image.Image) -> Image.Image:
        noise = np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 3))
        return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))

    return copy


def _gamma(gamma: float) -> Copy:
    return lambda image: image.point([round(255 * (level / 255) ** gamma) for level in range(256)] * 3)


if __name__ == "__main__":
    sys.exit(main())
