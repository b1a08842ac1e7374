"""Random views: what each kind may change of an image and what it may not."""

import pytest
import torch

from mmjepa.training.augmentation import AUGMENTATIONS, STAIN_STRENGTH, augment


@pytest.fixture
def pixels():
    """Eight copies of an image whose every pixel is another."""
    return torch.arange(3 * 14 * 14).reshape(1, 3, 14, 14).div(3).byte().expand(8, -1, -1, -1)


def test_flips_are_the_image_and_its_mirrors(pixels):
    views, flips = augment(pixels, ["flip"])
    mirrors = [pixels[0].float().flip(axes) for axes in ((), (2,), (1,), (1, 2))]  # none, left to right, ...
    for view, flip in zip(views, flips.tolist(), strict=True):
        torch.testing.assert_close(view, mirrors[flip], atol=1e-3, rtol=0)
    assert len(flips.unique()) > 1


def test_images_that_keep_their_sides_are_not_mirrored(pixels):
    keep = torch.arange(8) < 4
    views, flips = augment(pixels, ["flip"], keep)
    as_they_are = [torch.allclose(view, pixels[0].float(), atol=1e-3) for view in views]
    assert all(as_they_are[:4]) and not all(as_they_are[4:])
    assert (flips == 0).tolist() == as_they_are


@pytest.mark.parametrize("kinds", [["crop"], ["stain"], ["crop", "stain"]])
def test_views_without_flips_are_not_said_to_be_mirrored(pixels, kinds):
    assert not augment(pixels, kinds)[1].any()


def test_a_crop_is_an_enlarged_part(pixels):
    """On slopes along x and y, neighbours are nearer each other than before and nothing is outside the image."""
    slope = torch.arange(14.0).expand(1, 3, 14, 14)
    for image in (slope, slope.mT):
        views = augment(image.expand(8, -1, -1, -1), ["crop"])[0]
        widths = views.amax(dim=(1, 2, 3)) - views.amin(dim=(1, 2, 3))
        assert views.min() >= 0 and views.max() <= 13
        assert len(widths.unique()) == 8 and (widths > 0.6 * 0.75 * 13 - 1).all()
        assert (widths <= 13).all()


def test_a_stain_of_haematoxylin_stays_haematoxylin():
    density = torch.tensor([0.65, 0.70, 0.29])
    image = (256 * (-density).exp() - 1).view(1, 3, 1, 1).expand(8, 3, 4, 4)
    views = augment(image, ["stain"])[0]
    amounts = -((views[:, :, 0, 0] + 1) / 256).log() / density  # (8, 3): equal in all colors
    assert torch.allclose(amounts, amounts[:, :1].expand_as(amounts), atol=1e-3)
    assert len(amounts[:, 0].unique()) == 8 and ((amounts - 1).abs() <= STAIN_STRENGTH + 1e-3).all()


def test_views_are_pixels_and_the_generator_repeats_them(pixels):
    torch.manual_seed(1)
    first, flips = augment(pixels, AUGMENTATIONS)
    torch.manual_seed(1)
    again = augment(pixels, AUGMENTATIONS)
    assert torch.equal(again[0], first) and torch.equal(again[1], flips)
    assert first.dtype == torch.float32 and first.shape == pixels.shape
    assert first.min() >= 0 and first.max() <= 255 and first.isfinite().all()
    assert len({view.sum().item() for view in first}) == 8
