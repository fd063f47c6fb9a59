"""The one loop: every network learns, and a resumed run ends in the same bits as one that never stopped."""

import itertools
import json
from typing import Any

import pytest
import torch

from fluxmodel.data.image_pool import load_pools
from fluxmodel.errors import InputError, StageError
from fluxmodel.training.__main__ import build_objective
from fluxmodel.training.checkpoint import CheckpointFolder
from fluxmodel.training.loop import Interrupted, StepReport, Trained, train
from fluxmodel.training.parallel import World
from tests.fluxmodel.training.tiny_jobs import KINDS, SPEC, tiny_job

each_kind = pytest.mark.parametrize("kind", KINDS)


def run(job, folder, stop_after=None) -> tuple[list, Any]:
    """Return the reports of one life of a run, and its objective."""
    objective, asked = build_objective(job), itertools.count(1)

    def should_stop():
        return stop_after is not None and next(asked) >= stop_after

    return list(train(objective, job, CheckpointFolder(folder), World(), should_stop)), objective


def weights(objective):
    return {name: tensor.detach().clone() for name, tensor in objective.model.state_dict().items()}


def losses(reports):
    return [r.metrics["loss"] for r in reports if isinstance(r, StepReport)]


@pytest.mark.parametrize(("kind", "share"), list(zip(KINDS, (0.5, 0.85, 0.95, 0.75, 0.7), strict=True)))
def test_the_loss_falls(kind, share, tmp_path):
    job = tiny_job(kind, tmp_path, steps=60, batch_size=16)
    seen = losses(run(job, tmp_path / "checkpoints")[0])
    assert sum(seen[-5:]) < share * sum(seen[:5])


@each_kind
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_ends_in_the_same_bits(kind, precision, tmp_path):
    job = tiny_job(kind, tmp_path, precision=precision)
    whole, uninterrupted = run(job, tmp_path / "a")
    first, _ = run(job, tmp_path / "b", stop_after=7)
    assert first[-1] == Interrupted(7)
    rest, resumed = run(job, tmp_path / "b")
    assert rest[-1] == Trained(precision)
    assert losses(first) + losses(rest) == losses(whole)
    expected = weights(uninterrupted)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(resumed).items())


@each_kind
def test_finished_directories_are_equal_byte_for_byte(kind, tmp_path):
    written = []
    for name in ("a", "b"):
        _, objective = run(tiny_job(kind, tmp_path), tmp_path / f"checkpoints-{name}")
        (tmp_path / name).mkdir()
        figures = objective.finish(tmp_path / name)
        files = {str(p.relative_to(tmp_path / name)): p for p in (tmp_path / name).rglob("*") if p.is_file()}
        written.append((figures, {n: p.read_bytes() for n, p in files.items()}))
    assert written[0] == written[1]


def test_the_model_ends_with_averaged_fp32_weights(tmp_path):
    job = tiny_job("flow", tmp_path, ema_decay=0.0, precision="bf16", steps=3)
    _, objective = run(job, tmp_path / "a")
    assert not objective.model.training
    assert all(p.dtype == torch.float32 for p in objective.model.parameters())
    _, averaged = run(job.model_copy(update={"ema_decay": 0.9}), tmp_path / "b")
    last, mean = weights(objective), weights(averaged)
    assert any(not torch.equal(last[name], mean[name]) for name in last)


def test_checkpoints_come_when_due_and_not_after_the_end(tmp_path):
    run(tiny_job("flow", tmp_path, steps=10, checkpoint_every=5), tmp_path / "a")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["step-00000005.pt"]


def test_a_wish_to_stop_at_the_last_step_is_too_late(tmp_path):
    reports, _ = run(tiny_job("flow", tmp_path, steps=4), tmp_path / "a", stop_after=4)
    assert isinstance(reports[-1], Trained)


def test_metrics_are_reported_when_due_and_at_the_end(tmp_path):
    reports, _ = run(tiny_job("flow", tmp_path, steps=7, log_every=3), tmp_path / "a")
    steps = [r for r in reports if isinstance(r, StepReport)]
    assert [r.step for r in steps] == list(range(1, 8))
    assert [r.step for r in steps if r.metrics] == [3, 6, 7]
    assert all(r.total == 7 and r.seconds > 0 for r in steps)


def test_precision_of_a_checkpoint_wins_over_the_probe(tmp_path, monkeypatch):
    run(tiny_job("flow", tmp_path, precision="bf16"), tmp_path / "a", stop_after=3)
    monkeypatch.setattr("fluxmodel.training.loop.choose_precision", lambda wanted: "fp32")
    reports, _ = run(tiny_job("flow", tmp_path, precision="auto"), tmp_path / "a")
    assert reports[-1] == Trained("bf16")


def test_a_batch_is_a_function_of_seed_and_step(tmp_path):
    for kind in KINDS:
        job = tiny_job(kind, tmp_path / kind)
        first, second = build_objective(job), build_objective(job)
        second.batch(0, slice(0, 8))
        assert flat(first.batch(3, slice(0, 8))) == flat(second.batch(3, slice(0, 8)))
        assert flat(first.batch(3, slice(0, 8))) != flat(first.batch(4, slice(0, 8)))


