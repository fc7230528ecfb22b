"""Plain imputers: closed forms, no look at what is hidden; what is observed comes back as it is."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from small import untouched_global_chance
from torch import Tensor

from sed_core.baselines.axes import leading, placed
from sed_core.baselines.binned import EXACT, Bins, binned, train_binned
from sed_core.baselines.imputers import (
    Known,
    choose,
    gene_means,
    known,
    negative_binomial,
    scaled_means,
    type_means,
    zeros,
)
from sed_core.baselines.independent import Independent
from sed_core.baselines.smoothing import LowRank, Smoothing, even, kernel
from sed_core.chance import seeded, split
from sed_core.sparse import SparseBatch

Fill = Callable[[Known], Tensor]
PLAIN: dict[str, Fill] = {
    "zeros": zeros,
    "gene_means": gene_means,
    "type_means": type_means,
    "scaled_means": scaled_means,
}
OTHERS: dict[str, Fill] = {
    f"{type(option).__name__} {option.values}": option.fill
    for option in (
        Smoothing(5, 1, "log"), Smoothing(5, 3, "linear"), Smoothing(5, 2, "root"),
        LowRank(3, 4, "log"), LowRank(3, 4, "root"), LowRank(3, 4, "linear"),
    )
}  # fmt: skip
DRAWS: dict[str, Fill] = {
    "draws": lambda given: negative_binomial(given, draws=3, generator=seeded(0)),
}
EVERY = PLAIN | OTHERS | DRAWS


def cells(n: int = 80, dim: int = 15, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Counts that follow type (0, 1; 2 is unknown) and library."""
    chance = np.random.default_rng(seed)
    kind = chance.integers(0, 2, n)
    rate = np.random.default_rng(99).gamma(1.0, 2.0, (2, dim))
    x = chance.negative_binomial(4, 4 / (4 + rate[kind] * chance.uniform(0.4, 2.0, (n, 1))))
    kind[::10] = 2
    return torch.from_numpy(x), torch.from_numpy(kind)


def given(seed: int = 1, share: float = 0.6, change: int = 0) -> tuple[Known, Tensor]:
    """Something to fill in, its hidden counts larger by `change`; and its truth."""
    train, train_type = cells()
    x, own = cells(20, seed=seed)
    observed = torch.rand(x.shape, generator=seeded(seed)) < share
    return known(train, train_type, x + change * ~observed, observed, own, types=2), x


@pytest.mark.parametrize("name", EVERY)
def test_no_imputer_sees_a_hidden_count(name: str) -> None:
    """Other numbers under the mask change nothing; another observed one does."""
    a, _ = given()
    b, _ = given(change=1000)
    with untouched_global_chance():
        filled = EVERY[name](a)
    assert torch.equal(filled, EVERY[name](b))
    x = a.seen.clone()
    x[0, a.observed[0].nonzero()[0]] += 50
    other = EVERY[name](known(a.train, a.train_type, x, a.observed, a.type, types=2))
    changed = (other != filled)[..., 0, :] & ~a.observed[0]
    assert bool(changed.any()) == (name not in ("zeros", "gene_means", "type_means"))
    assert torch.equal(other[..., 1:, :], filled[..., 1:, :]) or name.startswith("LowRank")


@pytest.mark.parametrize("name", EVERY)
def test_observed_counts_come_back_and_others_are_counts_or_means_of_some(name: str) -> None:
    a, _ = given()
    filled = EVERY[name](a)
    assert torch.equal(torch.where(a.observed, filled.double(), 0.0),
                       torch.where(a.observed, a.seen, 0.0).expand(filled.shape))  # fmt: skip
    assert bool((filled >= 0).all())
    assert bool(filled.double().isfinite().all())
    assert filled.dtype == (torch.int64 if name == "draws" else torch.float64)


def test_a_hidden_count_that_is_not_wiped_out_is_refused() -> None:
    x, own = cells()
    everything = torch.zeros(x.shape, dtype=torch.bool)
    with pytest.raises(ValueError, match="not wiped out"):
        Known(x.double(), own, x.double(), everything, own, 2)
    with pytest.raises(ValueError, match="wanted shape"):
        known(x, own, x[1:], everything, own, types=2)
    with pytest.raises(ValueError, match="type from 0 to 1"):
        known(x, own, x, everything, own, types=1)


