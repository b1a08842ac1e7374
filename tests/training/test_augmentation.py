"""Random views: what each kind may change of an image and what it may not."""

import pytest
import torch

from mmjepa.training.augmentation import AUGMENTATIONS, STAIN_STRENGTH, augment


@pytest.fixture
def pixels():
    """Eight copies of an image whose every pixel is another."""
    return torch.arange(3 * 14 * 14).reshape(1, 3, 14, 14).div(3).byte().expand(8, -1, -1, -1)


def test_flips_are_the_image_and_its_mirrors(pixels):
    views = augment(pixels, ["flip"])
    mirrors = [pixels[0].float().flip(axes) for axes in ((), (1,), (2,), (1, 2))]
    found = {next(i for i, mirror in enumerate(mirrors) if torch.allclose(view, mirror, atol=1e-3)) for view in views}
    assert len(found) > 1


def test_images_whose_sides_are_named_are_not_mirrored(pixels):
    keep = torch.arange(8) < 4
    views = augment(pixels, ["flip"], keep)
    as_they_are = [torch.allclose(view, pixels[0].float(), atol=1e-3) for view in views]
    assert all(as_they_are[:4]) and not all(as_they_are[4:])


def test_a_crop_is_an_enlarged_part(pixels):
    """On slopes along x and y, neighbours are nearer each other than before and nothing is outside the image."""
    slope = torch.arange(14.0).expand(1, 3, 14, 14)
    for image in (slope, slope.mT):
        views = augment(image.expand(8, -1, -1, -1), ["crop"])
        widths = views.amax(dim=(1, 2, 3)) - views.amin(dim=(1, 2, 3))
        assert views.min() >= 0 and views.max() <= 13
        assert len(widths.unique()) == 8 and (widths > 0.6 * 0.75 * 13 - 1).all()
        assert (widths <= 13).all()


def test_a_stain_of_haematoxylin_stays_haematoxylin():
    density = torch.tensor([0.65, 0.70, 0.29])
    image = (256 * (-density).exp() - 1).view(1, 3, 1, 1).expand(8, 3, 4, 4)
    views = augment(image, ["stain"])
    amounts = -((views[:, :, 0, 0] + 1) / 256).log() / density  # (8, 3): equal in all colors
    assert torch.allclose(amounts, amounts[:, :1].expand_as(amounts), atol=1e-3)
    assert len(amounts[:, 0].unique()) == 8 and ((amounts - 1).abs() <= STAIN_STRENGTH + 1e-3).all()


def test_views_are_pixels_and_the_generator_repeats_them(pixels):
    torch.manual_seed(1)
    first = augment(pixels, AUGMENTATIONS)
    torch.manual_seed(1)
    assert torch.equal(augment(pixels, AUGMENTATIONS), first)
    assert first.dtype == torch.float32 and first.shape == pixels.shape
    assert first.min() >= 0 and first.max() <= 255 and first.isfinite().all()
    assert len({view.sum().item() for view in first}) == 8
