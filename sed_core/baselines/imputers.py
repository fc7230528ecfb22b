"""Plain peers of imputation: what is known of a cell by its type, its library, or nothing at all.

zeros, gene_means, type_means   one number an entry, as it was in the training cells
scaled_means                    s_c p_tg: the type's share of the gene times the cell's library
negative_binomial               draws of NB(mean s_c p_tg, dispersion f_tg), each gene by itself

    s_c = sum_observed x_cg / sum_observed p_tg     the library, as what is observed tells it

Peers that look at other genes of the cell are in `sed_core.baselines.smoothing`. All of them are
given `Known`, in which hidden counts are wiped out, so that none can look at one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float64, Int64, Shaped
from torch import Tensor

from sed_core.baselines.axes import Space, space
from sed_core.baselines.independent import Independent, quantile, zero_share
from sed_core.chance import Chance, split, uniform
from sed_core.sparse import SparseBatch

_sparse: Any = scipy.sparse  # whose own annotations say little
PER_CELL = 1e4  # what normalised counts of a cell sum to
HELD_OUT = 200  # training cells on which options are compared
BLOCK = 8  # cells drawn at once

Counts = Any  # dense counts, a SparseBatch or a scipy CSR matrix
Point = Callable[["Known"], Tensor]


@dataclass(frozen=True, eq=False)
class Known:
    """What an imputer may look at; `known` makes it. A type that is not known has number `types`.

    Raises:
        ValueError: for shapes or types that do not fit, or where a hidden count is not wiped out.
    """

    train: Float64[Tensor, "n D"]
    train_type: Int64[Tensor, " n"]
    seen: Float64[Tensor, "B D"]  # 0 where it is not observed
    observed: Bool[Tensor, "B D"]
    type: Int64[Tensor, " B"]
    types: int

    def __post_init__(self) -> None:
        if self.seen.shape != self.observed.shape or self.seen.shape[1] != self.train.shape[1]:
            raise ValueError(
                f"counts and mask need one shape of {self.train.shape[1]} genes, got "
                f"{tuple(self.seen.shape)} and {tuple(self.observed.shape)}"
            )
        for name, type_, x in (("training", self.train_type, self.train),
                               ("given", self.type, self.seen)):  # fmt: skip
            inside = (type_ >= 0) & (type_ <= self.types)
            if type_.shape != (len(x),) or not len(x) or not bool(inside.all()):
                raise ValueError(
                    f"each of {len(x)} {name} cells needs a type from 0 to {self.types}, which "
                    f"stands for unknown; got {len(type_)} types"
                )
        if bool(self.seen[~self.observed].any()):
            raise ValueError("a hidden count is not wiped out; make this by `known`")

    @cached_property
    def laws(self) -> tuple[Float64[Tensor, "T D"], Float64[Tensor, "T D"]]:
        """Share and dispersion of each gene in each type; those of all cells for the unknown."""
        everyone = Independent.fit(_csr(self.train), ["all"] * len(self.train))
        rate, dispersion = (
            part.repeat(self.types + 1, 1) for part in (everyone.rate, everyone.dispersion)
        )
        for k in numbers(self.train_type):
            own = self.train[self.train_type == k]
            if k < self.types and bool(own.any()):
                law = Independent.fit(_csr(own), ["own"] * len(own))
                rate[k], dispersion[k] = law.rate[0], law.dispersion[0]
        return rate, dispersion

    @cached_property
    def library(self) -> Float64[Tensor, "B 1"]:
        """Expected total of each cell, hidden counts included, from those that are observed."""
        expected = (self.laws[0][self.type] * self.observed).sum(1, keepdim=True)
        return self.seen.sum(1, keepdim=True) / expected.clamp_min(1e-6)

    @cached_property
    def normalised(self) -> tuple[Float64[Tensor, "n D"], Float64[Tensor, "B D"]]:
        """Counts per 10,000 of the training cells, and of the given ones where observed."""
        total = self.train.sum(1, keepdim=True)
        return (
            PER_CELL * self.train / total.clamp_min(1),
            PER_CELL * self.seen / self.library.clamp_min(1),
        )

    @cached_property
    def space(self) -> Space:
        """Principal axes of the logarithms, and where all cells are."""
        train, given = (part.log1p() for part in self.normalised)
        return space(train, given, self.observed)

    def completed(self, found: Shaped[Tensor, "*M B D"]) -> Shaped[Tensor, "*M B D"]:
        """The numbers found where nothing is observed, and the observed ones as they are."""
        return torch.where(self.observed, self.seen.to(found.dtype), found)

    def counts(self, normalised: Float64[Tensor, "B D"]) -> Float64[Tensor, "B D"]:
        """Counts per 10,000 back at the scale of each cell, observed ones as they are."""
        return self.completed(normalised.clamp_min(0) * self.library / PER_CELL)


def known(
    train: Counts,
    train_type: Int64[Tensor, " n"],
    x: Counts,
    observed: Bool[Tensor, "B D"],
    type: Int64[Tensor, " B"],
    *,
    types: int,
) -> Known:
    """Training cells whole, and of the cells x what is observed and no more."""
    seen = dense(x)
    if seen.shape != observed.shape:
        raise ValueError(
            f"a mask has one entry for each count: wanted shape {tuple(seen.shape)}, "
            f"got {tuple(observed.shape)}"
        )
    seen = torch.where(observed, seen, 0.0)
    return Known(dense(train), train_type, seen, observed, type, types)


def dense(x: Counts) -> Float64[Tensor, "n D"]:
    """Counts of any kind as a dense tensor."""
    if isinstance(x, SparseBatch):
        x = x.to_dense()
    elif _sparse.issparse(x):
        x = torch.from_numpy(np.asarray(x.toarray(), dtype=np.float64))
    return torch.as_tensor(x).double()


def numbers(type: Int64[Tensor, " n"]) -> list[int]:
    """The types that there are."""
    return cast("list[int]", type.unique().tolist())


# -- one number an entry ---------------------------------------------------------------------------


def zeros(known: Known) -> Float64[Tensor, "B D"]:
    """Nothing was there."""
    return known.completed(torch.zeros_like(known.seen))


def gene_means(known: Known) -> Float64[Tensor, "B D"]:
    """The gene's mean count in the training cells."""
    return known.completed(known.train.mean(0).expand_as(known.seen))


