"""Keyed randomness: any batch, and any image's noise, can be drawn again."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxmodel.randomness import epoch_batch, image_noise, keyed_generator, latent_noise


def test_noise_of_an_image_depends_on_its_own_seed_alone():
    shape = (4, 3)
    together = image_noise([7, 3, 99], shape)
    assert torch.equal(together[1], image_noise([3], shape)[0])
    assert torch.equal(together, image_noise(range(100), shape)[[7, 3, 99]])


def test_noise_of_latents_is_what_flux_users_know_a_seed_by():
    shape = (4, 2, 6)
    together = latent_noise([7, 3], shape)
    for seed, sample in zip((7, 3), together, strict=True):
        assert torch.equal(sample, torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))[0])


def test_different_seeds_give_different_noise():
    noise = image_noise(range(50), (8,))
    assert len({tuple(row) for row in noise.tolist()}) == 50


def test_noise_is_standard_normal():
    noise = image_noise(range(200), (100,))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_keys_name_a_stream():
    def first(*keys):
        return torch.randn(4, generator=keyed_generator(*keys)).tolist()

    assert first(1, 2, 3) == first(1, 2, 3)
    streams = [first(1, 2, 3), first(1, 3, 2), first(1, 2, 4), first(1, 2), first(6)]
    assert len({tuple(s) for s in streams}) == len(streams)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5))
def test_each_epoch_visits_every_sample_once(num, batch_size, seed):
    num_steps = -(-3 * num // batch_size)
    drawn = [epoch_batch(num, batch_size, seed, step) for step in range(num_steps)]
    samples, epochs = (torch.cat(parts)[: 3 * num] for parts in zip(*drawn, strict=True))
    for epoch in range(3):
        assert sorted(samples[epochs == epoch].tolist()) == list(range(num))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_batch(100, 100, seed, step)[0].tolist() for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_batch_can_be_drawn_again_out_of_order():
    later = epoch_batch(17, 5, 0, 9)
    for step in range(20):
        epoch_batch(17, 5, 0, step)
    assert all(torch.equal(a, b) for a, b in zip(later, epoch_batch(17, 5, 0, 9), strict=True))
