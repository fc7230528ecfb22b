"""Masked (absorbing) diffusion of counts: every count is a class, and noise hides it.

    P(x_t,j is shown) = 1 - t                                         (Austin et al. 2021)
    -log p(x0) <= D E_k (1 / k) sum_{j masked} -log p(x0_j | x_t),    k ~ U{1..D} masked entries

The bound is that of the continuous process with its integral over time done by hand (Hoogeboom et
al. 2022; Sahoo et al. 2024). It is the same for every schedule, and so is the ideal denoiser, which
depends on what is shown and not on t (Ou et al. 2025): another schedule is another grid.

A step t -> s draws x0 of the masked entries and shows a share (t - s) / t of them, not all at once.
With attrition it masks shown ones again (remasking, Wang et al. 2025) and shows the more: an entry
is to this process what a unit is to CountsDiff, so both share their steps (`sed_core.births`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from sed_core.baselines.values import whole
from sed_core.births import Attrition, Move, moves
from sed_core.chance import Chance, split, uniform
from sed_core.counts_networks import MLP
from sed_core.diffusion import Label, check_sampling, hide, labels
from sed_core.sparse import SparseBatch
from sed_core.stream import Step, last
from sed_core.thinning import Linear
from sed_core.training import Loss

MASK = -1  # a hidden count in a state

Law = Callable[[Tensor], Tensor]  # state (n, D) -> logits (n, D, K) of x0 given what is shown


class Showing(TypedDict, total=False):
    """Options of the sampler; see `MaskedDiffusion.complete`."""

    steps: int
    attrition: Attrition
    strength: float
    label: Label
    guidance: float


@dataclass(frozen=True, kw_only=True)
class MaskedConfig:
    """Shape of the network."""

    dim: int
    largest: int  # count that there is; each one up to it is a class
    embedding: int = 16  # numbers that stand for a count, where it enters and where it leaves
    width: int = 64  # of the hidden layers
    layers: int = 3
    condition: int = 16  # width of the embedding of the class
    classes: int = 0  # 0 for no class condition
    label_dropout: float = 0.1  # share of training rows whose class is hidden (for guidance)

    def __post_init__(self) -> None:
        if self.dim < 1 or self.largest < 1:
            raise ValueError(f"need a dimension and a count, got {self.dim} and {self.largest}")


class MaskedDiffusion(nn.Module):
    """p(x0_j | what is shown) of every entry, with its bound and its samplers.

    A count enters by the embedding that it leaves by, so that the network's size hardly grows with
    the largest count.
    """

    CONFIGS: ClassVar[dict[str, type[Any]]] = {"config": MaskedConfig}

    def __init__(self, config: MaskedConfig):
        super().__init__()
        c = self.config = config
        self.configs = {"config": config}
        self.dim, self.classes = c.dim, c.classes
        self.count = nn.Embedding(c.largest + 2, c.embedding)  # the last: hidden
        nn.init.normal_(self.count.weight, std=0.3)  # near the bias: see `start_from`
        self.bias = nn.Parameter(torch.zeros(c.largest + 1))
        self.label = nn.Embedding(c.classes + 1, c.condition)  # the last: unknown
        width = c.dim * c.embedding
        self.network = MLP(1, width, c.width, c.layers, c.condition)

    def forward(
        self, x_t: Int64[Tensor, "B D"], label: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B D K"]:
        """Logits of every count at every entry."""
        shown = self.count(torch.where(x_t == MASK, self.config.largest + 1, x_t))
        h = self.network(rearrange(shown, "b d e -> b 1 (d e)"), self.label(label), None)
        h = rearrange(h, "b (d e) -> b d e", d=self.dim)
        return F.linear(h, self.count.weight[:-1], self.bias)

    # -- loss ------------------------------------------------------------------------------------

    @torch.no_grad()
    def start_from(self, x: SparseBatch | Shaped[Tensor, "n D"]) -> None:
        """Begin at the frequencies of the training counts.

        Large counts are rare, and the variance is most sensitive to them: without this, a short
        training leaves them several times too frequent.
        """
        found = torch.bincount(self._counts(x).flatten(), minlength=len(self.bias))
        self.bias.copy_(((found + 0.5) / (found + 0.5).sum()).log())

    def loss(
        self,
        x0: SparseBatch | Shaped[Tensor, "B D"],
        *,
        label: Label = None,
        generator: torch.Generator,
    ) -> Loss:
        """The bound on -log p(x0), in nats a dimension; its part "nats" is that of a row."""
        counts = self._counts(x0)
        known = hide(
            self._labels(label, len(counts)), self.classes, self.config.label_dropout, generator
        )
        masked = hide_some(*counts.shape, generator=generator).to(counts.device)
        logits = self(counts.masked_fill(masked, MASK), known)
        nats = F.cross_entropy(logits.flatten(0, 1), counts.flatten(), reduction="none")
        share = masked / masked.sum(1, keepdim=True)
        bound = self.dim * (nats.view_as(share) * share).sum(1).mean()
        return Loss(bound / self.dim, {"nats": bound})

    # -- sampling --------------------------------------------------------------------------------

    def stream(
        self, n: int, *, generator: Chance, **options: Unpack[Showing]
    ) -> Iterator[Step[Int64[Tensor, "n D"]]]:
        """All hidden -> n rows of counts; see `complete` for the options."""
        check_sampling(n, 1, "ddpm", 0.0, 1.0)
        hidden = torch.full((n, self.dim), MASK, device=self.bias.device)
        return self.complete(hidden, generator=generator, **options)

    def sample(
        self, n: int, *, generator: Chance, **options: Unpack[Showing]
    ) -> Int64[Tensor, "n D"]:
        """n rows of counts; see `complete` for the options."""
        return last(self.stream(n, generator=generator, **options))

    def impute(
        self,
        x: Shaped[Tensor, "B D"],
        observed: Bool[Tensor, "B D"],
        *,
        draws: int = 1,
        generator: Chance,
        **options: Unpack[Showing],
    ) -> Int64[Tensor, "draws B D"]:
        """Draws of what is not observed; what is comes back as it is. Draw k is the first k's."""
        shown = self._counts(torch.where(observed, x, 0)).masked_fill(~observed, MASK)
        chance = split(generator, len(x))
        each = (self.complete(shown, generator=chance, **options) for _ in range(draws))
        return torch.stack([last(steps) for steps in each])

    def complete(
        self,
        x: Int64[Tensor, "n D"],
        *,
        steps: int = 50,
        attrition: Attrition = "none",
        strength: float = 0.0,
        label: Label = None,
        guidance: float = 1.0,
        generator: Chance,
    ) -> Iterator[Step[Int64[Tensor, "n D"]]]:
        """Show every hidden entry (-1) of some rows; x0 of a step is a draw of all of them.

        Args:
            steps: network evaluations; what one step shows is drawn independently, so there should
                be several for each dimension.
            attrition: how many shown entries are hidden again at each step, and how strongly; see
                `sed_core.births.attrition_probability`.
            label: one class for all rows, one a row, or None for unconditional.
            guidance: 0 unconditional, 1 conditional, above 1 amplified.
        """
        check_sampling(len(x), steps, "ddpm", 0.0, guidance)
        plan = moves(Linear(), steps, attrition=attrition, strength=strength)
        law = self.law(self._labels(label, len(x)), guidance)
        return show(law, x, plan, generator=generator)

    def law(self, known: Int64[Tensor, " n"], guidance: float) -> Law:
        """Logits of x0 given what is shown, with guidance: a product of powers of two laws."""
        unknown = torch.full_like(known, self.classes)

        def guided(x_t: Tensor) -> Tensor:
            if guidance == 1 or bool((known == unknown).all()):
                return self(x_t, known)
            plain = self(x_t, unknown)
            return plain + guidance * (self(x_t, known) - plain) if guidance else plain

        return guided

    def _counts(self, x: SparseBatch | Shaped[Tensor, "B D"]) -> Int64[Tensor, "B D"]:
        """Counts where the model is; what is no class of it is refused."""
        counts, most = whole(x, self.dim), self.config.largest
        if counts.numel() and int(counts.max()) > most:
            raise ValueError(
                f"this model knows counts up to {most}, got {int(counts.max())}; "
                "set `largest` to that of all data"
            )
        return counts.to(self.bias.device)

    def _labels(self, label: Label, n: int) -> Int64[Tensor, " n"]:
        return labels(label, n, self.classes, self.bias.device)


