"""Made cells in one table: every figure of `cells` and `mixing` beside its floor, n and space told.

The floor is the same figure of as many training cells: no sampler need do better. Where there are
more made cells than held-out ones, they are cut into sets of one size, and so are the training
cells; a figure is the mean over the sets, and its sd tells how much one set says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sed_core.chance import seeded
from sed_core.metrics import cells as law
from sed_core.metrics.cell_space import Axes, Cells, principal_axes, same_genes, stack
from sed_core.metrics.cells import Recovery, recovery, variable_genes
from sed_core.metrics.mixing import Memorisation, cell_mmd, forest_auc, lisi, memorisation

Compared = Callable[[Cells, Cells], float]  # made, real -> a figure
_Folds = tuple[Recovery, ...]  # of every pair of types of one set


HALVINGS = 20  # over which the excess of correlations is averaged


@dataclass(frozen=True)
class Figure:
    """One figure of made against held-out cells, and the floor: that of training cells."""

    name: str
    value: float
    floor: float
    unit: str
    best: float  # what two sets without a difference tend to as they grow
    sd: float | None = None  # of the value over sets of made cells; None for one set
    floor_sd: float | None = None
    sets: int = 1  # of made cells


@dataclass(frozen=True)
class Report:
    """All figures of a set of made cells, with what they were measured on.

    Attributes:
        n: cells of a set of made, of held-out and of training cells, as figures compare them.
        sets: of made cells; all of them together enter memorisation, the excess and the error of
            correlations against all real cells.
        space: the genes and the values that were compared.
        recovery, floor_of_recovery: fold changes of every pair of types, made and training cells.
        left_out: types with too few cells for their fold changes.
    """

    figures: tuple[Figure, ...]
    memorisation: Memorisation
    recovery: tuple[Recovery, ...]
    floor_of_recovery: tuple[Recovery, ...]
    left_out: tuple[str, ...]
    n: int
    genes: int
    space: str
    sets: int = 1

    def __contains__(self, name: str) -> bool:
        return any(figure.name == name for figure in self.figures)

    def __getitem__(self, name: str) -> Figure:
        found = {figure.name: figure for figure in self.figures}
        if name not in found:
            raise KeyError(f"no figure {name!r}; there are {', '.join(found)}")
        return found[name]


def compare(
    made: Cells,
    test: Cells,
    train: Cells,
    *,
    most: int = 10_000,
    sets: int = 1,
    trees: int = 1000,
    leave_out: Sequence[str] = (),
    known: Report | None = None,
    generator: torch.Generator,
) -> Report:
    """Every figure of made cells against held-out ones, beside that of training cells.

    Sets are cut at random to one size, because most figures depend on it. Principal axes are fitted
    on all training and held-out cells, and the 200 genes chosen on the training cells.

    Args:
        most: cells a set that are compared at most.
        sets: of made and of training cells at most, as far as they go; the forest sees the first.
        trees: of the random forest.
        leave_out: types that are none, such as "unassigned"; they have no fold changes.
        known: what came of other made cells, with the same real ones and seed: its floor is taken.

    Raises:
        ValueError: where that floor is of other sizes.
    """
    genes = same_genes(made, test, train)
    n = min(len(made), len(test), len(train), most)
    seed = int(torch.randint(2**31 - 1, (), generator=generator))  # the same forest and halves
    real = stack(train, test)
    axes = principal_axes(real, name="training and held-out", generator=generator)
    # made cells last: of one seed, every model is compared with the same cells, and has one floor
    (t,), r, m = (_cut(cut, n, k, generator) for cut, k in ((test, 1), (train, sets), (made, sets)))
    if known is not None and (known.n, known.sets, known.genes) != (n, len(m), genes):
        raise ValueError(
            f"a floor of {len(m)} sets of {n} cells is wanted, got {known.sets} of {known.n}"
        )
    them = _Sets(m, r, t, known)
    chosen = variable_genes(train)
    found, floor = _fold_changes(them, leave_out, seed)
    return Report(
        figures=(
            *_figures_of_cells(them, axes, trees, seed),
            *_figures_of_pairs(them, real, chosen, seed),
            *_figures_of_types(them, found, floor),
        ),
        memorisation=memorisation(them.together, train, test, axes),
        recovery=found[0] if found else (),
        floor_of_recovery=floor[0] if floor else (),
        left_out=_left_out(t, found[0]) if found else (),
        n=n,
        genes=genes,
        space=_SPACE.format(genes=genes, variable=len(chosen), axes=axes.directions.shape[1]),
        sets=len(m),
    )


@dataclass(frozen=True, eq=False)
class _Sets:
    """Sets of made and of training cells, each to be compared with the held-out ones."""

    made: Sequence[Cells]
    train: Sequence[Cells]
    test: Cells
    known: Report | None

    @cached_property
    def together(self) -> Cells:
        """All made cells, without their types where there are several sets."""
        return self.made[0] if len(self.made) == 1 else stack(*self.made)

    def row(
        self, name: str, figure: Compared, unit: str, best: float, *, most: int | None = None
    ) -> Figure:
        """A figure of each set, at most so many of them; the mean."""
        values = [figure(a, self.test) for a in self.made[:most]]
        return self.figure(
            name, unit, best, values, lambda: [figure(a, self.test) for a in self.train[:most]]
        )

    def figure(
        self,
        name: str,
        unit: str,
        best: float,
        values: Sequence[float],
        floors: Callable[[], Sequence[float]],
    ) -> Figure:
        """The mean of values, and of the floor's if it is not known."""
        value, sd = _mean(values)
        known = self.known if self.known and name in self.known else None
        floor, floor_sd = (known[name].floor, known[name].floor_sd) if known else _mean(floors())
        return Figure(name, value, floor, unit, best, sd, floor_sd, len(values))


