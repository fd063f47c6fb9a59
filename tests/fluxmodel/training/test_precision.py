"""bf16 is taken where the probe says it pays, and only there."""

import pytest

from fluxmodel.training import precision
from fluxmodel.training.precision import bf16_speedup, choose_precision


@pytest.mark.parametrize(("speedup", "chosen"), [(0.04, "fp32"), (1.1, "fp32"), (1.3, "bf16"), (2.4, "bf16")])
def test_auto_asks_the_probe(speedup, chosen, monkeypatch):
    monkeypatch.setattr(precision, "bf16_speedup", lambda: speedup)
    assert choose_precision("auto") == chosen


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_stated_precision_is_not_probed(wanted, monkeypatch):
    monkeypatch.setattr(precision, "bf16_speedup", lambda: pytest.fail("probed"))
    assert choose_precision(wanted) == wanted


def test_the_probe_measures_a_ratio():
    assert bf16_speedup(size=64, repeats=3) > 0
