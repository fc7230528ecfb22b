"""Networks of CountsDiff: features of all dimensions and a condition in, one number each out.

MLP                vectors without a grid
GeneTransformer    vectors whose dimensions have names: one token each, so some may be left out
ImageUNet          pictures (`sed_core.unet`)
CellNetwork        cells: thousands of genes, most of them 0, of which a few dozen things decide

All are called (features (B, C, D), condition (B, W), known (B, D)) -> (B, D).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from sed_core.nn import Block, ConditionedLinear
from sed_core.unet import ImageUNet, sides

UNKNOWN, NOISED, SHOWN = -1.0, 0.0, 1.0  # what the network is told of an entry
LARGEST_LOG_SHAPE = 7.0  # of a negative binomial; beyond, it is Poisson's or all zeros
RANK = 64  # directions in which cells differ from each other
LARGEST_MOVE = 12.0  # log of how much more or less than usual a cell may have of a gene


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


class CellNetwork(nn.Module):
    """What a cell is, from all of its genes at once, and of each gene its negative binomial.

        mu_j = m_j e^(size + loadings_j . state),   x_0j | state ~ NB(mu_j, shape r_j)
        E[x_0j - x_tj | x_tj, state] = (1 - p) (r_j + x_tj) / (r_j / mu_j + p)

    m is the mean of training cells. Genes enter as log(1 + x) - log(1 + q m), q the share of their
    units that is seen (p of what is noised, 1 of what is shown), so that a gene that is not seen
    says nothing and one that is seen to be 0 does. What comes out is log of the rate / (1 - p).
    """

    def __init__(self, dim: int, width: int, layers: int, condition: int, rank: int = RANK):
        super().__init__()
        self.register_buffer("usual", torch.ones(dim))
        self.enter = nn.Linear(dim, width)
        self.sizes = nn.Linear(4, width)
        self.blocks = nn.ModuleList(ModulatedMLP(width, condition) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, rank + 1)
        self.genes = nn.Linear(rank, dim)
        self.shape = nn.Parameter(torch.ones(dim))  # log r
        for part in (self.genes.weight, self.genes.bias):
            nn.init.zeros_(part)

    def start_from(self, mean: Float[Tensor, " D"]) -> None:
        """Take the mean count of each gene, of which no gene may be without a count."""
        self.get_buffer("usual").copy_(mean)

    def forward(
        self, features: Float[Tensor, "B 2 D"], condition: Float[Tensor, "B W"], known: object
    ) -> Float[Tensor, "B D"]:
        x, seen = features.unbind(1)
        usual = self.get_buffer("usual")
        expected = seen * usual
        h = self.enter(x.log1p() - expected.log1p()) + self.sizes(_sizes(x, seen, expected))
        for block in self.blocks:
            h = h + block(h, condition)
        state = self.leave(self.norm(h))
        moved = self.genes(state[:, 1:]).float() + state[:, :1].float()
        shape = self.shape.clamp(-LARGEST_LOG_SHAPE, LARGEST_LOG_SHAPE).exp()
        waiting = shape * (-moved).clamp(-LARGEST_MOVE, LARGEST_MOVE).exp() / usual
        return (shape + x).log() - (waiting + seen).log()


class ModulatedMLP(nn.Module):
    """A residual branch whose normalised input is scaled and shifted by the condition."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(condition, 2 * width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, h: Float[Tensor, "B H"], c: Float[Tensor, "B W"]) -> Float[Tensor, "B H"]:
        scale, shift = self.modulation(F.silu(c)).chunk(2, 1)
        return self.down(F.silu(self.up(self.norm(h) * (1 + scale) + shift)))


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


def cell_features(
    x: Int64[Tensor, "B D"], p: Float[Tensor, " B"], role: Float[Tensor, "B D"]
) -> Float[Tensor, "B 2 D"]:
    """The counts, and which share of its units is seen of each: p, all (1), or nothing (0)."""
    alive = p.to(role)[:, None].expand_as(role)
    seen = torch.where(role == SHOWN, 1.0, alive).masked_fill(role == UNKNOWN, 0.0)
    return torch.stack([torch.where(role == UNKNOWN, 0, x).to(role), seen], 1)


def _sizes(x: Tensor, seen: Tensor, expected: Tensor) -> Float[Tensor, "B 4"]:
    """How many units a row has, and how many are usual there: of all that is seen, and clean."""
    shown = seen == 1
    totals = [x.sum(1), expected.sum(1), (x * shown).sum(1), (expected * shown).sum(1)]
    found, usual, clean, usual_clean = (total.log1p() for total in totals)
    return torch.stack([found - usual, usual, clean - usual_clean, usual_clean], 1)


def log_softplus(z: Float[Tensor, "*X"]) -> Float[Tensor, "*X"]:
    """log(log(1 + e^z)); where e^z is tiny it is z - e^z / 2, which never underflows."""
    low = z < -12
    usual = F.softplus(torch.where(low, 0.0, z)).log()
    return torch.where(low, z - z.clamp_max(-12).exp() / 2, usual)
