"""Versions that wait for a person are told without loading MLflow, and the same as MLflow itself tells."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks import promotion, registry, tracking
from tasks.awaited import Awaited, versions_awaited
from tests.kit import loaded_after

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of their own deprecations
REPLY = b"""{"model_versions": [{"name": "shapes", "version": "4", "tags": [
{"key": "approval", "value": "pending"}, {"key": "approval.reasons", "value": "Better.\\nBy much."}]}]}"""


@pytest.fixture(autouse=True)
def no_server_is_named(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.delenv(name, raising=False)


def test_the_file_tells_what_mlflow_tells(tracked):
    client = tracking.client(tracked)
    client.create_registered_model("shapes")
    for _ in range(3):
        client.create_model_version("shapes", "file:///nowhere")
    for number in ("1", "3"):
        promotion.ask_approval(
            tracked, registry.find_version(tracked, "shapes", number), ["Better.", "By much."]
        )
    found = versions_awaited(tracked)
    assert found == [Awaited("shapes", "3", "Better."), Awaited("shapes", "1", "Better.")]
    assert [each.version for each in found] == [each.version for each in promotion.pending(tracked, "shapes")]


def test_a_server_is_asked_where_one_is_up(home):
    asked = []

    class Mlflow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(REPLY)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mlflow)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    assert versions_awaited(home, f"http://127.0.0.1:{server.server_port}") == [
        Awaited("shapes", "4", "Better.")
    ]
    server.shutdown()
    server.server_close()
    assert asked[0].startswith("/api/2.0/mlflow/model-versions/search?filter=tags.approval")


def test_nothing_registered_is_nothing_awaited(home):
    assert versions_awaited(home) == []


def test_what_cannot_be_known_is_said(home, monkeypatch):
    with pytest.raises(OSError, match="refused"):
        versions_awaited(home, "http://127.0.0.1:9")
    (home.root / "mlflow.db").write_text("no database")
    with pytest.raises(OSError, match="file is not a database"):
        versions_awaited(home)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://someone@nowhere/mlflow")
    with pytest.raises(OSError, match="while a server is up"):
        versions_awaited(home)


def test_mlflow_is_not_loaded_for_it(home):
    code = "from tasks.awaited import versions_awaited\nfrom tasks.home import open_home\nversions_awaited(open_home())"
    assert loaded_after(code, ("mlflow", "prefect", "torch")) == []
