"""A server that breaks off or wants a password is told from one that answers."""

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.http_call import ask, mlflow_headers, prefect_headers


@pytest.fixture
def server():
    """Its address without the scheme; it tells the credentials it was sent, and of /broken only a part."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = f'"{self.headers["Authorization"]}"'.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(told) + 10 * (self.path == "/broken")))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def test_an_answer_that_breaks_off_is_no_answer(server):
    with pytest.raises(OSError, match="IncompleteRead"):
        ask(f"http://{server}/broken")


def test_a_password_in_the_address_is_sent_and_headers_go_before_it(server):
    assert ask(f"http://{server}/") == "None"
    assert ask(f"http://ann:p%40ss@{server}/") == basic("ann:p@ss")
    assert ask(f"http://ann:p%40ss@{server}/", headers={"Authorization": "Bearer k"}) == "Bearer k"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, None),
        ({"PREFECT_API_KEY": "k", "PREFECT_API_AUTH_STRING": "ann:secret"}, "Bearer k"),
        ({"PREFECT_API_AUTH_STRING": "ann:secret"}, basic("ann:secret")),
    ],
)
def test_prefect_is_sent_what_its_client_would_send(given, sent, monkeypatch):
    for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert prefect_headers().get("Authorization") == sent


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, None),
        ({"USERNAME": "ann"}, None),
        ({"USERNAME": "ann", "PASSWORD": "secret", "TOKEN": "t"}, basic("ann:secret")),
        ({"TOKEN": "t"}, "Bearer t"),
    ],
)
def test_mlflow_is_sent_what_its_client_would_send(given, sent, monkeypatch):
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    assert mlflow_headers().get("Authorization") == sent
