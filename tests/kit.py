"""What several tests share: a fresh interpreter to run code in, and outside programs that may be missing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent


class OutsideNetworkError(BaseException):
    """A test reached for the network; not an Exception, so that no fallback can swallow it."""


def run_python(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `arguments` from the repository's root and return what it printed.

    A child is beyond the guard on sockets, so proxies that refuse at once stand in for it there.
    """
    refuse = "http://127.0.0.1:9"
    environment = os.environ | {
        "http_proxy": refuse,
        "https_proxy": refuse,
        "no_proxy": "127.0.0.1,localhost",
    }
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def loaded_after(code: str, modules: tuple[str, ...]) -> list[str]:
    """Return which of `modules` are loaded in a fresh interpreter after it has run `code`."""
    done = run_python(
        "-c", f"{code}\nimport sys\nprint('loaded:', *[m for m in {modules!r} if m in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rsplit("loaded:", 1)[1].split()


def wait_until(
    condition: Callable[[], T],
    what: str = "a condition of the test",
    seconds: float = 60,
    pause: float = 0.02,
) -> T:
    """Return what `condition` gives once that is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not so after {seconds:.0f} s: {what}")
        time.sleep(pause)
    return found


def require_external(found: Path | None, name: str) -> Path:
    """Return `found`; where it is None skip the test, or fail it under FLUXLINE_REQUIRE_EXTERNALS=1."""
    if found is not None:
        return found
    if os.environ.get("FLUXLINE_REQUIRE_EXTERNALS") == "1":
        pytest.fail(f"{name} is not installed, and FLUXLINE_REQUIRE_EXTERNALS=1 asks for it")
    pytest.skip(f"{name} is not installed")


def write_evaluation(directory: Path, right: np.ndarray, **identity: Any) -> Path:
    """Write an evaluation directory in which `right` says of each image whether it is all correct; return it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    where, n, value = {"steps": 8, "guidance": 2.0}, len(right), float(right.mean())
    metric = {"name": "all_correct", "value": value, "ci_low": value - 0.05, "ci_high": value + 0.05, "n": n,
              "method": "", "direction": "higher", "identity": where}  # fmt: skip
    alike = ("model", "dataset", "reference", "feature_extractor", "judge", "prompts", "seeds", "solver", "resize",
             "dtype", "code")  # fmt: skip
    document = {
        "identity": {**dict.fromkeys(alike, ""), "steps": None, "guidance": None, "n": n, **identity},
        "metrics": [metric],
        "headline": {"curve": "base_guided", **where},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "evaluation.json").write_text(json.dumps(document))
    columns = {"curve": ["base_guided"] * n, "steps": [8] * n, "guidance": [2.0] * n,
               "prompt": [f"p{i}" for i in range(n)], "seed": list(range(n)), "all_correct": right}  # fmt: skip
    pq.write_table(pa.table(columns), directory / "rows.parquet")
    return directory


def write_model_parts(root: Path, image_size: int = 16, seed: int = 5) -> Path:
    """Write what a flow job (`flow/`) and an autoencoder job (`autoencoder/`) leave, weights random; return `root`."""
    import torch

    from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
    from fluxmodel.encoders.text import WordEncoderConfig
    from fluxmodel.mmdit.config import MMDiTConfig
    from fluxmodel.mmdit.transformer import MMDiT
    from fluxmodel.randomness import keyed_generator
    from fluxmodel.weights import save_mmdit

    (root / "flow" / "transformer").mkdir(parents=True)
    (root / "autoencoder").mkdir()
    size = {"hidden_size": 32, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": (4, 6, 6)}
    widths = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 8}
    model = MMDiT(MMDiTConfig.model_validate({**size, **widths, "guidance_embed": False}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=keyed_generator(seed))
            parameter.copy_(0.2 * noise + name.endswith("scale"))
    save_mmdit(model, root / "flow" / "transformer")
    text = WordEncoderConfig(dim=8, max_tokens=6)
    (root / "flow" / "text_encoder.json").write_text(text.model_dump_json())
    torch.manual_seed(0)
    Autoencoder(AutoencoderConfig(latent_channels=4, width=16, num_blocks=1, scale=1.3)).save(
        root / "autoencoder"
    )
    return root


def write_model(directory: Path, seed: int = 5) -> Path:
    """Write a model of random weights that draws 16x16: rectified (1 step) and base (3 steps); return `directory`."""
    from fluxmodel.text_to_image import assemble, assemble_rectified

    parts = write_model_parts(directory.with_name(f"{directory.name}-parts"), seed=seed)
    other = write_model_parts(directory.with_name(f"{directory.name}-rectified"), seed=seed + 1)
    base = directory.with_name(f"{directory.name}-base")
    for each in (base, directory):
        each.mkdir(parents=True)
    assemble(parts / "flow", parts / "autoencoder", base, image_size=16, num_steps=3, guidance=2.0)
    assemble_rectified(base, other / "flow", directory, num_steps=1, guidance=1.0)
    return directory
