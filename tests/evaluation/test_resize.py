import numpy as np
import torch
from PIL import Image

from evaluation.resize import resize_clean


def test_resizing_is_pillows_in_floating_point():
    images = torch.randint(
        0, 256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    found = resize_clean(images, 32).int()
    for number, image in enumerate(images.numpy()):
        for channel, plane in enumerate(image):
            small = Image.fromarray(plane.astype(np.float32), mode="F").resize(
                (32, 32), Image.Resampling.BICUBIC
            )
            wanted = np.clip(np.rint(np.asarray(small)), 0, 255).astype(int)
            assert (
                np.abs(found[number, channel].numpy() - wanted).max() <= 1
            )  # where a half is rounded either way
            assert (found[number, channel].numpy() == wanted).mean() > 0.99


def test_fine_stripes_become_their_mean_and_not_other_stripes():
    stripes = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    stripes[..., ::2] = 255
    inner = resize_clean(stripes, 16)[..., 2:-2, 2:-2].float()
    assert (inner - 127.5).abs().max() <= 1.5
