"""CountsDiff on cells: its network against exact laws, what it is told, and a training on a few."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

from sed_core import hub
from sed_core.cell_counts import (
    CELL_COUNTS_PLANS,
    cell_counts_config,
    cell_vocabulary,
    gene_means,
    train_cell_counts,
)
from sed_core.chance import seeded, split
from sed_core.counts_networks import NOISED, SHOWN, UNKNOWN, CellNetwork, cell_features
from sed_core.countsdiff import CountsConfig, CountsDiff
from sed_core.domains.cells import Cells, DataError, setup_anndata
from sed_core.inversion import binomial
from sed_core.stages import Run, Stage
from tests.small import counts, countsdiff, largest, untouched_global_chance

TYPES = ("b", "t")


def cells(n: int = 200, genes: int = 30, *, scale: float = 1.0) -> Cells:
    """Two types with other genes up, libraries that differ; every ninth cell has no type."""
    chance = np.random.default_rng(0)
    kind, size = chance.integers(0, 2, n), chance.lognormal(0, 0.5, n)
    up = np.where((np.arange(genes) % 2)[None] == kind[:, None], 3.0, 0.3)
    x = chance.poisson(size[:, None] * up)
    x[:, 0] = 0
    obs = pd.DataFrame({"kind": np.array(TYPES, dtype=object)[kind]})
    obs.index = pd.Index([f"c{k}" for k in range(n)])
    obs["cell_type"] = obs["kind"].where(np.arange(n) % 9 > 0, "unassigned")
    data = anndata.AnnData((x * scale).astype(np.float32), obs=obs)
    return setup_anndata(data, label=("cell_type", "kind"), unknown=("unassigned",))


def network(model: CountsDiff) -> CellNetwork:
    assert isinstance(model.network, CellNetwork)
    return model.network


def settled(mean: Tensor, log_shape: float) -> CountsDiff:
    """A model of genes without any dependence: NB(mean, shape) each."""
    model = CountsDiff(CountsConfig(dim=len(mean), network="cells", width=8, layers=1))
    net = network(model)
    net.start_from(mean)
    torch.nn.init.zeros_(net.leave.weight)
    torch.nn.init.zeros_(net.leave.bias)
    torch.nn.init.constant_(net.shape, log_shape)
    return model.eval()


# the network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_shape", [-1.0, 0.5, 3.0])
@pytest.mark.parametrize("p", [1e-4, 0.3, 0.97])
def test_a_gene_by_itself_has_the_rate_of_its_negative_binomial(log_shape: float, p: float) -> None:
    """E[x_0 - x_t | x_t] of NB counts, added up over x_0."""
    mean, shape = torch.tensor([0.05, 1.0, 8.0]), float(np.exp(log_shape))
    x_t = torch.tensor([[0, 0, 0], [1, 2, 5], [3, 1, 9]])
    n, odds = len(x_t), torch.full((3,), p, dtype=torch.float64)
    role = torch.full(x_t.shape, NOISED)
    found = settled(mean, log_shape).log_rate(x_t, odds, torch.zeros(n).long(), role).exp()
    x0 = np.arange(4000)
    for j, m in enumerate(mean.tolist()):
        for k in range(n):
            alive = int(x_t[k, j])
            weight = stats.nbinom.pmf(x0, shape, shape / (shape + m))
            weight = weight * stats.binom.pmf(alive, x0, p)
            want = (weight * (x0 - alive)).sum() / weight.sum()
            assert found[k, j].item() == pytest.approx(want, rel=1e-3)


def test_what_is_seen_of_a_gene_is_p_or_all_or_nothing() -> None:
    role = torch.tensor([[NOISED, SHOWN, UNKNOWN]])
    p = torch.tensor([0.25], dtype=torch.float64)
    found = cell_features(torch.tensor([[3, 4, 5]]), p, role)
    assert found.tolist() == [[[3.0, 4.0, 0.0], [0.25, 1.0, 0.0]]]


def test_a_gene_seen_to_be_zero_is_not_a_hidden_one() -> None:
    model = countsdiff(10, network="cells")
    torch.nn.init.zeros_(network(model).sizes.weight)  # so that the totals do not tell
    p, label = torch.tensor([1e-9], dtype=torch.float64), torch.tensor([3])
    hidden, shown = (torch.full((1, 10), NOISED) for _ in range(2))
    shown[0, 4] = SHOWN
    x = torch.zeros(1, 10, dtype=torch.int64)
    gap = model.log_rate(x, p, label, hidden) - model.log_rate(x, p, label, shown)
    assert gap[0, torch.arange(10) != 4].abs().min() > 1e-3


def test_no_state_of_the_network_runs_away() -> None:
    model = countsdiff(10, network="cells")
    with torch.no_grad():
        network(model).leave.bias.fill_(1e4)
    p, label = torch.zeros(2, dtype=torch.float64), torch.tensor([3, 0])
    for x in (torch.zeros(2, 10).long(), torch.full((2, 10), 10**6)):
        assert model.log_rate(x, p, label, torch.full(x.shape, NOISED)).isfinite().all()


# what it is told ----------------------------------------------------------------------------------


def test_a_label_after_the_last_class_is_no_label() -> None:
    model, x = countsdiff(network="cells"), counts()
    losses = [
        model.loss(x, label=label, generator=seeded(0)).total
        for label in (None, torch.full((7,), 3), torch.full((7,), 1))
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_training_does_not_see_what_is_not_observed() -> None:
    model, x = countsdiff(network="cells"), counts()
    observed = torch.rand(x.shape, generator=seeded(3)) < 0.6
    other = torch.where(observed, x, 55)
    a, b = (model.loss(v, observed=observed, generator=seeded(0)).total for v in (x, other))
    assert torch.equal(a, b)


def test_imputation_does_not_depend_on_what_is_hidden_nor_on_the_batch() -> None:
    model, x = countsdiff(network="cells"), counts()
    observed = torch.rand(x.shape, generator=seeded(3)) < 0.6
    options: Any = {"draws": 3, "steps": 6, "label": 1, "births": "poisson"}
    found = model.impute(x, observed, generator=seeded(0), **options)
    other = model.impute(torch.where(observed, x, 99), observed, generator=seeded(0), **options)
    assert torch.equal(found, other)
    assert bool((found == x)[:, observed].all())
    some = slice(2, 5)
    chance = split(seeded(0), len(x))[some]
    part = model.impute(x[some], observed[some], generator=chance, **options)
    assert torch.equal(part, found[:, some])


# recipe -------------------------------------------------------------------------------------------


def test_the_configuration_fits_the_cells() -> None:
    some = cells()
    found = cell_counts_config(some)
    assert (found.dim, found.classes) == (30, 2)
    assert found.vocabulary.names == TYPES
    assert found.observed_rows > 0  # so that it can impute
    assert cell_counts_config(some, label="kind") == found
    assert cell_vocabulary(some, label="kind").label == "kind"
    bare = replace(some, labels={})
    assert cell_counts_config(bare).classes == 0
    assert cell_vocabulary(bare).labels == ()
    with pytest.raises(ValueError, match="only cell_type, kind"):
        cell_counts_config(some, label="batch")
    with pytest.raises(DataError, match="raw counts were wanted"):
        cell_counts_config(cells(scale=0.5))


def test_a_file_of_2000_genes_is_small() -> None:
    config = replace(cell_counts_config(cells()), dim=2_000, classes=9, class_names="")
    numbers = sum(part.numel() for part in CountsDiff(config).parameters())
    assert numbers < 1.2e6  # at a byte each, with their steps, below 1.3 MB


def test_gene_means_are_of_all_cells_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sed_core.cell_counts.AT_ONCE", 7)
    some = cells()
    want = some.counts().double().mean(0)
    assert want[0] == 0
    want[0] = 0.5 / len(some)
    assert largest(gene_means(some), want) < 1e-12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A short training on small cells: its folder, and the losses."""
    run = Run(tmp_path_factory.mktemp("cells"), 0, torch.device("cpu"))
    plan = {"counts": Stage(steps=150, rows=64, lr=3e-3, ema=0.95)}
    with untouched_global_chance():
        moves = train_cell_counts("counts-tiny", cells(), plan, run, "sed-core train counts-tiny")
        losses = [move.total.item() for move in moves]
    return run.out / "checkpoint", losses


