"""Metrics of cells: closed forms, scipy and scikit-learn, what must not matter, and real cells."""

import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from small import untouched_global_chance

from sed_core.chance import seeded
from sed_core.metrics import cell_report, cell_space, mixing
from sed_core.metrics import cells as law
from sed_core.metrics.cell_report import compare
from sed_core.metrics.cell_space import Cells, cells, moments, principal_axes, same_genes, stack
from sed_core.sparse import SparseBatch

seeds = st.integers(0, 2**31)
few = settings(max_examples=15)


def csr(x: Any) -> Any:
    return scipy.sparse.csr_matrix(np.asarray(x, dtype=np.float64))


def some(seed: int, n: int = 40, dim: int = 30, *, types: int = 2) -> Cells:
    """Negative binomial cells of a few types, which differ in some genes."""
    chance = np.random.default_rng(seed)
    base = chance.gamma(0.6, 2.0, dim)
    label = np.arange(n) % types
    turn = np.where(np.arange(dim) % 3 == 0, 1.0, 0.0)
    mean = base * np.exp(np.outer(label - 0.5, turn)) * chance.gamma(5, 0.2, (n, 1))
    return cells(csr(chance.negative_binomial(2.0, 2 / (2 + mean))), [f"t{k}" for k in label])


def shuffled(some: Cells, seed: int = 0) -> Cells:
    return some[torch.randperm(len(some), generator=seeded(seed))]


def axes_of(*sets: Cells, count: int = 50) -> cell_space.Axes:
    return principal_axes(stack(*sets), axes=count, name="both", generator=seeded(0))


# -- what comes in ---------------------------------------------------------------------------------


def test_counts_of_every_sparse_kind_are_the_same_cells_and_the_callers_stay_as_they_are() -> None:
    x = np.array([[0, 3.0, 1], [0, 0, 0], [2, 0, 2]])
    twins = scipy.sparse.csr_matrix(
        (np.array([1, 2, 1, 2, 2.0]), np.array([1, 1, 2, 0, 2]), np.array([0, 3, 3, 5])), (3, 3)
    )
    before = twins.data.copy()
    for given_as in (csr(x), scipy.sparse.csr_array(x), SparseBatch.from_csr(csr(x)), twins):
        found = cells(given_as, ["a", "b", "a"])
        assert found.counts.dtype == np.float64
        assert np.array_equal(found.counts.toarray(), x)
        assert found.library.tolist() == [4, 0, 4]
        assert np.array_equal(found.expression.toarray(), np.log1p(x * [[2500], [0], [2500]]))
    assert np.array_equal(twins.data, before)
    assert twins.nnz == 5
    assert found[[2, 0]].label == ("a", "a")
    assert found.of("a").tolist() == [0, 2]


@pytest.mark.parametrize(
    ("wrong", "label", "words"),
    [
        (np.ones((2, 2)), None, "CSR matrix or a SparseBatch, got ndarray"),
        (csr(np.ones((2, 2))).tocsc(), None, "got csc_matrix"),
        (csr(np.ones((0, 2))), None, "at least one cell"),
        (csr([[1.0, 0], [0, -1]]), None, "cell 1 has a count that is negative"),
        (csr([[1.0, 0], [0, np.nan]]), None, "cell 1 has a count"),
        (csr(np.ones((2, 2))), ["a"], "each of 2 cells, got 1"),
    ],
)
def test_what_is_no_cells_is_refused(wrong: Any, label: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cells(wrong, label)


def test_panels_of_other_genes_and_missing_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"panels of \[30, 31\] genes"):
        same_genes(some(0), some(0, dim=31))
    with pytest.raises(ValueError, match="no cell is of the type 'z'"):
        law.fold_changes(some(0), "t0", "z")
    with pytest.raises(ValueError, match="the type of each cell"):
        law.recovery(Cells(some(0).counts), some(1), generator=seeded(0))


@given(seeds)
def test_moments_are_those_of_the_dense_matrix(seed: int) -> None:
    x = some(seed).expression
    mean, variance = moments(x)
    assert mean.numpy() == pytest.approx(x.toarray().mean(0))
    assert variance.numpy() == pytest.approx(x.toarray().var(0, ddof=1))


