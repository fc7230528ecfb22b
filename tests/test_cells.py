"""Cells in and out: every format reads the same, files stay on disk, writers outlive a kill."""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sed_core.domains import cell_files, cell_rows
from sed_core.domains.cell_anndata import as_anndata
from sed_core.domains.cell_files import CellFile
from sed_core.domains.cell_genes import highest, residual_variance
from sed_core.domains.cell_labels import read_labels
from sed_core.domains.cells import Cells, DataError, load_pbmc3k, setup_anndata, split_rows
from sed_core.sparse import SparseBatch
from tests.small import equal, untouched_global_chance

FORMATS = {
    "csr": scipy.sparse.csr_matrix,
    "csc": scipy.sparse.csc_matrix,
    "csr_array": scipy.sparse.csr_array,
    "dense": np.asarray,
}
WAYS = ("held", "file", "backed", "anndata")
RECIPE = {"model": "tiny", "seed": 7, "n": 5}

seeds = st.integers(0, 2**31)


def counts(seed: int = 0, cells: int = 12, genes: int = 7) -> np.ndarray:
    """Counts of which about half are zero; one cell and one gene express nothing."""
    chance = np.random.default_rng(seed)
    found = chance.poisson(3, (cells, genes)) * (chance.random((cells, genes)) < 0.5)
    found[cells // 2], found[:, genes // 2] = 0, 0
    found[0, 0] = 3
    return found


def adata(matrix: Any = None, **more: Any) -> anndata.AnnData:
    """An AnnData with two labels; names of genes and cells are g0.. and c0.."""
    matrix = counts().astype(np.float32) if matrix is None else matrix
    n, d = matrix.shape
    obs = pd.DataFrame(index=[f"c{k}" for k in range(n)])
    obs["kind"] = pd.Categorical(["b", "a", None] * n)[:n]
    obs["number"] = np.arange(n) % 3
    var = pd.DataFrame({"symbol": [f"s{k}" for k in range(d)]}, index=[f"g{k}" for k in range(d)])
    return anndata.AnnData(matrix, obs=obs, var=var, **more)


def stored(data: anndata.AnnData, folder: Path, **options: Any) -> Path:
    file = Path(tempfile.mkdtemp(dir=folder)) / "cells.h5ad"  # earlier ones may still be open
    data.write_h5ad(file, **options)
    return file


def taken(data: anndata.AnnData, way: str, folder: Path, chunk: int = 30, **options: Any) -> Cells:
    """The cells of an AnnData in one of the ways that there are, `chunk` values at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_rows, "ENTRIES", chunk)
        patch.setattr(cell_rows, "TURNED", chunk)
        if way == "held":
            return setup_anndata(data, **options)
        file = stored(data, folder, compression="gzip")
        if way == "anndata":
            return setup_anndata(anndata.read_h5ad(file, backed="r"), **options)
        return setup_anndata(file, memory=way == "file", **options)


# in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", FORMATS)
@given(seeds, st.integers(1, 30), st.integers(1, 12), st.data())
@settings(max_examples=8)
def test_every_format_gives_the_same_cells(
    tmp_path_factory: Any, form: str, way: str, seed: int, cells: int, genes: int, data: Any
) -> None:
    matrix = counts(seed, cells, genes)
    kind = data.draw(st.sampled_from([np.float32, np.int32, np.int64, np.uint16, np.float64]))
    folder = tmp_path_factory.mktemp("cells")
    chunk = data.draw(st.integers(20, 60))  # several chunks even of so little
    found = taken(adata(FORMATS[form](matrix.astype(kind))), way, folder, chunk)
    rows = data.draw(st.lists(st.integers(0, cells - 1), max_size=20))
    assert np.array_equal(found.counts().numpy(), matrix)
    assert np.array_equal(found.counts(rows).numpy(), matrix[rows])
    assert np.array_equal(found[rows].to_dense().numpy(), matrix[rows])
    assert found.kind == "counts" and found.genes == tuple(f"g{k}" for k in range(genes))
    assert found.names.tolist() == [f"c{k}" for k in range(cells)]
    assert found.library.tolist() == matrix.sum(1).tolist()
    assert found.nnz.tolist() == (matrix > 0).sum(1).tolist()
    assert found.sparsity == pytest.approx((matrix == 0).mean())


@given(seeds, st.permutations(range(7)), st.integers(1, 7), st.lists(st.integers(-12, 11)))
def test_genes_and_parts_choose_what_indexing_chooses(
    seed: int, order: list[int], n: int, rows: list[int]
) -> None:
    matrix, at = counts(seed), order[:n]
    found = setup_anndata(adata(matrix)).part(rows).with_genes([f"g{k}" for k in at])
    again = found.with_genes(found.genes[::-1])
    assert np.array_equal(found.counts().numpy(), matrix[rows][:, at])
    assert np.array_equal(again.counts().numpy(), matrix[rows][:, at[::-1]])
    assert found.nnz.tolist() == (matrix[rows][:, at] > 0).sum(1).tolist()
    assert found.library.tolist() == matrix[rows].sum(1).tolist()  # of all genes
    assert found.names.tolist() == [f"c{k % 12}" for k in rows]


def test_stored_zeros_are_zeros_and_unsorted_indices_are_sorted(tmp_path: Path) -> None:
    matrix = scipy.sparse.csr_matrix(
        (np.array([2, 0, 5]), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3)
    )
    for way in WAYS:
        found = taken(adata(matrix), way, tmp_path)
        assert found.nnz.tolist() == [1, 1]
        assert found.counts().tolist() == [[0, 0, 2], [0, 5, 0]]


def test_a_layer_and_a_column_of_gene_names_are_taken(tmp_path: Path) -> None:
    data = adata(np.log1p(counts()), layers={"raw": scipy.sparse.csc_matrix(counts())})
    for way in WAYS:
        found = taken(data, way, tmp_path, layer="raw", genes="symbol")
        assert np.array_equal(found.counts().numpy(), counts())
        assert found.genes[:2] == ("s0", "s1")


def test_what_is_no_count_is_taken_and_said_to_be_none(tmp_path: Path) -> None:
    data = adata(np.log1p(counts()), layers={"raw": counts(), "half": counts() / 2})
    for way in WAYS:
        found = taken(data, way, tmp_path)
        assert found.kind == "normalised"
        assert found.said == (
            "X holds normalised values (12 cells x 7 genes, 60.7% zeros): "
            "1.386 in cell c0, gene g0; counts may be in raw"
        )
        assert torch.equal(found[:].to_dense(), torch.from_numpy(np.log1p(counts())).float())
        with pytest.raises(DataError, match="raw counts were wanted; X holds normalised"):
            found.counts()
        with pytest.raises(DataError, match="variable genes are chosen from raw counts"):
            found.most_variable(2)
    assert (
        "in X (leave layer out)" in setup_anndata(adata(layers={"l": counts() / 2}), layer="l").said
    )
    assert "no layer holds raw counts" in setup_anndata(adata(counts() / 2)).said
    counted = setup_anndata(adata()).said
    assert counted.startswith("X holds raw counts (12 cells x 7 genes, ") and "; 1 cells" in counted


def odd(value: float) -> np.ndarray:
    matrix = counts().astype(np.float64)
    matrix[4, 2] = value
    return matrix


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("matrix", "options", "words"),
    [
        (odd(-0.5), {}, r"X has a negative value \(-0.5 at cell 4, gene 2, from 0\), as scaled"),
        (odd(np.nan), {}, r"X has a value that is NaN or infinite \(cell 4, gene 2"),
        (odd(np.inf), {}, "NaN or infinite"),
        (odd(2.0**25), {}, "a count of 33,554,432; counts up to 16,777,216"),
        (counts() * 0, {}, "X holds zeros only"),
        (counts(), {"layer": "raw"}, "there is no layer 'raw'; there are: none"),
        (counts(), {"label": "type"}, "obs has no column 'type'; it has kind, number"),
        (counts(), {"genes": "name"}, "var has no column 'name'; it has symbol"),
        (np.zeros((0, 3)), {}, r"X must be cells by genes, at least one of each"),
        (np.zeros((3, 0)), {}, r"X must be cells by genes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_taken_is_said_in_a_sentence(
    tmp_path: Path, way: str, matrix: Any, options: Any, words: str
) -> None:
    for form in (np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix):
        with pytest.raises(DataError, match=words):
            taken(adata(form(matrix)), way, tmp_path, **options)


def test_a_gene_twice_is_refused_by_name_and_in_a_cell(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns of it, we refuse it
        data = adata()
        data.var_names = ["a", "b", "a", "c", "b", "d", "e"]
    with pytest.raises(DataError, match=r"genes hold a, b more than once; call adata.var_names_m"):
        setup_anndata(data)
    twice = scipy.sparse.csr_matrix((np.ones(3), np.array([0, 1, 1]), np.array([0, 1, 3])), (2, 3))
    for matrix in (twice, twice.tocsc()):
        for way in WAYS:
            with pytest.raises(DataError, match=r"X lists gene 1 of cell 1 \(from 0\) twice"):
                taken(adata(matrix), way, tmp_path)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        setup_anndata(tmp_path / "none.h5ad")
    (tmp_path / "a.h5ad").write_bytes(b"PK" * 400)
    with pytest.raises(DataError, match=r"a.h5ad can't be opened as an h5ad file"):
        setup_anndata(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "b.h5ad", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="has no obs and var"):
        setup_anndata(tmp_path / "b.h5ad")
    file = stored(adata(scipy.sparse.csr_matrix(counts())), tmp_path)
    with h5py.File(file, "r+") as broken:
        broken["X/indices"][3] = 900
    with pytest.raises(DataError, match=r"outside 0..6; it is damaged"):
        setup_anndata(file)
    with h5py.File(file, "r+") as broken:
        broken["X/indptr"][3] = 900
    with pytest.raises(DataError, match="pointers of X do not fit"):
        setup_anndata(file)
    with h5py.File(file, "r+") as broken:
        del broken["X"]
    with pytest.raises(DataError, match="there is no X; name a layer"):
        setup_anndata(file)


def test_tables_of_anndata_0_7_are_read(tmp_path: Path) -> None:
    file = stored(adata(scipy.sparse.csr_matrix(counts())), tmp_path)
    with h5py.File(file, "r+") as old:
        names, obs = old["obs/_index"][:], old["obs"]
        codes, categories = obs["kind/codes"][:], obs["kind/categories"][:]
        del old["obs"]
        obs = old.create_group("obs")
        obs["_index"], obs["kind"], obs["__categories/kind"] = names, codes, categories
        obs["kind"].attrs["categories"] = obs["__categories/kind"].ref
        obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0"})
        obs.attrs.update({"_index": "_index", "column-order": ["kind"]})
    found = setup_anndata(file, label="kind").labels["kind"]
    assert (found.names, found.text()[:3]) == (("a", "b"), ["b", "a", None])


def test_a_view_of_a_backed_anndata_is_refused(tmp_path: Path) -> None:
    backed = anndata.read_h5ad(stored(adata(), tmp_path), backed="r")
    with pytest.raises(DataError, match="view of a backed AnnData"):
        setup_anndata(backed[:3])
    assert len(setup_anndata(adata()[:3])) == 3  # of one in memory: fine


# labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_labels_have_one_vocabulary_and_gaps_are_unknown(tmp_path: Path, way: str) -> None:
    found = taken(adata(), way, tmp_path, label=["kind", "number"])
    assert found.labels["kind"].names == ("a", "b")
    assert found.labels["kind"].numbers[:4].tolist() == [1, 0, 2, 1]
    assert found.labels["kind"].text()[:3] == ["b", "a", None]
    assert found.labels["number"].names == ("0", "1", "2")
    part = found.part([1, 4])
    assert part.labels["kind"].names == ("a", "b") and part.labels["kind"].numbers.tolist() == [
        0,
        0,
    ]


def test_a_learned_vocabulary_is_kept_and_others_are_unknown() -> None:
    known = {"kind": ("z", "b")}
    found = setup_anndata(adata(), label="kind", vocabularies=known).labels["kind"]
    assert found.names == ("z", "b") and found.numbers[:3].tolist() == [1, 2, 2]


@given(st.lists(st.sampled_from(["b", "a", "c", None, np.nan, "", "?"]), min_size=1))
def test_plain_labels_are_sorted_and_all_gaps_are_unknown(values: list[Any]) -> None:
    there = sorted({v for v in values if v in ("a", "b", "c")})
    if not there:
        with pytest.raises(DataError, match="has 0 different values"):
            read_labels(values, "x", unknown=["?"])
        return
    found = read_labels(values, "x", unknown=["?"])
    wanted = [there.index(v) if v in there else len(there) for v in values]
    assert (list(found.names), found.numbers.tolist()) == (there, wanted)


def test_categories_keep_their_order_and_silent_ones_go() -> None:
    column = pd.Categorical(["z", "b"], categories=["z", "m", "b"])
    assert read_labels(column, "x").names == ("z", "b")
    with pytest.raises(DataError, match="has 1,001 different values; 1 to 1,000 make a label"):
        read_labels(np.arange(1001), "barcode")


# splits and genes -------------------------------------------------------------------------------


@given(st.integers(10, 500), seeds)
def test_splits_share_out_every_cell_by_the_seed_alone(n: int, seed: int) -> None:
    with untouched_global_chance():
        parts = split_rows(n, seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(n))
    assert abs(len(parts["train"]) - 0.8 * n) <= 0.5 and abs(len(parts["test"]) - 0.1 * n) <= 1
    assert all((np.diff(rows) > 0).all() for rows in parts.values())
    again = split_rows(n, seed)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_another_seed_deals_other_cells_and_odd_shares_are_refused() -> None:
    assert not np.array_equal(split_rows(100, 0)["train"], split_rows(100, 1)["train"])
    with pytest.raises(DataError, match="shares must be positive and sum to at most 1"):
        split_rows(10, 0, {"a": 0.6, "b": 0.6})
    with pytest.raises(DataError, match="3 cells are too few for the part 'test'"):
        split_rows(3, 0)


def dense_variance(x: np.ndarray, theta: float) -> np.ndarray:
    """The formula of Lause et al. as it stands."""
    mu = x.sum(1, keepdims=True) * x.sum(0, keepdims=True) / x.sum()
    with np.errstate(invalid="ignore"):
        residual = (x - mu) / np.sqrt(mu + mu**2 / theta)
    residual = np.nan_to_num(residual, nan=0.0)
    return np.clip(residual, -np.sqrt(len(x)), np.sqrt(len(x))).var(0)


@given(seeds, st.integers(2, 40), st.integers(2, 30), st.sampled_from([0.5, 10.0, 100.0]))
def test_pearson_residuals_are_those_of_the_dense_formula(
    seed: int, cells: int, genes: int, theta: float
) -> None:
    x = counts(seed, cells, genes) ** 2  # some far out, so that clipping has work
    source = cell_rows.open_rows(scipy.sparse.csr_matrix(x), "X")
    rows = np.arange(cells, dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_rows, "ENTRIES", 20)
        found = residual_variance(source, rows, theta=theta)
    np.testing.assert_allclose(found, dense_variance(x.astype(float), theta), atol=1e-9)


def test_the_most_variable_genes_are_those_that_cells_differ_in() -> None:
    chance = np.random.default_rng(0)
    x = chance.poisson(2.0, (200, 30))
    x[:, [4, 9]] = chance.poisson(2.0, (200, 2)) * 4 * (np.arange(200) % 4 == 0)[:, None]
    found = setup_anndata(adata(x)).most_variable(2)
    assert found.genes == ("g4", "g9")
    assert highest(np.array([1.0, 3.0, 3.0, 0.0, 3.0]), 2).tolist() == [1, 2]
    with pytest.raises(
        DataError, match="n must be 1 to 30 genes that vary among these cells, got 31"
    ):
        setup_anndata(adata(x)).most_variable(31)
    with pytest.raises(DataError, match="chosen once, from all genes"):
        found.most_variable(1)


def test_genes_that_are_missing_are_named() -> None:
    found = setup_anndata(adata())
    with pytest.raises(DataError, match="2 of the 3 genes wanted are not in the file: x, y; add"):
        found.with_genes(["x", "g1", "y"])
    with pytest.raises(
        DataError, match="none of the 2 genes wanted is there: wanted such as x, y, "
    ):
        found.with_genes(["x", "y"])
    with pytest.raises(DataError, match="the genes asked for hold g1 more than once"):
        found.with_genes(["g1", "g1"])
    with pytest.raises(IndexError, match="rows must be 0 to 11"):
        found.rows([12])


# out --------------------------------------------------------------------------------------------


def same(a: anndata.AnnData, b: anndata.AnnData) -> None:
    """Equal in everything that we write, types among it."""
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert a.uns == b.uns and set(a.layers) == set(b.layers)
    for x, y in [(a.X, b.X), *((a.layers[name], b.layers[name]) for name in a.layers)]:
        assert x.format == y.format == "csr" and x.dtype == y.dtype
        assert (x != y).nnz == 0 and x.has_canonical_format


GENES = [f"g{k}" for k in range(7)]
LABELLED: dict[str, Any] = {"label": "kind", "vocabulary": ("a", "b")}


@given(seeds, st.lists(st.integers(1, 12), max_size=4), st.booleans(), st.booleans())
@settings(max_examples=25)
def test_chunks_on_disk_are_the_anndata_in_memory(
    tmp_path_factory: Any, seed: int, cuts: list[int], labelled: bool, layered: bool
) -> None:
    path = tmp_path_factory.mktemp("out") / "made.h5ad"
    x, mean = counts(seed), counts(seed) / 3
    labels = np.arange(12) % 4 - 1  # -1 and 2: unknown
    options = {**(LABELLED if labelled else {}), "obs": {"sed_source": "imputed", "seed": 7}}
    ends = sorted({0, 12, *cuts})
    with CellFile(
        path, genes=GENES, recipe=RECIPE, layers=["mean"] if layered else [], **options
    ) as file:
        for a, b in pairwise(ends):
            batch = SparseBatch.from_dense(torch.tensor(x[a:b]).float())
            layers = {"mean": scipy.sparse.csc_matrix(mean[a:b])} if layered else None
            file.append(batch, labels=labels[a:b].tolist() if labelled else None, layers=layers)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cell_files, "_BLOCK", 5)
            assert file.finish() == path
    assert [item.name for item in path.parent.iterdir()] == ["made.h5ad"]
    wanted = as_anndata(
        torch.tensor(x),
        genes=GENES,
        recipe=RECIPE,
        labels=labels.tolist() if labelled else None,
        layers={"mean": mean} if layered else None,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = anndata.read_h5ad(path)
    same(found, wanted)
    assert found.X.dtype == np.float32 and found.layers["counts"].dtype == np.int32
    assert found.obs["library_size"].tolist() == x.sum(1).tolist()
    assert found.var_names.tolist() == GENES and found.obs_names[0].endswith("-000001")
    assert json.loads(found.uns["sed_recipe"]) == RECIPE
    again = path.with_name("again.h5ad")
    found.write_h5ad(again)
    same(anndata.read_h5ad(again), wanted)
    back = setup_anndata(path, label="kind" if labelled else None, memory=False)
    assert np.array_equal(back.counts().numpy(), x)


def test_cells_keep_their_names_and_twins_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.h5ad"
    with CellFile(path, genes=GENES, recipe=RECIPE) as file:
        file.append(counts(), names=[f"ä\n{k}" for k in range(12)])
        file.finish()
    assert anndata.read_h5ad(path).obs_names[3] == "ä\n3"
    with CellFile(path, genes=GENES, recipe=RECIPE) as file:
        file.append(counts()[:1], names=["one"])
        file.append(counts()[:1], names=["one"])
        with pytest.raises(DataError, match=r"two cells of made.h5ad have one name"):
            file.finish()


def test_what_cannot_be_written_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    with CellFile(tmp_path / "a.h5ad", genes=GENES, recipe=RECIPE, layers=["mean"]) as file:
        for bad, words in [
            (counts() / 2, "counts are whole numbers from 0 to 16,777,216, got"),
            (-counts(), "counts are whole numbers"),
            (counts()[:, 1:], "the cells have 6 genes, but 7 names were given"),
        ]:
            with pytest.raises(DataError, match=words):
                file.append(bad, layers={"mean": counts()})
        with pytest.raises(DataError, match=r"layers \['mean'\] were announced, got \[\]"):
            file.append(counts())
        with pytest.raises(DataError, match="NaN or infinite"):
            file.append(counts(), layers={"mean": odd(np.nan)})
        with pytest.raises(DataError, match="12 cells but 1 names"):
            file.append(counts(), layers={"mean": counts()}, names=["a"])
        with pytest.raises(DataError, match=r"12 cells but labels of shape \(1,\)"):
            file.append(counts(), layers={"mean": counts()}, labels=[0])
        assert file.cells == 0
        with pytest.raises(DataError, match="no cell was written"):
            file.finish()
        with pytest.raises(DataError, match="being written by someone else"):
            CellFile(tmp_path / "a.h5ad", genes=GENES, recipe=RECIPE, layers=["mean"])
    with pytest.raises(DataError, match=r"cells go to an .h5ad file in a folder that is there"):
        CellFile(tmp_path / "no" / "a.h5ad", genes=GENES, recipe=RECIPE)
    with pytest.raises(DataError, match=r"cells go to an .h5ad file"):
        CellFile(tmp_path / "a.csv", genes=GENES, recipe=RECIPE)
    for named in ({"label": "a/b"}, {"obs": {"a/b": 1}}, {"layers": ["a/b"]}):
        with pytest.raises(DataError, match="names of columns and layers have no /"):
            CellFile(tmp_path / "b.h5ad", genes=GENES, recipe=RECIPE, **named)


def test_many_kinds_have_wider_codes_and_indices_are_stored_once(tmp_path: Path) -> None:
    kinds = [f"k{k}" for k in range(200)]
    with CellFile(
        tmp_path / "a.h5ad", genes=GENES, recipe=RECIPE, label="kind", vocabulary=kinds
    ) as file:
        file.append(counts(cells=200), labels=list(range(200)))
        path = file.finish()
    assert anndata.read_h5ad(path).obs["kind"].tolist() == kinds
    with h5py.File(path) as held:
        for name in ("indices", "indptr"):
            assert held[f"layers/counts/{name}"] == held[f"X/{name}"], "one thing, two names"


# What anndata 0.10 reads; it opened files of both kinds on 21 Nov 2026 (0.10.9, pandas 2.2).
KNOWN_TO_0_10 = {
    *(("anndata", "0.1.0"), ("csr_matrix", "0.1.0"), ("dict", "0.1.0"), ("dataframe", "0.2.0")),
    *(("array", "0.2.0"), ("string-array", "0.2.0"), ("string", "0.2.0"), ("categorical", "0.2.0")),
}


def test_older_readers_know_all_that_we_write(tmp_path: Path) -> None:
    options: dict[str, Any] = {"genes": GENES, "recipe": RECIPE, **LABELLED}
    with CellFile(tmp_path / "streamed.h5ad", **options, layers=["mean"]) as file:
        file.append(counts(), labels=[0, 1, 2] * 4, layers={"mean": counts() / 3})
        file.finish()
    held = as_anndata(counts(), **options, labels=[0, 1, 2] * 4, layers={"mean": counts() / 3})
    held.write_h5ad(tmp_path / "held.h5ad")
    for name in ("streamed", "held"):
        found: set[tuple[str, str]] = set()
        with h5py.File(tmp_path / f"{name}.h5ad") as stored:
            kinds = [stored.attrs]
            stored.visititems(lambda _, item, kinds=kinds: kinds.append(item.attrs))
            found = {(a["encoding-type"], a["encoding-version"]) for a in kinds if len(a)}
        assert found <= KNOWN_TO_0_10 and len(found) == len(KNOWN_TO_0_10), found ^ KNOWN_TO_0_10


def test_a_chunk_that_fails_half_way_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up amid a chunk; there is room again, and the same writer goes on."""
    room = iter(range(3))

    def fsync(handle: int) -> None:
        if next(room, None) is None:
            raise OSError(28, "the disk is full")

    with CellFile(tmp_path / "a.h5ad", genes=GENES, recipe=RECIPE) as file:
        file.append(counts()[:5])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with pytest.raises(OSError, match="full"):
                file.append(counts()[5:])
        assert file.cells == 5
        file.append(counts()[5:])
        file.finish()
    assert np.array_equal(anndata.read_h5ad(tmp_path / "a.h5ad").X.toarray(), counts())


def test_what_counts_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is synced before the rename that relies on it, and the folder after."""
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def renamed(one: Path, other: Path) -> None:
        seen.append(f"{one.name} -> {other.name}")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with CellFile(tmp_path / "a.h5ad", genes=GENES, recipe=RECIPE) as file:
        file.append(counts())
        chunk, seen[:] = seen[:], []
        file.finish()
    parts = {"0.data", "0.indices", "0.sizes", "names", "labels", "library"}
    assert set(chunk[:6]) == parts
    assert chunk[6:] == ["journal.tmp", "journal.tmp -> journal.json", ".a.h5ad.part"]
    assert seen == ["whole.h5ad", "whole.h5ad -> a.h5ad"]


def test_an_unfinished_file_goes_on_only_with_the_same_recipe(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    with CellFile(path, genes=GENES, recipe=RECIPE) as file:
        file.append(counts())
    for other in (
        {"genes": GENES[::-1]},
        {"recipe": {**RECIPE, "seed": 8}},
        {"obs": {"sed_source": "imputed"}},
        {"layers": ["mean"]},
        {"vocabulary": ("a",)},
        LABELLED,
    ):
        with pytest.raises(DataError, match="unfinished cells of another recipe or other genes"):
            CellFile(path, **{"genes": GENES, "recipe": RECIPE, **other})
    (tmp_path / ".a.h5ad.part" / "0.data").write_bytes(b"")
    with pytest.raises(DataError, match=r"is damaged \(0.data is short\); delete it"):
        CellFile(path, genes=GENES, recipe=RECIPE)


def test_what_the_journal_does_not_know_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    with CellFile(path, genes=GENES, recipe=RECIPE) as file:
        file.append(counts())
    for part in (tmp_path / ".a.h5ad.part").glob("0.*"):
        part.write_bytes(part.read_bytes() + bytes(16))  # half of a chunk
    with CellFile(path, genes=GENES, recipe=RECIPE) as file:
        assert file.cells == 12
        file.finish()
    assert np.array_equal(anndata.read_h5ad(path).X.toarray(), counts())


KILLED = """
import os, signal, sys
import numpy as np
from sed_core.domains.cell_files import CellFile
from tests.test_cells import GENES, LABELLED, RECIPE, counts

def die_after(calls):
    left = [calls]
    for name in ("fsync", "replace"):
        def mortal(*given, call=getattr(os, name)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given)
        setattr(os, name, mortal)

def write(path):
    with CellFile(path, genes=GENES, recipe=RECIPE, **LABELLED) as file:
        for first in range(file.cells, 12, 4):
            file.append(counts()[first:first + 4], labels=[0, 1, 2, 0])
        file.finish()

deaths = 0
for calls in range(40):
    child = os.fork()
    if child == 0:
        die_after(calls)
        write(sys.argv[1])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert status == signal.SIGKILL, status
    deaths += 1
write(sys.argv[2])
print(deaths)
"""


def test_a_writer_that_is_killed_again_and_again_writes_the_same_file(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("killed.h5ad", "whole.h5ad")]
    deaths = subprocess.run(
        [sys.executable, "-c", KILLED, *paths], cwd=Path(__file__).parents[1],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert int(deaths.stdout) > 8
    one, other = (Path(path).read_bytes() for path in paths)
    assert one == other
    assert np.array_equal(anndata.read_h5ad(paths[0]).layers["counts"].toarray(), counts())


# memory -----------------------------------------------------------------------------------------

PEAK = """
import resource, sys
import numpy as np
from sed_core.chance import seeded
from sed_core.domains import cell_files, cells
import torch
torch.set_num_threads(1)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

start = peak()
found = cells.setup_anndata(sys.argv[1], memory=False)
order = torch.randperm(len(found), generator=seeded(0))
pairs = sum(int(found[rows].nnz.sum()) for rows in order[:1280].split(64))
found.most_variable(500)
read = peak()
with cell_files.CellFile(sys.argv[2], genes=found.genes, recipe={}) as file:
    for first in range(0, len(found), 500):
        file.append(found.csr(slice(first, first + 500)))
    file.finish()
print(start, read, peak(), pairs)
"""


def large(path: Path, cells: int, genes: int, each: int, form: str) -> float:
    """A file of counts, written in blocks; its uncompressed size in MB."""
    chance = np.random.default_rng(0)
    adata(np.ones((1, 1))).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for name in ("X", "obs", "var"):
            del file[name]
        for name, n in (("obs", cells), ("var", genes)):
            table = pd.DataFrame(index=np.char.mod("%d", np.arange(n)).astype(object))
            anndata.io.write_elem(file, name, table)
        major, minor = (cells, genes) if form == "csr" else (genes, cells)
        group = file.create_group("X")
        group.attrs.update(
            {
                "encoding-type": f"{form}_matrix",
                "encoding-version": "0.1.0",
                "shape": [cells, genes],
            }
        )
        group["indptr"] = np.arange(major + 1, dtype=np.int64) * each
        stored = {
            name: group.create_dataset(name, (major * each,), kind, chunks=(1 << 15,))
            for name, kind in (("data", np.float32), ("indices", np.int32))
        }
        gap = minor // each
        for first in range(0, major, 500):
            n = min(500, major - first)
            at = np.arange(each) * gap + chance.integers(gap, size=(n, each))
            place = slice(first * each, (first + n) * each)
            stored["indices"][place] = at.ravel()
            stored["data"][place] = 1 + chance.poisson(1, n * each)
    return major * each * 8 / 1e6


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csr", "csc"])
def test_a_file_larger_than_we_hold_is_read_and_written(tmp_path: Path, form: str) -> None:
    shape = (30_000, 20_000)
    each = 1500 if form == "csr" else 2250
    size = large(tmp_path / "a.h5ad", *shape, each, form)
    found = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "a.h5ad", tmp_path / "b.h5ad"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True, timeout=280,
    )  # fmt: skip
    start, read, written, _ = (float(word) for word in found.stdout.split())
    print(
        f"{size:.0f} MB in the file; peak {start:.0f} -> read {read:.0f} -> written {written:.0f}"
    )
    assert size > 350 and read - start < 220
    assert written - read < 60


# the real cells ---------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("memory", [True, False])
def test_pbmc3k_is_what_it_is(memory: bool) -> None:
    cells = load_pbmc3k(memory=memory)
    assert (len(cells), cells.dim, cells.kind) == (2700, 13714, "counts")
    assert cells.sparsity == pytest.approx(0.938344, abs=1e-6)
    kinds = cells.labels["cell_type"]
    assert len(kinds.names) == 9 and int((kinds.numbers == 9).sum()) == 62
    assert len(cells.labels["cell_type_scanpy"].names) == 8
    assert float(cells.library.median()) == pytest.approx(2196, abs=2)
    parts = cells.split(seed=0)
    assert [len(part) for part in parts.values()] == [2160, 270, 270]
    train = parts["train"].most_variable(2000)
    assert {"LYZ", "PPBP", "GNLY", "S100A9", "FTL", "NKG7", "CD79A"} <= set(train.genes)
    test = parts["test"].with_genes(train.genes)
    assert test.genes == train.genes and equal(test[[5]], test.rows(slice(5, 6)))


def test_pbmc3k_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SED_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"holds no pbmc3k.h5ad; set SED_DATA to the folder"):
        load_pbmc3k()
    (tmp_path / "pbmc3k.h5ad").write_bytes(b"other")
    with pytest.raises(DataError, match="is not the one we know"):
        load_pbmc3k()
