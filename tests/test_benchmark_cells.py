"""What cells cost: the synthetic atlas, what is measured and told, work that does not grow."""

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import atlas, cells, panels
from sed_core.chance import seeded
from sed_core.domains.cell_rows import FileRows
from sed_core.domains.cells import setup_anndata
from sed_core.sed import SED
from sed_core.sparse import SparseBatch

GENES, SHARE = 400, 0.05


def written(folder: Path, n: int) -> Path:
    path = folder / f"{n}.h5ad"
    stored = atlas.write_atlas(path, cells=n, genes=GENES, share=SHARE)
    assert anndata.read_h5ad(path).X.nnz == stored
    return path


# the atlas ----------------------------------------------------------------------------------------


def test_an_atlas_is_cells_that_training_reads_where_they_lie(tmp_path: Path) -> None:
    n = 2 * atlas.BLOCK + 50
    path = written(tmp_path, n)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing is left beside
    found = setup_anndata(path, label=atlas.LABEL, memory=False)
    assert isinstance(found.source, FileRows) and found.kind == "counts"
    assert (len(found), found.dim) == (n, GENES)
    assert 1 - found.sparsity == pytest.approx(SHARE, rel=0.5)  # depths and types move it
    assert len(found.labels[atlas.LABEL].names) == atlas.TYPES
    rows = torch.randperm(n, generator=seeded(0))[:64]
    whole = anndata.read_h5ad(path)
    assert np.array_equal(found.rows(rows).to_dense().numpy(), whole.X[rows.numpy()].toarray())
    assert whole.obs_names.is_unique and whole.var_names.is_unique


def test_a_larger_atlas_begins_with_the_cells_of_a_smaller_one(tmp_path: Path) -> None:
    few, many = (anndata.read_h5ad(written(tmp_path, n)) for n in (250, 500))
    assert np.array_equal(few.X.toarray(), many.X[:250].toarray())
    assert (few.obs[atlas.LABEL] == many.obs[atlas.LABEL][:250]).all()


def test_counts_of_an_atlas_are_poisson() -> None:
    """Mean equal to variance, for one type at one depth."""
    rate = torch.tensor([0.2, 1.0, 5.0]).expand(atlas.TYPES, 3)
    x, _ = atlas.block(atlas.Law(rate, 0), 0, 1)
    assert x.shape == (1, 3)
    before = atlas.DEPTHS
    try:
        atlas.DEPTHS = 0.0
        drawn = atlas.block(atlas.Law(rate, 0), 0, 40_000)[0].toarray()
    finally:
        atlas.DEPTHS = before
    wanted = np.array([0.2, 1.0, 5.0])
    error = np.sqrt(wanted / 40_000)
    assert (np.abs(drawn.mean(0) - wanted) < 4 * error).all()
    assert np.allclose(drawn.var(0), wanted, rtol=0.05)
    assert np.allclose((drawn == 0).mean(0), np.exp(-wanted), atol=4 * 0.5 / 200)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        atlas.law(10, share, 0)


# work that does not grow with the panel -----------------------------------------------------------