def test_training_falls_and_leaves_a_checkpoint(trained: tuple[Path, list[float]]) -> None:
    folder, losses = trained
    assert sum(losses[-30:]) < 0.9 * sum(losses[:30])
    assert hub.vocabulary(folder) == cell_vocabulary(cells())
    model = hub.load(folder, device="cpu")
    assert isinstance(model, CountsDiff)
    assert model.config == cell_counts_config(cells())
    assert hub.figures(folder)["recipe"] == "sed-core train counts-tiny"
    assert largest(network(model).get_buffer("usual").double(), gene_means(cells())) < 1e-6


def test_what_it_makes_has_the_types_and_libraries_of_the_cells(
    trained: tuple[Path, list[float]],
) -> None:
    model, real = hub.load(trained[0], device="cpu"), cells().counts().double()
    assert isinstance(model, CountsDiff)
    label = torch.arange(300) % 2
    made = model.sample(300, label=label, steps=30, births="poisson", generator=seeded(0)).double()
    odd, even = made[:, 1::2].sum(1), made[:, 2::2].sum(1)
    assert ((odd > even) == (label == 1)).double().mean() > 0.95
    assert made.mean().item() == pytest.approx(real.mean().item(), rel=0.15)
    assert made.sum(1).std().item() == pytest.approx(real.sum(1).std().item(), rel=0.3)


