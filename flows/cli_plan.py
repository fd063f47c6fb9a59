"""The verb that says what a job costs before it is begun, on the same command as those of `flows.cli`."""

import json
from typing import Annotated

from cyclopts import Parameter

from flows.command import Json, app
from fluxmodel.errors import InputError


@app.command
def plan(
    what: Annotated[
        str,
        Parameter(help="demo, smoke, flux_dev, flux_schnell, or a model directory: ours or one of FLUX.1."),
    ],
    /,
    *,
    lora: Annotated[bool, Parameter(negative="", help="Train adapters instead of the network.")] = False,
    rank: Annotated[int, Parameter(help="Rank of the adapters; 0 is the preset's, else 16.")] = 0,
    size: Annotated[int, Parameter(help="Side of the images, pixels; 0 is the model's.")] = 0,
    batch: Annotated[int, Parameter(help="Images of a training step, over all GPUs; 0: the preset's.")] = 0,
    dtype: Annotated[str, Parameter(help="fp32 or bf16; auto: bf16 on a GPU, or where it pays.")] = "auto",
    gpu: Annotated[
        str,
        Parameter(help="Kind of GPU, such as h100: its memory and published peak; default this processor."),
    ] = "",
    gpu_memory: Annotated[float, Parameter(help="Memory of each GPU, GB, where it has no name.")] = 0.0,
    gpus: Annotated[int, Parameter(help="GPUs that share a training step.")] = 0,
    hours_price: Annotated[float, Parameter(help="Price of an hour of one GPU.")] = 0.0,
    steps: Annotated[int, Parameter(help="Solver steps of an image; 0 is the model's default.")] = 0,
    train_steps: Annotated[int, Parameter(help="Training steps; 0 is the preset's, else 1000.")] = 0,
    as_json: Json = False,
) -> int:
    """Say what a training job costs: parameters, operations, memory, time; exit code 2 where it cannot fit."""
    from flows.plan_lines import plan_lines
    from tasks.sizing import AskedPlan, plan_job
    from tasks.sizing import as_json as in_json

    asked = AskedPlan(
        what, lora, rank, size, batch, gpus, gpu, gpu_memory, dtype, steps, train_steps, hours_price
    )
    found = plan_job(asked)
    print(json.dumps(in_json(found)) if as_json else "\n".join(plan_lines(found)))
    if found.refusal:
        raise InputError(found.refusal)
    return 0
