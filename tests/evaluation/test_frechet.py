import numpy as np
import pytest
import torch
from scipy import linalg
from torchmetrics.image.fid import FrechetInceptionDistance

from evaluation.frechet import (
    Moments,
    ReferenceFeatures,
    _product_eigenvalues,
    frechet_distance,
    frechet_from_moments,
    left_out_moments,
)
from evaluation.frechet_metric import FrechetDistance, in_one_order
from evaluation.statistics import blocks_of


class Flat(torch.nn.Module):
    num_features = 12

    def forward(self, images):
        return images.float().flatten(1)


def features(n, d=12, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99))
    return torch.randn(n, d, generator=generator) @ mix + shift


def slow_distance(real, fake):
    """As in the paper, with the square root of a matrix."""
    a, b = np.cov(real.T), np.cov(fake.T)
    root = np.real(linalg.sqrtm(a @ b))
    return ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_it_equals_scipys_matrix_square_root(shift):
    real, fake = features(300, seed=1), features(200, seed=2, shift=shift)
    expected = slow_distance(real.double().numpy(), fake.double().numpy())
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_gaussians_with_known_moments_have_the_known_distance():
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 1.0, 0.25]).double()
    first = Moments(100, torch.zeros(3).double(), torch.diag(a))
    second = Moments(100, torch.tensor([1.0, 2.0, 0.0]).double(), torch.diag(b))
    expected = 5 + ((a.sqrt() - b.sqrt()) ** 2).sum()
    assert float(frechet_from_moments(first, second)) == pytest.approx(float(expected), rel=1e-12)


def test_it_is_symmetric_and_zero_only_for_equal_moments():
    real, fake = features(200, seed=1), features(200, seed=2)
    assert frechet_distance(real, fake) == pytest.approx(frechet_distance(fake, real), rel=1e-9)
    assert frechet_distance(real, fake) > 1e-3
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)


def test_it_does_not_change_when_the_space_is_turned():
    real, fake = features(200, seed=1), features(200, seed=2, shift=0.3)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(3)).double())[0]
    turned = frechet_distance(real.double() @ turn, fake.double() @ turn)
    assert turned == pytest.approx(frechet_distance(real, fake), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(8, 9), (20, 30), (40, 50), (100, 20)])
def test_few_samples_in_many_dimensions_give_the_same_by_every_route(n, m):
    real, fake = features(n, 64, 1), features(m, 64, 2, shift=0.2)
    by_moments = float(frechet_from_moments(Moments.of(real), Moments.of(fake)))
    expected = slow_distance(real.double().numpy(), fake.double().numpy())
    assert frechet_distance(real, fake) == pytest.approx(by_moments, rel=1e-6)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_never_negative(seed):
    real = features(30, 64, seed)
    nearly = real + 1e-7 * features(30, 64, seed + 100)
    assert frechet_distance(real, nearly) >= 0
    assert float(frechet_from_moments(Moments.of(real), Moments.of(nearly))) >= 0


def test_it_equals_torchmetrics_and_scipy_to_eight_digits():
    from torchmetrics.image.fid import _compute_fid

    real, fake = features(400, 48, 1), features(300, 48, 2, shift=0.1)
    sides = [Moments.of(side) for side in (real, fake)]
    theirs = float(_compute_fid(*(part for side in sides for part in (side.mean, side.covariance))))
    scipys = slow_distance(real.double().numpy(), fake.double().numpy())
    assert frechet_distance(real, fake) == pytest.approx(theirs, rel=1e-8)
    assert frechet_distance(real, fake) == pytest.approx(scipys, rel=1e-8)


@pytest.mark.filterwarnings("ignore")
def test_the_metric_equals_torchmetrics_on_the_same_images():
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (200, 3, 2, 2), generator=generator, dtype=torch.uint8)
    fake = torch.randint(0, 200, (150, 3, 2, 2), generator=generator, dtype=torch.uint8)
    ours, theirs = FrechetDistance(Flat()), FrechetInceptionDistance(Flat())
    for metric in (ours, theirs):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    assert float(ours.compute()) == pytest.approx(float(theirs.compute()), rel=1e-4)  # theirs answers in fp32
    assert float(ours.compute()) == pytest.approx(frechet_distance(Flat()(real), Flat()(fake)), rel=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n", [150, 10])  # more images than dimensions, and fewer
def test_merged_from_four_shards_in_any_order_it_is_the_same_to_the_last_bit(n):
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(n, 3, 2, 2, generator=generator) for _ in range(2))
    whole = FrechetDistance(Flat())
    whole.update(real, real=True)
    whole.update(fake, real=False)
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        shards = []
        for number in order:
            shards.append(FrechetDistance(Flat()))
            for row in range(number, n, 4):  # another order within a shard than in the whole
                shards[-1].update(real[row : row + 1], real=True)
                shards[-1].update(fake[row : row + 1], real=False)
        for shard in shards[1:]:
            shards[0].merge_state(shard)
        assert torch.equal(shards[0].compute(), whole.compute())


def test_eigenvalues_of_a_product_of_covariances():
    first, second = (Moments.of(features(60, seed=seed)).covariance for seed in (0, 1))
    expected = torch.linalg.eigvals(second @ first).real.sort().values
    torch.testing.assert_close(_product_eigenvalues(first, second), expected)
    first[3], first[:, 3] = 0, 0
    assert _product_eigenvalues(first, second) is None


def test_the_order_of_rows_is_one_whatever_order_they_come_in():
    rows = features(50)
    assert torch.equal(in_one_order(rows), in_one_order(rows[torch.randperm(50)]))
    assert torch.equal(in_one_order(rows).sort(0).values, rows.sort(0).values)