def test_means_are_their_definition() -> None:
    a, _ = given()
    hidden = ~a.observed
    for k in range(3):
        own = a.train if k == 2 else a.train[a.train_type == k]
        at = hidden & (a.type == k)[:, None]
        assert torch.allclose(type_means(a)[at], own.mean(0).expand_as(at)[at])
        share = own.sum(0) / own.sum()
        for row in (a.type == k).nonzero().flatten():
            seen = a.observed[row]
            library = a.seen[row].sum() / share[seen].sum()
            assert torch.allclose(scaled_means(a)[row][~seen], library * share[~seen])
    assert torch.allclose(gene_means(a)[hidden], a.train.mean(0).expand_as(hidden)[hidden])
    assert not zeros(a)[hidden].any()


def test_counts_come_in_any_form() -> None:
    a, x = given()
    forms = (
        (scipy.sparse.csr_matrix(a.train.numpy()), scipy.sparse.csr_matrix(x.numpy())),
        (SparseBatch.from_dense(a.train.float()), SparseBatch.from_dense(x.float())),
    )
    for train, own in forms:
        b = known(train, a.train_type, own, a.observed, a.type, types=2)
        assert torch.equal(b.train, a.train)
        assert torch.equal(b.seen, a.seen)


def test_draws_follow_the_law_of_the_type_at_the_library_of_the_cell() -> None:
    """Mean and variance of 1,500 draws, and each cell's are the same beside other cells."""
    a, _ = given()
    x = negative_binomial(a, draws=1500, generator=seeded(0)).double()
    mean = scaled_means(a)
    own = [Independent.fit(scipy.sparse.csr_matrix(a.train[a.train_type == k].numpy()),
                           ["t"] * int((a.train_type == k).sum())) for k in (0, 1)]  # fmt: skip
    typed = ~a.observed & (a.type < 2)[:, None]
    f = torch.stack([own[min(int(k), 1)].dispersion[0] for k in a.type])
    variance = mean + f * mean**2
    error = (x.mean(0) - mean)[typed] / (variance[typed] / 1500).sqrt()
    assert error.abs().max() < 5
    assert ((x.var(0) / variance)[typed & (mean > 0.5)] - 1).abs().max() < 0.35
    chance = split(seeded(0), len(a.seen))
    part = known(a.train, a.train_type, a.seen[5:8], a.observed[5:8], a.type[5:8], types=2)
    some = negative_binomial(part, draws=4, generator=chance[5:8])
    whole = negative_binomial(a, draws=4, generator=seeded(0))
    assert torch.equal(some, whole[:, 5:8])


def structured(seed: int = 0, n: int = 300, dim: int = 40) -> Known:
    """Counts that follow three directions and no type."""
    chance = np.random.default_rng(seed)
    rate = chance.gamma(0.3, 1.0, (n, 3)) @ chance.gamma(0.3, 8.0, (3, dim))
    x = torch.from_numpy(chance.poisson(rate))
    observed = torch.rand(60, dim, generator=seeded(seed)) < 0.6
    own = torch.zeros(n, dtype=torch.int64)
    return known(x[60:], own[60:], x[:60], observed, own[:60], types=1)


def error(fill: Fill, a: Known, truth: Tensor) -> float:
    return (fill(a) - truth)[~a.observed].square().mean().sqrt().item()


def test_what_looks_at_other_genes_beats_what_does_not_where_genes_go_together() -> None:
    chance = np.random.default_rng(0)
    rate = chance.gamma(0.3, 1.0, (300, 3)) @ chance.gamma(0.3, 8.0, (3, 40))
    truth = torch.from_numpy(chance.poisson(rate))[:60]
    a = structured()
    assert torch.equal(a.seen[a.observed].long(), truth[a.observed])
    floor = error(scaled_means, a, truth)
    assert error(Smoothing(10, 2, "linear").fill, a, truth) < 0.85 * floor
    assert error(LowRank(3, 10, "root").fill, a, truth) < 0.85 * floor
    best, errors = choose((LowRank(1, 1), LowRank(3, 10, "root")), a, generator=seeded(0))
    assert best == LowRank(3, 10, "root")
    assert errors[1] < errors[0]