def _figures_of_cells(them: _Sets, axes: Axes, trees: int, seed: int) -> list[Figure]:
    """Genes, zeros and libraries; and whether made cells lie among real ones."""

    def forest(a: Cells, b: Cells) -> float:
        return forest_auc(a, b, trees=trees, generator=seeded(seed))

    return [
        them.row("scc", law.scc, "correlation", 1.0),
        them.row("pcc", law.pcc, "correlation", 1.0),
        them.row("mmd", lambda a, b: cell_mmd(a, b, axes), "of 10", 0.0),
        them.row("lisi", lambda a, b: lisi(a, b, axes), "of 1", 1.0),
        them.row("forest_auc", forest, "AUC", 0.5, most=1),
        them.row("zero_difference", law.zero_difference, "percentage points", 0.0),
        them.row("zero_error_of_genes", law.zero_error_of_genes, "percentage points", 0.0),
        them.row("zero_w1_of_cells", law.zero_w1_of_cells, "percentage points", 0.0),
        them.row("mean_variance_error", law.mean_variance_error, "decades", 0.0),
        them.row("library_w1", law.library_w1, "counts", 0.0),
    ]


def _figures_of_pairs(them: _Sets, real: Cells, chosen: Tensor, seed: int) -> list[Figure]:
    """Correlations of genes: set by set, beyond noise, and of all made with all real cells."""
    every = them.together

    def excess(some: Cells) -> list[float]:
        chance = seeded(seed)
        return [
            law.correlation_excess(some, them.test, chosen, halvings=HALVINGS, generator=chance)
        ]

    def noise() -> list[float]:
        return [law.correlation_noise(real, chosen, made=len(every), generator=seeded(seed))]

    return [
        them.row("correlation_error", lambda a, b: law.correlation_error(a, b, chosen), "RMS", 0.0),
        them.figure(
            "correlation_excess", "RMS", 0.0, excess(every), lambda: excess(stack(*them.train))
        ),
        them.figure(
            "correlation_error_all", "RMS", 0.0, [law.correlation_error(every, real, chosen)], noise
        ),
    ]


def _figures_of_types(
    them: _Sets, found: Sequence[_Folds], floor: Sequence[_Folds]
) -> list[Figure]:
    """Medians over pairs of types; nothing where a set has no pair."""
    if not found or not all([*found, *floor]):
        return []
    return [
        them.figure(
            f"de_{name}",
            unit,
            1.0,
            [_median(one, name) for one in found],
            lambda name=name: [_median(one, name) for one in floor],
        )
        for name, unit in _RECOVERED
    ]


def _fold_changes(
    them: _Sets, leave_out: Sequence[str], seed: int
) -> tuple[list[_Folds], list[_Folds]]:
    """Of every pair of types of each set, made and training; nothing where cells have no types."""
    if any(some.label is None for some in (them.test, *them.made, *them.train)):
        return [], []

    def of(a: Cells) -> _Folds:
        return recovery(a, them.test, leave_out=leave_out, generator=seeded(seed))

    return [of(a) for a in them.made], [of(a) for a in them.train]


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sd of one set."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), sd


_RECOVERED = (
    ("spearman", "correlation"),
    ("slope", "slope"),
    ("least_squares", "slope"),
    ("overlap", "share"),
)
_SPACE = (
    "{genes} genes, log(1 + 10,000 x / library); zeros, variances and libraries of counts; "
    "{axes} principal axes of training and held-out cells; correlations of the {variable} genes "
    "that vary most in training cells"
)


def _cut(some: Cells, n: int, sets: int, generator: torch.Generator) -> list[Cells]:
    """Sets of n cells, by chance, no cell in two of them; as many as asked for or as there are."""
    order = torch.randperm(len(some), generator=generator)
    count = max(1, min(sets, len(some) // n))
    return [some[order[k * n : (k + 1) * n].sort().values] for k in range(count)]


def _median(found: Sequence[Recovery], name: str) -> float:
    """Median over pairs of types, of those that have the figure."""
    figures = [getattr(one, name) for one in found]
    return float(np.median([x for x in figures if not np.isnan(x)] or [np.nan]))


def _left_out(real: Cells, found: Sequence[Recovery]) -> tuple[str, ...]:
    """Types of the real cells that no pair has."""
    kept = {name for one in found for name in (one.first, one.second)}
    return tuple(sorted(set(real.label or ()) - kept))
