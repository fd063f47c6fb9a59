import pytest
import torch

from evaluation.feature_cache import cached_features, key_of


def pictures(n=6, seed=0):
    return torch.randint(
        0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


class Network:
    def __init__(self):
        self.calls = 0

    def __call__(self, images):
        self.calls += 1
        return images.float().flatten(1)[:, :5] / 3


def test_the_same_images_and_network_are_read_once(tmp_path):
    network = Network()
    first = cached_features(pictures(), "a", network, tmp_path)
    again = cached_features(pictures(), "a", network, tmp_path)
    assert network.calls == 1
    assert torch.equal(first, again)
    assert torch.equal(again, network(pictures()))


@pytest.mark.parametrize(
    ("images", "label"), [(pictures(seed=1), "a"), (pictures(), "b"), (pictures(5), "a")]
)
def test_other_images_or_another_network_are_another_file(tmp_path, images, label):
    network = Network()
    cached_features(pictures(), "a", network, tmp_path)
    cached_features(images, label, network, tmp_path)
    assert network.calls == 2
    assert len({key_of(pictures(), "a"), key_of(images, label)}) == 2


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    network = Network()
    expected = cached_features(pictures(), "a", network, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole if damage is None else damage)
    assert torch.equal(cached_features(pictures(), "a", network, tmp_path), expected)
    assert network.calls == 2
    assert torch.equal(cached_features(pictures(), "a", network, tmp_path), expected)
    assert network.calls == 2
    assert [each.suffix for each in tmp_path.iterdir()] == [".safetensors"]


def test_without_a_directory_nothing_is_kept():
    network = Network()
    for _ in range(2):
        cached_features(pictures(), "a", network, None)
    assert network.calls == 2


def test_a_standardised_extractor_gives_the_same_from_the_cache(tmp_path, evaluators):
    from evaluation.features import detector_extractor

    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    found = []
    for cache in (None, tmp_path, tmp_path):
        extractor = detector_extractor(evaluators["detector"])
        extractor.cache = cache
        extractor.standardise(images)
        found.append(extractor.of_real(images))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert len(list(tmp_path.iterdir())) == 1
