"""`fluxline evaluate` on what a run registered, beside it a diffusers pipeline."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.kit import wait_until
from tests.tiny_pipelines import save_pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]
NAME = "fluxline-smoke"


def test_a_version_judged_again_has_the_pipelines_numbers_and_compares_with_it(finished, tmp_path):
    command, stages, _, _ = finished
    out = tmp_path / "again"
    found, err = command.run(
        "evaluate", f"{NAME}@1", "--like", f"{NAME}@champion", "--out", str(out), "--json"
    )
    assert "Judged like the evaluation of fluxline-smoke version 1." in err
    mine, theirs = (
        {each["name"]: each for each in json.loads((place / "evaluation.json").read_text())["metrics"]}
        for place in (out, command.artifact(stages["evaluate"]))
    )
    assert mine.keys() == theirs.keys()
    timed = {"latency_ms", "peak_memory_mib"}
    assert [name for name in mine.keys() - timed if mine[name] != theirs[name]] == []
    result = found["evaluations"][0]
    assert result["report"] == str(out / "report.html")
    assert Path(result["report"]).is_file()
    assert result["metrics"]["all_correct"]["value"] == theirs["all_correct"]["value"]
    assert sum(result["parts"].values()) == pytest.approx(result["seconds"], abs=0.2)
    compared, _ = command.run("compare", str(out), f"{NAME}@champion", "--json")
    assert compared["primary"]["difference"] == 0
    assert not list((command.home / "work").glob("judge-*"))


def test_several_are_told_in_one_table_the_best_first(finished, tmp_path):
    command = finished[0]
    pipeline = save_pipeline("sdxl-turbo", tmp_path / "turbo")
    models = [str(pipeline), "champion"]
    how = ["--num-images", "16", "--steps", "1", "--size", "32", "--prompts", "geneval"]
    found, err = command.run("evaluate", *models, *how, "--out", str(tmp_path / "both"), "--json")
    assert "Judged like the newest run's evaluation." in err
    assert found["sorted_by"] == "geneval"
    scores = [each["metrics"]["geneval"]["value"] for each in found["evaluations"]]
    assert scores == sorted(scores, reverse=True)
    assert {Path(each["directory"]).name for each in found["evaluations"]} == {"turbo", "champion"}
    turbo = next(each for each in found["evaluations"] if each["model"] == str(pipeline))
    assert turbo["contestant"]["family"] == "SDXL Turbo"
    command.run("compare", str(tmp_path / "both" / "turbo"), str(tmp_path / "both" / "champion"), "--json")
    process = command.start("evaluate", "champion", *how, "--out", str(tmp_path / "both" / "champion"))
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "GenEval-style" in out
    assert "report.html" in out
    assert "drawing images" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody@1"], "there is no such model"),
        (["./no/where"], "./no/where is not a directory"),
        (["{empty}"], "no model_index.json there; name a model directory of ours or a diffusers pipeline."),
        (["champion", "--like", f"{NAME}@9"], f"'{NAME}' has no version '9'"),
        (["champion", "--steps", "4,2"], "--steps must be rising numbers from 1 up"),
        (["champion", "--num-images", "2"], "--num-images: "),
        (["champion", "--guidance", "0.5"], "--guidance: "),
        (["champion", "--prompts", "none.txt"], "none.txt: cannot be read (No such file or directory)"),
        (["champion", "--prompts", "{prompts}"], "a.jsonl, line 2: prompt: Field required"),
        (["champion", "--out", "{full}"], "holds something else than an evaluation; name a new folder."),
    ],
)
def test_bad_usage_is_one_sentence(finished, tmp_path, arguments, said):
    places = {name: tmp_path / name for name in ("empty", "full")}
    for place in places.values():
        place.mkdir()
    (places["full"] / "diary.txt").write_text("dear")
    places["prompts"] = tmp_path / "a.jsonl"
    places["prompts"].write_text('{"prompt": "a"}\n{"seed": 1}\n')
    _, err = finished[0].run("evaluate", *(each.format(**places) for each in arguments), code=2)
    assert said in err
    assert err.count("\n") <= 2  # whose evaluation is repeated may be said first
    assert (places["full"] / "diary.txt").read_text() == "dear"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(finished, tmp_path, number):
    command = finished[0]
    out = tmp_path / "stopped"
    process = command.start("evaluate", "champion", "--num-images", "3000", "--out", str(out))
    wait_until(lambda: list((command.home / "work").glob("judge-*/output/metrics.jsonl")), seconds=300)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "Interrupted; nothing was kept" in err
    assert "Traceback" not in err
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert not out.exists()
    assert not list((command.home / "work").glob("judge-*"))
