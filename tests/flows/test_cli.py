import json
import time

import pytest

from flows.cli import run_command
from tasks.home import Home
from tasks.run_key import RunBook, StageIdentity
from tests.kit import loaded_after, run_python


def test_help_answers_at_once_and_loads_nothing_heavy():
    heavy = ("torch", "prefect", "mlflow", "pandas", "matplotlib", "transformers", "datasets")
    assert loaded_after("import flows.cli\nflows.cli.run_command(['--help'])", heavy) == []
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert run_python("-m", "flows.cli", "--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2.0  # half a second on a quiet machine; this one may be busy


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--seed", "abc"], "--seed is abc; give a whole number."),
        (["run", "--seed", "-1"], "--seed is -1; give a number greater than or equal to 0."),
        (["run", "--train-steps", "1.5"], "--train-steps is 1.5; give a whole number"),
        (["run", "--preset", "huge"], "preset is 'huge'; choose one of demo, smoke."),
        (["run", "--guidance", "0.5"], "guidance is 0.5; give a number above 1, such as 2."),
        (["run", "--name", "a/b"], "name is 'a/b'; leave out slashes, colons and quotes."),
        (["run", "--sed", "1"], "--seed"),
        (["rum"], "there is no verb 'rum'; `fluxline --help` lists them."),
        (["generate"], "prompts is missing"),
        (["generate", "a red circle", "--steps", "many"], "--steps is many; give a whole number."),
        (["generate", "a red circle", "--seed", "-4"], "--seed is -4; give 0 or more."),
        (["generate", "a red circle", "--model", "no/where"], "--model no/where is not a directory"),
        (["why", "trian"], "No stage 'trian' has run"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(arguments, said, capfd):
    assert run_command(arguments) == 2
    printed = capfd.readouterr()
    assert said in printed.err
    assert printed.err.startswith("fluxline: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_home_that_cannot_be_made_is_one_sentence(monkeypatch, capfd, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLUXLINE_HOME", str(tmp_path / "file"))
    assert run_command(["run", "--preset", "smoke"]) == 2
    assert "cannot be written to" in capfd.readouterr().err


def test_why_says_what_changed(fluxline_home, capfd):
    book = RunBook(Home(fluxline_home))
    made = StageIdentity(stage="train", parameters={"guidance": 2.0}, upstream={}, seed=0, code={})
    book.decide(made, reused=False)
    book.decide(made.model_copy(update={"parameters": {"guidance": 3.0}}), reused=False)
    assert run_command(["why", "train"]) == 0
    assert capfd.readouterr().out == "train  re-ran because guidance changed 2.0 -> 3.0\n"
    assert run_command(["why", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["stages"][0]["reused"] is False
