"""A model version as MLflow serves it: `mlflow models serve -m models:/NAME@champion --env-manager local`.

MLflow's "model from code": beside the weights lie MLmodel and a file of three lines that asks `served_model` here.
POST /invocations takes {"inputs": [request, ...]} or one request as it is; each is a `DrawingRequest`.
"""

import json
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fluxmodel.drawing_request import MAX_IMAGES, DrawingRequest, RequestError, read_request

CODE = "served_model.py"
EXAMPLE = {"prompt": "a red circle", "num_steps": 1, "seed": 0}
_CODE_TEXT = '''"""How MLflow serves this model; Fluxline has to be installed beside MLflow."""

from mlflow.models import set_model

from tasks.served_model import served_model

set_model(served_model())
'''


def write_mlmodel(directory: Path, name: str, prompt: str = EXAMPLE["prompt"]) -> None:
    """Add what MLflow needs to serve a model directory: MLmodel, code, signature, input example, requirements.

    The files depend on the arguments and the versions of Python and Fluxline alone, on no time and no place, so they
    may be part of what an artifact's digest covers.

    Args:
        directory: what `TextToImage.from_pretrained` reads; it still does so afterwards.
        name: registered name, told in answers.
        prompt: of the input example; best one from the model's own prompts.
    """
    import yaml

    example = EXAMPLE | {"prompt": prompt}
    python = ".".join(platform.python_version_tuple()[:2])
    flavor = {
        "artifacts": {"model": {"path": ".", "uri": ""}},
        "config": {"name": name},
        "env": {"virtualenv": "python_env.yaml"},
        "loader_module": "mlflow.pyfunc.loaders.code_model",
        "model_code_path": CODE,
        "python_version": python,
        "streamable": False,
    }
    document = {
        "flavors": {"python_function": flavor},
        "is_signature_from_type_hint": True,  # the request's own class checks it, and says which field is wrong
        "metadata": {"reader": "fluxmodel.TextToImage.from_pretrained"},
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "json_object",
        },
        "signature": _signature(),
    }
    python_env = {"python": python, "dependencies": ["-r requirements.txt"]}
    texts = {
        "MLmodel": yaml.safe_dump(document, sort_keys=True, width=10_000),
        CODE: _CODE_TEXT,
        "input_example.json": json.dumps([example], indent=1) + "\n",
        "serving_input_example.json": json.dumps({"inputs": [example]}, indent=1) + "\n",
        "requirements.txt": f"fluxline=={version('fluxline')}\n",
        "python_env.yaml": yaml.safe_dump(python_env),
    }
    for file, text in texts.items():
        (directory / file).write_text(text)


def _signature() -> dict[str, Any]:
    """The signature as MLflow stores it, from the classes of request and answer."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Object, Property, Schema

    kinds = {"string": DataType.string, "integer": DataType.long, "number": DataType.double}

    def object_of(fields: dict[str, Any], required: list[str]) -> Object:
        properties = []
        for name, field in fields.items():
            kind = field.get("type") or next(each["type"] for each in field["anyOf"])
            properties.append(Property(name, kinds[kind], required=name in required))
        return Object(properties)

    asked = DrawingRequest.model_json_schema()
    inputs = Schema([ColSpec(object_of(asked["properties"], asked["required"]))])
    image = Object([Property("seed", DataType.long), Property("png", DataType.string)])
    rest = _answer_fields()
    answer = Object([Property("images", Array(image)), *object_of(rest, list(rest)).properties])
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec(answer)])).to_dict()


def _answer_fields() -> dict[str, Any]:
    from fluxmodel.drawing_request import DrawingAnswer

    fields = DrawingAnswer.model_json_schema()["properties"]
    return {name: field for name, field in fields.items() if name != "images"}


class _Answering:
    """What a served model does.

    It is no `PythonModel` itself: MLflow would wrap `predict` in checks of its own, whose refusals are a page long.
    """

    def load_context(self, context: Any) -> None:
        """Read the weights, once."""
        from fluxmodel.drawing import DrawingModel

        name = (context.model_config or {}).get("name", "")
        self._model = DrawingModel(context.artifacts["model"], name).read_all()
        self._one_at_a_time = threading.Lock()  # MLflow's server calls from up to 36 threads

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> list[dict]:
        """Return one answer a request."""
        from mlflow.exceptions import MlflowException

        try:
            requests = _read_requests(model_input)
            for number, request in enumerate(requests):
                with _naming(number, len(requests)):
                    self._model.check(request)
        except RequestError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        with self._one_at_a_time:
            return [self._model.answer(request).model_dump() for request in requests]


def _read_requests(model_input: Any) -> list[DrawingRequest]:
    if isinstance(model_input, dict):
        return [read_request(model_input)]
    if not isinstance(model_input, list):
        raise RequestError("inputs", "it has to be a list of requests such as " + json.dumps(EXAMPLE))
    requests = []
    for number, values in enumerate(model_input):
        with _naming(number, len(model_input)):
            requests.append(read_request(values))
    if not 1 <= sum(request.num_images for request in requests) <= MAX_IMAGES:
        raise RequestError("inputs", f"ask for 1 to {MAX_IMAGES} images at once")
    return requests


@contextmanager
def _naming(number: int, count: int) -> Iterator[None]:
    """Say which of several requests a refusal is about."""
    try:
        yield
    except RequestError as error:
        if count < 2:
            raise
        raise RequestError(f"inputs[{number}].{error.field}".rstrip("."), error.message) from None


def served_model() -> Any:
    """Return what MLflow serves; weights are read once, requests drawn one after the other."""
    from mlflow.pyfunc import PythonModel

    class ServedModel(_Answering, PythonModel):
        """Fluxline's text-to-image model behind MLflow's scoring server."""

    return ServedModel()
