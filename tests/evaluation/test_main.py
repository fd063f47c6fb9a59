import json

import pytest

from evaluation import EvaluationJob, EvaluationSettings
from evaluation.__main__ import Spool, main, read_job
from fluxmodel.errors import InputError
from tests.kit import loaded_after

JOB = {"model": "m", "dataset": "d", "evaluators": {"dual_encoder": "e"}, "output": "o"}


def test_a_job_file_is_read_with_defaults(tmp_path):
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    job = read_job(tmp_path / "job.json")
    assert job == EvaluationJob(**JOB)
    assert job.settings == EvaluationSettings()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": {"num_images": 1}}, "settings.num_images"),
        ({"settings": {"steps": [4, 2]}}, "rising"),
        ({"settings": {"stepz": [1]}}, "settings.stepz"),
        ({"settings": {"guidance": 0.5}}, "settings.guidance"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, capsys, changes, named):
    (tmp_path / "job.json").write_text(json.dumps(JOB | changes))
    assert main([str(tmp_path / "job.json")]) == 2
    assert named in capsys.readouterr().err


def test_a_missing_job_file_and_a_missing_argument_are_bad_input(tmp_path, capsys):
    assert main([str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    assert main([]) == 2


def test_text_that_is_not_json_is_bad_input(tmp_path):
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(InputError, match=r"job\.json: the file"):
        read_job(tmp_path / "job.json")


def test_progress_lines_have_the_form_of_trainings(tmp_path):
    with Spool(tmp_path / "metrics.jsonl") as spool:
        spool.progress(50, 200, "base_guided, 4 steps")
        spool.write({"base_guided/4/fd": 2.5}, "")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 50]
    assert lines[0]["total"] == 200
    assert lines[1]["metrics"] == {"base_guided/4/fd": 2.5}
    assert all({"step", "total", "metrics", "seconds"} <= set(line) for line in lines)


def test_seconds_go_on_from_those_of_earlier_lives(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "total": 2, "metrics": {}, "seconds": 100.0}\n')
    with Spool(tmp_path / "metrics.jsonl") as spool:
        spool.progress(1, 2, "")
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["seconds"] >= 100


def test_settings_load_without_torch():
    code = "import evaluation, evaluation.settings; evaluation.EvaluationSettings()"
    assert loaded_after(code, ("torch", "torchmetrics", "matplotlib", "numpy")) == []


def test_workers_do_not_change_what_is_measured():
    plain = EvaluationSettings()
    assert EvaluationSettings(workers=4).semantic() == plain.semantic()
    assert EvaluationSettings(guidance=3.0).semantic() != plain.semantic()
