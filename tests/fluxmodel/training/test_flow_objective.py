"""Base training and Reflow are one objective: what changes is the coupling, the times and where the weights start."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxmodel.errors import InputError
from fluxmodel.flow.timesteps import sample_timesteps
from fluxmodel.randomness import image_noise, keyed_generator
from fluxmodel.training.objectives.flow import FlowObjective
from fluxmodel.weights import save_mmdit
from tests.fluxmodel.training.tiny_jobs import SETTINGS, tiny_job

ALL = slice(None)
ON_PAIRS = {"coupling": "pairs", "caption_mix": {"prompt": 1.0}, "caption_dropout": 0.0}


def objective(root, settings=None, **changes):
    return FlowObjective(
        tiny_job("flow", root, objective=SETTINGS["flow"]["objective"] | (settings or {}), **changes)
    )


def pairs_of(encoded):
    latents = load_file(str(encoded / "latents.safetensors"))["latents"]
    seeds = torch.arange(100, 100 + len(latents))
    save_file({"latents": latents, "noise_seeds": seeds}, str(encoded / "latents.safetensors"))
    prompts = [[{"text": f"prompt {number}", "kind": "prompt"}] for number in range(len(latents))]
    (encoded / "captions.json").write_text(json.dumps(prompts))


def test_pairs_keep_the_noise_their_latent_came_from(tmp_path, monkeypatch):
    tiny_job("flow", tmp_path)
    pairs_of(tmp_path / "encoded")
    monkeypatch.setattr("tests.fluxmodel.training.tiny_jobs.write_encoded", lambda directory: directory)
    made = objective(tmp_path, ON_PAIRS)
    batches = [made.batch(step, ALL) for step in range(6)]
    noise = image_noise(range(100, 124), made.latents.data.shape[1:])
    for batch in batches:
        for data, start in zip(batch.data, batch.noise, strict=True):
            number = int((made.latents.data[:] - data).flatten(1).abs().sum(1).argmin())
            assert torch.equal(start, noise[number])


def test_independent_noise_is_new_in_every_step(tmp_path):
    made = objective(tmp_path)
    assert not torch.equal(made.batch(0, ALL).noise, made.batch(3, ALL).noise)


def test_pairs_are_asked_for_where_there_are_none(tmp_path):
    with pytest.raises(InputError, match="holds no pairs"):
        objective(tmp_path, {"coupling": "pairs"})


def test_a_share_of_the_times_is_pure_noise(tmp_path):
    t = torch.cat([objective(tmp_path, {"noise_share": 0.5}).batch(step, ALL).t for step in range(40)])
    assert (t == 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not (objective(tmp_path).batch(0, ALL).t == 1).any()


def test_it_goes_on_from_the_network_it_is_given(tmp_path):
    first = objective(tmp_path)
    (tmp_path / "start").mkdir()
    save_mmdit(first.model, tmp_path / "start")
    going_on = objective(tmp_path, model={}, inputs={"start": str(tmp_path / "start")}, seed=9)
    for one, other in zip(first.model.parameters(), going_on.model.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(InputError, match="leave model empty"):
        objective(tmp_path, inputs={"start": str(tmp_path / "start")})


def test_u_shaped_times_have_the_density_they_are_named_for():
    t = sample_timesteps(200_000, "u_shaped", keyed_generator(0)).double()
    edges = torch.linspace(0, 1, 11, dtype=torch.float64)
    seen = torch.histogram(t, edges).hist / len(t)
    s = 2 * edges - 1
    expected = (torch.sinh(4 * s).diff()) / (2 * torch.sinh(torch.tensor(4.0, dtype=torch.float64)))
    torch.testing.assert_close(seen, expected, atol=4e-3, rtol=0)
