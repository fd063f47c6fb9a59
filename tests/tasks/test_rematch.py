"""What the gate does beyond reading: count gates, ask a person, meet the champion again.

The children that would draw are stood in for.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.gate_settings import GateSettings
from fluxmodel.errors import InputError, StageError
from tasks import promotion, registry, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore, content_digest, list_files
from tasks.gate import GATE, _gate, read_decision
from tasks.home import Home
from tasks.register import REGISTER, _register
from tasks.rematch import STAGE
from tasks.run_key import RunBook, RunRecord, StageIdentity
from tasks.stage_run import RunContext, StageRun
from tests.kit import write_evaluation

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
NAME = "shapes"
N = 200


class Chain:
    """The end of the pipeline, with all that a model's evaluation was made with on record."""

    def __init__(self, home: Home):
        self.home, self.store = home, ArtifactStore(home)
        self.evaluators = self.stored("dual_encoder", {"card.json": "{}"}, "prepare-dual_encoder")

    def crown(self, num_right: int, settings: GateSettings, **metrics: Any) -> None:
        """Make a model the first champion."""
        assert self.run(num_right, settings, registers=True, **metrics).verdict == "promote"

    def run(
        self, num_right: int, settings: GateSettings, data: str = "shapes", registers=False, **metrics: Any
    ):
        """Return the gate's decision on a model."""
        model = self.stored("model", {"model_index.json": json.dumps({"right": num_right})}, "rectify")
        dataset = self.stored("dataset", {"card.json": json.dumps(data)}, "curate")
        folder = evaluation(self.home.root / "made", num_right, model.digest[:16], data, **metrics)
        upstream = {"model": model.digest, "dataset": dataset.digest, "dual_encoder": self.evaluators.digest}
        judged = self.kept("evaluation", folder, "evaluate", upstream)
        decision = self.do(GATE, _gate, evaluation=judged, name=NAME, settings=settings)
        parts = {"model": model, "evaluation": judged, "decision": decision, "dataset": dataset, "lora": None}
        if registers:
            self.do(REGISTER, _register, **parts, name=NAME)
        return read_decision(self.home, decision)

    def do(self, stage, work, **inputs) -> ArtifactRef:
        context = RunContext(home=str(self.home.root))
        stage.cache_key({"context": context, **inputs})
        return stage.run(context, work, **inputs)

    def stored(self, kind: str, files: dict[str, str], stage: str) -> ArtifactRef:
        folder = self.home.root / "made"
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        return self.kept(kind, folder, stage, {})

    def kept(self, kind: str, folder: Path, stage: str, upstream: dict[str, str]) -> ArtifactRef:
        run_id = tracking.open_run(self.home, content_digest(list_files(folder)), kind, {"stage": kind})
        ref = self.store.put(folder, kind, run_id)
        shutil.rmtree(folder)
        identity = StageIdentity(
            stage=stage, parameters={"is": ref.digest}, upstream=upstream, seed=0, code={}
        )
        record = RunRecord(run_key=identity.run_key, identity=identity, artifact=ref, seconds=1.0)
        RunBook(self.home).write(record)
        return ref


def evaluation(folder: Path, num_right: int, model: str, data: str, **metrics: float) -> Path:
    write_evaluation(folder, np.arange(N) < num_right, model=model, dataset=data)
    path = folder / "evaluation.json"
    document = json.loads(path.read_text()) | {"settings": {"num_images": N}}
    for name, value in metrics.items():
        document["metrics"].append({"name": name, "value": value, "n": 1, "method": "", "direction": "lower"})
    path.write_text(json.dumps(document))
    return folder


@pytest.fixture
def chain(tracked: Home) -> Chain:
    return Chain(tracked)


# Budget


def test_the_gates_of_a_year_are_counted_and_a_spent_budget_promotes_nothing(chain, monkeypatch):
    settings = GateSettings(max_rounds=1, gates_per_year=2)
    chain.crown(100, settings)  # which compared nothing
    assert [chain.run(right, settings).gates_spent for right in (40, 41)] == [0, 1]
    spent = chain.run(180, settings)
    assert (spent.verdict, spent.gates_spent) == ("inconclusive", 2)
    assert any(
        reason.startswith("budget: 2 before this one; asked: at most 2 gates") for reason in spent.reasons
    )
    assert registry.aliases(chain.home, NAME)["champion"] == "1"
    for path in chain.home.runs.glob("*.json"):  # what this home forgot, MLflow has not
        record = RunRecord.model_validate_json(path.read_text())
        if record.identity.stage == "gate":
            path.unlink()
    assert chain.run(181, settings).gates_spent == 3
    monkeypatch.setattr("tasks.gate.time.time", lambda: 2e9)  # years later
    assert chain.run(182, settings).gates_spent == 0