def test_parts_of_a_batch_make_up_the_whole(tmp_path):
    for kind in KINDS:
        objective: Any = build_objective(tiny_job(kind, tmp_path / kind))
        whole = tensors(objective.batch(2, slice(0, 8)))
        halves = [tensors(objective.batch(2, slice(i, i + 4))) for i in (0, 4)]
        for all_of_it, one, two in zip(whole, *halves, strict=True):
            assert torch.equal(all_of_it, torch.cat((one, two))), kind


def tensors(batch):
    if isinstance(batch, torch.Tensor):
        return [batch]
    parts = (
        batch if isinstance(batch, tuple) else (batch if isinstance(batch, dict) else vars(batch)).values()
    )
    return [tensor for part in parts for tensor in tensors(part)]


def flat(batch):
    return [tensor.flatten().tolist() for tensor in tensors(batch)]


def test_a_loss_that_is_not_finite_ends_the_run_with_a_sentence(tmp_path):
    job = tiny_job("flow", tmp_path)
    objective: Any = build_objective(job)
    loss = objective.loss

    def broken(batch, dtype):
        value, scalars = loss(batch, dtype)
        return value * float("nan"), scalars

    objective.loss = broken
    with pytest.raises(StageError, match=r"step 1: the gradient is nan .* lower the learning rate"):
        list(train(objective, job, CheckpointFolder(tmp_path / "a"), World()))
    assert not (tmp_path / "a").exists()


# What single objectives promise


def test_the_autoencoder_leaves_latents_of_mean_zero_and_deviation_one(tmp_path):
    _, objective = run(tiny_job("autoencoder", tmp_path), tmp_path / "a")
    (tmp_path / "out").mkdir()
    assert objective.finish(tmp_path / "out")["psnr_db"] > 3
    images = objective.train.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        latents = objective.model.encode(images)
    assert abs(latents.mean()) < 1e-4
    assert latents.std().item() == pytest.approx(1, abs=1e-3)


def test_the_detector_reads_the_truth_it_was_labelled_with(tmp_path):
    from fluxmodel.data.procedural import LEVELS
    from fluxmodel.encoders.detector import SceneLogits
    from fluxmodel.training.objectives.detector import accuracies, scene_labels

    level = LEVELS["demo"]
    pool, _ = load_pools(SPEC, 12, 1, with_held_out=True)
    labels = scene_labels(pool, level)
    for row, scene in enumerate(pool.scenes or []):
        cells = {item.row * level.grid + item.col: item for item in scene.objects}
        for cell in range(level.grid**2):
            told = labels["shape"][row, cell].item()
            assert told == (level.shapes.index(cells[cell].shape) if cell in cells else -100)

    def sure(name, num):
        return torch.nn.functional.one_hot(labels[name].clamp(min=0), num).float()

    perfect = SceneLogits(
        (labels["shape"] >= 0).float() * 2 - 1,
        sure("shape", 6),
        sure("color", 6),
        sure("size", 1),
        sure("background", 4),
    )
    assert set(accuracies(perfect, labels).values()) == {1.0}
    perfect.color = perfect.color.roll(1, -1)
    spoiled = accuracies(perfect, labels)
    assert (spoiled["color_accuracy"], spoiled["all_correct"], spoiled["shape_accuracy"]) == (0, 0, 1)


def test_flow_shows_captions_in_the_stated_mix(tmp_path):
    objective_fields = {
        "text": {"dim": 16},
        "caption_mix": {"detailed": 3, "short": 1},
        "caption_dropout": 0.2,
    }
    objective: Any = build_objective(tiny_job("flow", tmp_path, objective=objective_fields, batch_size=4000))
    pooled = objective.batch(0, slice(0, 4000)).pooled
    rows = json.loads((tmp_path / "encoded" / "captions.json").read_text())
    shares = {}
    for number, kind in enumerate(("detailed", "short")):
        known = objective.encoder([own[number]["text"] for own in rows]).pooled
        shares[kind] = (pooled[:, None] == known).all(2).any(1).float().mean().item()
    assert (pooled == 0).all(1).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert shares["detailed"] == pytest.approx(0.6, abs=0.04)
    assert shares["short"] == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("flow", {"model": {}}, r"model\.in_channels is 64; this data and text need 16"),
        ("flow", {"objective": {"text": {"dim": 8}}}, r"model\.vec_in_dim is 16; .* need 8"),
        ("flow", {"model": {"heads": 2}}, r"job for the flow: model\.heads: Extra"),
        ("flow", {"model": {"num_heads": 7}}, r"model\.hidden_size 3072 is not a multiple"),
        ("flow", {"objective": {"text": {"dim": 16}, "caption_mix": {"alt": 1}}}, "caption mix names alt"),
        ("flow", {"objective": {"caption_dropout": 1}}, r"objective\.caption_dropout"),
        ("flow", {"objective": {"text": {"dim": 0}}}, r"objective\.text\.dim"),
        ("autoencoder", {"model": {"width": 12}}, r"model\.width"),
        ("autoencoder", {"objective": {"images": 3}}, r"objective\.images"),
        ("detector", {"model": {"width": "wide"}}, r"model\.width"),
        ("detector", {"data": "folder"}, "folder"),
        ("dual_encoder", {"model": {"max_tokens": 1}}, r"model\.max_tokens"),
        ("dual_encoder", {"data": "procedural:shapes?level=huge"}, 'level "huge"'),
    ],
)
def test_a_job_that_does_not_fit_is_refused_by_its_field(kind, changes, named, tmp_path):
    with pytest.raises(InputError, match=named):
        build_objective(tiny_job(kind, tmp_path, **changes))
