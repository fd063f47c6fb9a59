"""Sampling times as scheduler_config.json asks for them, against diffusers' scheduler."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from fluxmodel.errors import InputError
from fluxmodel.flow.schedule import sampling_times
from fluxmodel.time_shift import TimeShift, read_time_shift

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers deprecates itself

CONFIGS = {
    "dev": {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15},
    "schnell": {"use_dynamic_shifting": False, "shift": 1.0, "base_shift": 0.5, "max_shift": 1.15},
    "fixed": {"use_dynamic_shifting": False, "shift": 3.0},
    "steeper": {
        "use_dynamic_shifting": True,
        "base_shift": 0.3,
        "max_shift": 2.0,
        "base_image_seq_len": 100,
        "max_image_seq_len": 1000,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("num_steps", "num_tokens"), [(1, 256), (4, 100), (28, 4096), (50, 1024)])
def test_times_are_those_of_the_scheduler(tmp_path, name, num_steps, num_tokens):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    theirs: Any = FlowMatchEulerDiscreteScheduler.from_config(CONFIGS[name])
    theirs.save_pretrained(tmp_path)
    config = theirs.config
    mu = calculate_shift(
        num_tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    )
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps), mu=mu)
    times = sampling_times(num_steps, read_time_shift(tmp_path / "scheduler_config.json").mu(num_tokens))
    torch.testing.assert_close(times, theirs.sigmas, rtol=0, atol=2.5e-7)


def test_defaults_leave_times_even():
    assert TimeShift().mu(4096) == 0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"use_karras_sigmas": True}, "use_karras_sigmas is True; FLUX.1's times do without"),
        ({"shift_terminal": 0.1}, "shift_terminal is 0.1"),
        ({"invert_sigmas": True}, "invert_sigmas is True"),
        ({"shift": 0}, "shift: Input should be greater than 0"),
        ({"base_image_seq_len": "many"}, "base_image_seq_len: Input should be"),
        ({"base_image_seq_len": 4096}, "base_image_seq_len and max_image_seq_len are both 4096"),
        ({"time_shift_type": "linear"}, "time_shift_type: Input should be 'exponential'"),
        (None, "scheduler_config.json: cannot be read"),
    ],
)
def test_a_schedule_that_flux_has_not_is_refused_by_its_field(tmp_path, fields, named):
    path = tmp_path / "scheduler_config.json"
    if fields is not None:
        path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=named):
        read_time_shift(path)