# -- equal sets, orders and scales -----------------------------------------------------------------

ERRORS: dict[str, Callable[[Cells, Cells], float]] = {
    "scc": lambda a, b: 1 - law.scc(a, b),
    "pcc": lambda a, b: 1 - law.pcc(a, b),
    "zero_difference": law.zero_difference,
    "zero_error_of_genes": law.zero_error_of_genes,
    "zero_w1_of_cells": law.zero_w1_of_cells,
    "library_w1": law.library_w1,
    "mean_variance": lambda a, b: law.mean_variance_error(a, b, bins=4, least=1),
    "correlation": lambda a, b: law.correlation_error(a, b, law.variable_genes(b, 10)),
    "mmd": lambda a, b: mixing.cell_mmd(a, b, axes_of(b, count=5)),
}
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
OF_SHARES = ("scc", "pcc", "correlation", "mmd")  # of the shares of a library alone


@few
@errors
@given(seed=seeds)
def test_a_set_in_another_order_is_no_other_set(
    error: Callable[[Cells, Cells], float], seed: int
) -> None:
    a, b = some(seed), some(seed + 1)
    assert error(a, shuffled(a)) == pytest.approx(0, abs=1e-9)
    assert error(shuffled(a), shuffled(b, 3)) == pytest.approx(error(a, b), rel=1e-6, abs=1e-9)
    assert error(a, b) != 0


@few
@given(seeds, st.sampled_from(OF_SHARES))
def test_deeper_libraries_change_libraries_and_nothing_of_shares(seed: int, name: str) -> None:
    a, b = some(seed), some(seed + 1)
    deep = cells(a.counts * 4, a.label)
    assert ERRORS[name](deep, b) == pytest.approx(ERRORS[name](a, b), rel=1e-6, abs=1e-9)
    assert law.library_w1(deep, a) == pytest.approx(3 * a.library.mean().item())
    changed = law.fold_changes(deep, "t0", "t1")
    assert torch.allclose(changed, law.fold_changes(a, "t0", "t1"))


# -- gene means, zeros, spread ---------------------------------------------------------------------


def test_correlations_of_gene_means_are_scipys() -> None:
    a, b = some(0), some(1)
    means = [x.expression.toarray().mean(0) for x in (a, b)]
    assert law.scc(a, b) == pytest.approx(scipy.stats.spearmanr(*means).statistic)
    assert law.pcc(a, b) == pytest.approx(scipy.stats.pearsonr(*means).statistic)
    flat = cells(csr(np.ones((3, 30))))
    assert law.scc(flat, b) == law.pcc(flat, b) == 0
    assert math.isnan(law.scc(b, flat))
    assert math.isnan(law.pcc(b, flat))


def test_zeros_and_libraries_are_counted() -> None:
    a = cells(csr([[1, 0, 0, 0], [2, 1, 0, 0]]))  # 3 and 2 zeros of 4
    b = cells(csr([[1, 1, 0, 0], [1, 1, 1, 5]]))  # 2 and 0
    assert law.zero_share_of_genes(a).tolist() == [0, 0.5, 1, 1]
    assert law.zero_share_of_cells(a).tolist() == [0.75, 0.5]
    assert law.zero_difference(a, b) == pytest.approx(37.5)
    assert law.zero_difference(b, a) == pytest.approx(-37.5)
    assert law.zero_error_of_genes(a, b) == pytest.approx(100 * (0 + 0.5 + 0.5 + 0.5) / 4)
    assert law.zero_w1_of_cells(a, b) == pytest.approx(100 * (0.25 + 0.5) / 2)
    wanted = scipy.stats.wasserstein_distance([1, 3], [2, 8])
    assert law.library_w1(a, b) == pytest.approx(wanted)


