"""The scene detector's shapes, features and directory."""

import pytest
import torch

from fluxmodel.data.procedural import LEVELS
from fluxmodel.encoders.detector import SceneDetector, SceneDetectorConfig
from fluxmodel.errors import InputError

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(params=["demo", "full"])
def detector(request):
    level = LEVELS[request.param]
    torch.manual_seed(0)
    return SceneDetector(
        SceneDetectorConfig(
            grid=level.grid,
            shapes=level.shapes,
            colors=level.colors,
            sizes=level.sizes,
            backgrounds=level.backgrounds,
            width=16,
            num_blocks=1,
            cell_features=5,
        )
    ).eval()


def test_every_cell_is_scored(detector):
    scores, config = detector(IMAGES), detector.config
    cells = config.grid**2
    assert scores.presence.shape == (3, cells)
    assert scores.shape.shape == (3, cells, len(config.shapes))
    assert scores.color.shape == (3, cells, len(config.colors))
    assert scores.size.shape == (3, cells, len(config.sizes))
    assert scores.background.shape == (3, len(config.backgrounds))


def test_features_are_as_wide_as_said_and_are_what_the_background_head_reads(detector):
    features = detector.features(IMAGES)
    assert features.shape == (3, detector.num_features)
    torch.testing.assert_close(detector.background(features), detector(IMAGES).background)


def test_cells_are_in_reading_order(detector):
    """A change in the last row and column moves the last cell's scores most."""
    changed = IMAGES.clone()
    changed[:, :, 26:, 26:] = 1
    moved = (detector(changed).shape - detector(IMAGES).shape).norm(dim=(0, 2))
    assert moved.argmax() == detector.config.grid**2 - 1


def test_a_saved_detector_reads_alike(detector, tmp_path):
    detector.save(tmp_path)
    again = SceneDetector.from_directory(tmp_path)
    assert again.config == detector.config
    assert torch.equal(again.features(IMAGES), detector.features(IMAGES))
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json"):
        SceneDetector.from_directory(tmp_path)
