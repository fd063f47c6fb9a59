"""Checkpoints: the newest whole one is read, two are kept."""

import torch

from fluxmodel.training.checkpoint import CheckpointFolder


def test_the_newest_comes_back_and_two_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert folder.newest() is None
    for step in (5, 90, 100, 1000):
        folder.save(step, {"weights": [torch.full((2,), float(step))]})
    newest = folder.newest()
    assert newest is not None
    assert newest["step"] == 1000
    assert newest["weights"][0].tolist() == [1000.0, 1000.0]
    assert sorted(p.name for p in folder.directory.iterdir()) == ["step-00000100.pt", "step-00001000.pt"]


def test_a_half_written_one_is_not_read(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(5, {})
    (tmp_path / "step-00000010.tmp").write_bytes(b"half")
    newest = folder.newest()
    assert newest is not None
    assert newest["step"] == 5
