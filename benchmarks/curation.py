"""Curation beside `datasets.map` + ImageHash + cleanvision on the same files, in time, bad files and memory.

Both sides decode, measure, hash, find duplicates and write what is kept. The peers read each image twice, since they do
not know of each other: `datasets.map` with ImageHash, then cleanvision's checks. One process a side and turn, imports
not counted. Then a folder with bad files: who comes to an end. The peers are no part of the environment:

    python -m pip install --no-deps --target PEERS ImageHash cleanvision PyWavelets imagesize tabulate
    python -m benchmarks.curation --peers PEERS [--json]
    python -m benchmarks.curation --memory      # peak memory at 10 000 and 100 000 images; needs no peers
"""

import argparse
import importlib.util
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Row, faster, peak_mib, publish, show

PEERS = ("imagehash", "cleanvision", "pywt", "imagesize", "tabulate")
BAD_FILES = ("truncated.png", "page.jpg", "empty.png", "bomb.png")
INSTALL = "python -m pip install --no-deps --target PEERS ImageHash cleanvision PyWavelets imagesize tabulate"


def main() -> int:
    """Measure and publish, or play one side."""
    parser = argparse.ArgumentParser(description="Curation beside datasets.map + ImageHash + cleanvision.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--peers", type=Path, help="directory the peers were installed into")
    parser.add_argument("--num-images", type=int, default=2000, help="images of the folder")
    parser.add_argument("--side", type=int, default=256, help="side of an image in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--sizes", type=int, nargs=2, default=(10_000, 100_000), help="images for --memory")
    parser.add_argument("--play", nargs=3, metavar=("WHO", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.append(str(arguments.peers))
    if arguments.play:
        who, folder, output = arguments.play
        print(json.dumps(_play(who, Path(folder), Path(output))))
        return 0
    with tempfile.TemporaryDirectory() as place:
        if arguments.memory:
            result = _memory(Path(place), tuple(arguments.sizes))
        else:
            missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
            if missing:
                print(
                    f"Missing: {', '.join(missing)}. Install: {INSTALL}; then --peers PEERS.", file=sys.stderr
                )
                return 2
            result = _compare(Path(place), arguments)
    show(result, arguments.json)
    return 0


def _compare(place: Path, arguments: argparse.Namespace) -> dict:
    """Time both sides in turn on a good folder, then let both meet the bad files."""
    folder, bad = place / "good", place / "bad"
    write_folder(folder, arguments.num_images, arguments.side)
    write_folder(bad, 40, arguments.side)
    add_bad_files(bad)
    turns: dict[str, list[dict]] = {"ours": [], "peer": []}
    for turn in range(arguments.rounds + 1):
        for who, found in turns.items():
            found.append(_child(who, folder, place / f"{who}-{turn}", arguments.peers))
    seconds = {who: statistics.median(each["seconds"] for each in found[1:]) for who, found in turns.items()}
    ends = {who: _ends(who, bad, place / f"bad-{who}", arguments.peers) for who in turns}
    rows = [
        faster(f"{arguments.num_images} images of {arguments.side} pixels", seconds["ours"], seconds["peer"]),
    ]
    figures = {
        f"{who}: {name}": statistics.median(each[name] for each in found[1:])
        for who, found in turns.items()
        for name in found[1]
    }
    for who, (is_ended, said) in ends.items():
        figures[f"{who}: ends among bad files"] = float(is_ended)
        print(f"{who} among bad files: {said}", file=sys.stderr)
    packages = ("pillow", "datasets", "numpy", "pyarrow", "imagehash", "cleanvision")
    return publish("curation", rows, packages, figures)


def _memory(place: Path, sizes: tuple[int, int]) -> dict:
    """Peak memory of curating small images, at two sizes, each in a child."""
    peaks = {}
    for count in sizes:
        write_folder(place / str(count), count, 24)
        peaks[count] = _child("ours", place / str(count), place / f"out-{count}", None)
    small, large = (peaks[count]["peak_mib"] for count in sizes)
    figures = {
        f"{count} images: {name}": value for count, each in peaks.items() for name, value in each.items()
    }
    figures["bytes an image more"] = (large - small) * 2**20 / (sizes[1] - sizes[0])
    name = f"peak memory at {sizes[1]} images against {sizes[0]}"
    return publish(
        "curation_memory", [Row(name, large, small, small / large, "MiB")], ("pillow", "pyarrow"), figures
    )


def write_folder(folder: Path, count: int, side: int) -> None:
    """Write captioned pictures of smooth colours and a disc; every twentieth is a smaller copy of the one before."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:side, 0:side] / side
    random, previous = np.random.default_rng(0), None
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        canvas = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).copy()
        canvas[(x - random.random()) ** 2 + (y - random.random()) ** 2 < 0.04] = random.integers(0, 256, 3)
        image = Image.fromarray(canvas)
        if previous is not None and number % 20 == 19:
            image = previous.resize((side * 3 // 4, side * 3 // 4))
        image.save(folder / f"{number:06d}.png" if side < 64 else folder / f"{number:06d}.jpg")
        (folder / f"{number:06d}.txt").write_text(f"a picture of smooth colours, number {number}\n")
        previous = image


def add_bad_files(folder: Path) -> None:
    """Add what real folders hold: a truncated PNG, a web page, no bytes, a bomb of declared size."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "PNG")
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    contents = (stream.getvalue()[:4000], b"<!DOCTYPE html><html></html>\n", b"", bomb.getvalue())
    for name, content in zip(BAD_FILES, contents, strict=True):
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text("a picture\n")


def _ends(who: str, folder: Path, output: Path, peers: Path | None) -> tuple[bool, str]:
    """Whether a side ends by itself on a folder, and the last line it said if not."""
    try:
        found = _child(who, folder, output, peers)
    except subprocess.CalledProcessError as error:
        return False, (error.stderr.strip().splitlines() or ["killed"])[-1][:300]
    return True, json.dumps(found)


def _child(who: str, folder: Path, output: Path, peers: Path | None) -> dict:
    output.mkdir()
    command = [sys.executable, "-m", "benchmarks.curation", "--play", who, str(folder), str(output)]
    command += ["--peers", str(peers)] if peers else []
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def _play(who: str, folder: Path, output: Path) -> dict:
    """Play one side in this process and return its seconds, peak memory and how many it kept."""
    return (_ours if who == "ours" else _peer)(folder, output)


def _ours(folder: Path, output: Path) -> dict:
    from fluxmodel.data.curation import CurationRules, curate

    start = time.perf_counter()
    report = curate(str(folder), CurationRules(), output)
    return {"seconds": time.perf_counter() - start, "peak_mib": peak_mib(), "kept": report.kept}


def _peer(folder: Path, output: Path) -> dict:
    """`datasets.map` with ImageHash, cleanvision's checks, and the parquet file of what neither objects to."""
    import datasets
    import imagehash  # pyright: ignore[reportMissingImports]
    from cleanvision import Imagelab  # pyright: ignore[reportMissingImports]

    datasets.disable_progress_bars()
    datasets.disable_caching()
    start = time.perf_counter()
    paths = sorted(str(path) for path in folder.iterdir() if path.suffix != ".txt")
    captions = [Path(path).with_suffix(".txt").read_text().strip() for path in paths]
    rows = datasets.Dataset.from_dict({"image": paths, "path": paths, "caption": captions})
    rows = rows.cast_column("image", datasets.Image())

    def measured(row: dict) -> dict:
        image = row["image"].convert("RGB")
        return {"phash": str(imagehash.phash(image)), "width": image.width, "height": image.height}

    rows = rows.map(measured)
    mapped = time.perf_counter()
    lab = Imagelab(filepaths=paths, verbose=False)
    lab.find_issues(n_jobs=1, verbose=False)
    looked = time.perf_counter()
    hashes = np.array([int(value, 16) for value in rows["phash"]], np.uint64)
    first = [int(np.argmax(np.bitwise_count(hashes[: i + 1] ^ hashes[i]) <= 4)) for i in range(len(hashes))]
    kept = rows.select([i for i, of in enumerate(first) if of == i])
    kept.to_parquet(str(output / "kept.parquet"))
    ended = time.perf_counter()
    return {
        "seconds": ended - start,
        "map_seconds": mapped - start,
        "cleanvision_seconds": looked - mapped,
        "peak_mib": peak_mib(),
        "kept": len(kept),
    }


if __name__ == "__main__":
    sys.exit(main())
