"""CountsDiff: diffusion on the natural numbers. Units of a count die one by one and are born again.

    x_t ~ Bin(x_0, p_t),   y = x_0 - x_t,   rate(x_t, p_t) = E[y | x_t]
    L = E_t [ w(t) (rate - y log rate) ],   w = -p'(t)

The network is conditioned on log p / (1 - p), so it is tied to no schedule: any may be used to
sample. It is told which entries it sees clean, so one model generates and imputes. Reverse steps
are in `sed_core.births`, imputation in `sed_core.imputation`.

Source: CountsDiff (Soatto et al. 2026, arXiv 2604.03779).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar, Literal, TypedDict, Unpack, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor, nn

from sed_core.births import (
    Attrition,
    BirthLaw,
    Bounds,
    Chances,
    Drawing,
    Move,
    Rate,
    moves,
    reverse,
)
from sed_core.chance import Chance, offspring, split, uniform
from sed_core.counts_networks import (
    MLP,
    NOISED,
    SHOWN,
    UNKNOWN,
    CellNetwork,
    GeneTransformer,
    PictureUNet,
    cell_features,
    log_softplus,
    picture_features,
    vector_features,
)
from sed_core.diffusion import Label, check_sampling, hide, labels
from sed_core.imputation import Method, conditional, replace
from sed_core.inversion import binomial
from sed_core.limits import one_of
from sed_core.masks import rectangles, scattered
from sed_core.nn import FourierFeatures
from sed_core.schedules import Schedule
from sed_core.stream import Step, last
from sed_core.thinning import (
    LARGEST_LOG_ODDS,
    SURVIVAL,
    Spacing,
    SurvivalName,
    death_rate,
    log_odds,
    survival_schedule,
)
from sed_core.training import Loss

LARGEST_LOG_RATIO = 10.0  # between conditional and unconditional rate, where guidance extrapolates
EARLIEST = 1e-6  # training draws t above this; at 0 nothing is missing


class CountsSampling(TypedDict, total=False):
    """Options of the sampler; see `CountsDiff.stream`."""

    steps: int
    attrition: Attrition
    strength: float
    births: BirthLaw
    spacing: Spacing
    schedule: SurvivalName | Schedule
    label: Label
    guidance: float


class Imputing(CountsSampling, total=False):
    """Options of imputation; see `CountsDiff.impute_stream`."""

    method: Method
    wanted: Bool[Tensor, "B D"] | None
    rounds: int
    jump: int


@dataclass(frozen=True, kw_only=True)
class CountsConfig:
    """Shape of the network, and what it is trained on."""

    dim: int
    network: Literal["mlp", "genes", "unet", "cells"] = "mlp"
    width: int = 256  # of the hidden layers, or of a gene's token
    layers: int = 3
    heads: int = 4  # of the gene transformer
    side: int = 0  # of pictures, for the U-Net
    widths: tuple[int, ...] = (32, 64, 128)  # channels of each level of the U-Net
    patch: int = 2
    condition: int = 128  # width of the embedding of log-odds and class
    classes: int = 0  # 0 for no class condition
    class_names: str = ""  # one a line in the order of their numbers, the same for every split
    label_dropout: float = 0.1  # share of training rows whose class is hidden (for guidance)
    observed_rows: float = 0.8  # share of training rows that show entries; 0: can't impute so
    largest: int = 0  # count that there can be; 0 if there is no bound
    guard: int = 1_000_000  # an unbounded rate above this is cut off, with a warning
    unit: float = 1.0  # in which counts are predicted; about the mean of those that are not zero
    schedule: SurvivalName = "cosine"  # of the sampler
    training: SurvivalName = "linear"  # p(t) at t ~ U(0, 1); linear: p ~ U(0, 1) and weight 1
    weight: Literal["slope", "nll"] = "slope"

    def __post_init__(self) -> None:
        if self.dim < 1 or self.unit <= 0 or self.largest < 0 or self.guard < 1:
            raise ValueError("dim and guard are at least 1, unit above 0, largest not negative")
        if not 0 <= self.observed_rows <= 1 or not 0 <= self.label_dropout <= 1:
            raise ValueError("observed_rows and label_dropout are shares, from 0 to 1")
        if self.network == "unet" and (self.side**2 != self.dim or not self.largest):
            raise ValueError(
                f"the U-Net needs a side whose square is {self.dim} and the largest count, "
                f"got side {self.side} and largest {self.largest}"
            )
        if self.class_names and len(self.class_names.splitlines()) != self.classes:
            raise ValueError(f"class_names must name {self.classes} classes, one a line")

    @property
    def vocabulary(self) -> "Vocabulary":
        """Names of the classes."""
        return Vocabulary(tuple(self.class_names.splitlines()))


@dataclass(frozen=True)
class Vocabulary:
    """Names of classes. Made once of all data, so that numbers mean the same in every split."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ValueError("a vocabulary names each class once")

    def numbers(self, values: Sequence[str | None]) -> Int64[Tensor, " n"]:
        """The class of each value; one that is not known, or None, is "unknown", the last."""
        number = {name: k for k, name in enumerate(self.names)}
        found = [len(self.names) if v is None else number.get(v, len(self.names)) for v in values]
        return torch.tensor(found, dtype=torch.int64)


