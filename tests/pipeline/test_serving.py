"""A version that a real run registered, behind both servers: the bytes are those of `fluxline generate`."""

import base64
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from benchmarks.serving import ask, serving
from flows.ports import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

PROMPT = "a red circle top left"
ASKED = {"prompt": PROMPT, "seed": 5, "lora": "wash"}


@pytest.fixture(scope="module")
def generated(finished, tmp_path_factory) -> bytes:
    """What `fluxline generate` writes."""
    out = str(tmp_path_factory.mktemp("generated"))
    drawn, _ = finished[0].run("generate", PROMPT, "--seed", "5", "--lora", "wash", "--out", out, "--json")
    return Path(drawn["images"][0]["path"]).read_bytes()


def test_fluxline_serve_answers_with_the_bytes_of_generate(finished, generated):
    command, _, outcome, _ = finished
    process = command.start("serve", "--port", str(free_port(8700)))
    told = process.stdout.readline()
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", told)[0])
    good, bad = ask(port, "/generate", ASKED), ask(port, "/generate", ASKED | {"lora": "charcoal"})
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    answer = json.loads(good.body)
    assert base64.b64decode(answer["images"][0]["png"]) == generated
    assert f"{answer['model']}@{answer['version']}" == version_of(outcome)
    assert (bad.status, json.loads(bad.body)["error"]["field"]) == (422, "lora")


def test_mlflow_models_serve_answers_with_the_bytes_of_generate(finished, generated, tmp_path, monkeypatch):
    command, _, outcome, _ = finished
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{command.home / 'mlflow.db'}")
    name, _, version = version_of(outcome).partition("@")
    port = free_port(8800)
    where = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{name}/{version}", *where]
    with serving(serve, port, "/ping", tmp_path / "log"):
        good = ask(port, "/invocations", {"inputs": [ASKED]})
        bad = ask(port, "/invocations", {"inputs": [ASKED | {"num_steps": 0}]})
    assert good.status == 200, good.body
    (answer,) = json.loads(good.body)["predictions"]
    assert base64.b64decode(answer["images"][0]["png"]) == generated
    assert bad.status == 400
    assert "num_steps: Input should be greater than or equal to 1" in json.loads(bad.body)["message"]


def version_of(outcome: dict) -> str:
    return f"{outcome['model_name']}@{outcome['model_version']}"
