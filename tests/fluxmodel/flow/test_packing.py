"""Packing loses nothing and puts each 2 x 2 patch where FLUX.1 does."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxmodel.flow.packing import image_ids, pack, unpack


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
