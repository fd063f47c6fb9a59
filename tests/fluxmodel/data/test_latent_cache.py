"""Encoded datasets: the latents of exactly those images, beside their captions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fluxmodel.data.batches import PackedLatents
from fluxmodel.data.captioning import CaptionRow, write_rows
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.curation import curate
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.latent_cache import ENCODE_BATCH, EncodedDataset, encode_dataset
from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
from fluxmodel.errors import ArtifactError, InputError
from fluxmodel.flow.packing import pack
from fluxmodel.pixels import to_signed
from tests.kit import run_python


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(0)
    Autoencoder(AutoencoderConfig(width=16, num_blocks=1, scale=2.0, shift=0.1)).save(directory)
    return directory


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("curated")
    curate("procedural:shapes?level=demo&n=24&seed=0", CurationRules(test_fraction=0.2), directory)
    return directory


def test_latents_are_those_of_the_training_images_in_order(dataset, autoencoder, tmp_path):
    figures = encode_dataset(dataset, autoencoder, tmp_path)
    encoded, curated = EncodedDataset.from_directory(tmp_path), CuratedDataset(dataset)
    images = to_signed(torch.from_numpy(curated.pixels("train")))
    with torch.inference_mode():
        expected = Autoencoder.from_directory(autoencoder).encode(images)
    torch.testing.assert_close(encoded.latents, expected, rtol=2e-3, atol=2e-3)  # kept in fp16
    assert encoded.ids == curated.ids("train")
    assert encoded.captions == [{c.kind: c.text for c in own} for own in curated.captions("train")]
    assert figures["num_samples"] == curated.num("train")
    assert figures["latent_std"] == pytest.approx(encoded.latents.std().item(), rel=1e-3)
    assert json.loads((tmp_path / "config.json").read_text())["image_size"] == 32


def test_encoding_again_gives_the_same_bytes(dataset, autoencoder, tmp_path):
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        encode_dataset(dataset, autoencoder, tmp_path / name)
        written.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert written[0] == written[1]


def test_progress_reaches_the_end(dataset, autoencoder, tmp_path):
    told = []
    encode_dataset(dataset, autoencoder, tmp_path, progress=lambda *report: told.append(report))
    assert told[-1][0] == told[-1][1] == CuratedDataset(dataset).num("train")


def test_given_captions_are_the_only_ones_that_reach_training(dataset, autoencoder, tmp_path):
    curated = CuratedDataset(dataset)
    (tmp_path / "captions").mkdir()
    rows = [
        CaptionRow(own, "train", f"seen {own}", "detailed", "m", score=-0.01) for own in curated.ids("train")
    ]
    rows += [CaptionRow(own, "test", "of the test", "detailed", "m") for own in curated.ids("test")]
    write_rows(rows, tmp_path / "captions" / "captions.parquet")
    encode_dataset(dataset, autoencoder, tmp_path, captions=tmp_path / "captions")
    encoded = EncodedDataset.from_directory(tmp_path)
    assert encoded.captions == [{"detailed": f"seen {own}"} for own in encoded.ids]
    truth = {c.text for own in curated.captions("train") for c in own if c.kind in ("detailed", "short")}
    assert not truth & {text for own in encoded.captions for text in own.values()}


def test_captions_of_another_dataset_are_refused(dataset, autoencoder, tmp_path):
    write_rows([CaptionRow("elsewhere", "train", "a dog", "given")], tmp_path / "captions.parquet")
    with pytest.raises(ArtifactError, match="have no caption there"):
        encode_dataset(dataset, autoencoder, tmp_path, captions=tmp_path)
    with pytest.raises(ArtifactError, match="caption again"):
        encode_dataset(dataset, autoencoder, tmp_path, captions=tmp_path / "nothing")


def test_no_autoencoder_is_refused_by_name(dataset, tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        encode_dataset(dataset, tmp_path / "nothing", tmp_path)


def test_damaged_encodings_are_refused(dataset, autoencoder, tmp_path):
    with pytest.raises(ArtifactError, match="encode again"):
        EncodedDataset.from_directory(tmp_path)
    encode_dataset(dataset, autoencoder, tmp_path)
    (tmp_path / "captions.json").write_text("[[]]")
    with pytest.raises(ArtifactError, match="1 rows of captions"):
        EncodedDataset.from_directory(tmp_path)
    (tmp_path / "latents.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ArtifactError, match="encode again"):
        EncodedDataset.from_directory(tmp_path)


def test_latents_left_in_their_file_give_the_same_batches(dataset, autoencoder, tmp_path):
    encode_dataset(dataset, autoencoder, tmp_path)
    read, mapped = (EncodedDataset.from_directory(tmp_path, mapped=value) for value in (False, True))
    assert (read.latents.dtype, mapped.latents.dtype) == (torch.float32, torch.float16)
    samples = torch.tensor([5, 0, 5, 17])
    expected = pack(read.latents)
    for latents in (read.latents, mapped.latents):
        packed = PackedLatents(latents)
        assert packed.shape == expected.shape
        assert len(packed) == len(expected)
        assert packed[samples].dtype == torch.float32
        assert torch.equal(packed[samples], expected[samples])
        assert torch.equal(packed[2:4], expected[2:4])


def test_latents_left_in_their_file_take_no_memory_until_they_are_read(tmp_path):
    """Of 51 MB a tenth is read, and that is what becomes resident in a process of its own, MB."""
    save_file(
        {"latents": torch.zeros(50_000, 8, 8, 8, dtype=torch.float16)}, tmp_path / "latents.safetensors"
    )
    (tmp_path / "captions.json").write_text(json.dumps([[]] * 50_000))
    code = f"""
