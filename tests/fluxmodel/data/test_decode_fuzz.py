"""Whatever the bytes: an image within the limit or a refusal, in bounded memory; the same of captions and rows."""

import json
import os
import struct
import unicodedata
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxmodel.data.caption_checks import usable_captions
from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.decode import Refusal, decode, decode_image
from fluxmodel.data.image_folder import FolderSource
from fluxmodel.data.metadata_rows import BadRow, read_metadata
from fluxmodel.data.records import Caption, RawSample, Reason, UnreadableFile
from fluxmodel.errors import InputError
from tests.fluxmodel.data.bad_files import all_kinds, bombs
from tests.fluxmodel.data.odd_images import SRGB, rgb_profile
from tests.fluxmodel.data.pictures import encoded, picture
from tests.kit import run_python

MAX_PIXELS = 100_000
# One file of each kind, small ones only: a mutation has to hit something.
SEEDS = sorted((kind.data for kind in all_kinds() if 0 < len(kind.data) < 40_000), key=len)
STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a",
    b"II*\0\x08\0\0\0",
    b"MM\0*\0\0\0\x08",
    b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0",
    b"RIFF\x10\0\0\0WEBPVP8 ",
    b"RIFF\x10\0\0\0WEBPVP8X",
    b"BM",
    b"P6 ",
    b"P3 9 9 255 ",
    b"Pf 3 3 -1.0\n",
    b"\0\0\1\0\1\0",
    b"\0\0\0\x20ftypavif",
)
fuzzed = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def test_damaged_files_print_nothing():
    """In a process of its own, whose file descriptor 2 is looked at: C libraries write there."""
    code = """
import io
from PIL import Image
from fluxmodel.data.decode import Refusal, decode
refused = 0
for compression, mode in (("group4", "1"), ("tiff_adobe_deflate", "RGB"), ("tiff_lzw", "RGB"), ("jpeg", "RGB")):
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert(mode).save(stream, "TIFF", compression=compression)
    whole = stream.getvalue()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        data = bytearray(whole)
        data[place] ^= 0xFF
        try:
            decode(bytes(data))
        except Refusal:
            refused += 1
print(refused)
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
    assert done.stderr == ""


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file with some bytes changed, cut, doubled or moved, mostly near its start."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        if not data:
            break
        reach = draw(st.sampled_from((32, 200, len(data))))
        place = draw(st.integers(0, min(reach, len(data)) - 1))
        match draw(st.sampled_from(("byte", "bit", "word", "cut", "drop", "double"))):
            case "byte":
                data[place] = draw(st.integers(0, 255))
            case "bit":
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "word":
                number = draw(st.sampled_from((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 16)))
                data[place : place + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", number)
            case "cut":
                del data[place:]
            case "drop":
                del data[place : place + draw(st.integers(1, 64))]
            case "double":
                data[place:place] = data[place : place + draw(st.integers(1, 64))]
    return bytes(data)


def assert_decodes_or_refuses(data: bytes) -> None:
    image, refusal = None, None
    try:
        image = decode_image(data, MAX_PIXELS)
    except Refusal as error:
        refusal = error
    if image is None:
        assert refusal
        assert isinstance(refusal.reason, Reason)
        assert refusal.detail.encode()
        return
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape[2] == 3
    assert 0 < image.pixels.shape[0] * image.pixels.shape[1] <= MAX_PIXELS


@settings(fuzzed, max_examples=400)
@given(damaged())
def test_a_damaged_file_gives_an_image_or_a_refusal(data):
    assert_decodes_or_refuses(data)


@settings(fuzzed, max_examples=250)
@given(st.sampled_from(STARTS), st.binary(max_size=200))
def test_arbitrary_bytes_behind_a_signature_give_an_image_or_a_refusal(start, data):
    assert_decodes_or_refuses(start + data)


@settings(fuzzed, max_examples=100)
@given(st.data())
def test_a_damaged_profile_never_costs_the_picture(data):
    profile = bytearray(rgb_profile(SRGB, 1.0))
    for _ in range(data.draw(st.integers(1, 8))):
        profile[data.draw(st.integers(0, len(profile) - 1))] = data.draw(st.integers(0, 255))
    del profile[data.draw(st.integers(1, len(profile))) :]
    image = decode_image(encoded(picture(3, 16, 16), icc_profile=bytes(profile)))
    assert image.pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("data", SEEDS[:: max(1, len(SEEDS) // 12)], ids=len)
def test_a_file_cut_anywhere_gives_an_image_or_a_refusal(data):
    for end in range(0, len(data), max(1, len(data) // 40)):
        assert_decodes_or_refuses(data[:end])


@pytest.mark.slow
@settings(fuzzed, max_examples=12_000)
@given(damaged())
def test_many_damaged_files_give_an_image_or_a_refusal(data):
    assert_decodes_or_refuses(data)


def test_bombs_are_refused_before_memory_is_taken():
    # 9 000 x 9 000 passes Pillow's own limit; 243 MB of pixels do not fit into the 100 MB allowed here.
    code = """
