"""Genes drawn apart: the moments of a type are kept, its pairs of genes are not."""

import os
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import untouched_global_chance

from sed_core.baselines import independent
from sed_core.baselines.independent import Independent, quantile
from sed_core.chance import seeded, split
from sed_core.metrics import cells as law
from sed_core.metrics.cell_space import cells
from sed_core.sparse import SparseBatch

seeds = st.integers(0, 2**31)


def csr(x: Any) -> Any:
    return scipy.sparse.csr_matrix(np.asarray(x, dtype=np.float64))


def small(seed: int = 0, n: int = 60, dim: int = 25) -> tuple[Any, list[str]]:
    """Overdispersed cells of two types, "a" and "b"."""
    chance = np.random.default_rng(seed)
    mean = np.outer(chance.uniform(0.5, 2, n), 0.1 + chance.gamma(0.7, 2, dim))
    label = ["ab"[k % 3 == 0] for k in range(n)]
    return csr(chance.negative_binomial(1.5, 1.5 / (1.5 + mean))), label


def test_moments_are_their_definition() -> None:
    x, label = small()
    model = Independent.fit(x, label)
    assert model.types == ("a", "b")
    for k, name in enumerate(model.types):
        own = x.toarray()[[word == name for word in label]]
        s = own.sum(1)
        p = own.sum(0) / s.sum()
        mean = np.outer(s, p)
        n = len(own)
        around = ((own - mean) ** 2).sum(0) * n / (n - 1)
        f = np.maximum(0, (around - mean.sum(0)) / (mean**2).sum(0))
        assert model.rate[k].numpy() == pytest.approx(p)
        assert model.dispersion[k].numpy() == pytest.approx(f)
        assert sorted(model.libraries[k].tolist()) == sorted(s)
    batch = Independent.fit(SparseBatch.from_csr(x), label)
    assert torch.equal(batch.rate, model.rate)


def test_a_known_law_is_found_again_and_drawn_again() -> None:
    """20,000 cells of one library: rate, dispersion, variance and zeros come back."""
    n, library = 20_000, 200.0
    rate = np.array([0.005, 0.02, 0.1, 0.375, 0.5])
    f = np.array([0.0, 1.0, 0.5, 0.1, 0.0])
    model = Independent(
        ("one",),
        torch.from_numpy(rate)[None],
        torch.from_numpy(f)[None],
        (torch.tensor([library]).double(),),
    )
    drawn = model.sample(n, generator=seeded(0)).to_dense().numpy()
    mean = library * rate
    variance = mean + f * mean**2
    assert drawn.mean(0) == pytest.approx(mean, abs=5 * np.sqrt(variance.max() / n))
    assert drawn.var(0) == pytest.approx(variance, rel=0.1)  # kurtosis of f = 1: sd 2 %
    assert (drawn == np.round(drawn)).all()
    for gene in range(5):
        if f[gene]:
            r = 1 / f[gene]
            mass = scipy.stats.nbinom(r, r / (r + mean[gene])).pmf(np.arange(200))
        else:
            mass = scipy.stats.poisson(mean[gene]).pmf(np.arange(200))
        found = np.bincount(drawn[:, gene].astype(int), minlength=200)[:200] / n
        gap = np.abs(found.cumsum() - mass.cumsum()).max()
        assert gap < 2.2 / np.sqrt(n)  # Kolmogorov: 1 in 8,000 by chance
    counts = csr(drawn)
    again = Independent.fit(
        scipy.sparse.hstack([counts, csr(np.full((n, 1), 10_000.0))], format="csr"), ["one"] * n
    )
    assert again.dispersion[0, 1:4].numpy() == pytest.approx(f[1:4], rel=0.1)


@given(seeds)
def test_quantiles_are_the_smallest_counts_that_reach(seed: int) -> None:
    chance = seeded(seed)
    u, mean, f = (torch.rand(20, generator=chance, dtype=torch.float64) for _ in range(3))
    mean, f = mean * 30, f * (torch.arange(20) % 4 > 0)  # every fourth is Poisson's
    found = quantile(u, mean, f).numpy()
    for k in range(20):
        r = 1 / f[k].item() if f[k] > 0 else 0.0
        m = mean[k].item()
        own = scipy.stats.nbinom(r, r / (r + m)) if r else scipy.stats.poisson(m)
        assert own.cdf(found[k]) >= u[k].item() * (1 - 1e-9)
        assert own.cdf(found[k] - 1) < u[k].item() + 1e-9


