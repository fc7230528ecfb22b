"""SED on cells end to end at toy size: from an AnnData, in memory or on disk, to whole counts."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from sed_core import hub
from sed_core.cell_sed import CELL_SED_PLANS, cell_savae, train_cell_sed
from sed_core.chance import seeded
from sed_core.domains.cells import Cells, setup_anndata
from sed_core.savae import SAVAE
from sed_core.sed import SED
from sed_core.stages import Run, Stage

TINY = {
    "draft": Stage(steps=40, rows=16, lr=1e-2, ema=0.5),
    "savae": Stage(steps=3, rows=8, lr=1e-3),
    "latent": Stage(steps=5, rows=16, lr=1e-3),
}
GENES = 40


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    """Two types of cells that differ in half of their genes; the last cell's type is unknown."""
    chance = np.random.default_rng(0)
    kind = np.arange(60) % 2
    rate = np.where(kind[:, None] == (np.arange(GENES) < GENES // 2), 1.5, 0.1)
    counts = chance.poisson(rate * chance.gamma(4, 0.25, (60, 1)))
    names = pd.Categorical([*np.array(["a", "b"])[kind[:-1]], None])
    obs = pd.DataFrame({"kind": names}, index=pd.Index([f"c{k}" for k in range(60)]))
    var = pd.DataFrame(index=pd.Index([f"g{k}" for k in range(GENES)]))
    return anndata.AnnData(scipy.sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def trained(cells: Cells, out: Path) -> tuple[SED, list[tuple[str, float]]]:
    run = Run(out, 0, torch.device("cpu"))
    told = [
        (p.stage, p.total.item())
        for p in train_cell_sed("sed-own", cells, TINY, run, "sed-core train sed")
    ]
    model = hub.load(out / "checkpoint", device="cpu")
    assert isinstance(model, SED)
    return model, told


@pytest.fixture(scope="module")
def finished(
    adata: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SED, Path, list[tuple[str, float]]]:
    out = tmp_path_factory.mktemp("run")
    model, told = trained(setup_anndata(adata, label="kind"), out)
    return model, out, told


def test_three_stages_lead_to_whole_counts_of_named_genes(finished) -> None:
    model, out, told = finished
    assert [stage for stage, _ in told] == ["draft"] * 40 + ["savae"] * 3 + ["latent"] * 5
    names = hub.vocabulary(out / "checkpoint", dim=model.dim)
    assert names is not None
    assert names.genes == tuple(f"g{k}" for k in range(GENES))
    assert (names.label, names.labels) == ("kind", ("a", "b"))
    found = model.sample(8, label=1, steps=3, generator=seeded(1))
    values = found.value[found.mask]
    assert ((values >= 1) & (values == values.round())).all()
    assert found.dim == GENES


def test_the_draft_learns(finished) -> None:
    draft = [loss for stage, loss in finished[2] if stage == "draft"]
    assert sum(draft[-5:]) < 0.97 * sum(draft[:5])


def test_cells_on_disk_train_to_the_same_model(finished, adata, tmp_path: Path) -> None:
    """Rows are read as they are needed; not a bit differs."""
    file = tmp_path / "cells.h5ad"
    adata.write_h5ad(file)
    model, _ = trained(setup_anndata(file, label="kind", memory=False), tmp_path / "run")
    for (name, a), (_, b) in zip(
        finished[0].state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_values_that_are_no_counts_are_refused(adata, tmp_path: Path) -> None:
    logs = adata.copy()
    logs.X = logs.X.log1p()
    with pytest.raises(ValueError, match="trained on raw counts"):
        trained(setup_anndata(logs, label="kind"), tmp_path)


def test_only_the_drafts_rows_grow_with_the_panel() -> None:
    """Parameters for each gene: a row of the draft, its bias, its dispersion."""
    sizes = {}
    for genes in (1_000, 8_000):
        cells = setup_anndata(
            anndata.AnnData(scipy.sparse.csr_matrix(np.eye(20, genes, dtype=np.float32)))
        )
        config = cell_savae(cells)
        with torch.device("meta"):
            sizes[genes] = sum(p.numel() for p in SAVAE(config).parameters())
    grown = sizes[8_000] - sizes[1_000]
    assert grown < 1.05 * 7_000 * (config.draft_width + 2)


def test_every_budget_has_the_three_stages() -> None:
    for plan in CELL_SED_PLANS.values():
        assert list(plan) == ["draft", "savae", "latent"]
