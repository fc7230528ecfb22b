"""Networks of CountsDiff: features of all dimensions and a condition in, one number each out.

MLP                vectors without a grid
GeneTransformer    vectors whose dimensions have names: one token each, so some may be left out
ImageUNet          pictures (`sed_core.unet`)

All three are called (features (B, C, D), condition (B, W), known (B, D)) -> (B, D).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from sed_core.nn import Block, ConditionedLinear
from sed_core.unet import ImageUNet, sides

UNKNOWN, NOISED, SHOWN = -1.0, 0.0, 1.0  # what the network is told of an entry


class MLP(nn.Module):
    """Residual layers, so that the size of a row reaches the end past the norms."""

    def __init__(self, channels: int, dim: int, width: int, layers: int, condition: int):
        super().__init__()
        self.enter = nn.Linear(channels * dim, width)
        self.blocks = nn.ModuleList(
            ConditionedLinear(width, width, condition) for _ in range(layers)
        )
        self.leave = nn.Linear(width, dim)

    def forward(
        self, features: Float[Tensor, "B C D"], condition: Float[Tensor, "B W"], known: object
    ) -> Float[Tensor, "B D"]:
        h = self.enter(features.flatten(1))
        for block in self.blocks:
            h = h + block(h, condition)
        return self.leave(h)


class GeneTransformer(nn.Module):
    """A token for each dimension, and one for the condition; unknown entries are no tokens."""

    def __init__(
        self, channels: int, dim: int, width: int, layers: int, heads: int, condition: int
    ):
        super().__init__()
        self.enter = nn.Linear(channels, width)
        self.gene = nn.Embedding(dim, width)
        self.shift = nn.Linear(condition, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 1)

    def forward(
        self,
        features: Float[Tensor, "B C D"],
        condition: Float[Tensor, "B W"],
        known: Bool[Tensor, "B D"],
    ) -> Float[Tensor, "B D"]:
        genes = self.enter(rearrange(features, "b c d -> b d c")) + self.gene.weight
        shift = self.shift(F.silu(condition))[:, None]
        tokens = torch.cat([shift.to(genes), genes], 1)
        valid = None if bool(known.all()) else F.pad(known, (1, 0), value=True)
        for block in self.blocks:
            tokens = block(tokens, shift=shift, valid=valid)
        return self.leave(self.norm(tokens[:, 1:])).squeeze(2)


class PictureUNet(nn.Module):
    """The U-Net of pictures, on rows."""

    def __init__(
        self, channels: int, side: int, widths: tuple[int, ...], patch: int, condition: int
    ):
        super().__init__()
        sides(side, patch, len(widths))  # refuses patches that do not tile
        self.side = side
        self.network = ImageUNet(channels, 1, widths, patch, condition)

    def forward(
        self, features: Float[Tensor, "B C D"], condition: Float[Tensor, "B W"], known: object
    ) -> Float[Tensor, "B D"]:
        pictures = rearrange(features, "b c (i j) -> b c i j", i=self.side)
        return self.network(pictures, condition).flatten(1)


# -- features --------------------------------------------------------------------------------------


def vector_features(x: Int64[Tensor, "B D"], role: Float[Tensor, "B D"]) -> Float[Tensor, "B 2 D"]:
    """log(1 + x), and whether an entry is noised, shown clean, or unknown."""
    seen = torch.where(role == UNKNOWN, 0, x)
    return torch.stack([seen.double().log1p().to(role), role], 1)


def picture_features(
    x: Int64[Tensor, "B D"],
    p: Float[Tensor, " B"],
    role: Float[Tensor, "B D"],
    largest: int,
) -> Float[Tensor, "B 3 D"]:
    """(x - p largest / 2) / largest, which is centred at every p; log(1 + x); and the role.

    The logarithm is for small p, where all of a picture is a few units in each dimension.
    """
    seen, alive = torch.where(role == UNKNOWN, 0, x).double(), p.double()[:, None]
    middle = torch.where(role == SHOWN, 1.0, alive) * largest / 2
    centred = torch.where(role == UNKNOWN, 0.0, (seen - middle) / largest)
    logs = seen.log1p() / torch.tensor(float(largest)).log1p()
    return torch.stack([centred.to(role), logs.to(role), role], 1)


def log_softplus(z: Float[Tensor, "*X"]) -> Float[Tensor, "*X"]:
    """log(log(1 + e^z)); where e^z is tiny it is z - e^z / 2, which never underflows."""
    low = z < -12
    usual = F.softplus(torch.where(low, 0.0, z)).log()
    return torch.where(low, z - z.clamp_max(-12).exp() / 2, usual)
