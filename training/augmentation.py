"""Random views of training images, made on the device from prepared pixels."""

import math
from collections.abc import Collection

import torch
from torch.nn import functional as F

AUGMENTATIONS = ("crop", "flip", "stain")
# The smallest share of an image's area that a crop keeps, and the largest ratio of its sides.
CROP_AREA, CROP_RATIO = 0.6, 4 / 3
# How much the amount of each stain may change, as a share of the image's own amount.
STAIN_STRENGTH = 0.2
# Optical densities in red, green and blue of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001).
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


def check_are_bytes(pixels: torch.Tensor) -> None:
    """Raises ValueError if pixels are normalised: no view can be made of them."""
    if pixels.dtype != torch.uint8:
        raise ValueError(
            "augmentations are made of pixels as bytes, and the collator gives normalised ones: give "
            "VqaCollator(processor, as_bytes=True), or no augmentations."
        )


def augment(
    pixels: torch.Tensor, kinds: Collection[str], keep_sides: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random view of each image, and how it is mirrored.

    Args:
        pixels: (I, 3, H, W) from 0 to 255, uint8 or float.
        kinds: any of `crop`, a part of the image at full size; `flip`, mirrored left to right and top to bottom, each
            half of the time; `stain`, more or less of each stain. torch's global generator draws them; checkpoints of
            the Trainer keep its state.
        keep_sides: which images (I,) are not mirrored, because a text about them would be wrong.

    Returns:
        The views (I, 3, H, W) in float32, from 0 to 255; and the flips (I,): of each view 1 if it is mirrored from
        left to right, plus 2 if from top to bottom.
    """
    views, flips = pixels.float(), torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
    if {"crop", "flip"} & set(kinds):
        views, flips = random_parts(views, "crop" in kinds, "flip" in kinds, keep_sides)
    return (random_stains(views) if "stain" in kinds else views), flips


def random_parts(
    pixels: torch.Tensor, crop: bool, flip: bool, keep_sides: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random part of each image (I, 3, H, W), resized to the whole image's size and mirrored at random; its flip."""
    number = len(pixels)
    sides = torch.ones(number, 2)  # width and height of the part, as shares of the image's
    if crop:
        area = torch.empty(number).uniform_(CROP_AREA, 1)
        ratio = torch.empty(number).uniform_(-math.log(CROP_RATIO), math.log(CROP_RATIO)).exp()
        sides = torch.stack([area * ratio, area / ratio], dim=1).sqrt().clamp(max=1)  # (I, 2)
    centers = (2 * torch.rand(number, 2) - 1) * (1 - sides)  # coordinates run from -1 to 1
    mirrored = torch.randint(2, (number, 2)) if flip else torch.zeros(number, 2, dtype=torch.long)  # along x, along y
    # What is drawn lies on the CPU: copies that don't block, because the device may still be at the last step.
    sides, centers = (numbers.to(pixels, non_blocking=True) for numbers in (sides, centers))
    mirrored = mirrored.to(pixels.device, non_blocking=True)
    if keep_sides is not None:
        mirrored = mirrored.masked_fill(keep_sides[:, None], 0)
    theta = torch.cat([torch.diag_embed(sides * (1 - 2 * mirrored)), centers[:, :, None]], dim=2)  # (I, 2, 3)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)  # (I, H, W, 2)
    views = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return views, mirrored[:, 0] + 2 * mirrored[:, 1]


def random_stains(pixels: torch.Tensor) -> torch.Tensor:
    """Changes the amounts of each image's stains (I, 3, H, W) at random (Tellez et al. 2018, arXiv 1808.05896)."""
    factors = torch.empty(len(pixels), 1, 3).uniform_(1 - STAIN_STRENGTH, 1 + STAIN_STRENGTH)
    stains = torch.tensor(STAINS)  # (stain, color)
    numbers = (stains, stains.inverse(), factors)  # a device would be waited for, to see whether there is an inverse
    stains, amounts, factors = (part.to(pixels, non_blocking=True) for part in numbers)
    densities = -((pixels + 1) / 256).log().flatten(2).mT  # (I, H*W, color)
    densities = densities @ amounts * factors @ stains
    return (256 * (-densities).exp() - 1).clamp(0, 255).mT.unflatten(2, pixels.shape[2:])
