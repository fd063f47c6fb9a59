"""Two models of known faults, asked again with further noise until the gate can decide."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from evaluation import duel as duels
from evaluation.compare import compare_evaluations
from evaluation.curves import places
from evaluation.duel import duel, further_seeds, timed_in_turn
from evaluation.entrant import Entrant
from evaluation.evaluate import evaluate
from evaluation.gate import GateSettings, decide, needs_more_noise
from evaluation.settings import EvaluationSettings

SETTINGS = EvaluationSettings(
    num_images=60, steps=(4,), num_held_out=0, num_detailed=0, num_paths=0, batch_size=30, num_calibration=0,
    num_latency_trials=1, grid_size=4, precision="fp32",
)  # fmt: skip
GATE = GateSettings(
    coverage_ratio=0, fd_margin=9, attr_acc_margin=1, clip_margin=99, group_margin=0.99, memorised_margin=1
)
"""Only the primary is asked: the others have tests of their own."""


@pytest.fixture(scope="module")
def pair(drawing_pipe, evaluators, scenes_dataset, tmp_path_factory):
    """Two evaluated models, of which the challenger errs less: what `duel` takes."""
    patch = pytest.MonkeyPatch()
    pipes = {}

    def enter(directory, *_):
        return Entrant(directory, pipes[directory], ("base",), places(("base",), SETTINGS), "fp32")

    patch.setattr(duels, "enter", enter)

    root = tmp_path_factory.mktemp("pair")
    found = {"dataset": scenes_dataset, "evaluators": evaluators, "gate": GATE}
    for name, rate in (("challenger", 0.05), ("champion", 0.14)):
        model = root / f"{name}-model"
        model.mkdir()
        (model / "model_index.json").write_text(json.dumps({"rate": rate}))
        pipes[model] = erring(drawing_pipe, rate)
        evaluate(model, scenes_dataset, evaluators, SETTINGS, root / name, pipe=pipes[model])
        found |= {name: root / name, f"{name}_model": model}
    yield found
    patch.undo()


def erring(drawing_pipe, rate):
    class Erring(drawing_pipe):
        def _scene(self, prompt, seed, _):
            return super()._scene(prompt, seed, rate)

    return Erring("demo")


def said(output) -> dict:
    return json.loads((output / "duel.json").read_text())


def test_noise_is_drawn_until_the_primary_is_decided(pair, tmp_path):
    sides = pair
    first = decide(sides["challenger"], sides["champion"], GATE)
    assert needs_more_noise(first), first.reasons
    heard = []
    duel(**sides, output=tmp_path / "duel", progress=lambda *told: heard.append(told))
    found = said(tmp_path / "duel")
    made = decide(sides["challenger"], sides["champion"], GATE, further=tmp_path / "duel")
    assert made.verdict == "promote"
    assert (made.look, made.num_seeds) == (found["look"], found["num_seeds"])
    assert made.num_seeds in (2, 4, 8)
    assert made.primary is not None
    assert made.primary.n == 60 * made.num_seeds
    assert heard[-1][0] == 2 * 60 * (made.num_seeds - 1)
    rows = pq.read_table(tmp_path / "duel" / "challenger.parquet").to_pydict()
    stored = pq.read_table(sides["challenger"] / "rows.parquet").to_pydict()
    assert not set(rows["seed"]) & set(stored["seed"])
    assert set(rows["prompt"]) == set(stored["prompt"])
    # The other way round it is its own mirror image, on the same rows and no more.
    mirrored = {"challenger": sides["champion"], "champion": sides["challenger"]}
    mirrored |= {"challenger_model": sides["champion_model"], "champion_model": sides["challenger_model"]}
    duel(**sides | mirrored, output=tmp_path / "mirror")
    back = decide(sides["champion"], sides["challenger"], GATE, further=tmp_path / "mirror")
    assert (back.verdict, back.num_seeds) == ("reject", made.num_seeds)
    assert back.primary is not None
    assert back.primary.difference == pytest.approx(-made.primary.difference)
    # Begun again after a kill it comes to the same rows.
    duel(**sides, output=tmp_path / "again")
    assert pq.read_table(tmp_path / "again" / "challenger.parquet").to_pydict() == rows


def test_the_limit_is_kept_and_said(pair, tmp_path):
    sides, gate = pair, GATE.model_copy(update={"max_rounds": 2, "min_effect": 0.9})
    duel(**sides | {"gate": gate}, output=tmp_path / "duel")
    made = decide(sides["challenger"], sides["champion"], gate, further=tmp_path / "duel")
    assert (made.verdict, made.look, made.num_seeds) == ("inconclusive", 2, 2)
    assert not needs_more_noise(made)
    assert "(look 2 of 2)" in made.rules[0].asked
    rows = compare_evaluations(sides["challenger"], sides["champion"], tmp_path / "duel")
    assert {name: rows[name].n for name in ("all_correct", "attr_acc", "fd")} == {
        "all_correct": 120,
        "attr_acc": 120,
        "fd": 60,
    }


def test_only_timed_where_nothing_is_to_be_drawn(pair, tmp_path):
    sides = pair
    duel(**sides, draws=False, output=tmp_path / "duel")
    found = said(tmp_path / "duel")
    assert [path.name for path in (tmp_path / "duel").iterdir()] == ["duel.json"]
    assert (found["look"], found["num_seeds"]) == (1, 1)
    assert found["latency"]["ci_low"] <= found["latency"]["ratio"] <= found["latency"]["ci_high"]
    made = decide(sides["challenger"], sides["champion"], GATE, further=tmp_path / "duel")
    assert next(rule for rule in made.rules if rule.name == "latency").found.count("in turn") == 1


def test_what_would_be_measured_otherwise_now_is_not_mixed_in(pair, tmp_path):
    sides = pair | {"champion": shutil.copytree(pair["champion"], tmp_path / "champion")}
    path = sides["champion"] / "evaluation.json"
    document = json.loads(path.read_text())
    document["identity"]["dtype"] = "another machine's"
    path.write_text(json.dumps(document))
    duel(**sides, output=tmp_path / "duel")
    assert said(tmp_path / "duel")["said"] == [
        "No further noise was drawn: the champion would be measured otherwise now (dtype)."
    ]


def test_further_seeds_never_repeat():
    drawn = [seed for number in range(1, 8) for seed in further_seeds(SETTINGS, 60, number)]
    other = further_seeds(SETTINGS.model_copy(update={"seed": 1}), 60, 1)
    assert len({*drawn, *other}) == 8 * 60


def test_a_machine_that_slows_both_changes_no_ratio():
    """One is twice as slow; the machine stalls now and then, for both."""
    clock = np.random.default_rng(0)

    class Slow:
        def __init__(self, milliseconds):
            self.milliseconds = milliseconds

        def latency_ms(self, *_):
            return self.milliseconds * (1 + 0.02 * clock.random() + 5 * (clock.random() < 0.1))

    class Side:
        place = type("Place", (), {"steps": 1, "guidance": 1.0, "variant": ""})

        def __init__(self, milliseconds):
            self.sampler = Slow(milliseconds)

    found = timed_in_turn([Side(20.0), Side(10.0)], "a red circle")  # type: ignore[list-item]
    assert found["ci_low"] > 1.9
    assert found["ci_high"] < 2.1
    assert found["ratio"] == pytest.approx(2.0, rel=0.03)
