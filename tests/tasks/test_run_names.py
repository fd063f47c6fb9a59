"""Runs in Prefect's list say what they do."""

from types import SimpleNamespace as Given

import pytest

from tasks.caption import caption
from tasks.curate import curate
from tasks.encode import encode
from tasks.evaluate import evaluate
from tasks.finetune import finetune, prepare_style_classifier
from tasks.gate import gate
from tasks.prepare import prepare
from tasks.rectify import rectify
from tasks.register import register
from tasks.train import train

JOB = Given(steps=1500, seed=0)
STYLE = Given(source="folder:/data/my dog")


@pytest.mark.parametrize(
    ("task", "given", "said"),
    [
        (prepare, {"part": "dual_encoder", "job": JOB}, "prepare dual encoder 1500 steps"),
        (curate, {"source": Given(data="procedural:shapes?n=9")}, "curate procedural:shapes?n=9"),
        (caption, {"captioner": object()}, "caption"),
        (caption, {"captioner": None, "own": object()}, "caption with a model of your own"),
        (caption, {"captioner": None, "own": None}, "caption as given"),
        (encode, {}, "encode"),
        (train, {"job": JOB, "start": None}, "train 1500 steps, seed 0"),
        (train, {"job": JOB, "start": object()}, "train 1500 steps, seed 0 from the champion"),
        (rectify, {"job": JOB, "pairs": Given(num=3000)}, "rectify 3000 pairs, 1500 steps, seed 0"),
        (finetune, {"job": JOB, "style": STYLE}, "finetune my dog, 1500 steps, seed 0"),
        (prepare_style_classifier, {"job": JOB, "style": STYLE}, "prepare style classifier 1500 steps"),
        (evaluate, {"settings": Given(num_images=1000)}, "evaluate 1000 images"),
        (gate, {"name": "fluxline-demo", "settings": object()}, "gate fluxline-demo"),
        (register, {"name": "fluxline-demo"}, "register fluxline-demo"),
        (train, {}, "train"),
        (evaluate, {"settings": None}, "evaluate"),
    ],
)
def test_a_task_run_is_named_after_what_it_does(task, given, said):
    assert task.task_run_name(parameters=given) == said


def test_prefect_passes_the_parameters():
    from prefect.tasks import TaskRunNameCallbackWithParameters

    assert TaskRunNameCallbackWithParameters.is_callback_with_parameters(train.task_run_name)  # type: ignore[arg-type]
