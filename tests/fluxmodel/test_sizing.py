"""Which job is the nearest that fits, and what a network's parts count."""

from dataclasses import replace

import pytest

from fluxmodel.errors import InputError
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.presets import DEMO, NETWORKS
from fluxmodel.sizing import PlannedJob, count_parameters, least_job, nearest_that_fits

ASKED = PlannedJob(
    "demo",
    MMDiTConfig.model_validate(DEMO.flow.model),
    image_size=512,
    downscale=4,
    text_tokens=16,
    batch=4,
    precision="fp32",
    target="gpu",
)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"precision": "bf16", "batch": 2},
        {"precision": "bf16", "image_size": 384, "batch": 1},
        {"precision": "bf16", "image_size": 256, "batch": 1},
    ],
)
def test_what_is_given_up_first_is_given_up_first(change):
    wanted = replace(ASKED, **change)
    assert nearest_that_fits(ASKED, wanted.need_bytes + 1000) == wanted


def test_a_job_that_fits_is_its_own_nearest():
    assert nearest_that_fits(ASKED, ASKED.need_bytes) == ASKED


def test_adapters_are_the_last_remedy():
    asked = replace(ASKED, image_size=256, batch=1, precision="bf16")
    adapters = replace(asked, rank=16)
    assert adapters.need_bytes < asked.need_bytes
    assert nearest_that_fits(asked, asked.need_bytes - 1000) == adapters


def test_nothing_is_named_where_nothing_fits():
    least = least_job(ASKED)
    assert (least.rank, least.image_size, least.batch, least.precision) == (16, 256, 1, "bf16")
    assert nearest_that_fits(ASKED, least.need_bytes - 1000) is None


def test_what_is_named_fits():
    least, most = least_job(ASKED).need_bytes, ASKED.need_bytes
    for limit in (least + (most - least) * part for part in (0.0, 0.1, 0.3, 0.6, 0.9)):
        found = nearest_that_fits(ASKED, limit)
        assert found is not None
        assert found != ASKED
        assert found.need_bytes <= limit


@pytest.mark.parametrize(("name", "num"), [("flux_dev", 11_901_408_320), ("flux_schnell", 11_891_178_560)])
def test_flux_has_its_parameters(name, num):
    config = MMDiTConfig.model_validate(NETWORKS[name].network)
    parts = count_parameters(config)
    assert sum(parts.values()) == num
    # img and txt of a double block: qkv, proj and MLP with biases, two norms; a quarter of all is modulation.
    hidden, head = config.hidden_size, config.head_dim
    stream = 12 * hidden**2 + (3 + 1 + 4 + 1) * hidden + 2 * head
    assert parts["double blocks"] == config.depth * 2 * stream
    assert parts["modulation"] == (12 * config.depth + 3 * config.depth_single_blocks + 2) * (
        hidden**2 + hidden
    )


def test_adapters_are_counted_beside_the_network():
    parts = count_parameters(ASKED.config, rank=4)
    assert {**parts, "adapters": 0} == {**count_parameters(ASKED.config), "adapters": 0}
    assert parts["adapters"] == 4 * count_parameters(ASKED.config, rank=1)["adapters"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_size": 33}, "--size is 33, not a multiple of the 8 pixels a token covers; give 32."),
        ({"image_size": 3}, "--size is 3, not a multiple of the 8 pixels a token covers; give 8."),
        ({"batch": 7, "world_size": 4}, "--batch is 7, which 4 processes cannot share; give 8."),
    ],
)
def test_a_job_that_cannot_be_is_refused(change, said):
    with pytest.raises(InputError) as refused:
        replace(ASKED, **change)
    assert str(refused.value) == said