def test_the_mean_variance_curve_is_the_median_of_each_bin_and_its_error_is_in_decades() -> None:
    wide = np.array([[8.0, 16, 80], [12, 24, 120]])  # means 10, 20, 100
    narrow = (wide + 3 * wide.mean(0)) / 4  # a quarter of the spread, of the same mean
    edges = torch.tensor([5.0, 50.0, 60.0, 500.0], dtype=torch.float64)
    curve, count = law.mean_variance_curve(cells(csr(wide)), edges)
    assert curve[[0, 2]].tolist() == pytest.approx([(8 + 32) / 2, 800])
    assert math.isnan(curve[1])
    assert count.tolist() == [2, 0, 1]
    found = law.mean_variance_error(cells(csr(narrow)), cells(csr(wide)), bins=5, least=1)
    assert found == pytest.approx(math.log10(16))
    with pytest.raises(ValueError, match="no gene of the real cells has a count"):
        law.mean_variance_error(cells(csr(wide)), cells(csr(0 * wide)))


def test_poisson_genes_lie_on_the_line_where_the_variance_is_the_mean() -> None:
    mean = np.repeat([0.5, 2.0, 8.0], 50)
    drawn = np.random.default_rng(0).poisson(mean, (4000, 150))
    edges = torch.tensor([0.25, 1.0, 4.0, 16.0], dtype=torch.float64)
    curve, _ = law.mean_variance_curve(cells(csr(drawn)), edges)
    assert curve.tolist() == pytest.approx([0.5, 2, 8], rel=0.02)  # sd of a median: below 0.6 %


# -- pairs of genes --------------------------------------------------------------------------------


def test_correlations_are_numpys_and_a_constant_gene_has_none() -> None:
    x = some(0).counts.toarray()
    x[:, 4] = 0
    a, genes = cells(csr(x)), torch.tensor([7, 2, 4, 0])
    found = law.correlations(a, genes)
    kept = [0, 1, 3]
    wanted = np.corrcoef(a.expression.toarray()[:, [7, 2, 0]].T)
    assert found[kept][:, kept].numpy() == pytest.approx(wanted)
    assert found[2].tolist() == [0, 0, 0, 0]
    b = some(1)
    gap = np.corrcoef(b.expression.toarray()[:, [7, 2, 0]].T) - wanted
    expected = np.sqrt(np.mean(gap[np.triu_indices(3, 1)] ** 2))
    assert law.correlation_error(b, a, genes[kept]) == pytest.approx(expected)
    with pytest.raises(ValueError, match="need two genes, got 1"):
        law.correlation_error(a, b, genes[:1])


def test_variable_genes_vary_most_most_first_and_ties_keep_their_order() -> None:
    x = np.array([[100, 5, 0, 0], [100, 5, 9, 9], [100, 5, 0, 0], [100, 6, 9, 9.0]])
    filled = np.c_[x, 1000 - x.sum(1)]  # libraries alike, so that gene 0 does not vary
    assert law.variable_genes(cells(csr(filled)), 3).tolist() == [2, 3, 1]


def test_independent_genes_are_as_far_as_noise_and_linked_genes_are_seen() -> None:
    """Correlations of n free cells have sd 1 / sqrt(n), differences of two sets root 2 of that."""
    n, dim = 1000, 60
    chance = np.random.default_rng(0)
    free = [cells(csr(chance.poisson(20, (n, dim)))) for _ in (0, 1)]
    genes = torch.arange(12)  # few of many: libraries hardly link them
    floor = law.correlation_error(*free, genes)
    assert floor == pytest.approx(math.sqrt(2 / n), rel=0.25)  # 66 pairs: sd 9 %
    linked = chance.poisson(20, (n, dim)) + np.where(np.arange(dim) < 12, 1, 0) * chance.poisson(
        20, (n, 1)
    )
    assert law.correlation_error(cells(csr(linked)), free[0], genes) > 5 * floor
    beyond = law.correlation_excess(*free, genes, generator=seeded(0))
    assert abs(beyond) < 0.5 * floor  # root of the mean of 66 products of sd 2 floor^2: 0.5 floor


def test_the_excess_is_the_error_of_many_cells_whatever_the_number_of_cells() -> None:
    """Pairs of genes that share a count: correlation 1/2, and none in the free set."""
    chance = np.random.default_rng(0)

    def drawn(n: int, shared: bool) -> Cells:
        own = chance.poisson(10, (n, 40, 2))
        both = chance.poisson(10, (n, 40, 1 if shared else 2))
        return cells(csr((own + both).reshape(n, 80)))

    genes = torch.arange(80)
    sets = {n: (drawn(n, True), drawn(n, False)) for n in (60, 4000)}
    many = law.correlation_error(*sets[4000], genes)
    assert many == pytest.approx(0.5 * math.sqrt(40 / 3160), rel=0.1)  # of 3,160 pairs 40
    few_cells = law.correlation_excess(*sets[60], genes, generator=seeded(0))
    assert few_cells == pytest.approx(many, rel=0.25)
    assert law.correlation_error(*sets[60], genes) > 2 * many


