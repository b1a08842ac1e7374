"""Where in a slide what was asked is seen: colours over its thumbnail."""

import numpy as np
from matplotlib import colormaps
from PIL import Image

from ..evaluation.searching_slides import SlideResult

COLORS = "plasma"  # dark blue to yellow, also for people who don't tell red from green
OPACITY = 0.5


def heat_map(result: SlideResult) -> Image.Image:
    """The slide's thumbnail with its tiles in colour: from 0 to 1, or from the lowest cosine to the highest."""
    values = result.map_of(result.found.scores.numpy())  # (rows, columns)
    low, high = (0.0, 1.0) if result.found.statements else (np.nanmin(values), np.nanmax(values))
    colors = colormaps[COLORS]((np.nan_to_num(values) - low) / max(high - low, 1e-9))  # (rows, columns, 4)
    colors[..., 3] = np.where(np.isnan(values), 0, OPACITY)
    tiles, thumbnail = result.tiles, result.tiles.thumbnail.convert("RGBA")
    # The last tiles reach beyond the slide.
    seen = (0, 0, tiles.size[0] / tiles.width, tiles.size[1] / tiles.width)
    overlay = Image.fromarray((255 * colors).round().astype(np.uint8))
    overlay = overlay.resize(thumbnail.size, Image.Resampling.NEAREST, box=seen)
    return Image.alpha_composite(thumbnail, overlay).convert("RGB")
