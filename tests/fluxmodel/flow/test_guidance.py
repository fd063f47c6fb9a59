"""Guidance: what its numbers mean to which network, and that one call for both halves is two calls."""

import math

import pytest
import torch

from fluxmodel.errors import InputError
from fluxmodel.flow.guidance import Guidance, choose_guidance, guided, guided_together
from fluxmodel.flow.schedule import sampling_times
from fluxmodel.flow.solvers import euler

NOISE = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Counted:
    """A field x -> factor x that counts its calls."""

    def __init__(self, factor: float):
        self.factor, self.calls = factor, 0

    def __call__(self, x, t):
        self.calls += 1
        return self.factor * x


@pytest.mark.parametrize(("strength", "calls"), [(1.0, (4, 0)), (2.0, (4, 4)), (3.5, (4, 4))])
def test_only_guidance_calls_the_network_twice_a_step(strength, calls):
    conditional, empty = Counted(1.0), Counted(0.5)
    euler(guided(conditional, empty, strength), NOISE, sampling_times(4))
    assert (conditional.calls, empty.calls) == calls


@pytest.mark.parametrize("strength", [1.0, 1.5, 2.0, 5.0])
def test_guidance_walks_on_from_the_empty_through_the_captioned_velocity(strength):
    field = guided(Counted(1.0), Counted(0.25), strength)
    torch.testing.assert_close(field(NOISE, 1.0), (0.25 + strength * 0.75) * NOISE)


@pytest.mark.parametrize("strength", [1.5, 4.0])
def test_one_call_with_stacked_rows_equals_two_calls(strength):
    row_factor = torch.tensor([1.0, 2.0, 3.0, 0.25, 0.5, 0.75], dtype=torch.float64)[:, None]
    calls = []

    def stacked(x, t):
        calls.append(t)
        return t * row_factor * x

    captioned, empty = (lambda x, t: t * row_factor[:3] * x), (lambda x, t: t * row_factor[3:] * x)
    together = guided_together(stacked, strength)(NOISE, 0.5)
    torch.testing.assert_close(together, guided(captioned, empty, strength)(NOISE, 0.5))
    assert calls == [0.5]


@pytest.mark.parametrize(
    ("is_embedded", "asked", "meant"),
    [
        (False, {"guidance": 1}, Guidance(1.0, None)),
        (False, {"guidance": 2.5, "negative": "blur"}, Guidance(2.5, None, "blur")),
        (True, {"guidance": 3.5}, Guidance(1.0, 3.5)),
        (True, {"guidance": 0}, Guidance(1.0, 0.0)),
        (True, {"guidance": 3.5, "true_guidance": 2, "negative": "blur"}, Guidance(2.0, 3.5, "blur")),
    ],
)
def test_numbers_mean_what_the_network_takes(is_embedded, asked, meant):
    assert choose_guidance(is_embedded, **asked) == meant


@pytest.mark.parametrize(
    ("is_embedded", "asked", "said"),
    [
        (False, {"guidance": 0.5}, r"guidance is 0\.5; use at least 1 \(1 means unguided\)"),
        (False, {"guidance": math.nan}, "guidance is nan"),
        (False, {"guidance": math.inf}, "guidance is inf"),
        (True, {"guidance": -1}, "guidance is -1; use at least 0"),
        (True, {"guidance": 3.5, "true_guidance": 0.5}, r"true_guidance is 0\.5; use at least 1"),
        (
            False,
            {"guidance": 2, "true_guidance": 2},
            "this network embeds no guidance; give the strength as guidance",
        ),
        (
            False,
            {"guidance": 1, "negative": "blur"},
            "negative is 'blur', but guidance is 1 .* raise it above 1",
        ),
        (True, {"guidance": 3.5, "negative": "blur"}, "negative is 'blur', but true_guidance is 1"),
    ],
)
def test_what_would_be_ignored_or_makes_no_sense_is_refused(is_embedded, asked, said):
    with pytest.raises(InputError, match=said):
        choose_guidance(is_embedded, **asked)