def test_options_are_chosen_without_the_given_cells() -> None:
    """Whatever the given cells hold, the errors of the options are the same."""
    a = structured()
    options = (Smoothing(5, 1), Smoothing(20, 2))
    b = known(a.train, a.train_type, 7 + a.seen, a.observed, a.type, types=1)
    _, first = choose(options, a, rows=50, generator=seeded(3))
    _, second = choose(options, b, rows=50, generator=seeded(3))
    assert first == second
    whole = known(a.train, a.train_type, a.seen, torch.ones_like(a.observed), a.type, types=1)
    with pytest.raises(ValueError, match="hides something"):
        choose(options, whole, generator=seeded(0))


def test_axes_are_singular_vectors_and_a_whole_cell_is_placed_on_them() -> None:
    x = torch.randn(30, 12, generator=seeded(0), dtype=torch.float64)
    axes = leading(x, 4)
    exact = torch.linalg.svd(x, full_matrices=False)[2][:4].T
    assert torch.allclose((axes * exact).sum(0).abs(), torch.ones(4).double())
    everything, nothing = torch.ones(30, 12).bool(), torch.full((4,), 1e-12).double()
    assert torch.allclose(placed(x, everything, axes, nothing), x @ axes)
    inside = (x @ axes) @ axes.T  # what lies on the axes is found again from half of the genes
    half = torch.arange(12).expand(30, 12) % 2 == 0
    assert torch.allclose(placed(inside, half, axes, nothing), x @ axes, atol=1e-6)


def test_neighbours_weigh_by_their_distance_over_that_of_a_near_one() -> None:
    b = torch.tensor([[0.0], [1.0], [2.0], [10.0]]).double()
    weight = kernel(torch.zeros(1, 1).double(), b, 3)
    assert weight.toarray()[0] == pytest.approx([1.0, np.exp(-1), np.exp(-4), 0.0])
    assert even(weight).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("make", [lambda: Smoothing(0), lambda: Smoothing(rounds=0),
                                  lambda: LowRank(0), lambda: LowRank(rounds=0)])  # fmt: skip
def test_options_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make()


# -- masked diffusion of bins ----------------------------------------------------------------------


def test_bins_hold_every_count_once_and_small_ones_alone() -> None:
    x = torch.cat([torch.arange(40).repeat(3), torch.tensor([200, 419])])[None]
    bins = Bins.of(x)
    found = bins.classes(x)
    assert torch.equal(found[x < EXACT], x[x < EXACT])
    width = bins.first.diff()[EXACT:]
    assert bool((width <= bins.first[EXACT:-1] / 6).all())
    assert int(bins.start.diff().sum()) == x.numel()
    for k in range(len(bins.first)):  # whatever is drawn of a class is of that class
        u = torch.linspace(0, 0.999, 50)
        back = bins.drawn(torch.full((50,), k), u)
        assert bool((bins.classes(back) == k).all())
    exact = torch.arange(EXACT)
    assert torch.equal(bins.drawn(exact, torch.full((EXACT,), 0.5)), exact)
    two = Bins.of(torch.tensor([[30, 30, 30, 31]]))
    drawn = two.drawn(two.classes(torch.full((1000,), 30)), torch.rand(1000, generator=seeded(0)))
    assert (drawn == 30).double().mean() == pytest.approx(0.75, abs=0.05)


def test_a_masked_diffusion_starts_from_each_gene_and_learns_to_fill_in() -> None:
    x, own = cells(300, 10, seed=5)
    x[:, 3] += 20
    with untouched_global_chance():
        peer = binned(x, classes=2, embedding=6, width=24, seed=0)
    observed = torch.rand(40, 10, generator=seeded(0)) < 0.5

    def filled(change: int = 0, steps: int = 1) -> Tensor:
        given = x[:40] + change * ~observed
        return peer.impute(
            given, observed, draws=20, steps=steps, label=own[:40], generator=seeded(0)
        )

    first = filled()
    assert torch.equal(first, filled(change=9999))  # no look at what is hidden
    assert torch.equal(first[:, observed], x[:40][observed].expand(20, -1))
    large = torch.arange(10) == 3
    high, others = (first.double()[:, ~observed & some].mean() for some in (large, ~large))
    assert high > 3 * others
    for _ in train_binned(peer, x, own, steps=60, rows=64, lr=1e-2, seed=0):
        pass
    truth, hidden = x[:40].double(), ~observed
    before, after = (
        (draws.double().mean(0) - truth)[hidden].square().mean() for draws in (first, filled())
    )
    assert after < before
    assert torch.equal(filled(steps=3)[:, observed], x[:40][observed].expand(20, -1))
