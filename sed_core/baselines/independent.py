"""The floor of every model of cells: genes drawn one by one, from a law for each type.

    x_cg ~ NB(mean s_c p_g, variance m + f_g m^2),   m = s_c p_g,   s_c the library of a real cell

with p and f of each type by moments: p_g = sum_c x_cg / sum_c s_c, and f_g from the squares around
s_c p_g. It keeps gene means, variances and libraries of a type, and nothing of how genes go
together within one. Poisson where counts spread no more than that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import scipy.stats
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from sed_core.chance import Chance, split, uniform
from sed_core.sparse import SparseBatch

_sparse: Any = scipy.sparse  # whose own annotations say little
_laws: Any = scipy.stats
BLOCK = 2**21  # uniform numbers at once: 16 MB
POISSON = 1e-6  # dispersion below which a law is Poisson's


@dataclass(frozen=True, eq=False)
class Independent:
    """Rates and dispersions of each gene in each type, and the libraries of the type's cells."""

    types: tuple[str, ...]
    rate: Float64[Tensor, "T D"]  # expected share of the library
    dispersion: Float64[Tensor, "T D"]  # variance = mean + dispersion mean^2
    libraries: tuple[Float64[Tensor, " _"], ...]  # one tensor a type

    @classmethod
    def fit(cls, counts: Any, label: Sequence[str]) -> "Independent":
        """By moments, from a SparseBatch or a CSR matrix of counts and the type of each cell.

        Raises:
            ValueError: for counts that are none, for cells without labels and for types in which
                no gene has a count.
        """
        x = _checked(counts)
        if len(label) != x.shape[0] or not len(label):
            raise ValueError(f"wanted a type for each of {x.shape[0]} cells, got {len(label)}")
        names = np.array([str(name) for name in label])
        types = tuple(str(name) for name in np.unique(names))
        laws = [_moments(x[np.flatnonzero(names == name)], name) for name in types]
        rate, dispersion, libraries = zip(*laws, strict=True)
        return cls(types, torch.stack(rate), torch.stack(dispersion), tuple(libraries))

    def sample(
        self, n: int, *, label: int | Int64[Tensor, " n"] | None = None, generator: Chance
    ) -> SparseBatch:
        """n cells, of the given types or else of types as frequent as they were.

        Args:
            label: number of a type in `types`, one for all cells or one for each.
            generator: cell k of a seed is the same whatever n is.
        """
        generators = split(generator, n)
        chosen = self.labels(n, label=label, generator=generators)
        library = _picked([self.libraries[int(k)] for k in chosen], generators)
        size = max(1, BLOCK // self.rate.shape[1])
        rows = [
            self._draw(chosen[k : k + size], library[k : k + size], generators[k : k + size])
            for k in range(0, n, size)
        ]
        empty = _sparse.csr_matrix((0, self.rate.shape[1]), dtype=np.float32)
        return SparseBatch.from_csr(_sparse.vstack([*rows, empty], format="csr"))

    def labels(
        self, n: int, *, label: int | Int64[Tensor, " n"] | None = None, generator: Chance
    ) -> Int64[Tensor, " n"]:
        """The type of each of n cells; those that are not given are drawn, one number a cell.

        Of the same seed they are the types of what `sample` draws.
        """
        if label is None:
            share = torch.tensor([len(sizes) for sizes in self.libraries]).double()
            ends = share.cumsum(0) / share.sum()
            u = uniform(split(generator, n), 1, dtype=torch.float64).squeeze(1)
            return torch.searchsorted(ends, u, right=True).clamp(max=len(ends) - 1)
        found = torch.as_tensor(label)
        if found.shape not in ((), (n,)) or found.is_floating_point():
            raise ValueError(f"label must be one whole number, or one for each of {n} cells")
        if not bool(((found >= 0) & (found < len(self.types))).all()):
            raise ValueError(f"label must be from 0 to {len(self.types) - 1}, got {label}")
        return found.long().expand(n)

    def _draw(self, label: Tensor, library: Tensor, generators: Sequence[torch.Generator]) -> Any:
        """Counts of a block of cells, each the quantile of its law at a uniform number."""
        mean = library[:, None] * self.rate[label]
        dispersion = self.dispersion[label]
        u = uniform(generators, mean.shape[1], dtype=torch.float64)
        row, gene = (u > zero_share(mean, dispersion)).nonzero(as_tuple=True)
        parts = (u[row, gene], mean[row, gene], dispersion[row, gene])
        found = quantile(*parts).numpy().astype(np.float32)
        return _sparse.csr_matrix((found, (row.numpy(), gene.numpy())), shape=mean.shape)


def quantile(
    u: Float64[Tensor, " K"], mean: Float64[Tensor, " K"], dispersion: Float64[Tensor, " K"]
) -> Float64[Tensor, " K"]:
    """Smallest count whose negative binomial distribution function reaches u."""
    found = torch.empty_like(mean)
    plain = dispersion <= POISSON
    found[plain] = _array(_laws.poisson.ppf(u[plain].numpy(), mean[plain].numpy()))
    r = 1 / dispersion[~plain]
    success = (r / (r + mean[~plain])).numpy()
    found[~plain] = _array(_laws.nbinom.ppf(u[~plain].numpy(), r.numpy(), success))
    return found


def zero_share(
    mean: Float64[Tensor, "*X"], dispersion: Float64[Tensor, "*X"]
) -> Float64[Tensor, "*X"]:
    """P(0) = (1 + f m)^(-1 / f), or exp(-m)."""
    f = dispersion.clamp(min=POISSON)
    return torch.where(dispersion <= POISSON, (-mean).exp(), (-(f * mean).log1p() / f).exp())


def _moments(x: Any, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Rate and dispersion of each gene of one type, and the libraries of its cells."""
    library = np.asarray(x.sum(1), dtype=np.float64).ravel()
    total, squares, n = library.sum(), (library**2).sum(), len(library)
    if not total > 0:
        raise ValueError(f"no cell of the type {name!r} has a count; leave the type out")
    rate = np.asarray(x.sum(0), dtype=np.float64).ravel() / total
    own = np.asarray(x.power(2).sum(0), dtype=np.float64).ravel()
    around = own - 2 * rate * (x.T @ library) + rate**2 * squares  # sum of (x - s p)^2
    excess = around * n / max(1, n - 1) - rate * total
    wanted = np.divide(excess, rate**2 * squares, where=rate > 0, out=np.zeros_like(rate))
    dispersion = np.maximum(wanted, 0.0) if n > 1 else np.zeros_like(rate)
    return torch.from_numpy(rate), torch.from_numpy(dispersion), torch.from_numpy(library)


def _picked(libraries: Sequence[Tensor], generators: Sequence[torch.Generator]) -> Tensor:
    """One library of each list."""
    drawn = [
        sizes[int(torch.randint(len(sizes), (), generator=own))]
        for sizes, own in zip(libraries, generators, strict=True)
    ]
    return torch.stack(drawn) if drawn else torch.zeros(0, dtype=torch.float64)


def _checked(counts: Any) -> Any:
    """Counts as a float64 CSR matrix of whole numbers from 0 up."""
    x = counts.to_csr() if isinstance(counts, SparseBatch) else counts
    if not _sparse.issparse(x) or x.format != "csr":
        raise ValueError(f"wanted a CSR matrix or a SparseBatch, got {type(counts).__name__}")
    x = _sparse.csr_matrix(x, dtype=np.float64)
    data = np.asarray(x.data)
    bad = np.flatnonzero(~np.isfinite(data) | (data < 0) | (data != np.round(data)))
    if len(bad):
        value = data[bad[0]]
        raise ValueError(f"counts are whole numbers from 0 up, got {value:g}; give raw counts")
    return x


def _array(x: Any) -> Tensor:
    return torch.from_numpy(np.asarray(x, dtype=np.float64))
