"""Bytes of pixels as the model reads them."""

import torch
from transformers import BaseImageProcessor


def normalize_pixels(pixels: torch.Tensor, image_processor: BaseImageProcessor) -> torch.Tensor:
    """Rescales and normalises pixels (I, 3, H, W) from 0 to 255 as the processor does -> float32, same device."""
    values = pixels.float()
    if image_processor.do_rescale:
        values = values * image_processor.rescale_factor
    if image_processor.do_normalize:
        mean, std = (
            # A blocking copy would wait for all that the device has yet to do.
            torch.tensor(statistic).to(pixels.device, non_blocking=True).view(-1, 1, 1)
            for statistic in (image_processor.image_mean, image_processor.image_std)
        )
        values = (values - mean) / std
    return values
