"""What the caption stage says and passes on."""

import json
from types import SimpleNamespace

import pytest

from fluxmodel.data.scoring_models import ScoringModel
from fluxmodel.errors import InputError
from tasks.caption import OwnCaptioner, _caption, identify_captioner


def outcome(tmp_path, metrics, provenance, own=None, spool="", shards=(), judge=None):
    (tmp_path / "card.json").write_text(json.dumps({"metrics": metrics}))
    (tmp_path / "captions.json").write_text(json.dumps({"provenance": provenance}))
    (tmp_path / "metrics.jsonl").write_text(spool)
    asked = {}

    def call(function, **arguments):
        asked.update(arguments)
        return tmp_path

    run = SimpleNamespace(call=call, map=lambda *_, **__: list(shards), path=lambda ref: ref, output=tmp_path)
    run.home = SimpleNamespace(root=tmp_path / "home")
    return _caption(run, "dataset", None, own, judge), asked  # type: ignore[arg-type]


def test_scores_and_speed_are_said_and_logged(tmp_path):
    metrics = {"f1": 0.98, "alt_f1": 0.42, "num_captioned": 1000.0}
    done, _ = outcome(tmp_path, metrics, {"captioner": "blip"}, spool='{"seconds": 4.0}\n')
    assert done.gave == "1,000 images captioned, attribute F1 0.980, alt text 0.420"
    assert done.metrics == {**metrics, "images_per_second": 250.0}


def test_only_who_captions_here_wants_a_device_and_has_a_speed(tmp_path):
    metrics, own = {"num_captioned": 1000.0}, OwnCaptioner(directory="vlm", revision="r")
    given = {"metrics": metrics, "provenance": {}, "spool": '{"seconds": 4.0}\n'}
    here, asked = outcome(tmp_path, **given, own=own)
    assert (asked["computes"], "images_per_second" in here.metrics) == (True, True)
    elsewhere, asked = outcome(tmp_path, **given, own=own, shards=["0-of-1"])
    assert (asked["computes"], "images_per_second" in elsewhere.metrics) == (False, False)
    _, asked = outcome(tmp_path, **given)
    assert asked["computes"] is False


def test_a_clip_that_judges_gets_a_device_and_nothing_to_do_without_a_captioner(tmp_path):
    judge = ScoringModel(column="agreement", directory="clip", revision="r")
    own = OwnCaptioner(directory="vlm", revision="r")
    given = {"metrics": {"num_captioned": 9.0}, "provenance": {}, "judge": judge}
    _, asked = outcome(tmp_path, **given, own=own, shards=["0-of-1"])
    assert (asked["dual_encoder"], asked["computes"]) == ("clip", True)
    _, asked = outcome(tmp_path, **given)
    assert (asked["dual_encoder"], asked["computes"]) == (None, False)


def test_without_captioner_the_reason_is_said(tmp_path):
    done, asked = outcome(tmp_path, {"num_captioned": 0.0}, {"reason": "no captioner was given"})
    assert done.gave == "no captioner was given"
    assert asked["captioner"] is None


def test_a_model_of_the_users_own_counts_by_content_and_prompt_not_by_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    first, second = (identify_captioner(str(tmp_path / name), "what?") for name in ("a", "b"))
    assert first.semantic() == second.semantic()
    (tmp_path / "b" / "model.safetensors").write_bytes(b"weights")
    assert identify_captioner(str(tmp_path / "b"), "what?").semantic() != first.semantic()
    assert identify_captioner(str(tmp_path / "a")).semantic() != first.semantic()
    with pytest.raises(InputError, match=r"no config\.json there"):
        identify_captioner(str(tmp_path / "nothing"))
    own = OwnCaptioner(
        directory="somewhere", revision="1", prompt="what?", max_failed_share=0.5, max_failed=9
    )
    _, asked = outcome(tmp_path, {"num_captioned": 2.0}, {}, own)
    assert asked["captioner"] == "somewhere"
    assert asked["settings"] == {"prompt": "what?", "max_failed_share": 0.5, "max_failed": 9}
    assert own.semantic() == {"revision": "1", "prompt": "what?"}  # patience changes no caption
