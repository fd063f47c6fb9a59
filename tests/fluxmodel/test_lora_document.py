"""The snippets of docs/lora.md run as they stand there, one after the other."""

import re

import pytest

from fluxmodel.lora_files import read_lora, write_lora
from fluxmodel.lora_passport import Passport, weights_digest
from fluxmodel.weights import save_mmdit
from tests.kit import ROOT

from .tiny_loras import assert_same_deltas, mixed_lora, random_lora, small_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_the_snippets_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = small_model()
    for folder in ("model/transformer", "glow"):
        (tmp_path / folder).mkdir(parents=True)
    save_mmdit(model, "model/transformer")
    passport = Passport(trigger="glowline", base=weights_digest("model/transformer"))
    write_lora(random_lora(), "glow", model.config, passport=passport)
    write_lora(mixed_lora(), "wash.safetensors", model.config, "kohya")
    text = (ROOT / "docs" / "lora.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(compile(snippet, "docs/lora.md", "exec"), {})
    assert capsys.readouterr().out.endswith("glowline True\n")
    assert {path.name for path in tmp_path.glob("wash-*")} == {
        "wash-comfy.safetensors",
        "wash-folded.safetensors",
    }
    assert_same_deltas(read_lora("glow/kohya.safetensors", model.config), random_lora())