# Approval


def test_a_promotion_waits_for_a_person_where_that_is_asked(chain):
    chain.crown(100, GateSettings(max_rounds=1))
    asked = chain.run(180, GateSettings(max_rounds=1, needs_approval=True), registers=True)
    assert (asked.verdict, asked.approval) == ("promote", "pending")
    assert asked.reasons[-1] == "It waits for a person's approval: `fluxline promote shapes`."
    assert registry.aliases(chain.home, NAME) == {"champion": "1", "challenger": "2"}
    waiting = promotion.pending(chain.home, NAME)
    assert [version.version for version in waiting] == ["2"]
    assert waiting[0].tags["approval.reasons"].startswith("Shown better on the primary metric")
    promotion.promote_by_hand(chain.home, waiting[0], "", is_forced=False)
    assert registry.aliases(chain.home, NAME) == {"champion": "2", "previous": "1", "challenger": "2"}


# The champion evaluated again


@pytest.fixture
def evaluated_again(monkeypatch):
    """Stand in for the child that evaluates; returns the jobs it was given."""
    jobs = []

    def launch(run: StageRun, module: str, job: dict, world_size: int = 1) -> Path:
        assert module == "evaluation"
        jobs.append(job)
        right = json.loads((Path(job["model"]) / "model_index.json").read_text())["right"]
        data = json.loads((Path(job["dataset"]) / "card.json").read_text())
        assert Path(job["evaluators"]["dual_encoder"]).is_dir()
        Path(job["output"]).mkdir(parents=True)
        return evaluation(Path(job["output"]) / "final", right, "again", data)

    monkeypatch.setattr(StageRun, "launch", launch)
    return jobs


def test_a_champion_measured_on_other_data_is_evaluated_again_on_the_challengers(chain, evaluated_again):
    settings = GateSettings(max_rounds=1)
    chain.crown(100, settings)
    better = chain.run(180, settings, data="more shapes", registers=True)
    assert (better.verdict, len(evaluated_again)) == ("promote", 1)
    tags = registry.find_version(chain.home, NAME, "champion").tags
    assert (tags["gate.champion"], tags["gate.reevaluated.digest"]) == ("1", better.reevaluated)
    assert evaluated_again[0]["settings"]["num_images"] == N
    assert better.reasons[-1] == "Version 1 was evaluated again on the challenger's terms (dataset)."
    made = [record for record in RunBook(chain.home).records() if record.identity.stage == STAGE]
    assert [record.artifact.digest for record in made] == [better.reevaluated]


def test_what_was_evaluated_again_once_is_used_again(chain, evaluated_again):
    settings = GateSettings(max_rounds=1)
    chain.crown(100, settings)
    chain.run(60, settings, data="more shapes")
    other = chain.run(61, settings, data="more shapes")
    assert (other.verdict, len(evaluated_again)) == ("reject", 1)
    assert other.reevaluated


def test_where_that_is_not_asked_for_the_field_is_named(chain, evaluated_again):
    settings = GateSettings(max_rounds=1, reevaluate=False)
    chain.crown(100, settings)
    refused = chain.run(180, settings, data="more shapes")
    assert (refused.verdict, refused.differing, evaluated_again) == ("incomparable", ["dataset"], [])
    assert "dataset: 'more shapes' against 'shapes'" in refused.reasons[0]


def test_a_champion_whose_model_is_lost_stays_incomparable_and_says_why(chain, evaluated_again):
    settings = GateSettings(max_rounds=1)
    chain.crown(100, settings)
    shutil.rmtree(Path(chain.home.artifacts) / "model")
    shutil.rmtree(chain.home.root / "mlartifacts")
    refused = chain.run(180, settings, data="more shapes")
    assert (refused.verdict, evaluated_again) == ("incomparable", [])
    assert (
        "The champion could not be evaluated again: The files of shapes version 1 are neither"
        in refused.reasons[-1]
    )


def test_a_lost_evaluation_is_made_again_from_the_model(chain, evaluated_again):
    settings = GateSettings(max_rounds=1)
    chain.crown(100, settings)
    version = registry.find_version(chain.home, NAME)
    registry.set_tags(chain.home, version, {"evaluate.digest": "f" * 64, "evaluate.mlflow_run_id": "0"})
    assert chain.run(180, settings).verdict == "promote"
    assert len(evaluated_again) == 1


