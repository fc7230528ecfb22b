"""Peers of cells: trained on counts and types in part unknown, kept with genes, small enough."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from sed_core import hub
from sed_core.baselines import LDM, GatedLogGaussian, LogGaussian, NegativeBinomialVAE
from sed_core.cell_peers import CELL_PEER_PLANS, CELL_PEER_TRAINERS
from sed_core.chance import seeded
from sed_core.domains.cells import Cells, setup_anndata
from sed_core.domains.source import DataError
from sed_core.stages import Run, Stage
from sed_core.weights import WEIGHTS

LARGEST = 725_000  # bytes of the weights of one peer of 2,000 genes
TINY = Stage(steps=2, rows=4, lr=1e-3)
FAMILIES = {"ddpm": GatedLogGaussian, "ldm": LDM, "nbvae": NegativeBinomialVAE}
every_peer = pytest.mark.parametrize("family", FAMILIES)


def some_cells(n: int = 12, dim: int = 30, part: float = 1.0) -> Cells:
    """Counts of two types; every third cell is of none that is known."""
    counts = np.random.default_rng(0).poisson(1.0, (n, dim)) * part
    types = pd.Categorical([["a", "b", "unassigned"][k % 3] for k in range(n)])
    data = anndata.AnnData(
        scipy.sparse.csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame({"kind": types}, index=[f"c{k}" for k in range(n)]),
        var=pd.DataFrame(index=[f"g{k}" for k in range(dim)]),
    )
    return setup_anndata(data, label="kind", unknown=("unassigned",))


def tiny(family: str) -> dict[str, Stage]:
    return dict.fromkeys(CELL_PEER_PLANS[family]["cpu"], TINY)


def train(family: str, cells: Cells, out: Path, **options: Any) -> list[tuple[str, int]]:
    run = Run(out, 0, torch.device("cpu"))
    name = f"{family}-some"
    told = CELL_PEER_TRAINERS[family](name, cells, tiny(family), run, "the command", **options)
    return [(p.stage, p.step) for p in told]


@every_peer
def test_a_peer_of_2_000_genes_trains_goes_on_and_leaves_a_small_checkpoint_of_counts(
    family: str, tmp_path: Path
) -> None:
    cells = some_cells(dim=2_000)
    wanted = [(stage, k) for stage in tiny(family) for k in (1, 2)]
    assert train(family, cells, tmp_path, label="kind") == wanted
    assert train(family, cells, tmp_path) == []  # the same column: the first there is
    folder = tmp_path / "checkpoint"
    assert (folder / WEIGHTS).stat().st_size < LARGEST
    model: Any = hub.load(folder, device="cpu")
    assert type(model) is FAMILIES[family]
    assert (model.dim, model.classes) == (2_000, 2)
    known = hub.vocabulary(folder)
    assert known is not None
    assert (known.genes, known.label, known.labels) == (cells.genes, "kind", ("a", "b"))
    x = model.sample(3, label=torch.tensor([0, 1, 2]), generator=seeded(0))
    counted = x if x.dtype == torch.int64 else x.round()
    assert counted.shape == (3, 2_000)
    assert counted.min() >= 0
    figures = hub.figures(folder)
    assert figures["recipe"] == "the command"
    assert figures["training"]["seed"] == 0


@every_peer
def test_a_peer_has_plans_for_both_budgets_with_the_same_stages(family: str) -> None:
    plans = CELL_PEER_PLANS[family]
    assert plans["cpu"].keys() == plans["gpu"].keys()


def test_the_units_are_those_of_the_training_cells(tmp_path: Path) -> None:
    cells = some_cells()
    train("ddpm", cells, tmp_path / "ddpm")
    model = hub.load(tmp_path / "ddpm" / "checkpoint", device="cpu")
    assert isinstance(model, LogGaussian)
    y = model.to_network(cells.counts())
    assert y.mean().item() == pytest.approx(0, abs=1e-4)
    assert y.std().item() == pytest.approx(1, abs=1e-4)
    train("nbvae", cells, tmp_path / "nbvae")
    other: Any = hub.load(tmp_path / "nbvae" / "checkpoint", device="cpu")
    logs = cells.counts().sum(1).double().log()
    assert other.library_mean.tolist() == pytest.approx(
        [logs[0::3].mean().item(), logs[1::3].mean().item(), logs.mean().item()], rel=1e-5
    )


@every_peer
def test_values_that_are_no_counts_and_columns_that_are_not_there_are_refused(
    family: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="raw counts were wanted"):
        train(family, some_cells(part=0.5), tmp_path)
    with pytest.raises(ValueError, match="no column of labels 'other', only kind"):
        train(family, some_cells(), tmp_path, label="other")
    assert not (tmp_path / "checkpoint").exists()