import torch
from pathlib import Path
from fluxmodel.data.batches import PackedLatents
from fluxmodel.data.latent_cache import EncodedDataset
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
packed = PackedLatents(torch.zeros(200, 8, 8, 8))[:100]
before = resident()
packed = PackedLatents(EncodedDataset.from_directory({str(tmp_path)!r}, mapped=True).latents)
packed[:100]
start = resident()
for first in range(0, 5000, 100):
    packed[first : first + 100]
print(start - before, resident() - start)
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    first, tenth = map(float, done.stdout.split())
    assert first < 40, "half of it are the captions"
    assert tenth < 15, "51 MB of latents were read as a whole"


# The cache


def save_autoencoder(directory, seed):
    directory.mkdir()
    torch.manual_seed(seed)
    Autoencoder(AutoencoderConfig(width=16, num_blocks=1)).save(directory)
    return directory


def folder_of_images(directory, numbers):
    directory.mkdir(exist_ok=True)
    for place, number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(np.kron(pixels[::8, ::8], np.ones((8, 8, 1), np.uint8))).save(
            directory / f"{place:03d}.png"
        )
        (directory / f"{place:03d}.txt").write_text(f"picture number {number} of many")
    return directory


def encoded_files(folder, autoencoder, place, cache):
    """Curate and encode; return what the artifact's digest covers, and (encoded, from the cache)."""
    for name in ("curated", "encoded"):
        (place / name).mkdir(parents=True)
    curate(str(folder), CurationRules(test_fraction=0), place / "curated")
    encode_dataset(place / "curated", autoencoder, place / "encoded", cache=cache)
    files = {path.name: path.read_bytes() for path in (place / "encoded").iterdir()}
    reuse = json.loads(files.pop("reuse.json"))
    assert json.loads(files["undigested.json"]) == ["reuse.json"]
    return files, (reuse["num_encoded"], reuse["num_from_cache"])


def test_one_replaced_and_ten_added_are_encoded_and_the_result_is_that_of_a_run_without_a_cache(tmp_path):
    autoencoder = save_autoencoder(tmp_path / "autoencoder", 0)
    folder = folder_of_images(tmp_path / "images", [(n, n) for n in range(90)])
    cache = tmp_path / "cache"
    first, counts = encoded_files(folder, autoencoder, tmp_path / "first", cache)
    assert counts == (90, 0)
    assert encoded_files(folder, autoencoder, tmp_path / "again", cache) == (first, (0, 90))
    folder_of_images(folder, [(7, 1007), *[(n, n) for n in range(90, 100)]])
    found, counts = encoded_files(folder, autoencoder, tmp_path / "second", cache)
    assert counts == (11, 89)
    expected, counts = encoded_files(folder, autoencoder, tmp_path / "alone", None)
    assert counts == (100, 0)
    assert found == expected
    assert found["latents.safetensors"] != first["latents.safetensors"]


def test_a_retrained_autoencoder_meets_no_stale_latent(tmp_path):
    folder, cache = folder_of_images(tmp_path / "images", [(n, n) for n in range(5)]), tmp_path / "cache"
    one, other = save_autoencoder(tmp_path / "one", 0), save_autoencoder(tmp_path / "other", 1)
    assert encoded_files(folder, one, tmp_path / "first", cache)[1] == (5, 0)
    found, counts = encoded_files(folder, other, tmp_path / "second", cache)
    assert counts == (5, 0)
    assert found == encoded_files(folder, other, tmp_path / "alone", None)[0]
    assert encoded_files(folder, one, tmp_path / "third", cache)[1] == (0, 5)


def test_a_latent_depends_on_its_image_alone(tmp_path):
    """Whatever else is in the batch, wherever it lies in it, on however many threads: the same bits, at full width."""
    torch.manual_seed(0)
    encoder = Autoencoder(AutoencoderConfig()).eval()
    images = torch.randn(ENCODE_BATCH, 3, 32, 32)
    threads = torch.get_num_threads()
    with torch.inference_mode():
        expected = encoder.encode(images)[5]
        others = torch.zeros_like(images)
        for place in (0, 17, ENCODE_BATCH - 1):
            others[place] = images[5]
        try:
            for num_threads in (1, 2, 3):
                torch.set_num_threads(num_threads)
                found = encoder.encode(others)
                assert all(torch.equal(found[place], expected) for place in (0, 17, ENCODE_BATCH - 1))
        finally:
            torch.set_num_threads(threads)


def test_a_damaged_or_foreign_value_is_encoded_anew(dataset, autoencoder, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    encode_dataset(dataset, autoencoder, tmp_path / "first", cache=tmp_path / "cache")
    (segment,) = (tmp_path / "cache" / "latents").glob("*/*.values")
    raw = bytearray(segment.read_bytes())
    raw[-1] ^= 1
    segment.write_bytes(raw)
    encode_dataset(dataset, autoencoder, tmp_path / "second", cache=tmp_path / "cache")
    assert json.loads((tmp_path / "second" / "reuse.json").read_text())["num_encoded"] == 1
    first, second = ((tmp_path / name / "latents.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