import resource
import numpy as np
from fluxmodel.data.decode import Refusal, decode
from tests.fluxmodel.data.bad_files import bombs
from tests.fluxmodel.data.odd_images import png_of
files = bombs(9_000)
decode(png_of(np.zeros((9, 9, 3), np.uint8), 2))
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
for kind in files:
    try:
        decode(kind.data, 1_000_000)
    except Refusal as refusal:
        print(kind.name, refusal.reason, sep='=')
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"{kind.name}=too_large" for kind in bombs()]


@pytest.mark.parametrize("name", ["endless segments.jpg", "endless padding.jpg", "endless comments.gif"])
def test_endless_segments_are_refused_without_reading_on(name, monkeypatch):
    kinds = {kind.name: kind for kind in all_kinds()}
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(Refusal, match="more than 20000 segments"):
        decode(kinds[name].data)


def test_one_picture_named_a_million_times_is_refused():
    kinds = {kind.name: kind for kind in all_kinds()}
    with pytest.raises(Refusal, match="20000 pieces"):
        decode(kinds["many strips.tif"].data)


texts = st.text(st.characters(), max_size=60) | st.sampled_from(
    ("", " ", "\ud800", "\x00", "\ufffd", "a " * 90)
)


@settings(fuzzed, max_examples=200)
@given(st.lists(texts, max_size=4))
def test_captions_come_out_normal_and_storable_or_with_a_reason(given_texts):
    captions, reason = usable_captions(tuple(Caption(text, "given") for text in given_texts), CurationRules())
    assert (reason is None) == bool(captions)
    for caption in captions:
        assert caption.text.encode()
        assert caption.text == " ".join(caption.text.split()) == unicodedata.normalize("NFC", caption.text)
        assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in caption.text)


@pytest.mark.parametrize(
    "text", ["word " * 200_000, "a" + "\u0315\u0300" * 500_000, "\u1100\u1161\u11a8" * 300_000]
)
def test_an_endless_caption_is_refused_without_being_normalised(text, monkeypatch):
    # A run of a million combining marks would take minutes: its cost grows with the square.
    with monkeypatch.context() as patch:
        patch.setattr(unicodedata, "normalize", lambda *_: pytest.fail("normalised"))
        found = usable_captions((Caption(text, "given"),), CurationRules())
    assert found == ((), Reason.CAPTION_TOO_LONG)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("file_name", "image", "text", "captions", "licence", "license", "source", "url", "other")
records = st.dictionaries(st.sampled_from(FIELDS), values | st.just("a.png"), max_size=5)


@settings(fuzzed, max_examples=120)
@given(st.lists(records.map(json.dumps) | texts, max_size=4), st.text(max_size=60), st.binary(max_size=80))
def test_whatever_describes_a_folder_its_image_comes_out_storable(tmp_path_factory, lines, sidecar, table):
    folder = tmp_path_factory.mktemp("described")
    (folder / "a.png").write_bytes(b"any")
    (folder / "a.txt").write_bytes(sidecar.encode("utf-8", "surrogatepass"))
    (folder / "metadata.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    (folder / "metadata.csv").write_bytes(b"file_name,text\na.png,x\n" + table)
    for name in ("metadata.jsonl", "metadata.csv"):
        with suppress(InputError):
            for row in read_metadata(folder / name):
                assert row.line > 0
                assert not isinstance(row, BadRow) or row.detail.encode()
    with suppress(InputError):
        for item in FolderSource(folder):
            assert isinstance(item, RawSample | UnreadableFile)
            stored = (item.id, item.path, getattr(item, "source", ""), getattr(item, "licence", ""))
            assert "".join(text or "" for text in stored).encode()
            assert getattr(item, "detail", "").encode() is not None


def test_a_folder_of_random_names_is_told_apart(tmp_path):
    random = np.random.default_rng(0)
    names = {bytes(random.integers(1, 256, 12).astype(np.uint8)).replace(b"/", b"-") for _ in range(60)}
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), b"x" + name + b".png"), "wb") as file:
            file.write(name)
    items = list(FolderSource(tmp_path))
    assert sorted(item.image for item in items if isinstance(item, RawSample)) == sorted(names)
    assert all(item.id.encode() for item in items)