# -- fold changes ----------------------------------------------------------------------------------


def known(change: np.ndarray, n: int = 20) -> Cells:
    """Cells of types x and y without noise; x has the given log2 fold changes over y."""
    dim = len(change)
    y = np.full(dim, 1000.0 / dim)
    x = (y + 1) * 2.0**change - 1
    rows = [np.r_[row, 10_000 - row.sum()] for row in (x, y) for _ in range(n)]
    return cells(csr(rows), ["x"] * n + ["y"] * n)


def test_known_fold_changes_are_found_with_their_slope_and_largest_genes() -> None:
    change = np.linspace(-1.5, 1.2, 40)
    real = known(change)
    found = law.fold_changes(real, "x", "y")[:40]
    assert found.numpy() == pytest.approx(change)
    assert law.fold_changes(real, "y", "x")[:40].numpy() == pytest.approx(-change)
    same, half, turned = (
        law.recovery(known(made), real, top=10, generator=seeded(0))[0]
        for made in (change, change / 2, -change)
    )
    assert (same.first, same.second, same.genes, same.made, same.real) == (
        "x", "y", 41, (20, 20), (20, 20),
    )  # fmt: skip
    assert (same.spearman, same.slope, same.least_squares, same.overlap) == pytest.approx((1,) * 4)
    assert half.slope == pytest.approx(0.5, abs=0.01)  # the gene that fills the library is no half
    assert half.overlap == 1
    assert turned.spearman == pytest.approx(-1, abs=0.01)
    assert turned.slope == pytest.approx(-1, abs=0.02)


def test_few_noisy_cells_lower_the_plain_slope_and_not_ours() -> None:
    """Made and real cells of one law: the slope of the law is 1, whatever the noise."""
    chance = np.random.default_rng(0)
    dim, n = 3000, 15
    change = chance.normal(0, 0.15, dim)
    label = ["x"] * n + ["y"] * n

    def drawn() -> Cells:
        mean = 3 * np.exp(np.outer(np.repeat([1, 0], n), change))
        return cells(csr(chance.poisson(mean)), label)

    found = law.recovery(drawn(), drawn(), generator=seeded(0))[0]
    assert found.slope == pytest.approx(1, abs=0.12)  # 3,000 genes: sd about 0.04
    assert found.least_squares < 0.75


def test_types_of_few_cells_and_those_left_out_have_no_fold_changes() -> None:
    a = some(0, 90, types=4)
    names = lambda **options: {  # noqa: E731
        (r.first, r.second) for r in law.recovery(a, a, generator=seeded(0), **options)
    }
    assert len(names()) == 6
    assert names(least=23) == {("t0", "t1")}  # 23, 23, 22 and 22 cells
    assert names(leave_out=["t0", "t2"]) == {("t1", "t3")}
    assert names(least=50) == set()