def type_means(known: Known) -> Float64[Tensor, "B D"]:
    """The gene's mean count in the training cells of the type; in all of them if it is unknown."""
    means = known.train.mean(0).repeat(known.types + 1, 1)
    for k in numbers(known.train_type):
        if k < known.types:
            means[k] = known.train[known.train_type == k].mean(0)
    return known.completed(means[known.type])


def scaled_means(known: Known) -> Float64[Tensor, "B D"]:
    """The gene's share of the library in the type, times the library of the cell."""
    return known.completed(known.library * known.laws[0][known.type])


# -- draws -----------------------------------------------------------------------------------------


def negative_binomial(known: Known, *, draws: int, generator: Chance) -> Int64[Tensor, "draws B D"]:
    """Draws of each gene by itself, given the type and the library of the cell.

    Draws of a cell are the same whatever other cells there are.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    chance, dim = split(generator, len(known.seen)), known.seen.shape[1]
    found = torch.zeros(draws, *known.seen.shape, dtype=torch.int64)
    for first in range(0, len(chance), BLOCK):
        rows = slice(first, first + BLOCK)
        mean, dispersion = (
            part.unsqueeze(1).expand(-1, draws, -1)
            for part in (known.library[rows] * known.laws[0][known.type[rows]],
                         known.laws[1][known.type[rows]])
        )  # fmt: skip
        u = uniform(chance[rows], draws, dim, dtype=torch.float64)
        at = (u > zero_share(mean, dispersion)) & ~known.observed[rows].unsqueeze(1)
        drawn = torch.zeros(u.shape, dtype=torch.int64)
        drawn[at] = quantile(u[at], mean[at], dispersion[at]).long()
        found[:, rows] = drawn.transpose(0, 1)
    return known.completed(found)


# -- options ---------------------------------------------------------------------------------------


@runtime_checkable
class Filler(Protocol):
    """An imputer with options that can be better or worse."""

    def fill(self, known: Known) -> Tensor: ...


F = TypeVar("F", bound=Filler)


def choose(
    options: Sequence[F], known: Known, *, rows: int = HELD_OUT, generator: torch.Generator
) -> tuple[F, list[float]]:
    """The option with the smallest RMSE at hidden entries of training cells, and that of each.

    As large a share is hidden, anywhere, as of the given cells; the cells are left out of training.
    """
    part, truth = _rehearsal(known, rows, generator)
    hidden = ~part.observed
    errors = [
        (option.fill(part) - truth)[hidden].square().mean().sqrt().item() for option in options
    ]
    return options[int(np.argmin(errors))], errors


def _rehearsal(
    given: Known, rows: int, generator: torch.Generator
) -> tuple[Known, Float64[Tensor, "B D"]]:
    """Some of the training cells in the place of the given ones, and what is hidden of them."""
    if len(given.train) < 2 * rows:
        rows = len(given.train) // 2
    if rows < 1 or bool(given.observed.all()):
        raise ValueError("options need two training cells or more, and a mask that hides something")
    order = torch.randperm(len(given.train), generator=generator)
    some, rest = order[:rows], order[rows:]
    truth, share = given.train[some], given.observed.double().mean().item()
    observed = torch.rand(truth.shape, generator=generator) < share
    train = (given.train[rest], given.train_type[rest])
    return known(*train, truth, observed, given.train_type[some], types=given.types), truth


def _csr(x: Tensor) -> Any:
    return _sparse.csr_matrix(x.numpy())