def test_imputation_follows_what_is_shown(trained: tuple[Path, list[float]]) -> None:
    """Half of a cell tells its size and its type, without a label."""
    model, x = hub.load(trained[0], device="cpu"), cells().counts()[:60]
    assert isinstance(model, CountsDiff)
    observed = torch.rand(x.shape, generator=seeded(1)) < 0.5
    draws = model.impute(
        x, observed, draws=20, steps=15, births="poisson", generator=seeded(0)
    ).double()
    hidden = ~observed
    guess, truth = draws.mean(0)[hidden], x.double()[hidden]
    assert np.corrcoef(guess, truth)[0, 1] > 0.6
    assert guess.mean().item() == pytest.approx(truth.mean().item(), rel=0.1)
    spread = (draws[:, hidden] - truth).square().mean() - (guess - truth).square().mean()
    assert 0.5 < (spread / (guess - truth).square().mean()).item() < 1.5  # draws as far as truth


def test_plans_are_within_the_budget() -> None:
    assert CELL_COUNTS_PLANS.keys() == {"cpu", "gpu"}
    assert all(plan.keys() == {"counts"} for plan in CELL_COUNTS_PLANS.values())


def test_noised_counts_scale_with_p() -> None:
    """The network sees a cell of twice the counts at half of p as one of the same expected size."""
    x0 = torch.full((400, 10), 40)
    u = torch.rand(400, 10, generator=seeded(0), dtype=torch.float64)
    x_t = binomial(x0, torch.tensor(0.5, dtype=torch.float64), u)
    model = settled(torch.full((10,), 40.0), 7.0)
    p = torch.full((400,), 0.5, dtype=torch.float64)
    rate = model.log_rate(x_t, p, torch.zeros(400).long(), torch.full((400, 10), NOISED)).exp()
    assert rate.mean().item() == pytest.approx(20, rel=0.02)
