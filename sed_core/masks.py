"""Masks of counts: which entries of a row are seen. True is seen.

scattered   each entry by itself, so that a hidden one has seen neighbours
rectangles  all of a picture but a rectangle, as when a part of it is wiped out
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def scattered(
    share: Float[Tensor, "n 1"], dim: int, *, generator: torch.Generator
) -> Bool[Tensor, "n D"]:
    """Each entry of row k is seen with probability share[k]."""
    return torch.rand(len(share), dim, generator=generator) < share


def rectangles(
    share: Float[Tensor, "n 1"], side: int, *, generator: torch.Generator
) -> Bool[Tensor, "n D"]:
    """All of a picture but a rectangle somewhere, of about 1 - share[k] of its area.

    Height and width are drawn so that the rectangle may be flat or tall, and fits.
    """
    area = 1 - share
    height = area ** torch.rand(share.shape, generator=generator)  # from the area to its full side
    top = (1 - height) * torch.rand(share.shape, generator=generator)
    width = area / height.clamp_min(1e-6)
    left = (1 - width) * torch.rand(share.shape, generator=generator)
    place = (torch.arange(side) + 0.5) / side
    rows, columns = (
        (place >= low) & (place < low + size) for low, size in ((top, height), (left, width))
    )
    return ~(rows[:, :, None] & columns[:, None, :]).flatten(1)
