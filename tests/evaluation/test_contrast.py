import numpy as np
import pytest
import torch

from evaluation.contrast import contrast


def test_it_is_the_pixels_standard_deviation():
    images = torch.randint(
        0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    expected = images.numpy().astype(float).std((2, 3)).mean(1)
    assert contrast(images) == pytest.approx(expected, rel=1e-6)


def test_a_plain_image_has_none():
    assert contrast(torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)).tolist() == [0, 0]


def test_a_flatter_image_has_as_much_less():
    images = torch.randint(
        0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    flatter = ((images.float() - 127.5) * 0.96 + 127.5).round().to(torch.uint8)
    assert contrast(flatter) / contrast(images) == pytest.approx(np.full(4, 0.96), abs=1e-3)