def test_a_fault_of_the_child_is_the_gates(chain, monkeypatch):
    settings = GateSettings(max_rounds=1)
    chain.crown(100, settings)
    monkeypatch.setattr(StageRun, "launch", lambda *_: (_ for _ in ()).throw(StageError("it broke")))
    with pytest.raises(StageError, match="it broke"):
        chain.run(180, settings, data="more shapes")
    monkeypatch.setattr(StageRun, "launch", lambda *_: (_ for _ in ()).throw(InputError("no such variant")))
    assert "no such variant" in chain.run(180, settings, data="more shapes").reasons[-1]


# Further noise


@pytest.fixture
def further(monkeypatch):
    """Stand in for the child that draws: one further image a prompt, on which the challenger is better."""
    calls = []

    def call(run: StageRun, function: str, place: str = "", again: bool = True, **arguments) -> Path:
        assert function == "evaluation.duel:duel"
        calls.append(arguments)
        output = run.work / place / "output" / "final"
        output.mkdir(parents=True, exist_ok=True)
        if len(calls) == 1 and arguments["gate"]["min_effect"] == 0.001:
            raise StageError("killed")
        found = {"look": 1, "num_seeds": 1, "latency": None}
        if arguments["draws"]:
            for name, right in (("challenger", 150), ("champion", 100)):
                folder = write_evaluation(output / name, np.arange(N) < right)
                (folder / "rows.parquet").rename(output / f"{name}.parquet")
                _seeds_from(output / f"{name}.parquet", 10_000)
                shutil.rmtree(folder)
            found |= {"look": 2, "num_seeds": 2}
        else:
            found["latency"] = {
                "ratio": 3.0,
                "ci_low": 2.0,
                "ci_high": 4.0,
                "champion_ms": 1.0,
                "challenger_ms": 3.0,
            }
        (output / "duel.json").write_text(json.dumps(found))
        return output

    monkeypatch.setattr(StageRun, "call", call)
    return calls


def _seeds_from(path: Path, first: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    seeds = pa.array(range(first, first + len(table)))
    pq.write_table(table.set_column(table.schema.get_field_index("seed"), "seed", seeds), path)


def test_an_undecided_gate_draws_further_noise_and_keeps_the_rows(chain, further):
    chain.crown(100, GateSettings())
    decision = chain.run(108, GateSettings())
    assert (decision.verdict, decision.look, decision.num_seeds) == ("promote", 2, 2)
    assert decision.primary is not None
    assert decision.primary.n == 2 * N
    assert Path(further[0]["challenger_model"], "model_index.json").is_file()
    places = list(Path(chain.home.artifacts).glob("decision/*/duel/challenger.parquet"))
    assert len(places) == 1


@pytest.mark.parametrize("settings", [GateSettings(max_rounds=1), GateSettings(gates_per_year=1)])
def test_no_noise_is_drawn_where_it_could_not_help(chain, further, settings):
    chain.crown(100, settings)
    chain.run(40, settings)
    assert chain.run(108, settings).verdict == "inconclusive"
    assert further == []


def test_a_kill_while_drawing_changes_no_decision(chain, further):
    settings = GateSettings(min_effect=0.001)
    chain.crown(100, settings)
    with pytest.raises(StageError, match="killed"):
        chain.run(108, settings)
    assert chain.run(108, settings).verdict == "promote"
    assert [call["draws"] for call in further] == [True, True]


def test_a_slower_model_is_timed_against_the_champion_before_it_is_promoted(chain, further):
    settings = GateSettings(max_rounds=1)
    chain.crown(100, settings, latency_ms=10.0)
    decision = chain.run(180, settings, latency_ms=10.0)
    assert (decision.verdict, [call["draws"] for call in further]) == ("reject", [False])
    assert decision.reasons[0].startswith("latency: 1.0 -> 3.0 ms in turn, ratio 3.00 [2.00, 4.00]")


def test_without_the_models_the_stored_rows_decide_and_it_says_so(chain, further):
    chain.crown(100, GateSettings())
    shutil.rmtree(Path(chain.home.artifacts) / "model")
    shutil.rmtree(chain.home.root / "mlartifacts")
    decision = chain.run(108, GateSettings())
    assert (decision.verdict, decision.look, further) == ("inconclusive", 1, [])
    assert decision.reasons[-1].startswith("No further noise was drawn: The files of shapes version 1")
