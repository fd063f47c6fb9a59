import pytest
import torch
from PIL import Image

from evaluation import atlas
from evaluation.atlas import HEADLINE, has_atlas, read_atlas, write_atlas
from fluxmodel.errors import InputError


def noise(n: int, height: int = 6, width: int = 9) -> torch.Tensor:
    shape = (n, 3, height, width)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(n), dtype=torch.uint8)


@pytest.mark.parametrize("n", [1, 39, 40, 41, 123])
def test_images_come_back_bit_by_bit_and_in_order(tmp_path, n):
    images = noise(n)
    assert write_atlas(tmp_path / HEADLINE, images) == n
    assert torch.equal(read_atlas(tmp_path), images)


def test_forty_images_stand_in_a_row(tmp_path):
    write_atlas(tmp_path / HEADLINE, noise(41))
    with Image.open(tmp_path / HEADLINE) as picture:
        assert (picture.size, picture.mode) == ((40 * 9, 2 * 6), "RGB")


def test_where_all_would_be_too_many_pixels_the_first_rows_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "MOST_PIXELS", 2 * 40 * 6 * 9)
    images = noise(123)
    assert write_atlas(tmp_path / HEADLINE, images) == 80
    assert torch.equal(read_atlas(tmp_path), images[:80])


def test_what_is_no_atlas_is_refused(tmp_path):
    assert not has_atlas(tmp_path)
    with pytest.raises(InputError, match=r"headline\.png is no atlas of images"):
        read_atlas(tmp_path)
    Image.new("RGB", (40, 40)).save(tmp_path / HEADLINE)
    with pytest.raises(InputError, match="evaluate again"):
        read_atlas(tmp_path)
    with pytest.raises(ValueError, match=r"float32 \[2, 3, 6, 9\]"):
        write_atlas(tmp_path / HEADLINE, noise(2).float())
