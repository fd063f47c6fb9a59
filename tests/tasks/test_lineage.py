import pytest

from tasks import registry, tracking
from tasks.artifacts import ArtifactRef
from tasks.home import Home
from tasks.lineage import account_of, log_record
from tasks.machine import PACKAGES, environment
from tasks.registry import RegisteredVersion
from tasks.run_key import RunBook, RunRecord, StageIdentity
from tests.kit import loaded_after

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations


@pytest.fixture
def version(tracked: Home) -> RegisteredVersion:
    """Version 1 of a model, whose training is known to the run book and to MLflow."""
    identity = StageIdentity(
        stage="train",
        parameters={"job": {"steps": 40}},
        upstream={"latents": "l"},
        seed=3,
        code={"fluxmodel.a": "c"},
    )
    run_id = tracking.open_run(tracked, identity.run_key, "train", {"stage": "train"})
    ref = ArtifactRef(kind="model", uri="file:///nowhere", digest="d", mlflow_run_id=run_id)
    record = RunRecord(
        run_key=identity.run_key, identity=identity, artifact=ref, seconds=2.0, environment={"torch": "2.13"}
    )
    RunBook(tracked).write(record)
    log_record(tracked, run_id, record)
    client = tracking.client(tracked)
    client.create_registered_model("shapes")
    tags = {
        "train.run_key": identity.run_key,
        "train.digest": "d",
        "train.mlflow_run_id": run_id,
        "gate.run_key": "lost",
        "gate.digest": "g",
        "gate.verdict": "promote",
        "git_commit": "abc",
        "dataset": "a folder",
    }
    client.create_model_version("shapes", "file:///nowhere", tags=tags)
    client.set_registered_model_alias("shapes", "champion", "1")
    return registry.find_version(tracked, "shapes", "1")


def test_a_version_tells_what_it_was_made_of(tracked, version):
    found = account_of(tracked, version)
    assert (found.label, found.aliases, found.verdict) == ("version 1", ["champion"], "promote")
    assert (found.commit, found.data) == ("abc", "a folder")
    train = found.stages["train"]
    assert (train.parameters, train.seed, train.code) == ({"job": {"steps": 40}}, 3, {"fluxmodel.a": "c"})
    assert (train.upstream, train.environment, train.digest) == ({"latents": "l"}, {"torch": "2.13"}, "d")


def test_mlflow_alone_tells_the_same(tracked, version):
    before = account_of(tracked, version)
    for record in tracked.runs.glob("*.json"):
        record.unlink()
    assert account_of(tracked, version) == before


def test_a_stage_of_which_nothing_is_left_has_its_digest_alone(tracked, version):
    gate = account_of(tracked, version).stages["gate"]
    assert (gate.digest, gate.parameters, gate.environment) == ("g", {}, {})


def test_the_environment_names_python_packages_and_device():
    found = environment()
    assert {"python", "torch", "numpy", "device"} <= found.keys() <= {"python", "device", *PACKAGES}
    assert all(found.values())


def test_the_environment_is_known_without_importing_anything_heavy():
    assert (
        loaded_after("from tasks.machine import environment; environment()", ("torch", "mlflow", "numpy"))
        == []
    )