class CountsDiff(nn.Module):
    """rate(x_t, p, class) and what it is for: a loss, a bound, samples, imputations."""

    CONFIGS: ClassVar[dict[str, type[Any]]] = {"config": CountsConfig}

    def __init__(self, config: CountsConfig):
        super().__init__()
        c = self.config = config
        self.configs = {"config": config}
        self.dim, self.classes, self.side = c.dim, c.classes, c.side
        self.fourier = FourierFeatures()
        self.time = nn.Sequential(
            nn.Linear(self.fourier.width, c.condition),
            nn.SiLU(),
            nn.Linear(c.condition, c.condition),
        )
        self.label = nn.Embedding(c.classes + 1, c.condition, padding_idx=c.classes)
        self.network = _network(c)

    @property
    def device(self) -> torch.device:
        """Where the network is; states and draws are on the CPU."""
        return self.label.weight.device

    # -- the network -----------------------------------------------------------------------------

    def log_rate(
        self,
        x_t: Int64[Tensor, "B D"],
        p: Float[Tensor, " B"],
        label: Int64[Tensor, " B"],
        role: Float[Tensor, "B D"],
    ) -> Float[Tensor, "B D"]:
        """log E[x_0 - x_t | x_t]; where an entry's role is to be shown, x_t holds its clean count.

        rate = (1 - p) softplus(network): for Poisson data the second factor is the same at every p,
        and the first lets the rate vanish where nothing is missing.
        """
        odds = log_odds(p)
        condition = self.time(self.fourier((odds / 10).to(role))) + self.label(label)
        output = self.network(self._features(x_t, p, role), condition, role > UNKNOWN)
        dead = F.logsigmoid(-odds)[:, None].to(role)  # log(1 - p)
        if self.config.network == "cells":
            return dead + output.to(role)
        return log(self.config.unit) + dead + log_softplus(output.to(role))

    def _features(self, x: Tensor, p: Tensor, role: Tensor) -> Float[Tensor, "B C D"]:
        if self.config.network == "unet":
            return picture_features(x, p, role, self.config.largest)
        if self.config.network == "cells":
            return cell_features(x, p, role)
        return vector_features(x, role)

    # -- loss ------------------------------------------------------------------------------------

    def loss(
        self,
        counts: Num[Tensor, "B D"],
        *,
        label: Label = None,
        observed: Bool[Tensor, "B D"] | None = None,
        generator: torch.Generator,
    ) -> Loss:
        """E_t [ w(t) (rate - y + y log(y / rate)) ] over the entries that the network must guess.

        The total is 0 for a perfect guess; its part "poisson" lacks the terms without a rate.

        Args:
            observed: which entries of the data are known; the others are neither seen nor guessed.
        """
        x0 = self.counts(counts)
        p, weight = self._times(len(x0), generator)
        role = self._roles(x0, observed, generator)
        x_t = binomial(x0, p[:, None], _uniform(x0, generator))
        x_t = torch.where(role == SHOWN, x0, x_t)
        known = self._labels(label, len(x0))
        known = hide(known, self.classes, self.config.label_dropout, generator)
        log_rate, y = self.log_rate(x_t, p, known, role), (x0 - x_t).to(role)
        guessed = (role == NOISED).to(role)
        total, poisson = (
            (weight * (part * guessed).sum(1) / guessed.sum(1).clamp_min(1)).mean()
            for part in (bregman(y, log_rate), log_rate.exp() - y * log_rate)
        )
        return Loss(total, {"bregman": total, "poisson": poisson})

    def _times(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """p(t) and w(t) of each row; times are evenly spread over (0, 1) from a random start."""
        spread = torch.arange(n, dtype=torch.float64) / n
        start = torch.rand((), generator=generator, dtype=torch.float64)
        t = EARLIEST + (1 - EARLIEST) * ((start + spread) % 1)
        schedule = SURVIVAL[self.config.training]
        weight = (nll_weight if self.config.weight == "nll" else death_rate)(schedule, t)
        return schedule(t).to(self.device), weight.float().to(self.device)

    def _roles(
        self, x0: Tensor, known: Tensor | None, generator: torch.Generator
    ) -> Float[Tensor, "B D"]:
        """Some rows show a share of their entries, from none to all, for the rest to be imputed.

        Of every second picture that does, what is hidden is a rectangle.
        """
        share = torch.rand(len(x0), 1, generator=generator)
        shows = torch.rand(len(x0), 1, generator=generator) < self.config.observed_rows
        shown = scattered(share, self.dim, generator=generator)
        if self.side:
            whole = torch.rand(len(x0), 1, generator=generator) < 0.5
            shown = torch.where(whole, rectangles(share, self.side, generator=generator), shown)
        shown = shown & shows
        role = torch.where(shown, SHOWN, NOISED).to(self.device)
        return role if known is None else role.masked_fill(~known.to(self.device), UNKNOWN)

    # -- likelihood ------------------------------------------------------------------------------

    @torch.no_grad()
    def elbo(
        self, counts: Num[Tensor, "B D"], *, label: Label = None, draws: int = 64, generator: Chance
    ) -> Float[Tensor, " B"]:
        """A lower bound on log p(x_0) in nats a row, of `draws` network evaluations.

        log p(x_0) >= -E int (1 - p)^-1 sum_j (rate - y + y log(y / rate)) dp, integrated over
        log p / (1 - p) at evenly spread places; exact where the rate is E[y | x_t].
        """
        x0 = self.counts(counts).cpu()
        known, noised = self._labels(label, len(x0)), torch.full(x0.shape, NOISED)

        def log_rate(x_t: Tensor, p: Tensor) -> Tensor:
            return self._log_rate_on_cpu(x_t, p, known, noised)

        return elbo(log_rate, x0, draws=draws, chance=split(generator, len(x0)))

    # -- sampling --------------------------------------------------------------------------------

    def stream(
        self,
        n: int,
        *,
        steps: int = 50,
        attrition: Attrition = "none",
        strength: float = 0.02,
        births: BirthLaw = "stochastic",
        spacing: Spacing = "t",
        schedule: SurvivalName | Schedule | None = None,
        label: Label = None,
        guidance: float = 1.0,
        generator: Chance,
    ) -> Iterator[Step[Int64[Tensor, "n D"]]]:
        """From nothing to n rows of counts; steps carry births, deaths and the rate.

        Args:
            steps: network evaluations.
            attrition: how many units die again at each step; "none" is best for most models.
            strength: of attrition; see `births.attrition_probability`.
            births: "poisson" is better below about 100 steps; see `births.draw_births`.
            spacing: steps uniform in "t" or in "log_odds" of survival.
            schedule: any survival schedule; the model's own if left out.
            label: one class for all rows, one a row, or None for unconditional.
            guidance: 0 unconditional, 1 conditional, above 1 amplified.
            generator: one for all rows, or one a row.
        """
        check_sampling(n, steps, "ddpm", 0.0, guidance)
        plan = self._plan(steps, attrition, strength, births, spacing, schedule)
        x = torch.zeros(n, self.dim, dtype=torch.int64)
        rate = self.rate(self._labels(label, n), guidance, torch.full(x.shape, NOISED))
        chance = split(generator, n)
        return reverse(rate, x, plan, births=births, bounds=self.bounds, chance=chance)

    def sample(
        self, n: int, *, generator: Chance, **options: Unpack[CountsSampling]
    ) -> Int64[Tensor, "n D"]:
        """n rows of counts; see `stream` for the options."""
        return last(self.stream(n, generator=generator, **options))

    def rate(self, label: Int64[Tensor, " n"], guidance: float, role: Float[Tensor, "n D"]) -> Rate:
        """(x_t, p_t) -> E[x_0 - x_t | x_t], guided, for rows of these classes and roles.

        log rate = guidance log rate(class) + (1 - guidance) log rate(unknown)
        """
        unknown = torch.full_like(label, self.classes)
        plain = bool((label == unknown).all())
        if guidance == 0 and not plain:
            warnings.warn("guidance 0 ignores the labels; 1 follows them", stacklevel=3)

        def rate(x_t: Tensor, p_t: float) -> Tensor:
            p = torch.full((len(x_t),), p_t, dtype=torch.float64)
            if plain or guidance in (0, 1):
                asked = label if guidance else unknown
                return self._log_rate_on_cpu(x_t, p, asked, role).exp()
            both = torch.cat([label, unknown])
            twice = self._log_rate_on_cpu(x_t.repeat(2, 1), p.repeat(2), both, role.repeat(2, 1))
            with_class, without = twice.chunk(2)
            return guided(with_class, without, guidance).exp()

        return _only(rate, role > UNKNOWN)

    @property
    def bounds(self) -> Bounds:
        """What a count may not pass."""
        return Bounds(self.config.largest, float(self.config.guard))

    def _plan(
        self,
        steps: int,
        attrition: Attrition,
        strength: float,
        births: BirthLaw,
        spacing: Spacing,
        schedule: SurvivalName | Schedule | None,
    ) -> list[Move]:
        one_of("births", births, get_args(BirthLaw))
        found = survival_schedule(schedule or self.config.schedule)
        return moves(found, steps, spacing=spacing, attrition=attrition, strength=strength)

    @torch.no_grad()
    def _log_rate_on_cpu(self, x_t: Tensor, p: Tensor, label: Tensor, role: Tensor) -> Tensor:
        device = self.device
        return self.log_rate(x_t.to(device), p, label, role.to(device)).cpu()

    # -- imputation ------------------------------------------------------------------------------

    def impute(
        self,
        x: Num[Tensor, "B D"],
        observed: Bool[Tensor, "B D"],
        *,
        draws: int = 1,
        generator: Chance,
        **options: Unpack[Imputing],
    ) -> Int64[Tensor, "M B D"]:
        """Draws of what is not observed; observed entries come back as they are.

        See `impute_stream` for the options. Entries that are neither observed nor wanted come back
        as they are, too.
        """
        moves = self.impute_stream(x, observed, draws=draws, generator=generator, **options)
        found = last(moves).reshape(draws, *x.shape)
        wanted = options.get("wanted")
        drawn = observed if wanted is None else observed | wanted
        rest = x.cpu().nan_to_num() if x.is_floating_point() else x.cpu()
        return found if wanted is None else torch.where(drawn.cpu(), found, rest.long())

    def impute_stream(
        self,
        x: Num[Tensor, "B D"],
        observed: Bool[Tensor, "B D"],
        *,
        draws: int = 1,
        method: Method = "conditional",
        wanted: Bool[Tensor, "B D"] | None = None,
        rounds: int = 1,
        jump: int = 10,
        steps: int = 50,
        attrition: Attrition = "none",
        strength: float = 0.02,
        births: BirthLaw = "stochastic",
        spacing: Spacing = "t",
        schedule: SurvivalName | Schedule | None = None,
        label: Label = None,
        guidance: float = 1.0,
        generator: Chance,
    ) -> Iterator[Step[Int64[Tensor, "MB D"]]]:
        """The reverse process of what is missing: all rows of draw 1, then all of draw 2, ...

        Args:
            x: counts; where `observed` is False any number may stand, and none is looked at.
            draws: completions of each row; the first is the same whatever their number.
            method: see `sed_core.imputation`; "conditional" needs a model that was trained to it.
            wanted: entries to draw, all that are not observed if left out. One that is neither is
                hidden from the network.
            rounds, jump: of RePaint, for "replace"; see `imputation.replace`.
        """
        given, role = self._given(x, observed, wanted)
        check_sampling(draws, steps, "ddpm", 0.0, guidance)
        plan = self._plan(steps, attrition, strength, births, spacing, schedule)
        self._check_method(method, observed)
        chance = repeated(split(generator, len(x)), draws)
        given, shown, role = (part.repeat(draws, 1) for part in (given, role == SHOWN, role))
        if not bool((role == NOISED).any()):
            return iter([Step("counts", 1, 1, 0.0, given)])
        seen = role if method == "conditional" else role.masked_fill(shown, NOISED)
        rate = self.rate(self._labels(label, len(x)).repeat(draws), guidance, seen)
        law: Drawing = {"births": births, "bounds": self.bounds, "chance": chance}
        if method == "conditional":
            return conditional(rate, given, shown, plan, **law)
        return replace(rate, given, shown, plan, rounds=rounds, jump=jump, **law)

    def _given(
        self, x: Tensor, observed: Tensor, wanted: Tensor | None
    ) -> tuple[Int64[Tensor, "B D"], Float[Tensor, "B D"]]:
        """Observed counts, 0 elsewhere, and the role of each entry."""
        for mask in (observed, wanted):
            if mask is not None and mask.shape != x.shape:
                raise ValueError(
                    f"a mask has one entry for each count: wanted shape {tuple(x.shape)}, "
                    f"got {tuple(mask.shape)}"
                )
        x, observed = x.cpu(), observed.cpu()
        given = self.counts(torch.where(observed, x, 0)).cpu()
        noised = ~observed if wanted is None else wanted.cpu() & ~observed
        role = torch.full(x.shape, UNKNOWN).masked_fill(observed, SHOWN)
        return given, role.masked_fill(noised, NOISED)

    def _check_method(self, method: str, observed: Tensor) -> None:
        one_of("method", method, get_args(Method))
        unseeing = not self.config.observed_rows and method == "conditional"
        if unseeing and bool(observed.any()):
            raise ValueError(
                "this model was not trained to see observed entries (observed_rows is 0); "
                "use method='replace', or train one with observed_rows=0.8"
            )

    # -- what comes in ---------------------------------------------------------------------------

    def counts(self, x: Num[Tensor, "B D"]) -> Int64[Tensor, "B D"]:
        """The same numbers as int64 where the network is.

        Raises:
            ValueError: for what are no counts, or none that this model knows.
        """
        if x.ndim != 2 or x.shape[1] != self.dim or not len(x):
            raise ValueError(
                f"this model is for rows of {self.dim} counts, got shape {tuple(x.shape)}"
            )
        check_counts(x)
        counts, largest = x.long(), self.config.largest
        if largest and int(counts.max()) > largest:
            raise ValueError(
                f"this model knows counts up to {largest}, got {int(counts.max())}; "
                "train one whose largest is that of all data"
            )
        return counts.to(self.device)

    def _labels(self, label: Label, n: int) -> Int64[Tensor, " n"]:
        return labels(label, n, self.classes, self.device)


def check_counts(x: Num[Tensor, "B D"]) -> None:
    """Refuse what is no count, saying where the first one is.

    Raises:
        ValueError: for numbers that are negative, fractional, infinite or NaN.
    """
    bad = (x < 0) | ~x.isfinite() | (x != x.round()) if x.is_floating_point() else x < 0
    if bool(bad.any()):
        row, column = (int(k) for k in bad.nonzero()[0])
        raise ValueError(
            f"counts are whole numbers from 0 up, got {x[row, column].item():g} in row {row}, "
            f"column {column}; round or drop such entries, or mark missing ones as not observed"
        )


# -- closed forms ----------------------------------------------------------------------------------


def bregman(y: Float[Tensor, "*X"], log_rate: Float[Tensor, "*X"]) -> Float[Tensor, "*X"]:
    """rate - y + y log(y / rate): at least 0, and 0 where the rate is y."""
    return log_rate.exp() - y + torch.xlogy(y, y) - y * log_rate


def nll_weight(schedule: Schedule, t: Float[Tensor, "*X"]) -> Float[Tensor, "*X"]:
    """-p' / (1 - p): with it the loss is the likelihood of the path in continuous time."""
    return death_rate(schedule, t) / (1 - schedule(t))


def guided(
    log_rate: Float[Tensor, "n D"], plain: Float[Tensor, "n D"], guidance: float
) -> Float[Tensor, "n D"]:
    """plain + guidance (log_rate - plain); beyond both, their difference is cut off at e^10."""
    ratio = log_rate - plain
    if guidance > 1:
        ratio = ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return plain + guidance * ratio


def elbo(
    log_rate: Callable[[Tensor, Tensor], Tensor],
    x0: Int64[Tensor, "B D"],
    *,
    draws: int,
    chance: Chances,
) -> Float[Tensor, " B"]:
    """-int p sum_j (rate - y + y log(y / rate)) d log(p / (1 - p)), at evenly spread log-odds."""
    start = uniform(chance, 1, dtype=torch.float64)
    bound = torch.zeros(len(x0), dtype=torch.float64)
    for k in range(draws):
        odds = LARGEST_LOG_ODDS * (2 * (k + start) / draws - 1)
        p = odds.sigmoid()
        x_t = binomial(x0, p, uniform(chance, x0.shape[1], dtype=torch.float64))
        surprise = bregman((x0 - x_t).double(), log_rate(x_t, p.squeeze(1)).double())
        bound -= 2 * LARGEST_LOG_ODDS / draws * p.squeeze(1) * surprise.sum(1)
    return bound


def repeated(chance: Chances, draws: int) -> list[torch.Generator]:
    """A generator for each draw of each row; those of the first draw are the rows' own."""
    others = [offspring(generator, draws) for generator in chance] if draws > 1 else []
    return [*chance, *(row[k] for k in range(1, draws) for row in others)]


def _only(rate: Rate, entries: Bool[Tensor, "n D"]) -> Rate:
    """A rate that is 0 at all other entries."""
    if bool(entries.all()):
        return rate
    return lambda x_t, p_t: torch.where(entries, rate(x_t, p_t), 0.0)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def _network(c: CountsConfig) -> nn.Module:
    if c.network == "unet":
        return PictureUNet(3, c.side, c.widths, c.patch, c.condition)
    if c.network == "genes":
        return GeneTransformer(2, c.dim, c.width, c.layers, c.heads, c.condition)
    if c.network == "cells":
        return CellNetwork(c.dim, c.width, c.layers, c.condition)
    return MLP(2, c.dim, c.width, c.layers, c.condition)
