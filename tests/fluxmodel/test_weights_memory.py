"""Reading and writing weights holds the network once and one tensor beside it, never a second copy."""

import json
from pathlib import Path

import pytest
import torch

from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.weights import save_mmdit
from tests.kit import run_python

MEGABYTE = 2**20
CONFIG = MMDiTConfig(
    in_channels=64,
    out_channels=64,
    vec_in_dim=64,
    context_in_dim=64,
    hidden_size=512,
    num_heads=4,
    depth=2,
    depth_single_blocks=4,
)
# Peak memory of this process above what it holds before, in bytes, and the bytes of the network; a tiny network goes
# through the same code first, so that imports and first calls do not count.
CHILD = """
import json, sys, torch
from fluxmodel.weights import load_mmdit, save_mmdit
def told(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return 1024 * int(line.split()[1])
small, large, out, dtype, layout = sys.argv[1:]
dtype = getattr(torch, dtype) if dtype else None
save_mmdit(load_mmdit(small, dtype=dtype), out, layout, dtype=dtype)
before = max(told("VmRSS"), told("VmHWM"))
model = load_mmdit(large, dtype=dtype)
read = told("VmHWM") - before
save_mmdit(model, out, layout, dtype=torch.float32, max_shard_size="60MB")
written = told("VmHWM") - before
print(json.dumps([read, written, sum(p.nbytes for p in model.parameters())]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is told by Linux")
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [("diffusers", "bfloat16"), pytest.param("flux", "", marks=pytest.mark.slow)],
)
def test_the_network_is_held_once(layout, dtype, tmp_path):
    small = CONFIG.model_dump() | {"hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1}
    save_mmdit(MMDiT(MMDiTConfig.model_validate(small)), tmp_path / "small")
    save_mmdit(model := MMDiT(CONFIG), tmp_path / "large", layout, max_shard_size="60MB")
    other = "diffusers" if layout == "flux" else "flux"
    places = (str(tmp_path / name) for name in ("small", "large", "out"))
    done = run_python("-c", CHILD, *places, dtype, other)
    assert done.returncode == 0, done.stderr
    read, written, network = json.loads(done.stdout)
    whole = torch.float32.itemsize * sum(p.numel() for p in model.parameters())
    assert network == (whole // 2 if dtype else whole) > 60 * MEGABYTE
    largest = max(torch.float32.itemsize * p.numel() for p in model.parameters())
    assert network <= read + 8 * MEGABYTE, "the peak was not measured"
    for peak in (read, written):
        assert peak < network + 3 * largest + 8 * MEGABYTE
