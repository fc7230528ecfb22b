"""A U-Net for pictures of any side: convolutions on patches, attention where the map is smallest.

A picture is folded into patches first (a patch of p x p pixels becomes p^2 channels of one cell),
so that the costly top level is p^2 times smaller; a sub-pixel convolution unfolds the answer.
"""

from itertools import pairwise
from math import ceil

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sed_core.nn import Attention

GROUPS = 8


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the condition scales and shifts between them.

    The second convolution starts at zero, so an untrained block is the identity (or a projection).
    """

    def __init__(self, inputs: int, outputs: int, condition: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.condition = nn.Linear(condition, 2 * outputs) if condition else None
        self.norm2 = nn.GroupNorm(GROUPS, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(
        self, x: Float[Tensor, "B I S S"], c: Float[Tensor, "B C"] | None
    ) -> Float[Tensor, "B O S S"]:
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.condition is not None and c is not None:
            scale, shift = self.condition(F.silu(c))[..., None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class PixelAttention(nn.Module):
    """Every cell looks at every other one."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.attention = Attention(width, heads)

    def forward(self, x: Float[Tensor, "B W S S"]) -> Float[Tensor, "B W S S"]:
        tokens = rearrange(self.norm(x), "b w i j -> b (i j) w")
        return x + rearrange(self.attention(tokens), "b (i j) w -> b w i j", i=x.shape[2])


class ImageUNet(nn.Module):
    """Picture and condition -> picture of the same side.

    Args:
        inputs, outputs: channels of pictures in and out.
        widths: channels of each level, from the patches down; every level halves the side.
        patch: pixels a side of one patch; it must divide the side of the pictures.
        condition: width of the condition; 0 for none.
    """

    def __init__(
        self, inputs: int, outputs: int, widths: tuple[int, ...], patch: int, condition: int
    ):
        super().__init__()
        self.patch, smallest = patch, widths[-1]
        self.enter = nn.Conv2d(inputs * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(w, w, condition) for w in widths)
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.attention = PixelAttention(smallest)
        self.middle = ResidualBlock(smallest, smallest, condition)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for b, a in pairwise(widths[::-1]))
        self.up = nn.ModuleList(ResidualBlock(2 * w, w, condition) for w in widths[::-1])
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], outputs * patch**2, 3, padding=1),
        )

    def forward(
        self, x: Float[Tensor, "B I S S"], c: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B O S S"]:
        x, stored = self.enter(F.pixel_unshuffle(x, self.patch)), list[Tensor]()
        for level, block in enumerate(self.down):
            x = block(self.shrink[level - 1](x) if level else x, c)
            stored.append(x)
        x = self.middle(self.attention(x), c)
        for level, block in enumerate(self.up):
            skip = stored.pop()
            x = enlarge(self.grow[level - 1](x), skip.shape[-1]) if level else x
            x = block(torch.cat([x, skip], 1), c)
        return F.pixel_shuffle(self.leave(x), self.patch)


def enlarge(x: Float[Tensor, "B C S S"], side: int) -> Float[Tensor, "B C T T"]:
    """Nearest neighbour to `side`, which may be odd."""
    return F.interpolate(x, size=(side, side), mode="nearest")


def sides(side: int, patch: int, levels: int) -> list[int]:
    """Sides of the maps of each level.

    Raises:
        ValueError: if the patches do not tile the picture.
    """
    if side % patch:
        raise ValueError(f"patches of {patch} do not tile a picture of side {side}")
    found = [side // patch]
    for _ in range(levels - 1):
        found.append(ceil(found[-1] / 2))
    return found
