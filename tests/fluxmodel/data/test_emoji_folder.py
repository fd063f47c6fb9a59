"""The example that draws a folder of real pictures, and what curation makes of it."""

import pytest

from fluxmodel.data.curation import CuratedDataset, CurationRules, curate
from fluxmodel.data.decode import decode
from tests.kit import run_python

SCRIPT = "examples/emoji_folder.py"


def test_emoji_are_drawn_named_and_curated_and_bad_files_refused(tmp_path, emoji_font):
    folder, output = tmp_path / "emoji", tmp_path / "curated"
    done = run_python(SCRIPT, str(folder), "--font", str(emoji_font), "--with-bad-files")
    assert done.returncode == 0, done.stderr
    assert (folder / "1f600-grinning-face.txt").read_text() == "grinning face\n"
    assert decode((folder / "1f600-grinning-face.png").read_bytes()).shape == (64, 64, 3)
    output.mkdir()
    report = curate(str(folder), CurationRules(image_size=64), output)
    assert report.kept >= 1300
    reasons = {refused.path: refused.reason for refused in report.refused}
    assert reasons.pop("bad-truncated.png") == "truncated"
    assert reasons.pop("bad-web-page.jpg") == "not_an_image"
    assert reasons.pop("bad-no-bytes.png") == "empty_file"
    assert reasons.pop("bad-empty-caption.png") == "empty_caption"
    assert set(reasons.values()) <= {"near_duplicate"}
    assert len(reasons) <= 10
    dataset = CuratedDataset(output)
    names = [*dataset.ids("train"), *dataset.ids("test")]
    assert "good-16-bit.png" in names
    captions = [caption[0].text for caption in dataset.captions("train")]
    assert len(set(captions)) == len(captions)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "--font", "no.ttf"], "fonts-noto-color-emoji"),
        (["new", "--size", "0"], "--size"),
        (["full"], "not an empty folder"),
    ],
)
def test_what_is_missing_is_one_sentence(tmp_path, emoji_font, arguments, said):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = run_python(SCRIPT, str(tmp_path / arguments[0]), *arguments[1:])
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