def hide_some(rows: int, dim: int, *, generator: torch.Generator) -> Bool[Tensor, "rows dim"]:
    """Entries to mask: in each row a random set of 1 to `dim` of them, each number as likely."""
    number = torch.randint(1, dim + 1, (rows, 1), generator=generator)
    rank = torch.rand(rows, dim, generator=generator).argsort(1).argsort(1)
    return rank < number


# -- step ------------------------------------------------------------------------------------------


def show(
    law: Law, x: Int64[Tensor, "n D"], plan: Sequence[Move], *, generator: Chance
) -> Iterator[Step[Int64[Tensor, "n D"]]]:
    """From t = 1 down to t = 0, one evaluation a move; what is shown at the start stays so."""
    chance, fixed = split(generator, len(x)), x != MASK
    for i, move in enumerate(plan, start=1):
        x_s, x0 = show_step(law, x, move, chance=chance)
        x = torch.where(fixed, x, x_s)
        yield Step("counts", i, len(plan), move.s, x, x0)


@torch.no_grad()
def show_step(
    law: Law, x_t: Int64[Tensor, "n D"], move: Move, *, chance: Sequence[torch.Generator]
) -> tuple[Int64[Tensor, "n D"], Int64[Tensor, "n D"]]:
    """One move t -> s: x_s, and the x0 that it was drawn with.

    A hidden entry is shown with probability beta, a shown one stays so with 1 - sigma.
    """
    chosen, moved = uniform(chance, 2, x_t.shape[1]).to(x_t.device).unbind(1)
    hidden = x_t == MASK
    x0 = torch.where(hidden, draw(law(x_t), chosen), x_t)
    shown = moved < torch.where(hidden, move.beta, 1 - move.sigma)
    return torch.where(shown, x0, MASK), x0


def draw(logits: Float[Tensor, "n D K"], chosen: Float[Tensor, "n D"]) -> Int64[Tensor, "n D"]:
    """The class whose part of [0, 1) holds the uniform number; never one of probability 0."""
    below = logits.double().softmax(-1).cumsum(-1)
    place = chosen.double() * below[..., -1]
    return (below <= place[..., None]).sum(-1).clamp_max(logits.shape[-1] - 1)
