"""Pixels to floats and back."""

import torch

from fluxmodel.pixels import to_pixels, to_signed


def test_every_byte_comes_back():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    signed = to_signed(pixels)
    assert (signed.min(), signed.max()) == (-1, 1)
    assert torch.equal(to_pixels(signed), pixels.permute(0, 3, 1, 2))


def test_floats_out_of_range_are_clipped():
    assert to_pixels(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