def test_a_reset_metric_begins_anew():
    metric = FrechetDistance(Flat())
    metric.update(torch.rand(5, 3, 2, 2), real=True)
    metric.reset()
    assert len(metric.real) == 0


@pytest.mark.parametrize(("n", "m", "d"), [(60, 60, 80), (90, 60, 70), (60, 90, 70), (120, 120, 100)])
def test_many_dimensions_are_left_out_block_by_block(n, m, d):
    real, fake = features(n, d, 1), features(m, d, 2, shift=0.2)
    found = ReferenceFeatures(real)._distances_left_out(fake.double())
    kept = [torch.from_numpy(blocks_of(len(side)) != 7) for side in (real, fake)]
    slow = slow_distance(real[kept[0]].double().numpy(), fake[kept[1]].double().numpy())
    assert found[7] == pytest.approx(slow, rel=1e-4)
    assert len(found) == 25


def test_too_few_images_are_refused():
    metric = FrechetDistance(Flat())
    with pytest.warns(UserWarning, match="compute"), pytest.raises(RuntimeError, match="at least two"):
        metric.compute()


def test_leaving_a_block_out_by_its_sums_equals_doing_without_it():
    sample = features(103, seed=4, shift=50.0)
    means, covariances = left_out_moments(sample, 25)
    for number in (0, 7, 24):
        kept = Moments.of(sample[torch.from_numpy(blocks_of(103) != number)])
        torch.testing.assert_close(means[number], kept.mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(covariances[number], kept.covariance, rtol=1e-8, atol=1e-8)


def test_the_jackknife_leaves_out_both_sides_blocks():
    real, fake = features(120, seed=1), features(120, seed=2)
    kept = blocks_of(120) != 3
    expected = frechet_distance(real[kept], fake[kept])
    assert ReferenceFeatures(real)._distances_left_out(fake.double())[3] == pytest.approx(expected, rel=1e-9)


def test_the_jackknife_finds_the_spread_over_fresh_samples():
    found = [
        ReferenceFeatures(features(250, 6, 2 * seed)).distance(features(250, 6, 2 * seed + 1, shift=0.5))
        for seed in range(40)
    ]
    truth = np.std([each.value for each in found], ddof=1)
    said = np.mean([(each.ci_high - each.value) / 2.064 for each in found])
    assert 0.75 * truth < said < 1.45 * truth
    assert all(each.ci_low <= each.value <= each.ci_high for each in found)


def test_too_few_images_for_blocks_give_no_interval():
    assert np.isnan(ReferenceFeatures(features(30)).distance(features(30, seed=1)).ci_low)


def test_singular_covariances_are_left_out_too():
    real, fake = features(100, seed=1), features(100, seed=2)
    real[:, 3], fake[:, 3] = 0, 0
    interval = ReferenceFeatures(real).distance(fake)
    alive = [column for column in range(12) if column != 3]
    expected = slow_distance(real[:, alive].double().numpy(), fake[:, alive].double().numpy())
    assert interval.value == pytest.approx(expected, rel=1e-6)
    assert interval.ci_low < interval.value < interval.ci_high


def slow_paired(real, new, old, num_blocks=25):
    """Every block left out of all three sides, each distance done anew, in the paper's form."""
    block = blocks_of(len(real), num_blocks)
    sides = [side.double().numpy() for side in (real, new, old)]
    found = []
    for number in range(num_blocks):
        kept_real, kept_new, kept_old = (side[block != number] for side in sides)
        found.append(slow_distance(kept_real, kept_new) - slow_distance(kept_real, kept_old))
    spread = np.square(np.array(found) - np.mean(found)).sum()
    return np.sqrt((num_blocks - 1) / num_blocks * spread)


def two_models(seed, n=250, d=6):
    """Features of a reference and of two models asked for the same prompts: what they share is most of it."""
    real, shared = features(n, d, 4 * seed), features(n, d, 4 * seed + 1)
    own = [0.3 * features(n, d, 4 * seed + part) for part in (2, 3)]
    return real, shared + own[0] + 0.3, shared + own[1]


def test_a_paired_difference_equals_leaving_blocks_out_by_hand():
    real, new, old = two_models(0, n=110)
    found = ReferenceFeatures(real).difference(new, old)
    expected = frechet_distance(real, new) - frechet_distance(real, old)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert (found.ci_high - found.value) / 2.064 == pytest.approx(slow_paired(real, new, old), rel=1e-6)
    assert "paired" in found.method


def test_the_paired_interval_finds_the_spread_over_fresh_samples_and_is_narrower_than_two_combined():
    differences, said, combined = [], [], []
    for seed in range(40):
        real, new, old = two_models(seed)
        reference = ReferenceFeatures(real)
        found = reference.difference(new, old)
        apart = [reference.distance(each) for each in (new, old)]
        differences.append(found.value)
        said.append((found.ci_high - found.value) / 2.064)
        combined.append(np.linalg.norm([(each.ci_high - each.value) / 2.064 for each in apart]))
    truth = np.std(differences, ddof=1)
    assert 0.75 * truth < np.mean(said) < 1.45 * truth
    assert np.mean(said) < 0.8 * np.mean(combined)


def test_a_model_does_not_differ_from_itself():
    real, new, _ = two_models(1)
    found = ReferenceFeatures(real).difference(new, new.clone())
    assert (found.value, found.ci_low, found.ci_high) == (0, 0, 0)


def test_only_images_of_the_same_prompts_are_paired():
    with pytest.raises(ValueError, match=r"\(50, 12\) against \(60, 12\)"):
        ReferenceFeatures(features(60)).difference(features(50), features(60))


def test_too_few_pairs_give_no_interval():
    found = ReferenceFeatures(features(30)).difference(features(30, seed=1), features(30, seed=2))
    assert np.isnan(found.ci_low)
