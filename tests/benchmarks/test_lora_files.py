"""What docs/lora.md says of diffusers and of ours is so, on the diffusers installed here."""

import pytest

pytest.importorskip("diffusers")

from benchmarks import lora_files

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

DEFECTS = {
    "kohya, with embedders and last layer": (1, 1.0, ""),
    "kohya, last layer, alpha 1 of rank 2": (0, 2.0, ""),
    "lora_transformer_ names": (0, 0.0, "KeyError"),
    "kohya, 48 wide, linear1": (0, 0.0, "AssertionError"),
    "alpha 8 of rank 2, header lost; ours wrote it folded": (0, 0.25, ""),
    "alpha 8 of rank 2, header there, load_lora_adapter(file)": (0, 0.25, ""),
    "ComfyUI's native names": (0, 0.0, "No LoRA keys associated"),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    found = {case.name: (len(case.truth), *case.measure()) for case in lora_files.cases(folder)}
    names = lora_files.converted(folder / "underscored.safetensors", by_ours=False)
    return found, names


def test_the_table_tells_of_every_case(measured):
    assert list(measured[0]) == list(DEFECTS)


@pytest.mark.parametrize("name", DEFECTS)
def test_ours_is_right_and_diffusers_fails_as_told(measured, name):
    num_layers, ours, peer = measured[0][name]
    assert (ours.right, ours.said) == (num_layers, "")
    assert ours.strength == pytest.approx(1.0, abs=1e-6)
    right, strength, said = DEFECTS[name]
    assert peer.right == right < num_layers, "diffusers has changed: measure docs/lora.md's table anew"
    assert peer.strength == pytest.approx(strength, rel=1e-6)
    assert peer.said.startswith(said)
    assert bool(peer.said) == bool(said)


def test_diffusers_makes_three_names_of_five(measured):
    assert len(measured[1]) == 3
