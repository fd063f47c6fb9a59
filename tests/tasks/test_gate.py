"""Gate and register over a real MLflow registry (SQLite), with evaluations whose outcome is known."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluation.gate import GateDecision, GateSettings
from fluxmodel.errors import StageError
from tasks import registry, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore, content_digest, list_files
from tasks.cards import read_json
from tasks.gate import GATE, _gate, read_decision
from tasks.home import Home
from tasks.promotion import rollback
from tasks.register import REGISTER, _register
from tasks.run_key import RunBook, RunRecord, StageIdentity
from tasks.stage_run import RunContext
from tests.kit import write_evaluation

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
NAME = "shapes"
SETTINGS = GateSettings(thresholds={"all_correct": 0.5}, max_rounds=1, reevaluate=False)
"""What these models are made of cannot draw, so the gate has to decide on what is stored."""


class Chain:
    """The end of the pipeline: a model of known quality, evaluated, gated and registered as Prefect would."""

    def __init__(self, home: Home):
        self.home, self.store = home, ArtifactStore(home)

    def run(self, num_right: int, n: int = 200, lora: str = "", note: str = "", name: str = NAME):
        """Return the verdict, the registration and the stages that ran."""
        model = self._stored("model", {"model_index.json": json.dumps({"right": num_right})})
        style = self._stored("lora", {"lora.json": json.dumps({"name": lora})}) if lora else None
        evaluation = self._evaluated(model, style, num_right, n, note or lora)
        dataset = self._stored("dataset", {"card.json": "{}"})
        decision, is_new = self._do(GATE, _gate, evaluation=evaluation, name=name, settings=SETTINGS)
        parts = {"model": model, "evaluation": evaluation, "decision": decision, "dataset": dataset}
        made, is_registered = self._do(REGISTER, _register, **parts, lora=style, name=name)
        ran = [stage for stage, did in (("gate", is_new), ("register", is_registered)) if did]
        verdict = read_decision(self.home, decision)
        return verdict, read_json(self.store.path(made) / "registration.json"), ran

    def _do(self, stage, work, **inputs) -> tuple[ArtifactRef, bool]:
        worked = []
        context = RunContext(home=str(self.home.root))
        stage.cache_key({"context": context, **inputs})
        ref = stage.run(context, lambda run, **i: worked.append(1) or work(run, **i), **inputs)
        return ref, bool(worked)

    def _evaluated(self, model, lora, num_right, n, note) -> ArtifactRef:
        folder = write_evaluation(
            self.home.root / "making", np.arange(n) < num_right, model=model.digest[:16]
        )
        ref = self._stored("evaluation", {"note": note})
        assert not folder.exists()
        self._record("evaluate", ref, {"model": model.digest} | ({"lora": lora.digest} if lora else {}))
        return ref

    def _stored(self, kind: str, files: dict[str, str]) -> ArtifactRef:
        folder = self.home.root / "making"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        run_id = tracking.open_run(self.home, content_digest(list_files(folder)), kind, {"stage": kind})
        ref = self.store.put(folder, kind, run_id)
        tracking.log_artifact(self.home, run_id, self.store.path(ref), ref)
        shutil.rmtree(folder)
        return ref

    def _record(self, stage: str, ref: ArtifactRef, upstream: dict[str, str]) -> None:
        identity = StageIdentity(
            stage=stage, parameters={"is": ref.digest}, upstream=upstream, seed=0, code={}
        )
        RunBook(self.home).write(
            RunRecord(run_key=identity.run_key, identity=identity, artifact=ref, seconds=1.0)
        )


@pytest.fixture
def chain(tracked: Home) -> Chain:
    return Chain(tracked)


def logged_decisions(chain: Chain) -> list[GateDecision]:
    client = tracking.client(chain.home)
    runs = client.search_runs([tracking.experiment_id(chain.home)], "tags.stage = 'gate'")
    places = [Path(client.download_artifacts(run.info.run_id, "decision/decision.json")) for run in runs]
    return [GateDecision.model_validate_json(place.read_text()) for place in places]


def aliases(chain: Chain) -> dict[str, str]:
    return registry.aliases(chain.home, NAME)


def test_the_life_of_a_champion(chain):
    first, made, _ = chain.run(140)
    assert (first.verdict, first.champion, made["aliases"]) == ("promote", None, ["challenger", "champion"])
    again = chain.run(140)
    assert (again[0], again[1], again[2]) == (first, made, [])  # the champion came out of this decision
    worse, made, _ = chain.run(100)
    assert (worse.verdict, made["version"], made["aliases"]) == ("reject", "2", ["challenger"])
    assert aliases(chain) == {"champion": "1", "challenger": "2"}
    better, made, _ = chain.run(180)
    assert better.verdict == "promote"
    assert better.champion is not None
    assert better.champion.version == "1"
    assert aliases(chain) == {"champion": "3", "previous": "1", "challenger": "3"}
    tags = registry.find_version(chain.home, NAME).tags
    assert tags["gate.verdict"] == "promote"
    assert tags["gate.reasons"].startswith("Shown better on the primary metric: all_correct 70.0 % -> 90.0 %")
    assert tags["evaluate.digest"] == tags["evaluation.digest"]
    assert chain.run(180)[2] == []
    # The rejected one asked again: its decision was against version 1, which is not the champion any more.
    late, _, ran = chain.run(100)
    assert ran == ["gate", "register"]
    assert late.champion is not None
    assert late.champion.version == "3"
    # The champion is part of the decision's key, so the reason names it like any other input.
    reason = RunBook(chain.home).history("gate")[-1].reason
    assert re.match(r"re-ran because champion changed version 1 \(\w{8}\) -> version 3 \(\w{8}\)", reason)
    # And the copy in MLflow of what was decided against version 1 stands beside the later one.
    kept = [made.champion for made in logged_decisions(chain) if made.verdict == "reject" and made.champion]
    assert sorted(champion.version for champion in kept) == ["1", "3"]


def test_after_a_rollback_nothing_is_promoted_again_by_itself(chain):
    chain.run(140)
    chain.run(180)
    rollback(chain.home, NAME)
    assert chain.run(180)[2] == []
    assert aliases(chain)["champion"] == "1"


def test_a_difference_without_evidence_registers_a_challenger(chain):
    chain.run(140)
    same, made, _ = chain.run(141)
    assert (same.verdict, made["aliases"], made["verdict"]) == (
        "inconclusive",
        ["challenger"],
        "inconclusive",
    )
    assert aliases(chain) == {"champion": "1", "challenger": "2"}


def test_a_first_model_below_its_thresholds_is_not_promoted(chain):
    poor, made, _ = chain.run(40)
    assert (poor.verdict, made["aliases"]) == ("reject", ["challenger"])
    good, _, _ = chain.run(140)
    assert (good.verdict, aliases(chain)["champion"]) == ("promote", "2")


def test_the_champion_evaluated_anew_stays_champion(chain):
    chain.run(140)
    chain.run(180)
    anew, made, _ = chain.run(180, note="another n would do as well")
    assert anew.verdict == "promote"
    assert "This very model is the champion already, as version 2" in anew.reasons[0]
    assert aliases(chain) == {"champion": made["version"], "previous": "1", "challenger": made["version"]}


def test_another_evaluation_is_incomparable_and_the_run_goes_on(chain):
    chain.run(140)
    other, made, _ = chain.run(150, n=160)
    assert (other.verdict, made["aliases"]) == ("incomparable", ["challenger"])
    assert "n: 160 against 200" in other.reasons[0]


@pytest.mark.parametrize("also_from_mlflow", [False, True])
def test_the_champions_evaluation_comes_from_mlflow_or_is_missed_by_name(chain, also_from_mlflow):
    chain.run(140)
    shutil.rmtree(Path(chain.home.artifacts) / "evaluation")
    if also_from_mlflow:
        shutil.rmtree(chain.home.root / "mlartifacts")
    decision, _, _ = chain.run(180)
    assert decision.verdict == ("incomparable" if also_from_mlflow else "promote")
    if also_from_mlflow:
        assert "evaluation of shapes version 1 is neither in the store nor in MLflow" in decision.reasons[0]


def test_while_mlflow_is_away_the_gate_says_so_in_one_sentence(chain, monkeypatch):
    chain.run(140)
    monkeypatch.setattr(registry, "champion", lambda *_: (_ for _ in ()).throw(ConnectionError()))
    monkeypatch.setattr(tracking, "log_run", lambda *_, **__: None)
    with pytest.raises(StageError, match="did not answer as it should") as said:
        chain.run(180)
    assert "\n" not in str(said.value)


def test_a_lora_lies_beside_the_registered_model(chain):
    _, made, _ = chain.run(140, lora="glow")
    version = registry.find_version(chain.home, NAME, made["version"])
    assert version.tags["lora.name"] == "glow"
    for _ in range(2):
        directory = registry.model_directory(chain.home, version)
        assert read_json(directory / "loras" / "glow" / "lora.json") == {"name": "glow"}
        assert (directory / "model_index.json").is_file()
        assert not (directory / "loras" / "glow" / "manifest.json").exists()
        shutil.rmtree(chain.home.artifacts)  # the second time from MLflow


def test_another_lora_on_the_same_model_is_another_model(chain):
    chain.run(140, lora="glow")
    other, _, _ = chain.run(140, lora="ink")
    assert other.verdict == "inconclusive"


def test_a_registration_cut_off_takes_its_version_up_again(chain, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tasks.register._crown", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(StageError):
            chain.run(140)
    _, made, _ = chain.run(140)
    assert made == {"aliases": ["challenger", "champion"], "name": NAME, "verdict": "promote", "version": "1"}
    assert not registry.has_version(chain.home, NAME, "2")
