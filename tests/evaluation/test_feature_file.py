import pytest
import torch

from evaluation.feature_file import FILE, read_features, write_features
from evaluation.frechet import ReferenceFeatures
from fluxmodel.errors import InputError


def features(n, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_what_is_read_is_what_was_written(tmp_path):
    headline, reference = features(7), features(9, seed=1).double()
    write_features(tmp_path, headline, reference, "scene detector 12")
    found = read_features(tmp_path)
    assert found is not None
    assert torch.equal(found["headline"], headline)
    assert torch.equal(found["reference"], reference.float())


def test_an_evaluation_without_features_says_so(tmp_path):
    assert read_features(tmp_path) is None


def test_a_damaged_file_is_named_with_the_cure(tmp_path):
    write_features(tmp_path, features(7), features(9), "")
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:-40])
    with pytest.raises(InputError, match=f"{FILE} cannot be read.*evaluate the model again"):
        read_features(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"headline": features(4)}, "holds no 'reference'"),
        ({"headline": features(4), "reference": features(4, d=5)}, "no features of one extractor"),
        ({"headline": features(4)[0], "reference": features(4)}, "no features of one extractor"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, tensors, said):
    from safetensors.torch import save_file

    save_file({name: each.contiguous() for name, each in tensors.items()}, tmp_path / FILE)
    with pytest.raises(InputError, match=said):
        read_features(tmp_path)


def test_equal_features_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_features(tmp_path / name, features(7), features(9), "x")
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_the_distance_of_the_file_is_the_distance_that_was_measured(tmp_path):
    headline, reference = features(60), features(60, seed=1)
    measured = ReferenceFeatures(reference).distance(headline)
    write_features(tmp_path, headline, reference, "x")
    found = read_features(tmp_path)
    assert found is not None
    assert ReferenceFeatures(found["reference"]).distance(found["headline"]) == measured
