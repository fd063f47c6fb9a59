"""What a stage's page in Prefect says of its MLflow run."""

import threading
import time
from functools import partial

from tasks.artifacts import ArtifactRef
from tasks.links import _page, _Sender, wait_until_sent
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


def test_a_prefect_that_hangs_holds_nobody_up():
    hanging, back, sent = threading.Event(), threading.Event(), []
    sender = _Sender()

    def hang() -> None:
        hanging.set()
        back.wait(30)

    sender.put("progress", hang)
    assert hanging.wait(30)
    began = time.monotonic()
    for number in range(1000):
        sender.put("progress", partial(sent.append, number))
    sender.put("result", partial(sent.append, "result"))
    sender.close()
    wait_until_sent(0.1)
    assert time.monotonic() - began < 5
    assert sent == []
    back.set()
    sender.close()
    wait_until_sent(20)
    assert sent == [999, "result"]  # of what waited, the newest; and nothing twice


def test_a_prefect_that_refuses_is_not_the_stages_trouble():
    sent: list[str] = []
    sender = _Sender()

    def refuse() -> None:
        raise ConnectionError

    sender.put("progress", refuse)
    sender.put("result", partial(sent.append, "result"))
    sender.close()
    wait_until_sent(20)
    assert sent == ["result"]
