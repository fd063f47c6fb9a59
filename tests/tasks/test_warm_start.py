"""Going on from the champion: what is taken from it, and when it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from fluxmodel.errors import ArtifactError, InputError
from fluxmodel.presets import PRESETS
from fluxmodel.training_job import TrainingJob
from tasks import registry, tracking
from tasks.artifacts import ArtifactRef, ArtifactStore
from tasks.home import Home
from tasks.run_key import START, RunBook, RunRecord, StageIdentity
from tasks.warm_start import champions_start, next_seed

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
NAME = "shapes"
JOB = PRESETS["smoke"].flow.job("", "")


def stored(home: Home, kind: str, files: dict[str, Any]) -> ArtifactRef:
    place = home.root / "made" / kind
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(json.dumps(content))
    return ArtifactStore(home).put(place, kind)


def version(home: Home, tags: dict[str, str], seed: str = "") -> registry.RegisteredVersion:
    client = tracking.client(home)
    if not registry.aliases(home, NAME) and not registry.all_versions(home):
        client.create_registered_model(NAME)
    run = client.create_run(tracking.experiment_id(home))
    if seed:
        client.log_param(run.info.run_id, "train.seed", seed)
    made = client.create_model_version(NAME, "file:///nowhere", run_id=run.info.run_id, tags=tags)
    return registry.find_version(home, NAME, str(made.version))


@pytest.fixture
def champion(tracked: Home) -> registry.RegisteredVersion:
    network = json.loads(JOB.model_dump_json())["model"] | {"theta": 10000}
    text = {"kind": "word_features", **JOB.objective["text"], "max_tokens": 16}
    base = stored(tracked, "model", {"transformer/config.json": network, "text_encoder/config.json": text})
    autoencoder = stored(tracked, "autoencoder", {"config.json": {}})
    tags = {"train.digest": base.digest, "train.uri": base.uri}
    tags |= {"prepare-autoencoder.digest": autoencoder.digest, "prepare-autoencoder.uri": autoencoder.uri}
    made = version(tracked, tags)
    tracking.client(tracked).set_registered_model_alias(NAME, "champion", made.version)
    return made


def test_the_champions_base_and_autoencoder_are_taken(tracked, champion):
    start = champions_start(tracked, NAME, JOB)
    assert (start.version, start.base.kind, start.autoencoder.kind) == ("1", "model", "autoencoder")
    assert start.base.digest == champion.tags["train.digest"]
    assert start.autoencoder.digest == champion.tags["prepare-autoencoder.digest"]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (JOB.model_copy(update={"model": JOB.model | {"depth": 7}}), r"the network .*depth is 1, asked is 7"),
        (
            JOB.model_copy(update={"objective": {"text": {"dim": 128, "context": 9}}}),
            r"the text encoder .*context is 2, asked is 9",
        ),
    ],
)
def test_another_network_or_text_encoder_is_refused_with_the_cure(tracked, champion, job: TrainingJob, said):
    with pytest.raises(InputError, match=f"{said}.*or choose start scratch"):
        champions_start(tracked, NAME, job)


def test_without_a_champion_it_is_refused_with_the_cure(tracked):
    with pytest.raises(InputError, match="'shapes' has no champion yet; choose start scratch"):
        champions_start(tracked, NAME, JOB)


def test_a_champion_that_says_nothing_of_its_making_is_refused(tracked):
    made = version(tracked, {})
    tracking.client(tracked).set_registered_model_alias(NAME, "champion", made.version)
    with pytest.raises(InputError, match="does not say what it was made of; choose start scratch"):
        champions_start(tracked, NAME, JOB)


def test_a_champion_whose_files_are_lost_is_said_before_anything_runs(tracked, champion):
    store = ArtifactStore(tracked)
    ref = registry.stage_artifact(champion, "train", "model")
    assert ref is not None
    store.discard(ref)
    with pytest.raises(ArtifactError, match="neither in"):
        champions_start(tracked, NAME, JOB)


def test_the_next_seed_is_above_those_of_all_versions(tracked):
    assert next_seed(tracked, NAME) == 0
    for seed in ("0", "7", ""):
        version(tracked, {}, seed)
    assert next_seed(tracked, NAME) == 8
    assert next_seed(tracked, "another") == 0


def test_what_the_champion_learnt_from_is_no_part_of_the_new_models_lineage(fluxline_home: Path):
    home = Home(fluxline_home).make()
    book = RunBook(home)

    def made(stage: str, digest: str, upstream: dict[str, str], at: float) -> None:
        identity = StageIdentity(stage=stage, parameters={}, upstream=upstream, seed=0, code={})
        ref = ArtifactRef(kind=stage, uri="", digest=digest, mlflow_run_id="")
        record = RunRecord(run_key=identity.run_key, identity=identity, artifact=ref, seconds=1, finished=at)
        book.write(record)

    made("curate", "new data", {}, 1.0)
    made("curate", "old data", {"other": "x"}, 2.0)  # curated later than what the new model learnt from
    made("train", "champion", {"dataset": "old data"}, 3.0)
    made("train", "next", {"dataset": "new data", START: "champion"}, 4.0)
    assert [record.artifact.digest for record in book.lineage(["next"])] == ["new data", "next"]
