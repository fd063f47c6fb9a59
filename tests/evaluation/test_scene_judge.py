import pytest
import torch

from evaluation.calibration import calibrate, damaged
from evaluation.prompts import draw_scenes, render_tensor, scene_prompts
from evaluation.scene_judge import EMPTY, UNDECIDED, SceneJudge
from evaluation.settings import EvaluationSettings
from evaluation.templates import gaussian_blur, template_bank
from evaluation.verdicts import compare
from fluxmodel.data.procedural import LEVELS, PALETTE, Scene, SceneObject, template_masks

CELLS = ("shape", "size", "color")


def one(level="full", shape="circle", color="red", size="large", row=1, col=1, background="white", **offset):
    return Scene(level, background, (SceneObject(shape, color, size, row, col, **offset),))


def asked_of(level, scenes):
    asked = scene_prompts("", level, scenes, 0, "").asked
    assert asked is not None
    return asked


def read(images, level="full"):
    return SceneJudge(level).read(images)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_clean_renders_are_read_as_they_are(level, held_out):
    scenes = draw_scenes(level, "calibration", 5, 1000, held_out)
    asked = asked_of(level, scenes)
    verdicts = compare(asked, read(render_tensor(scenes), level))
    assert verdicts.all_correct.mean() >= 0.999


@pytest.mark.parametrize("level", LEVELS)
def test_soft_edges_are_still_read(level):
    scenes = draw_scenes(level, "calibration", 6, 300)
    asked = asked_of(level, scenes)
    soft = gaussian_blur(render_tensor(scenes).float(), 0.7).round().byte()
    assert compare(asked, read(soft, level)).all_correct.mean() >= 0.99


@pytest.mark.parametrize("level", LEVELS)
def test_under_heavy_damage_it_says_undecided_rather_than_something_wrong(level):
    scenes = draw_scenes(level, "calibration", 7, 200)
    asked = asked_of(level, scenes)
    for name, images in damaged(render_tensor(scenes), 0):
        verdicts = compare(asked, read(images, level))
        wrong = 1 - verdicts.accuracy.mean() - verdicts.undecided_share.mean()
        assert wrong < 0.03, name


def test_pure_noise_is_undecided_everywhere():
    noise = torch.randint(
        0, 256, (50, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    seen = read(noise)
    assert (seen.background == UNDECIDED).all()
    assert (seen.shape == UNDECIDED).float().mean() > 0.99


@pytest.mark.parametrize("background", LEVELS["full"].backgrounds)
def test_an_empty_image_is_empty(background):
    image = render_tensor([Scene("full", background, ())])
    seen = read(image)
    assert (seen.shape == EMPTY).all()
    assert LEVELS["full"].backgrounds[int(seen.background)] == background


def test_a_reading_does_not_depend_on_the_batch():
    images = render_tensor(draw_scenes("full", "calibration", 8, 30))
    judge = SceneJudge("full")
    whole, alone = judge.read(images), judge.read(images, batch_size=1)
    for name in (*CELLS, "background"):
        assert torch.equal(getattr(whole, name), getattr(alone, name))


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.37, -0.41), (-0.9, 0.9), (0.13, 0.62)])
def test_shifts_between_pixels_change_nothing(dx, dy):
    level = LEVELS["full"]
    scenes = [one(shape=shape, dx=dx, dy=dy) for shape in level.shapes]
    seen = read(render_tensor(scenes))
    assert [level.shapes[number] for number in seen.shape[:, 4]] == list(level.shapes)


def test_a_slightly_faded_object_on_a_slightly_tinted_background_is_read():
    scenes = draw_scenes("full", "calibration", 9, 200)
    asked = asked_of("full", scenes)
    faded = (0.93 * render_tensor(scenes).float() + 9).round().byte()
    assert compare(asked, read(faded)).accuracy.mean() > 0.99


def test_a_mixture_of_two_shapes_is_undecided_in_shape_and_clear_in_colour():
    circle, diamond = render_tensor([one(shape="circle"), one(shape="diamond")]).float()
    seen = read(((circle + diamond) / 2).round().byte()[None])
    assert seen.shape[0, 4] == UNDECIDED
    assert LEVELS["full"].colors[int(seen.color[0, 4])] == "red"


def test_a_colour_between_two_is_undecided_in_colour_and_clear_in_shape():
    red, orange = render_tensor([one(color="red"), one(color="orange")]).float()
    seen = read(((red + orange) / 2).round().byte()[None])
    assert seen.color[0, 4] == UNDECIDED
    assert LEVELS["full"].shapes[int(seen.shape[0, 4])] == "circle"


def test_the_residual_is_the_one_of_drawing_and_subtracting():
    image = render_tensor([one(shape="moon", color="cyan", size="small", dx=0.3)])
    judge, level = SceneJudge("full"), LEVELS["full"]
    seen = judge.read(image)
    bank = template_bank("full")
    pixels = (image[0].flatten(1).T.float() / 255)[bank.windows[4]] * bank.inside[4][:, None]
    left = pixels - bank.backgrounds[0] * bank.inside[4][:, None]
    best = min(
        float((left - mask[:, None] * (color - bank.backgrounds[0])).square().sum())
        for mask in bank.masks[4]
        for color in bank.colors
    )
    assert float(seen.unexplained[0, 4]) == pytest.approx(best / float(left.square().sum()), abs=1e-4)
    assert level.shapes[int(seen.shape[0, 4])] == "moon"


def test_templates_are_the_renderers_own():
    level = LEVELS["full"]
    bank = template_bank("full")
    drawn = torch.from_numpy(template_masks(level, 0, 0, (0.0,))).flatten(0, 2).flatten(1)
    sharp = bank.masks[0, 0 :: bank.num_kinds[2]]
    assert sharp.shape[0] == drawn.shape[0]
    assert len(bank.colors) == len(level.colors) <= len(PALETTE)


def test_images_of_another_size_or_type_are_refused():
    with pytest.raises(ValueError, match="uint8 images"):
        read(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8 images"):
        read(torch.zeros(1, 3, 32, 32))


def test_calibration_reports_every_kind_of_damage():
    class Half:
        def encode(self, images):
            return images

        def decode(self, latents):
            return latents * 0

    rows = calibrate(SceneJudge("demo"), EvaluationSettings(num_calibration=50), Half())
    found = {row["images"]: row for row in rows}
    assert found["clean renders"]["right"] == 1
    assert found["autoencoder's reconstructions"]["all_correct"] == 0
    assert all(row["right"] + row["undecided"] + row["wrong"] == pytest.approx(1) for row in rows)