class Elements(TorchDispatchMode):
    """Counts the numbers that every operation makes; views make none."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = op(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not op.is_view:
            self.made += found.numel()
        return found


def numbers_made(model: SED, real: SparseBatch) -> list[int]:
    """Numbers made before the first pair, and for each of the pairs of `real`."""
    z = torch.zeros(len(real), model.configs["savae"].latent)
    stop, made = torch.full((len(real),), real.dim), list[int]()
    with Elements() as mode, torch.no_grad():
        base = model.savae.base(z)
        made.append(mode.made)
    del base
    stream = model.decode(z, prefix=real, choose=stop, generator=seeded(0), detail=False)
    with Elements() as mode:
        for _ in stream:  # one step: all pairs are given
            made.append(mode.made)
    return made


def test_a_pair_costs_what_it_did_in_a_panel_of_many_times_as_many_genes() -> None:
    """Between 27,000 and 200,000 genes lie as many times; blocks of blocks grow 1.9 times."""
    per_pair = list[float]()
    for dim in (5_000, 37_000):
        found = panels.cells(dim, "behind", 8, alive=1_000, expressed=60)
        whole = found.rows()
        short, long = (
            SparseBatch(whole.index[:, :n], whole.value[:, :n], whole.mask[:, :n], dim)
            for n in (4, 24)
        )
        model = panels.build(found)
        few, many = (numbers_made(model, part)[-1] for part in (short, long))
        per_pair.append((many - few) / 20)
    assert per_pair[1] / per_pair[0] < 1.2


# what is measured and told ------------------------------------------------------------------------


def line(case: str, n: int, peak: float, **more: Any) -> cells.Line:
    told = {"name": f"{case} {n}", "n": n, "genes": 10, "seconds": 1.0, "start_bytes": 1e8}
    return {
        "case": case,
        **told,
        "peak_bytes": peak,
        "device": "cpu",
        "seed": 0,
        "date": "d",
        **more,
    }


def met(lines: list[cells.Line]) -> list[bool]:
    return [target["met"] for target in cells.targets(lines)]


def test_targets_are_met_or_not() -> None:
    assert met([line("train", 5, 3.9e9)]) == [True] and met([line("train", 5, 4.1e9)]) == [False]
    constant = [line("sample", 10, 1.0e9), line("sample", 100, 1.05e9)]
    grown = [line("write", 10, 1.0e9), line("write", 100, 1.6e9)]
    assert met(constant) == [True, True] and met(grown) == [False, False]


@pytest.mark.parametrize(
    ("filed", "held", "wanted"),
    [(0.55e9, 1.6e9, [True, True]), (0.7e9, 1.6e9, [False, True]), (0.55e9, 0.6e9, [True, False])],
)
def test_a_matrix_that_is_held_is_told_from_one_that_is_not(
    filed: float, held: float, wanted: list[bool]
) -> None:
    matrix = {"csr_bytes": 1e9}
    lines = [
        line("backed", 10, 0.5e9, held=False, csr_bytes=5e7),
        line("backed", 200, filed, held=False, **matrix),
        line("backed", 200, held, held=True, **matrix),
    ]
    assert met(lines) == wanted


def test_a_case_that_is_run_again_replaces_its_lines() -> None:
    old = cells.merged({}, [line("train", 5, 3e9), line("write", 10, 1e9)])
    new = cells.merged(json.loads(json.dumps(old)), [line("write", 20, 1.2e9)])
    assert [(ln["case"], ln["n"]) for ln in new["runs"]] == [("train", 5), ("write", 20)]
    text = cells.markdown(new)
    assert "| write 20 | 20 | 10 | 1 | 0.10 | 1.20 |  |" in text and "seed 0" in text


def test_an_atlas_is_trained_on_in_its_file_and_written_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "SOME", {"draft": 2, "savae": 2, "latent": 2})
    found = cells.watched(
        cells.train_from_file, str(written(tmp_path, 300)), False, str(tmp_path / "run"), 0
    )
    assert (found["n"], found["genes"], found["batch"]) == (300, GENES, 64)
    assert found["dense_bytes"] == 300 * GENES * 4 and 0 < found["csr_bytes"] < 300 * GENES * 8
    assert 0 < found["start_bytes"] <= found["looked_bytes"] <= found["peak_bytes"]
    assert (tmp_path / "run" / "checkpoint").is_dir()


def test_cells_go_to_disk_as_sampling_writes_them(tmp_path: Path) -> None:
    told = cells.write_cells(300, 2_000, str(tmp_path / "made.h5ad"), 0)
    made = anndata.read_h5ad(tmp_path / "made.h5ad")
    assert made.shape == (told["n"], told["genes"]) == (300, 2_000)
    assert made.X.nnz * 8 == told["csr_bytes"]
    assert told["expressed"] == pytest.approx(cells.EXPRESSED, rel=0.2)


def test_panels_hold_the_same_cells() -> None:
    sizes = {"alive": 50, "expressed": 10}
    few = panels.cells(100, "spread", 4, **sizes).csr().toarray()
    many = panels.cells(1_000, "spread", 4, **sizes).csr().toarray()
    behind = panels.cells(1_000, "behind", 4, **sizes).csr().toarray()
    assert few.any() and np.array_equal(few[:, ::2], many[:, ::20])
    assert np.array_equal(few[:, ::2], behind[:, :50])
    assert few.sum() == many.sum() == behind.sum()


def test_quick_decodings_stop_early_in_every_row() -> None:
    whole = panels.cells(100, "spread", 8, alive=50, expressed=20).rows()
    part = panels.shortened(whole, 0.25)
    assert torch.equal(part.nnz, (whole.nnz * 0.25).ceil().long())
    for row in range(8):
        n = int(part.nnz[row])
        assert torch.equal(part.pairs(row)[0], whole.pairs(row)[0][:n])
    assert torch.equal(panels.shortened(whole, 1.0).value, whole.value)
