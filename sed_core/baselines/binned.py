"""Masked diffusion of counts without a largest one: small counts are classes, large ones bins.

Classes are 0, 1, ..., 15, then bins that are at most a sixth as wide as their first count. A count
that is drawn is one of the training counts of its bin, each as likely as it was there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Int64, Num
from torch import Tensor

from sed_core.baselines.masked import MaskedConfig, MaskedDiffusion, Showing
from sed_core.chance import Chance, seeded, split, uniform
from sed_core.diffusion import Label
from sed_core.training import Batches, Progress, fit, shuffled

EXACT = 16  # counts below are classes of their own
GROWTH = 6  # a bin is as wide as its first count over this


@dataclass(frozen=True, eq=False)
class Bins:
    """Classes of counts, and the training counts of each in ascending order."""

    first: Int64[Tensor, " K"]  # the smallest count of each class
    start: Int64[Tensor, " L"]  # where a class starts among the counts, and where the last one ends
    counts: Int64[Tensor, " N"]

    @classmethod
    def of(cls, x: Num[Tensor, "n D"]) -> "Bins":
        """Bins of training counts; those above the largest of them have no bin of their own."""
        counts = x.long().flatten().sort().values
        edges = list(range(EXACT + 1))
        while edges[-1] + edges[-1] // GROWTH <= int(counts[-1]):
            edges.append(edges[-1] + edges[-1] // GROWTH)
        first = torch.tensor(edges)
        start = torch.searchsorted(counts, torch.cat([first, counts[-1:] + 1]))
        return cls(first, start, counts)

    def classes(self, x: Num[Tensor, "*X"]) -> Int64[Tensor, "*X"]:
        """The class of each count."""
        return torch.searchsorted(self.first, x.long().contiguous(), right=True) - 1

    def drawn(self, classes: Int64[Tensor, "*X"], u: Num[Tensor, "*X"]) -> Int64[Tensor, "*X"]:
        """The training count of the class on which the uniform number falls; its first if none."""
        start, size = self.start[classes], self.start.diff()[classes]
        at = start + (u * size).long().clamp(max=(size - 1).clamp_min(0))
        found = self.counts[at.clamp(max=len(self.counts) - 1)]
        return torch.where(size > 0, found, self.first[classes])


@dataclass(frozen=True, eq=False)
class BinnedMasked:
    """A masked diffusion of classes, and the counts that they stand for."""

    model: MaskedDiffusion
    bins: Bins

    def impute(
        self,
        x: Num[Tensor, "B D"],
        observed: Bool[Tensor, "B D"],
        *,
        draws: int,
        steps: int,
        label: Label = None,
        generator: Chance,
    ) -> Int64[Tensor, "draws B D"]:
        """Draws of what is not observed; what is comes back as it is."""
        chance = split(generator, len(x))
        shown = self.bins.classes(torch.where(observed, x, 0))
        options: Showing = {"steps": steps, "label": label}
        found = self.model.impute(shown, observed, draws=draws, generator=chance, **options)
        u = uniform(chance, draws, x.shape[1]).transpose(0, 1)
        hidden = (~observed).expand(found.shape)
        filled = x.long().masked_fill(~observed, 0).repeat(draws, 1, 1)
        filled[hidden] = self.bins.drawn(found[hidden], u[hidden])
        return filled


def binned(
    x: Int64[Tensor, "n D"], *, classes: int = 0, embedding: int = 8, width: int = 96, seed: int
) -> BinnedMasked:
    """One to be trained on these counts, which starts from how frequent each gene's classes are."""
    bins = Bins.of(x)
    config = MaskedConfig(
        dim=x.shape[1],
        largest=len(bins.first) - 1,
        embedding=embedding,
        width=width,
        layers=1,
        classes=classes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedDiffusion(config)
    found = bins.classes(x)
    model.start_from(found)
    _start_each(model, found)
    return BinnedMasked(model, bins)


@torch.no_grad()
def _start_each(model: MaskedDiffusion, classes: Int64[Tensor, "n D"]) -> None:
    """Bias of the last layer: nearest to each gene's log frequencies, over the classes it has.

    Without this a short training spends itself on which gene is how frequent.
    """
    dim, k = classes.shape[1], len(model.bias)
    place = classes + k * torch.arange(dim)
    seen = torch.bincount(place.flatten(), minlength=dim * k).view(dim, k)
    seen = seen + 5 * model.bias.softmax(0)  # as if five more cells had been like all genes
    wanted = (seen / seen.sum(1, keepdim=True)).log() - model.bias
    weight = seen.sqrt().double()
    e = model.count.weight[:-1].double()  # (K, E)
    square = torch.einsum("dk,ke,kf->def", weight, e, e) + 1e-3 * torch.eye(e.shape[1])
    side = torch.einsum("dk,ke->de", weight * wanted, e)
    bias = cast(Any, torch.linalg.solve)(square, side[:, :, None])
    model.network.leave.bias.copy_(cast(Tensor, bias).flatten())


def train_binned(
    peer: BinnedMasked,
    x: Int64[Tensor, "n D"],
    label: Int64[Tensor, " n"] | None,
    *,
    steps: int = 1_500,
    rows: int = 64,
    lr: float = 3e-3,
    seed: int,
) -> Iterator[Progress]:
    """Train in place on counts and the class of each row."""
    found = peer.bins.classes(x)
    plan = shuffled(len(x), size=rows, steps=steps, seed=seed)

    def batch(chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        return found[chosen], None if label is None else label[chosen]

    return fit(
        peer.model,
        Batches(plan, batch),
        lr=lr,
        ema=0.99,
        generator=seeded(seed),
        loss=lambda one, chance: peer.model.loss(one[0], label=one[1], generator=chance),
        precision="float32",
        stage="masked",
    )