@given(seeds)
def test_a_cell_is_the_same_alone_and_among_others(seed: int) -> None:
    model = Independent.fit(*small())
    with untouched_global_chance():
        many = model.sample(7, generator=seeded(seed))
        few = model.sample(3, generator=seeded(seed))
    assert torch.equal(many[:3].to_dense(), few.to_dense())
    alone = model.sample(1, generator=split(seeded(seed), 7)[5:6])
    assert torch.equal(many[5:6].to_dense(), alone.to_dense())


def test_blocks_of_cells_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Independent.fit(*small())
    whole = model.sample(9, generator=seeded(0)).to_dense()
    monkeypatch.setattr(independent, "BLOCK", 60)  # two cells
    assert torch.equal(model.sample(9, generator=seeded(0)).to_dense(), whole)
    assert len(model.sample(0, generator=seeded(0))) == 0


def test_types_are_drawn_as_frequent_as_they_were_or_as_asked() -> None:
    x = csr([[5, 0, 0]] * 30 + [[0, 7, 0]] * 10)
    model = Independent.fit(x, ["a"] * 30 + ["b"] * 10)
    drawn = model.sample(2000, generator=seeded(0)).to_dense()
    label = model.labels(2000, generator=seeded(0))
    shown_b = drawn[:, 1] > 0
    assert (drawn[:, 2] == 0).all()
    assert not (shown_b & (label == 0)).any()
    assert not ((drawn[:, 0] > 0) & (label == 1)).any()
    assert label.double().mean().item() == pytest.approx(0.25, abs=0.05)  # sd 0.0097
    assert (model.sample(50, label=1, generator=seeded(0)).to_dense()[:, 0] == 0).all()
    wanted = torch.tensor([0, 1, 1])
    found = model.sample(3, label=wanted, generator=seeded(1)).to_dense()
    assert ((found[:, 1] > 0) <= (wanted == 1)).all()


def test_a_type_of_one_cell_is_poisson() -> None:
    model = Independent.fit(csr([[3, 1], [9, 0], [2, 6]]), ["a", "b", "a"])
    assert model.dispersion[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("counts", "label", "words"),
    [
        (csr([[1, 2]]), [], "a type for each of 1 cells, got 0"),
        (csr([[1, 0.5]]), ["a"], "whole numbers from 0 up, got 0.5; give raw counts"),
        (csr([[1, -1]]), ["a"], "got -1"),
        (csr([[1, 1], [0, 0]]), ["a", "b"], "no cell of the type 'b' has a count"),
        (np.ones((1, 2)), ["a"], "CSR matrix or a SparseBatch, got ndarray"),
    ],
)
def test_what_cannot_be_fitted_is_refused(counts: Any, label: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Independent.fit(counts, label)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (2, "from 0 to 1"),
        (torch.tensor([0, 1]), "one for each of 3 cells"),
        (torch.tensor([0, -1, 1]), "from 0 to 1"),
    ],
)
def test_unknown_types_are_refused(label: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Independent.fit(*small()).sample(3, label=label, generator=seeded(0))


@pytest.mark.data
def test_real_cells_keep_their_genes_and_lose_how_genes_go_together() -> None:
    """PBMC3k, 60 % to fit, 40 % held out, as many drawn, of the held-out types."""
    file = anndata.read_h5ad(Path(os.environ["SED_DATA"]) / "pbmc3k.h5ad")
    every = cells(file.X, file.obs["cell_type"].astype(str).tolist())
    order = torch.randperm(len(every), generator=seeded(0))
    train, test = every[order[:1620]], every[order[1620:]]
    model = Independent.fit(train.counts, train.label or ())
    label = torch.tensor([model.types.index(name) for name in test.label or ()])
    made = cells(model.sample(len(test), label=label, generator=seeded(1)))
    floor = train[range(len(test))]
    assert law.scc(made, test) > 0.95 * law.scc(floor, test)
    assert abs(law.zero_difference(made, test)) < 1
    chosen = law.variable_genes(train)
    error, least = (law.correlation_error(some, test, chosen) for some in (made, floor))
    assert error > 1.2 * least
    assert law.library_w1(made, test) < 0.1 * test.library.mean()
