"""A model directory as MLflow reads and serves it."""

import base64
import json
import sys
from pathlib import Path

import pytest

from benchmarks.serving import ask, flood, serving
from flows.ports import free_port
from fluxmodel import TextToImage
from tasks import tracking
from tasks.artifacts import content_digest, list_files
from tasks.drawing import Drawing
from tasks.generate import draw
from tasks.served_model import write_mlmodel
from tests.kit import ROOT, write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow warns of its own deprecations
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = write_model(tmp_path_factory.mktemp("served") / "model")
    write_mlmodel(place, "shapes", PROMPT)
    (place / "manifest.json").write_text('{"digest": "d1"}')
    return place


@pytest.fixture(scope="module")
def loaded(directory):
    import mlflow

    return mlflow.pyfunc.load_model(str(directory))


def test_writing_twice_and_elsewhere_gives_the_same_digest(tmp_path):
    digests = set()
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        write_mlmodel(tmp_path / name, "shapes")
        digests.add(content_digest(list_files(tmp_path / name)))
    assert len(digests) == 1


def test_what_is_written_tells_no_place(directory, tmp_path):
    texts = [path.read_text() for path in directory.glob("*") if path.is_file()]
    for place in (str(directory), str(ROOT), str(Path.home()), str(tmp_path.parent)):
        assert not any(place in text for text in texts)


def test_the_model_is_read_as_before(directory):
    assert TextToImage.from_pretrained(directory)(PROMPT)[0].size == (16, 16)


def test_the_signature_is_that_of_request_and_answer(loaded):
    asked = loaded.metadata.signature.inputs.to_dict()[0]["properties"]
    assert {name for name, field in asked.items() if field["required"]} == {"prompt"}
    types = {name: field["type"] for name, field in asked.items()}
    assert types["num_steps"] == types["seed"] == types["height"] == "long"
    assert types["guidance"] == types["lora_scale"] == "double"
    (answer,) = loaded.predict([{"prompt": PROMPT}])
    told = loaded.metadata.signature.outputs.to_dict()[0]["properties"]
    assert answer.keys() == told.keys()
    assert (answer["model"], answer["version"], answer["digest"]) == ("shapes", "", "d1")


def test_the_input_example_is_answered(loaded):
    assert loaded.input_example == [{"prompt": PROMPT, "num_steps": 1, "seed": 0}]
    (answer,) = loaded.predict(loaded.input_example)
    assert answer["num_steps"] == 1


def test_one_request_needs_no_list(loaded):
    (alone,) = loaded.predict({"prompt": PROMPT, "seed": 3})
    together = loaded.predict([{"prompt": PROMPT}, {"prompt": PROMPT, "seed": 3}])
    assert alone["images"] == together[1]["images"] != together[0]["images"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([{"prompt": PROMPT, "num_steps": 0}], "num_steps: Input should be greater than or equal to 1"),
        ([{"prompt": PROMPT}, {"prompt": ""}], r"inputs[1].prompt: String should have at least 1 character"),
        (
            [{"prompt": PROMPT}, {"prompt": PROMPT, "width": 99}],
            "inputs[1].width: it is 99; this model draws",
        ),
        ([{"prompt": PROMPT}, 7], "inputs[1]: Input should be a valid dictionary"),
        ({"prompt": PROMPT, "steps": 3}, "steps: Extra inputs are not permitted"),
        ([], "inputs: ask for 1 to 16 images at once"),
        ([{"prompt": PROMPT, "num_images": 9}] * 2, "inputs: ask for 1 to 16 images at once"),
        ("a red circle", "inputs: it has to be a list of requests such as "),
    ],
)
def test_a_bad_input_is_refused_by_its_field(loaded, inputs, said):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as refusal:
        loaded.predict(inputs)
    assert refusal.value.message.startswith(said)
    assert refusal.value.get_http_status_code() == 400


@pytest.mark.slow
def test_mlflow_models_serve_answers_with_the_bytes_of_generate(tracked, directory, tmp_path, monkeypatch):
    """The champion of a real registry behind MLflow's own server: good requests, bad ones, and a crowd."""
    client = tracking.client(tracked)
    run = client.create_run(tracking.experiment_id(tracked))
    client.log_artifacts(run.info.run_id, str(directory), "model")
    client.create_registered_model("shapes")
    client.create_model_version("shapes", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("shapes", "champion", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri(tracked))
    port = free_port(8600)
    where = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/shapes@champion", *where]
    (drawn,) = draw(tracked, [PROMPT], Drawing(model=str(directory), seed=7), tmp_path / "drawn")
    with serving(command, port, "/ping", tmp_path / "log"):
        good = ask(port, "/invocations", {"inputs": [{"prompt": PROMPT, "seed": 7}]})
        bad = ask(port, "/invocations", {"inputs": [{"prompt": PROMPT, "num_steps": 99}]})
        alone = ask(port, "/invocations", {"prompt": PROMPT, "seed": 7})
        crowd = flood(port, "/invocations", [{"prompt": PROMPT, "seed": 7}] * 50, 50)
    assert {reply.status for reply in crowd} == {200}
    assert {json.dumps(json.loads(reply.body)[0]["images"]) for reply in crowd} == {
        json.dumps(json.loads(alone.body)[0]["images"])
    }
    assert (good.status, alone.status, bad.status) == (200, 200, 400), (tmp_path / "log").read_text()
    for images in (json.loads(good.body)["predictions"][0]["images"], json.loads(alone.body)[0]["images"]):
        assert base64.b64decode(images[0]["png"]) == Path(drawn.path).read_bytes()
    error = json.loads(bad.body)
    assert "num_steps: Input should be less than or equal to 50" in error["message"]
    assert "Traceback" not in json.dumps(error)