# -- principal axes and MMD ------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim"), [(40, 30), (30, 70)])
@pytest.mark.parametrize("dense", [True, False])
def test_axes_are_those_of_scikit_learn(
    dense: bool, n: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not dense:
        monkeypatch.setattr(cell_space, "SMALL", 0)
    a, b = some(0, n, dim), some(1, n, dim)
    found = principal_axes(a, axes=7, name="a", generator=seeded(0))
    wanted = PCA(7, svd_solver="full").fit(a.expression.toarray())
    assert found.reference == "a"
    assert found.variance.numpy() == pytest.approx(wanted.explained_variance_)
    places = wanted.transform(b.expression.toarray())
    signs = np.sign((found.project(b).numpy() * places).sum(0))
    assert found.project(b).numpy() == pytest.approx(places * signs, abs=1e-7)
    assert found.project(b, most=3).numpy() == pytest.approx(found.project(b).numpy()[:, :3])
    again = principal_axes(a, axes=7, name="a", generator=seeded(0))
    assert torch.equal(found.directions, again.directions)
    other = principal_axes(a, axes=7, name="a", generator=seeded(1))
    assert torch.allclose(found.directions, other.directions, atol=1e-7)
    with pytest.raises(ValueError, match="two cells and one axis"):
        principal_axes(a[[0]], name="a", generator=seeded(0))


def test_there_are_no_more_axes_than_cells_and_genes_allow() -> None:
    assert axes_of(some(0, 6)).directions.shape == (30, 5)
    assert axes_of(some(0, 60, 8)).directions.shape == (8, 8)


def test_mmd_is_that_of_the_source_on_the_axes() -> None:
    """scDiffusion's: five summed kernels, b0 = sum(D) / (N^2 - N), diagonals included."""
    a, b = some(0), some(1)
    axes = axes_of(a, b, count=6)
    points = torch.cat([axes.project(a), axes.project(b)]).numpy()
    d = ((points[:, None] - points[None]) ** 2).sum(-1)
    base = d.sum() / (len(d) ** 2 - len(d))
    k = sum(np.exp(-d / (base / 4 * 2**i)) for i in range(5))
    n = len(a)
    wanted = k[:n, :n].mean() + k[n:, n:].mean() - k[:n, n:].mean() - k[n:, :n].mean()
    assert mixing.cell_mmd(a, b, axes) == pytest.approx(wanted)


# -- LISI ------------------------------------------------------------------------------------------


def test_lisi_is_the_inverse_simpson_index_at_that_perplexity() -> None:
    """Where every point is a neighbour of every other, the way along the graph is the distance."""
    points = torch.randn(60, 3, generator=seeded(0), dtype=torch.float64)
    group = (torch.rand(60, generator=seeded(1)) < 0.4).long()
    found = mixing.local_inverse_simpson(points, group, graph=59, walk=30)
    for row in (0, 7, 59):
        away = (points - points[row]).norm(dim=1).numpy()
        order = np.argsort(away, kind="stable")[1:31]
        d = away[order]

        def surplus(beta: float, d: np.ndarray = d) -> float:
            p = np.exp(-d * beta)
            return float(np.log(p.sum()) + beta * (d * p).sum() / p.sum() - np.log(10))

        p = np.exp(-d * scipy.optimize.brentq(surplus, 0, 100))
        share = np.bincount(group.numpy()[order], weights=p / p.sum(), minlength=2)
        assert found[row].item() == pytest.approx(1 / (share**2).sum(), rel=1e-6)


def test_lisi_walks_along_the_graph_and_not_through_the_gap() -> None:
    """On a line with steps that widen, the nearest along the way are the next ones."""
    points = torch.arange(30.0, dtype=torch.float64)[:, None] ** 1.5
    ends = mixing._graph(points, 2)
    lengths = scipy.sparse.csgraph.dijkstra(ends, directed=False)
    wanted = (points - points.T).abs().numpy()
    assert lengths == pytest.approx(wanted)


def test_lisi_is_nothing_apart_and_whole_for_one_law() -> None:
    points = torch.randn(600, 4, generator=seeded(0), dtype=torch.float64)
    group = torch.arange(600) % 2
    assert mixing.local_inverse_simpson(points, group).median().item() > 1.9
    apart = points + 100 * group[:, None]
    assert mixing.local_inverse_simpson(apart, group).max().item() == pytest.approx(1)
    order = torch.randperm(600, generator=seeded(1))
    found, turned = (mixing.local_inverse_simpson(points[k], group[k]) for k in (order[:300],) * 2)
    assert torch.equal(found, turned)
    mixed = mixing.local_inverse_simpson(points, group)
    assert torch.allclose(mixed[order], mixing.local_inverse_simpson(points[order], group[order]))


def test_a_point_that_reaches_too_few_scores_worst_and_twins_are_no_harm() -> None:
    points = torch.zeros(40, 2, dtype=torch.float64)
    points[:30] = torch.randn(30, 2, generator=seeded(0), dtype=torch.float64)
    points[30:] += 1e3  # ten twins, which reach none of the others
    group = torch.arange(40) % 2
    scores = mixing.local_inverse_simpson(points, group, graph=5, walk=20)
    assert scores[30:].tolist() == [1.0] * 10
    assert (scores[:30] > 1.05).all()
    assert scores[:30].mean() > 1.5
    near = mixing.local_inverse_simpson(points, group, graph=5, walk=9)
    assert near[30:].tolist() == pytest.approx([81 / 41] * 10)  # 4 and 5 of 9, all as near
    with pytest.raises(ValueError, match="three points and a group for each"):
        mixing.local_inverse_simpson(points[:2], group[:2])


@given(seeds, st.floats(1.5, 9))
def test_weights_have_the_entropy_of_their_perplexity(seed: int, perplexity: float) -> None:
    length = torch.rand(4, 12, generator=seeded(seed), dtype=torch.float64) + 3
    weight = mixing.perplexed(length, perplexity)
    assert weight.sum(1).tolist() == pytest.approx([1] * 4)
    entropy = -torch.xlogy(weight, weight).sum(1)
    assert entropy.tolist() == pytest.approx([math.log(perplexity)] * 4, rel=1e-6)
    assert torch.allclose(
        mixing.perplexed(0 * length, perplexity), torch.full((4, 12), 1 / 12.0).double()
    )


# -- forest ----------------------------------------------------------------------------------------


def test_the_forest_tells_sets_apart_only_where_they_differ() -> None:
    both = some(0, 240, types=1)
    a, b = both[range(120)], both[range(120, 240)]
    lost = cells(a.counts.multiply(np.arange(30) % 3 > 0).tocsr())
    auc = {
        name: mixing.forest_auc(made, b, trees=60, generator=seeded(0))
        for name, made in (("one law", a), ("lost genes", lost))
    }
    assert auc["lost genes"] > 0.95
    assert abs(auc["one law"] - 0.5) < 0.25  # 30 + 30 held out: sd 0.075
    assert auc["one law"] == mixing.forest_auc(a, b, trees=60, generator=seeded(0))
    with pytest.raises(ValueError, match="four cells a set, got 3 and 120"):
        mixing.forest_auc(a[range(3)], b, generator=seeded(0))


# -- memorisation ----------------------------------------------------------------------------------


def test_copies_of_training_cells_are_found_and_fresh_cells_are_not() -> None:
    every = some(0, 1200, 40, types=1)
    train, test, fresh = (every[range(*span)] for span in ((0, 800), (800, 1000), (1000, 1200)))
    axes = axes_of(train, test, count=10)
    honest = mixing.memorisation(fresh, train, test, axes)
    assert honest.expected == 0.8
    assert (honest.made, honest.train, honest.test) == (200, 800, 200)
    assert honest.identical == 0
    assert honest.in_train == pytest.approx(0.8, abs=0.12)  # sd 0.028
    assert honest.closer == pytest.approx(0.5, abs=0.15)  # sd 0.03
    assert honest.copies < 0.06
    copied = mixing.memorisation(train[range(200)], train, test, axes)
    assert (copied.identical, copied.copies, copied.closer, copied.in_train) == (1, 1, 1, 1)
    near = train.counts[:200] + csr(np.eye(200, 40))  # one count more, in some
    jittered = mixing.memorisation(cells(near), train, test, axes)
    assert jittered.identical == pytest.approx(0.8)
    assert jittered.in_train > 0.95
    half = stack(train[range(100)], fresh[range(100)])
    assert mixing.memorisation(half, train, test, axes).identical == 0.5


def test_empty_cells_are_no_copies_of_each_other() -> None:
    x = some(0).counts.toarray()
    x[:3] = 0
    a = cells(csr(x))
    found = mixing.memorisation(a, a, some(1), axes_of(a, some(1), count=4))
    assert found.identical == pytest.approx(37 / 40)


# -- all at once -----------------------------------------------------------------------------------


def test_the_report_is_the_same_of_a_seed_and_moves_no_global_chance() -> None:
    made, test, train = (some(k, n, 400) for k, n in enumerate((60, 50, 120)))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    with untouched_global_chance():
        one = compare(made, test, train, trees=10, generator=seeded(0))
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    again = compare(made, test, train, trees=10, generator=seeded(0))
    other = compare(made[range(55)], test, train, trees=10, generator=seeded(0))
    assert one.figures == again.figures
    assert one.memorisation == again.memorisation
    assert [f.floor for f in one.figures] == [f.floor for f in other.figures]
    assert (one.n, one.genes, one.left_out) == (50, 400, ())
    assert one.space.startswith("400 genes, log(1 + 10,000 x / library)")
    assert {"scc", "mmd", "lisi", "de_slope"} <= {figure.name for figure in one.figures}
    assert one["scc"] is next(f for f in one.figures if f.name == "scc")
    with pytest.raises(KeyError, match="no figure 'nothing'; there are scc"):
        one["nothing"]


def test_more_made_cells_are_cut_into_sets_of_one_size() -> None:
    made, test, train = (some(k, n, 400) for k, n in enumerate((190, 50, 120)))
    one = compare(made, test, train, trees=10, generator=seeded(0))
    found = compare(made, test, train, sets=9, trees=10, generator=seeded(0))
    assert (one.sets, one["scc"].sets, one["scc"].sd) == (1, 1, None)
    assert (found.n, found.sets, found["scc"].sets) == (50, 3, 3)
    assert found["scc"].sd and found["scc"].floor_sd and found["scc"].sd < 0.2
    assert found["forest_auc"].sets == found["correlation_excess"].sets == 1
    assert found["forest_auc"] == one["forest_auc"]
    assert found.memorisation.made == 150
    chance = seeded(0)
    torch.randint(2**31 - 1, (), generator=chance)  # as compare draws: a seed, axes, then cells
    principal_axes(stack(train, test), name="", generator=chance)
    rows = [torch.randperm(len(cut), generator=chance) for cut in (test, train, made)]
    each = [law.scc(made[rows[2][k : k + 50]], test[rows[0][:50]]) for k in (0, 50, 100)]
    assert found["scc"].value == pytest.approx(np.mean(each))
    assert found["scc"].sd == pytest.approx(np.std(each, ddof=1))


def test_a_floor_that_is_known_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, other, test, train = (some(k, n, 400) for k, n in enumerate((90, 95, 40, 90)))
    options: dict[str, Any] = {"sets": 2, "trees": 5}
    first = compare(made, test, train, **options, generator=seeded(0))
    whole = compare(other, test, train, **options, generator=seeded(0))
    calls: list[int] = []
    monkeypatch.setattr(cell_report, "lisi", lambda *given: calls.append(1) or 0.0)
    again = compare(other, test, train, **options, known=first, generator=seeded(0))
    assert len(calls) == 2  # sets of made cells, none of training cells
    for figure in again.figures:
        full = whole[figure.name]
        assert (figure.floor, figure.floor_sd) == (full.floor, full.floor_sd)
        assert figure.name == "lisi" or figure == full
    with pytest.raises(ValueError, match="1 sets of 40 cells is wanted, got 2 of 40"):
        compare(made[range(50)], test, train, **options, known=first, generator=seeded(0))


def test_the_noise_of_correlations_is_their_error_of_one_law() -> None:
    """Against all real cells; cells without the pairs of genes stand above it."""
    whole = some(0, 3000, 20)
    real, fresh = whole[range(1500)], whole[range(1500, 3000)]
    genes = law.variable_genes(real)
    for n in (1500, 300):
        noise = law.correlation_noise(real, genes, made=n, generator=seeded(0))
        assert law.correlation_error(fresh[range(n)], real, genes) == pytest.approx(noise, rel=0.15)
    noise = law.correlation_noise(real, genes, made=1500, generator=seeded(0))
    assert law.correlation_error(apart(fresh, 0), real, genes) > 1.2 * noise


def test_training_cells_as_made_ones_stand_at_the_floor_and_are_told_as_copies() -> None:
    test, train = some(1, 50), some(1, 130)
    found = compare(train, test, train, most=40, trees=10, generator=seeded(0))
    assert found.n == 40
    for name in ("scc", "pcc", "zero_error_of_genes"):
        assert found[name].value == pytest.approx(found[name].floor, rel=0.3, abs=0.05)
    assert found.memorisation.identical == 1
    untyped = compare(Cells(train.counts), test, train, trees=10, generator=seeded(0))
    assert not untyped.recovery
    assert "de_slope" not in {figure.name for figure in untyped.figures}


def test_a_large_panel_is_never_made_dense() -> None:
    """300 cells of 200,000 genes would be 480 MB; what is measured of them stays below 100 MB."""
    chance = np.random.default_rng(0)
    n, dim, nnz = 300, 200_000, 500
    index = np.sort(chance.integers(0, dim, (n, nnz)) // np.arange(1, 4).repeat(100)[:, None])
    counts = (np.ones(n * nnz), index.ravel(), np.arange(0, n * nnz + 1, nnz))
    x = scipy.sparse.csr_matrix(counts, shape=(n, dim))
    tracemalloc.start()
    a, b = cells(x[:150]), cells(x[150:])
    axes = principal_axes(stack(a, b), axes=5, name="both", generator=seeded(0))
    for error in (law.scc, law.zero_error_of_genes, law.mean_variance_error):
        assert error(a, b) >= 0
    assert mixing.cell_mmd(a, b, axes) > 0
    assert law.correlation_error(a, b, law.variable_genes(b)) > 0
    assert mixing.memorisation(a, b, b, axes).identical == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


# -- real cells ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pbmc() -> Cells:
    file = anndata.read_h5ad(Path(os.environ["SED_DATA"]) / "pbmc3k.h5ad")
    return cells(file.X, file.obs["cell_type"].astype(str).tolist())


def apart(some: Cells, seed: int) -> Cells:
    """Each gene's counts in another order within each type: nothing of a cell is left but its type.

    Means, zeros and variances of genes stay exactly what they were.
    """
    chance = np.random.default_rng(seed)
    columns = some.counts.tocsc()
    label = np.array(some.label)
    row = columns.indices.copy()
    parts = [np.flatnonzero(label == name) for name in np.unique(label)]
    number = np.empty(len(label), dtype=np.int64)
    for k, rows in enumerate(parts):
        number[rows] = k
    for gene in range(columns.shape[1]):
        span = slice(columns.indptr[gene], columns.indptr[gene + 1])
        own = number[row[span]]
        fresh = [chance.choice(parts[k], (own == k).sum(), replace=False) for k in np.unique(own)]
        order = np.argsort(own, kind="stable")
        placed = np.empty(len(own), dtype=row.dtype)
        placed[order] = np.concatenate(fresh) if fresh else []
        row[span] = placed
    matrix = scipy.sparse.csc_matrix((columns.data, row, columns.indptr), columns.shape)
    return cells(matrix.tocsr(), some.label)


@pytest.mark.data
@pytest.mark.slow
def test_real_cells_stand_at_the_floor_and_genes_drawn_apart_do_not(pbmc: Cells) -> None:
    order = torch.randperm(len(pbmc), generator=seeded(0))
    train, test = pbmc[order[:1620]], pbmc[order[1620:]]
    made = apart(train, 0)
    found = compare(made, test, train, trees=100, leave_out=["unassigned"], generator=seeded(0))
    assert (found.n, found.genes) == (1080, 13_714)
    assert found.left_out == ("Platelet", "unassigned")
    floor = {figure.name: figure.floor for figure in found.figures}
    assert floor["scc"] > 0.95
    assert floor["pcc"] > 0.99
    assert floor["mmd"] < 0.01
    assert floor["lisi"] > 0.9
    assert abs(floor["forest_auc"] - 0.5) < 0.08
    assert abs(floor["zero_difference"]) < 0.3
    assert floor["mean_variance_error"] < 0.05
    assert floor["de_slope"] == pytest.approx(1, abs=0.1)
    assert floor["de_least_squares"] < floor["de_slope"]
    assert floor["library_w1"] < 100
    # what is drawn apart keeps genes, loses libraries and how genes go together
    assert found["scc"].value > 0.95
    assert found["correlation_error"].value > 1.1 * floor["correlation_error"]
    assert abs(floor["correlation_excess"]) < 0.02 < found["correlation_excess"].value
    assert found["mmd"].value > 2 * floor["mmd"]
    assert found["forest_auc"].value > 0.7
    assert found["zero_w1_of_cells"].value > 3 * floor["zero_w1_of_cells"]
    assert found.memorisation.identical == 0
