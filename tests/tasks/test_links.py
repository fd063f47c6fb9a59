"""What a stage's page in Prefect says of its MLflow run."""

from tasks.artifacts import ArtifactRef
from tasks.links import _page
from tasks.run_key import RunRecord, StageIdentity
from tasks.stage_page import StagePage


def page(run_id: str, url: str) -> str:
    identity = StageIdentity(stage="train", parameters={}, upstream={}, seed=0, code={})
    artifact = ArtifactRef(kind="model", uri="file:///m", digest="d", mlflow_run_id=run_id)
    return _page(
        RunRecord(run_key="key", identity=identity, artifact=artifact, seconds=1.0), url, StagePage()
    )


def test_with_a_server_the_run_is_linked():
    assert "| MLflow run | [abc](http://mlflow/abc) |" in page("abc", "http://mlflow/abc")


def test_without_a_server_the_page_says_how_to_open_the_run():
    text = page("abc", "")
    assert "`fluxline up`" in text
    assert "`attributes.run_id = 'abc'`" in text


def test_while_mlflow_is_away_the_page_says_how_the_run_will_be_found():
    assert "tag run_key `key`" in page("", "")
