"""Images drawn on the way of a training: they change nothing, and say themselves what they show."""

import pytest
import torch
from PIL import Image

from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
from fluxmodel.training.__main__ import build_objective, keep_samples, run
from fluxmodel.training.checkpoint import CheckpointFolder
from fluxmodel.training.loop import Averaged, train
from fluxmodel.training.objectives.flow import FlowObjective
from fluxmodel.training.parallel import World
from fluxmodel.training_job import SampleSettings
from tests.fluxmodel.training.tiny_jobs import tiny_job

PROMPTS = ("a red circle", "a blue square; at the top")


@pytest.fixture
def autoencoder(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "autoencoder").mkdir()
    Autoencoder(AutoencoderConfig(latent_channels=4, width=16, num_blocks=1)).save(tmp_path / "autoencoder")
    return str(tmp_path / "autoencoder")


def job_of(tmp_path, autoencoder, every: int = 3, **changes):
    samples = SampleSettings(prompts=PROMPTS, every=every, num_steps=2, guidance=2.0)
    job = tiny_job("flow", tmp_path, steps=7, **changes)
    return job.model_copy(update={"samples": samples, "inputs": {"autoencoder": autoencoder}})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_drawing_on_the_way_changes_no_bit_of_the_training(tmp_path, autoencoder, precision):
    ends = []
    for name, is_drawing in (("plain", False), ("drawing", True)):
        job = job_of(tmp_path, autoencoder, precision=precision)
        job = job if is_drawing else job.model_copy(update={"samples": SampleSettings()})
        objective, looks = build_objective(job), []
        for report in train(objective, job, CheckpointFolder(tmp_path / name), World()):
            if isinstance(report, Averaged):
                keep_samples(tmp_path / name, objective, job, report.step)
                looks.append(report.step)
        ends.append(objective.model.state_dict())
        assert looks == ([0, 3, 6, 7] if is_drawing else [])
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_the_last_images_are_those_of_the_finished_network(tmp_path, autoencoder):
    job = job_of(tmp_path, autoencoder, precision="fp32")
    objective = FlowObjective(job)
    drawn = [
        objective.draw()
        for report in train(objective, job, CheckpointFolder(tmp_path / "a"), World())
        if isinstance(report, Averaged)
    ]
    assert torch.equal(drawn[-1], objective.draw())
    assert not torch.equal(drawn[0], drawn[-1])


def test_a_child_leaves_images_that_say_their_prompt_and_step(tmp_path, autoencoder):
    job = job_of(tmp_path, autoencoder, every=100, output=str(tmp_path / "output"))
    assert run(job) == 0
    found = sorted((tmp_path / "output" / "samples").iterdir())
    assert [path.name for path in found] == [
        f"step-0000000{step}-0{n}.png" for step in (0, 7) for n in (0, 1)
    ]
    for path, prompt in zip(found[2:], PROMPTS, strict=True):
        with Image.open(path) as image:
            image.load()
            assert (image.info["prompt"], image.info["step"]) == (prompt, "7")
