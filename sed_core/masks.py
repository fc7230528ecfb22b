"""Masks of counts: which entries of a row are seen. True is seen.

scattered   each entry by itself, so that a hidden one has seen neighbours
rectangles  all of a picture but a rectangle, as when a part of it is wiped out
dropout     the smaller a count, the less likely it is seen (missing not at random)
"""

import torch
from jaxtyping import Bool, Float, Num
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


def dropout(
    counts: Num[Tensor, "n D"],
    hidden: float,
    *,
    decay: float = 0.5,
    generator: torch.Generator,
) -> Bool[Tensor, "n D"]:
    """A count x is hidden with probability a exp(-decay x), where a is such that a share is hidden.

    Args:
        hidden: that share, expected over all entries.
        decay: 0 hides every entry alike; the larger, the rarer a large count is hidden.

    Raises:
        ValueError: for no share, or one so large that zeros would be hidden more often than always.
    """
    if not 0 <= hidden <= 1 or not decay >= 0 or not counts.numel():
        raise ValueError(
            f"need counts, a share from 0 to 1 and a decay from 0 up, got {counts.numel()} counts, "
            f"{hidden:g} and {decay:g}"
        )
    relative = (-decay * counts.double()).exp()
    most = relative.mean().item()
    if hidden > most:
        raise ValueError(
            f"with a decay of {decay:g} at most {most:.3f} can be hidden, not {hidden:g}"
        )
    chance = torch.rand(counts.shape, dtype=torch.float64, generator=generator)
    return chance >= relative * (hidden / most)
