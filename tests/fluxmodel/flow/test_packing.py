"""Packing loses nothing and puts each 2 x 2 patch where FLUX.1 does."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxmodel.flow.packing import image_ids, latent_side, pack, unpack


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_unpack_undoes_pack(batch, channels, rows, columns):
    latents = torch.arange(batch * channels * rows * columns * 4.0).reshape(
        batch, channels, 2 * rows, 2 * columns
    )
    tokens = pack(latents)
    assert tokens.shape == (batch, rows * columns, 4 * channels)
    assert torch.equal(unpack(tokens, 2 * rows, 2 * columns), latents)


def test_a_token_is_its_patch_channel_by_channel():
    latents = torch.randn(1, 3, 4, 6)
    token = pack(latents)[0, 1 * 3 + 2]  # row 1, column 2 of a grid of 2 x 3
    assert torch.equal(token, latents[0, :, 2:4, 4:6].flatten())


def test_ids_name_row_and_column_in_the_order_of_tokens():
    ids = image_ids(2, 4, 6)
    assert ids.shape == (2, 6, 3)
    assert ids[1].tolist() == [[0, row, column] for row in range(2) for column in range(3)]


def test_a_square_megapixel_has_4096_tokens():
    assert pack(torch.empty(1, 16, 128, 128, device="meta")).shape == (1, 4096, 64)


@pytest.mark.parametrize(("pixels", "side"), [(1, 2), (15, 2), (16, 2), (17, 4), (1000, 126), (1024, 128)])
def test_latents_cover_the_image_in_whole_tokens(pixels, side):
    assert latent_side(pixels, 8) == side


@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 1, 1), (2, 3, 5), (1, 7, 2), (3, 4, 4)])
def test_packing_and_ids_are_those_of_diffusers(batch, rows, columns):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what diffusers and its dependencies warn of is theirs to mend
        from diffusers import FluxPipeline

    latents = torch.randn(batch, 16, 2 * rows, 2 * columns)
    theirs = FluxPipeline._pack_latents(latents, batch, 16, 2 * rows, 2 * columns)
    assert torch.equal(pack(latents), theirs)
    back = FluxPipeline._unpack_latents(theirs, 16 * rows, 16 * columns, vae_scale_factor=8)
    assert torch.equal(unpack(theirs, 2 * rows, 2 * columns), back)
    ids = FluxPipeline._prepare_latent_image_ids(batch, rows, columns, torch.device("cpu"), torch.float32)
    assert torch.equal(image_ids(batch, 2 * rows, 2 * columns), ids.expand(batch, -1, -1))
