"""Uploads: honest files to the last bit, every other one refused in a sentence, nothing dies."""

import contextlib
import functools
import gc
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from explorer import upload_folder, upload_process, upload_results, uploads
from explorer.faults import sentence
from explorer.uploads import LOCAL, PRESETS, PUBLIC, WORKSHOP, BadUpload, prepare, read_counts

ROOT = Path(__file__).parents[1]
N, G = 60, 40
AS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}
RUDE = r"/tmp|/home|/root|Traceback|\.py\b|h5py|H5[A-Z]|Error|0x"


def counts(n: int = N, g: int = G, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.7, (n, g))


def made(
    path: Path,
    form: str = "csr",
    kind: str = "f4",
    *,
    n: int = N,
    g: int = G,
    compression: str | None = None,
) -> None:
    """An honest file with all that honest files carry besides counts."""
    path.write_bytes(honest(form, kind, n, g, compression))


@functools.cache
def honest(form: str, kind: str, n: int, g: int, compression: str | None) -> bytes:
    """The bytes of an honest file, as anndata writes them; each is written once."""
    x = counts(n, g)
    cells = pd.DataFrame(
        {"batch": pd.Categorical(["a", "b"] * (n // 2) + ["a"] * (n % 2)), "depth": x.sum(1)},
        index=[f"cell{i}" for i in range(n)],
    )
    data = anndata.AnnData(
        AS[form](x.astype(kind)), cells, pd.DataFrame(index=[f"gene-{i} µ" for i in range(g)])
    )
    data.layers["doubled"] = AS[form]((2 * x).astype(kind))
    data.obsm["X_pca"] = np.zeros((n, 2))
    data.uns["note"] = {"deep": ["x", "y"]}
    data.raw = data.copy()
    with tempfile.TemporaryDirectory() as folder:
        data.write_h5ad(Path(folder) / "a.h5ad", compression=compression)
        return (Path(folder) / "a.h5ad").read_bytes()


def verdict(path: Path, **options: Any) -> str:
    """What a visitor is told, after the checks that every refusal must pass."""
    with pytest.raises(BadUpload) as caught:
        read_counts(path, **options)
    said = str(caught.value)
    assert sentence(caught.value) == said, "the app would hide this sentence behind a code"
    assert 0 < len(said) <= 300 and "\n" not in said and said[0].isupper() and said.endswith(".")
    assert not re.search(RUDE, said), said
    return said


def assert_same(found: uploads.Counts, x: Any, data: anndata.AnnData) -> None:
    """Bit for bit what anndata reads: values, places, order of both lists of names."""
    wanted = sparse.csr_matrix(x if sparse.issparse(x) else x.astype("i8"))
    wanted.sort_indices()
    for name in ("data", "indices", "indptr"):
        assert np.array_equal(getattr(found.matrix, name), getattr(wanted, name)), name
    assert found.matrix.dtype == np.int64 and found.total == wanted.sum() == found.matrix.sum()
    assert found.shape == found.matrix.shape == wanted.shape
    assert list(found.genes) == list(data.var_names) and list(found.cells) == list(data.obs_names)


@pytest.mark.parametrize(
    ("form", "kind", "packing"),
    [
        *itertools.product(("csr", "csc", "dense"), ("f4", "i8"), (None, "gzip")),
        *(("csr", kind, "lzf") for kind in ("u1", "i2", "u4", "u8", "f8")),
        *(("dense", kind, "lzf") for kind in ("i1", "f2", ">i4", ">f8")),
        *((form, "?", "gzip") for form in AS),
    ],
)
def test_honest_files_are_read_as_anndata_reads_them(
    tmp_path: Path, form: str, kind: str, packing: str | None
):
    file = tmp_path / "a.h5ad"
    made(file, form, kind, compression=packing)
    data = anndata.read_h5ad(file)
    assert_same(read_counts(file), data.X, data)
    assert_same(read_counts(file, layer="doubled"), data.layers["doubled"], data)


def test_blocks_join(tmp_path: Path):
    """A file of several blocks, with empty rows at the seams."""
    x = counts(3000, 1500)
    x[::7] = 0
    x[-3:] = 0
    for form in AS:
        data = anndata.AnnData(AS[form](x.astype("i4")))
        data.write_h5ad(tmp_path / "a.h5ad", compression="lzf")
        assert_same(read_counts(tmp_path / "a.h5ad"), x, data)


def test_order_within_a_row_and_stored_zeros_do_not_matter(tmp_path: Path):
    x = sparse.csr_matrix(counts().astype("f4"))
    x.indices[:] = np.concatenate(
        [x.indices[a:b][::-1] for a, b in itertools.pairwise(x.indptr)]
    )  # a permutation of each row's columns
    x.has_sorted_indices = False
    x.data[5] = 0
    data = anndata.AnnData(x.copy())
    data.write_h5ad(tmp_path / "a.h5ad")
    assert_same(read_counts(tmp_path / "a.h5ad"), x.toarray(), data)


def test_the_matrix_is_the_visitors_to_change(tmp_path: Path):
    made(tmp_path / "a.h5ad")
    found = read_counts(tmp_path / "a.h5ad")
    found.matrix.data[:] = 1
    assert found.matrix.sum() == found.matrix.nnz
    assert (found.matrix[:, 3:9] @ np.ones(6)).shape == (N,)


def rename(file: h5py.File, table: str, make: Any) -> None:
    """Put other names in a table."""
    frame = file[table]
    del frame["_index"]
    make(frame)


def categorical_names(frame: h5py.Group) -> None:
    index = frame.create_group("_index")
    index.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0"})
    index["codes"] = np.arange(G, dtype="i1")[::-1]
    index["categories"] = [f"g{k}" for k in range(G)]


def nullable_names(frame: h5py.Group) -> None:
    index = frame.create_group("_index")
    index.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
    index["values"], index["mask"] = [f"g{k}" for k in range(G)], np.zeros(G, "?")


def fixed_names(frame: h5py.Group) -> None:
    frame["_index"] = np.array([f"g{k}" for k in range(G)], "S8")


@pytest.mark.parametrize("make", [categorical_names, nullable_names, fixed_names])
def test_names_in_each_of_their_forms(tmp_path: Path, make: Any):
    made(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        rename(file, "var", make)
    wanted = [f"g{k}" for k in range(G)]
    found = list(read_counts(tmp_path / "a.h5ad").genes)
    assert found == (wanted[::-1] if make is categorical_names else wanted)


# ---- files that lie: each edit of an honest one, and what must be said of it


def put(group: h5py.Group, name: str, value: Any, **options: Any) -> None:
    """An array in place of another, its attributes kept."""
    kept = dict(group[name].attrs)
    del group[name]
    group.create_dataset(name, data=value, **options).attrs.update(kept)


def part(name: str, change: Any) -> Any:
    """An edit of one array of a sparse X; `change` alters it or returns another."""

    def edit(file: h5py.File) -> None:
        value = file["X"][name][:]
        other = change(value)
        put(file["X"], name, value if other is None else other)

    return edit


def label(name: str, change: Any, **options: Any) -> Any:
    """An edit of the codes or the categories of the label `batch`."""

    def edit(file: h5py.File) -> None:
        value = file["obs/batch"][name][:]
        other = change(value)
        put(file["obs/batch"], name, value if other is None else other, **options)

    return edit


def label_group(name: str) -> Any:
    def edit(file: h5py.File) -> None:
        del file["obs/batch"][name]
        file["obs/batch"].create_group(name)

    return edit


def at(place: int, value: Any) -> Any:
    def change(held: np.ndarray) -> None:
        held[place] = value

    return change


def wide(place: int, value: Any, kind: str) -> Any:
    def change(held: np.ndarray) -> np.ndarray:
        other = held.astype(kind)
        other[place] = value
        return other

    return change


def swap(file: h5py.File, name: str, make: Any) -> None:
    kept = dict(file[name].attrs)
    del file[name]
    make().attrs.update(kept)


def link(where: str, name: str, to: Any) -> Any:
    def edit(file: h5py.File) -> None:
        del file[where][name]
        file[where][name] = to

    return edit


def same(where: str, one: str, other: str) -> Any:
    def edit(file: h5py.File) -> None:
        del file[where][other]
        file[where][other] = file[where][one]

    return edit


def lost_chunk(file: h5py.File) -> None:
    """indices declared in five chunks, four of them stored."""
    held = file["X/indices"][:]
    swap(
        file,
        "X/indices",
        lambda: file.create_dataset(
            "X/indices", shape=held.shape, dtype="i4", chunks=(len(held) // 4,)
        ),
    )
    file["X/indices"][: len(held) // 2] = held[: len(held) // 2]


def twice(held: np.ndarray) -> None:
    held[1] = held[0]


def renamed(table: str, names: list[Any]) -> Any:
    return lambda file: rename(
        file, table, lambda frame: frame.create_dataset("_index", data=names)
    )


def names(k: int, name: Any) -> list[Any]:
    return [f"g{i}" if i != k else name for i in range(G)]


def attr(where: str, name: str, value: Any) -> Any:
    return lambda file: file[where].attrs.__setitem__(name, value)


def gone(where: str) -> Any:
    return lambda file: file.__delitem__(where)


LIES = {
    "column too large": (part("indices", at(5, 10**8)), "damaged.*range"),
    "column negative": (part("indices", at(5, -1)), "damaged.*range"),
    "column wraps": (part("indices", wide(5, 2**63 + 1, "u8")), "damaged.*range"),
    "columns are floats": (part("indices", lambda v: v.astype("f4")), "damaged.*whole"),
    "entry twice": (part("indices", twice), "damaged.*twice"),
    "pointers fall": (part("indptr", at(10, 3)), "damaged.*pointers"),
    "pointers end early": (part("indptr", at(-1, 3)), "damaged.*pointers"),
    "pointers start late": (part("indptr", at(0, 1)), "damaged.*pointers"),
    "pointers huge": (part("indptr", wide(10, 2**62, "i8")), "damaged.*pointers"),
    "pointers wrap": (part("indptr", wide(10, 2**64 - 1, "u8")), "damaged.*pointers"),
    "pointers short": (part("indptr", lambda v: v[:-1]), "damaged.*length"),
    "indices short": (part("indices", lambda v: v[:-1]), "damaged.*length"),
    "indices in a square": (part("indices", lambda v: v[:100].reshape(10, 10)), "damaged.*length"),
    "data a scalar": (part("data", lambda v: v[0]), "damaged.*list"),
    "shape too wide": (attr("X", "shape", [N, G + 1]), "damaged.*length"),
    "shape too high": (attr("X", "shape", [N + 1, G]), "damaged.*length"),
    "shape negative": (attr("X", "shape", [-N, G]), "no cells"),
    "shape of a billion": (attr("X", "shape", [10**9, G]), "1,000,000,000 cells.*limit"),
    "shape of three": (attr("X", "shape", [N, G, 1]), "damaged.*shape"),
    "shape of text": (attr("X", "shape", "60x40"), "damaged.*shape"),
    "NaN": (part("data", at(3, np.nan)), "NaN"),
    "infinite": (part("data", at(3, np.inf)), "infinite"),
    "negative": (part("data", at(3, -7)), "negative"),
    "negative integer": (part("data", wide(3, -7, "i8")), "negative"),
    "fraction": (part("data", at(3, 0.5)), "fractions.*normalised"),
    "too large": (part("data", at(3, 2**25)), "above 16,777,216"),
    "too large by far": (part("data", wide(3, 1e300, "f8")), "above"),
    "beyond int64": (part("data", wide(3, 2**63 + 1, "u8")), "above"),
    "all zero": (part("data", lambda v: v * 0), "Every value .* is 0"),
    "complex": (part("data", lambda v: v.astype("c8")), "real numbers"),
    "text for counts": (part("data", lambda v: ["1"] * len(v)), "real numbers"),
    "a guest in X": (lambda f: f["X"].create_dataset("guest", data=[1]), "damaged.*belong"),
    "lost chunk": (lost_chunk, "damaged.*declares more"),
    "data is indices": (same("X", "indices", "data"), "damaged.*one thing"),
    "obs is var": (same("/", "obs", "var"), "damaged"),
    "X is the root": (same("/", "/", "X"), "X|format"),
    "soft link": (link("/", "X", h5py.SoftLink("/layers/doubled")), "link.*inside an upload"),
    "soft loop": (link("/", "X", h5py.SoftLink("/X")), "link"),
    "soft link inside": (link("X", "data", h5py.SoftLink("/layers/doubled/data")), "link"),
    "external link": (link("/", "X", h5py.ExternalLink("other.h5ad", "/X")), "link.*outside"),
    "external table": (link("/", "var", h5py.ExternalLink("other.h5ad", "/var")), "link.*outside"),
    "type for X": (link("/", "X", np.dtype("f4")), "damaged.*neither"),
    "no X": (gone("X"), "matrix X is missing"),
    "no obs": (gone("obs"), "table obs is missing"),
    "no names": (gone("var/_index"), "names of the genes is missing"),
    "names elsewhere": (attr("var", "_index", "../obs/_index"), "damaged.*names"),
    "names in numbers": (renamed("var", list(range(G))), "not text"),
    "names too few": (renamed("var", names(0, "x")[1:]), "damaged.*length"),
    "twin genes": (
        renamed("var", names(7, "g3")),
        r"once, but 1 genes .*\(g3\).*var_names_make_unique",
    ),
    "twins in disguise": (renamed("var", ["<b>x</b>"] * G), "39 genes repeat .* another; "),
    "empty name": (renamed("var", names(7, "")), "printable"),
    "a bell": (renamed("var", names(7, "g\x07")), "printable"),
    "turned text": (renamed("var", names(7, "g‮x")), "printable"),
    "long name": (renamed("var", names(7, "g" * 300)), "printable|longer"),
    "very long name": (renamed("var", names(7, "g" * 10**6)), "longer"),
    "not UTF-8": (renamed("var", np.array(names(7, b"\xff\xfe"), "S9")), "UTF-8"),
    "newer": (attr("/", "encoding-version", "99.0.0"), "newer version"),
    "newer X": (attr("X", "encoding-version", "99.0.0"), "newer version"),
    "another kind": (attr("/", "encoding-type", "MuData"), "format"),
    "unknown X": (attr("X", "encoding-type", "coo_matrix"), "format"),
    "mute X": (lambda f: f["X"].attrs.__delitem__("encoding-type"), "damaged.*how"),
    "kind in numbers": (attr("X", "encoding-type", 7), "damaged.*short text"),
    "kind too long": (attr("X", "encoding-type", "x" * 5000), "damaged.*short text"),
    "label too large": (label("codes", at(3, 2)), "damaged.*codes of the labels.*range"),
    "label too small": (label("codes", at(3, -2)), "damaged.*codes of the labels.*range"),
    "label wraps": (label("codes", wide(3, 2**64 - 1, "u8")), "damaged.*codes of the labels"),
    "labels short": (label("codes", lambda v: v[:-1]), "damaged.*length"),
    "labels are floats": (label("codes", lambda v: v.astype("f4")), "damaged.*whole"),
    "label twins": (label("categories", lambda v: ["a", "a"]), "damaged.*category twice"),
    "label codes a table": (label_group("codes"), "damaged.*not an array"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_named(tmp_path: Path, lie: str):
    edit, said = LIES[lie]
    made(tmp_path / "other.h5ad")
    made(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        edit(file)
    heard = verdict(tmp_path / "a.h5ad")
    assert re.search(said, heard), heard


def dense(**options: Any) -> Any:
    """An edit that puts a dense array of other storage in place of X."""
    return lambda file, folder: swap(
        file, "X", lambda: file.create_dataset("X", **{"dtype": "f4", **options})
    )


def external(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(b"\x07" * (N * G))
    dense(shape=(N, G), dtype="u1", external=[(folder / "secret", 0, N * G)])(file, folder)


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((N, G), "f4")
    layout[:] = h5py.VirtualSource(folder / "other.h5ad", "X", (N, G))
    swap(file, "X", lambda: file.create_virtual_dataset("X", layout))


STORES = {
    "declared only": (dense(shape=(N, G), chunks=(10, 10)), "declares more"),
    "declared flat": (dense(shape=(N, G)), "declares more"),
    "declared a billion": (
        dense(shape=(40_000, 20_000), chunks=(1000, 1000)),
        "MB when read and the limit",
    ),
    "one chunk too large": (
        dense(shape=(1, G), chunks=(2 * 10**6, G), maxshape=(None, G)),
        "limit",
    ),
    "crumbs": (dense(shape=(400, 400), chunks=(1, 1)), "160,000 pieces"),
    "an odd filter": (dense(data=np.ones((N, G)), chunks=(9, 9), scaleoffset=2), "compressed"),
    "other file": (external, "outside"),
    "another's X": (virtual, "outside"),
    "a line": (dense(data=np.ones(N)), "two dimensions"),
    "compound": (dense(data=np.zeros((N, G), "i4,i4"), dtype="i4,i4"), "real numbers"),
    "no cells": (dense(data=np.ones((0, G))), "no cells"),
    "no genes": (dense(data=np.ones((N, 0))), "no genes"),
    "too many genes": (dense(shape=(2, 30_000), chunks=(1, 9)), "30,000 genes and the limit"),
    "more rows than names": (dense(data=np.ones((N + 1, G))), "length"),
}


@pytest.mark.parametrize("store", STORES)
def test_storage_is_accounted_for(tmp_path: Path, store: str):
    edit, said = STORES[store]
    made(tmp_path / "other.h5ad", "dense")
    made(tmp_path / "a.h5ad", "dense")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        edit(file, tmp_path)
    heard = verdict(tmp_path / "a.h5ad")
    assert re.search(said, heard), heard


def test_no_byte_is_read_twice(tmp_path: Path):
    """The address of the values replaced by that of the columns: both whole, both inside."""
    made(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        for name in ("data", "indices"):
            put(file["X"], name, file["X"][name][:])  # in one piece, at an address
        places = [file["X"][name].id.get_offset() for name in ("data", "indices")]
    data, indices = (struct.pack("<Q", place) for place in places)
    content = (tmp_path / "a.h5ad").read_bytes()
    assert content.count(data) == 1
    (tmp_path / "a.h5ad").write_bytes(content.replace(data, indices))
    assert "two parts claim the same bytes" in verdict(tmp_path / "a.h5ad")


def test_names_that_all_claim_one_long_text(tmp_path: Path):
    """Every name refers to one text of 20 MB: 800 MB when read, 20 MB in the file."""
    file = tmp_path / "a.h5ad"
    made(file)
    with h5py.File(file, "r+") as held:
        index = held["var/_index"]
        index[0] = "g" * 20_000_000
        place = index.id.get_offset()
    content = bytearray(file.read_bytes())
    content[place : place + 16 * G] = content[place : place + 16] * G
    file.write_bytes(content)
    assert "longer than" in verdict(file)  # the names, or the time where others use the machine


@pytest.mark.parametrize("size", [0, 1, 8, 40, 63])
def test_beginnings_alone(tmp_path: Path, size: int):
    made(tmp_path / "a.h5ad")
    whole = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "b.h5ad").write_bytes(whole[:size])
    assert re.search("empty|h5ad", verdict(tmp_path / "b.h5ad"))


def test_other_containers(tmp_path: Path):
    made(tmp_path / "a.h5ad")
    whole, file = (tmp_path / "a.h5ad").read_bytes(), tmp_path / "b.h5ad"
    for content, said in (
        (whole[: len(whole) // 2], "cut off"),
        (whole + b"PK and more", "does not end"),
        (b"\x1f\x8b" + whole, "gzip"),
        (b"PK\x03\x04" + whole, "zip archive"),
        (b"gene,cell\nA,3\n" * 9, "text and not h5ad"),
        (b"\x00" * 512 + whole, "not an h5ad"),
        (whole[:8] + b"\xff" * 400, "damaged"),
    ):
        file.write_bytes(content)
        assert said in verdict(file)
    assert "not a file" in verdict(tmp_path)
    assert "can't be opened" in verdict(tmp_path / "none.h5ad")


def test_limits_are_limits(tmp_path: Path):
    file = tmp_path / "a.h5ad"
    made(file, "dense", compression="gzip")
    nnz = int(np.count_nonzero(counts()))
    fits = replace(PUBLIC, cells=N, genes=G, nonzeros=nnz, file_bytes=file.stat().st_size)
    assert read_counts(file, limits=fits).matrix.nnz == nnz
    for field, said in (
        ("cells", "cells"),
        ("genes", "genes"),
        ("nonzeros", "non-zero"),
        ("file_bytes", "MB and the limit"),
    ):
        less = replace(fits, **{field: getattr(fits, field) - 1})
        assert said in verdict(file, limits=less)
    assert "longer than the limit" in verdict(file, limits=replace(PUBLIC, seconds=0.0001))
    assert re.search("memory|damaged", verdict(file, limits=replace(PUBLIC, memory=1)))


def test_presets_grow():
    for field in ("file_bytes", "cells", "genes", "nonzeros", "array_bytes", "memory"):
        sizes = [getattr(PRESETS[name], field) for name in ("public", "workshop", "laptop")]
        assert sizes == sorted(sizes)


def test_raw_10x_is_for_ones_own_machine(tmp_path: Path):
    """36,601 genes, as of a raw matrix of the human genome."""
    data = anndata.AnnData(
        sparse.random_array((9, 36_601), density=0.01, format="csr", rng=0)
        .astype(bool)
        .astype("f4"),
        var=pd.DataFrame(index=[f"g{k}" for k in range(36_601)]),
    )
    data.write_h5ad(tmp_path / "a.h5ad")
    said = verdict(tmp_path / "a.h5ad", limits=PUBLIC)
    assert "36,601 genes and the limit here is 20,000; please keep its most variable" in said
    for limits in (WORKSHOP, LOCAL):
        assert_same(read_counts(tmp_path / "a.h5ad", limits=limits), data.X, data)


@pytest.mark.parametrize("layer", ["", "../X", "none", "a" * 300, "."])
def test_a_layer_that_is_not_there(tmp_path: Path, layer: str):
    made(tmp_path / "a.h5ad")
    assert re.search("layer", verdict(tmp_path / "a.h5ad", layer=layer))


# ---- labels


def with_labels(path: Path, **columns: Any) -> None:
    """A file of 60 cells whose obs has these columns."""
    made(path)
    with h5py.File(path, "r+") as file:
        del file["obs"]
        table = pd.DataFrame(columns, index=[f"cell{k}" for k in range(N)])
        anndata.io.write_elem(file, "obs", table)


def test_labels_are_the_categories_that_are_text(tmp_path: Path):
    words = ["T cell", "<b>B</b>", None, "µ", ""] * 12
    with_labels(
        tmp_path / "a.h5ad",
        kind=pd.Categorical(words, categories=["µ", "T cell", "<b>B</b>", "", "silent"]),
        sure=pd.Categorical(["yes"] * N, ordered=True),
        number=pd.Categorical([1, 2] * 30),
        depth=np.arange(N),
        text=np.array([f"s{k}" for k in range(N)], object),
        bell=pd.Categorical(["a\nb", "c"] * 30),
        empty=pd.Categorical([None] * N),
    )
    found = read_counts(tmp_path / "a.h5ad")
    assert {name: one.names for name, one in found.labels.items()} == {
        "kind": ("µ", "T cell", "<b>B</b>", "", "silent"),
        "sure": ("yes",),
    }
    assert found.labels["kind"].codes.tolist() == [1, 2, -1, 0, 3] * 12
    assert found.labels["kind"].codes.dtype == np.int16
    wanted = anndata.read_h5ad(tmp_path / "a.h5ad")
    held = found.anndata()
    assert list(held.obs) == ["kind", "sure"] and held.var_names.equals(wanted.var_names)
    for name in held.obs:
        theirs = wanted.obs[name].cat.set_categories(held.obs[name].cat.categories, ordered=False)
        pd.testing.assert_series_equal(held.obs[name], theirs)
    assert (held.X != wanted.X).nnz == 0


def test_labels_are_bounded(tmp_path: Path):
    """Columns in the order of their names; what is beyond a bound is left out, and said nowhere."""
    many = [f"{k:04}" for k in range(1001)]
    columns = {f"b{k:02}": pd.Categorical(["x"] * N) for k in range(40)}
    columns["a"] = pd.Categorical(["0001"] * N, categories=many)
    columns["c"] = pd.Categorical(["0001"] * N, categories=many[:1000])
    with_labels(tmp_path / "a.h5ad", **columns)
    assert list(read_counts(tmp_path / "a.h5ad").labels) == [f"b{k:02}" for k in range(32)]
    long = {name: [f"{name}{k:0255}" for k in range(1000)] for name in "ab"}
    columns = {name: pd.Categorical([w[0]] * N, categories=w) for name, w in long.items()}
    with_labels(tmp_path / "a.h5ad", c=pd.Categorical(["x"] * N), **columns)
    found = read_counts(tmp_path / "a.h5ad").labels
    assert {name: len(one.names) for name, one in found.items()} == {"a": 1000, "c": 1}


def linked(where: str, name: str) -> Any:
    """An edit that makes a part of a label a link to the same part of another file."""
    return lambda file, folder: link(where, name, h5py.ExternalLink("other.h5ad", where + name))(
        file
    )


def external_codes(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(N))
    codes = file["obs/batch"]
    del codes["codes"]
    codes.create_dataset("codes", (N,), "i1", external=[(folder / "secret", 0, N)])


def odd_filter(file: h5py.File, folder: Path) -> None:
    put(file["obs/batch"], "codes", np.zeros(N, "i1"), chunks=(N,), scaleoffset=2)


def numbered(file: h5py.File, folder: Path) -> None:
    put(file["obs/batch"], "categories", [3, 4])


def nested(file: h5py.File, folder: Path) -> None:
    label_group("categories")(file)


def older(file: h5py.File, folder: Path) -> None:
    file["obs/batch"].attrs["encoding-version"] = "9.0.0"


def alias(file: h5py.File, folder: Path) -> None:
    del file["obs/batch"]
    file["obs/batch"] = file["var"]
    file["obs/loop"] = file["obs"]


@pytest.mark.parametrize(
    "edit",
    [
        *(linked("/obs/", "batch"), linked("/obs/batch/", "codes")),
        *(linked("/obs/batch/", "categories"), external_codes, odd_filter, numbered),
        *(nested, older, alias, lambda file, folder: file["obs/batch"].__delitem__("codes")),
    ],
)
def test_what_is_no_label_here_is_left_out(tmp_path: Path, edit: Any):
    """The counts are read all the same, and nothing from outside the file."""
    made(tmp_path / "other.h5ad")
    made(tmp_path / "a.h5ad")
    assert read_counts(tmp_path / "a.h5ad").labels["batch"].names == ("a", "b")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        edit(file, tmp_path)
    found = read_counts(tmp_path / "a.h5ad")
    assert found.labels == {} and found.total == counts().sum()


# ---- the reader itself


def test_a_reader_prepared_is_the_one_that_reads(tmp_path: Path):
    made(tmp_path / "a.h5ad")
    upload_process.close()
    assert all(reader._process is None for reader in upload_process._ALL)
    prepare()
    ready = [reader._process for reader in upload_process._ALL]
    assert all(process is not None and process.poll() is None for process in ready)
    prepare()
    assert read_counts(tmp_path / "a.h5ad").total == counts().sum()
    assert [reader._process for reader in upload_process._ALL] == ready


def test_a_reader_that_cannot_be_started_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made(tmp_path / "a.h5ad")
    upload_process.close()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    prepare()
    assert "does not answer" in verdict(tmp_path / "a.h5ad")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert "no room" in verdict(tmp_path / "a.h5ad")


KILLED = """
import os, signal, sys, tempfile
sys.path.insert(0, sys.argv[1]); tempfile.tempdir = sys.argv[2]
from explorer.upload_folder import folder
with folder() as place:
    (place / "data.npy").write_bytes(bytes(100))
    print(place, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_app_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sed-upload-file").write_text("not ours")
    run = [sys.executable, "-I", "-c", KILLED, str(ROOT), str(tmp_path)]
    app = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert app.stdout is not None and app.stdin is not None
    place = Path(app.stdout.readline().strip())
    long_ago = time.time() - 2 * upload_folder.YOUNG
    os.utime(place, (long_ago, long_ago))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    upload_folder.sweep()
    assert place.is_dir(), "its owner lives and holds it"
    app.kill()
    app.wait()
    app.stdin.close()
    app.stdout.close()
    (young := tmp_path / "sed-upload-young").mkdir()
    upload_process.close()
    made(tmp_path / "a.h5ad")
    read_counts(tmp_path / "a.h5ad")  # starts a reader, which sweeps first
    assert not place.exists() and young.is_dir() and (tmp_path / "sed-upload-file").is_file()


def test_neither_process_loads_what_it_must_not():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import explorer.{}; print(*sys.modules)"
    for module, foreign in (
        ("uploads", {"h5py", "torch", "streamlit", "anndata"}),
        ("upload_reader", {"torch", "streamlit", "scipy", "anndata", "pandas", "plotly"}),
    ):
        run = [sys.executable, "-I", "-c", code.format(module), str(ROOT)]
        loaded = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
        assert f"explorer.{module}" in loaded and not foreign & set(loaded)


def test_a_reader_can_open_no_second_file(tmp_path: Path):
    """Even where the look at the links were wrong: the system itself refuses."""
    made(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["other"] = h5py.ExternalLink("b.h5ad", "/X")
    made(tmp_path / "b.h5ad")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import h5py, explorer.upload_reader as r\n"
        "f = h5py.File(sys.argv[2]); f['other']; print('before')\n"
        "r.forbid_files()\n"
        "try: f['other']; print('after')\n"
        "except (OSError, KeyError): print('refused')"
    )
    run = [sys.executable, "-I", "-c", code, str(ROOT), str(tmp_path / "a.h5ad")]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert said == ["before", "refused"]


def test_a_killed_reader_is_replaced(tmp_path: Path):
    made(tmp_path / "a.h5ad")
    read_counts(tmp_path / "a.h5ad")
    running = [r._process for r in upload_process._ALL if r._process is not None]
    assert running
    for process in running:
        process.kill()
    assert read_counts(tmp_path / "a.h5ad").total == counts().sum()


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "temporary").mkdir()
    made(tmp_path / "a.h5ad")
    (tmp_path / "b.h5ad").write_bytes((tmp_path / "a.h5ad").read_bytes()[:-99] + b"\0" * 99)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    found = read_counts(tmp_path / "a.h5ad")
    with contextlib.suppress(BadUpload):
        read_counts(tmp_path / "b.h5ad")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert found.matrix.sum() == found.total


def test_readers_know_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SED_SECRET", "canary")
    assert not {"SED_SECRET", "PATH", "HOME"} & upload_process._environment().keys()


FORGED = {
    "column too large": lambda f: forge(f, "indices", np.array([0, 9, 1], "<i4")),
    "column negative": lambda f: forge(f, "indices", np.array([0, -1, 1], "<i4")),
    "columns fall": lambda f: forge(f, "indices", np.array([1, 0, 1], "<i4")),
    "columns twice": lambda f: forge(f, "indices", np.array([1, 1, 1], "<i4")),
    "pointers fall": lambda f: forge(f, "indptr", np.array([0, 4, 3], "<i8")),
    "pointers short": lambda f: forge(f, "indptr", np.array([0, 3], "<i8")),
    "zero": lambda f: forge(f, "data", np.array([1, 0, 5], "<i8")),
    "too large": lambda f: forge(f, "data", np.array([1, 2, 2**25], "<i8")),
    "other total": lambda f: forge(f, "data", np.array([1, 2, 4], "<i8")),
    "floats": lambda f: forge(f, "data", np.array([1, 2, 3], "<f8")),
    "objects": lambda f: forge(f, "data", np.array([1, 2, 3], object)),
    "too few": lambda f: forge(f, "data", np.array([1, 5], "<i8")),
    "no array": lambda f: (f / "data.npy").write_bytes(b"x"),
    "a link": lambda f: ((f / "data.npy").unlink(), (f / "data.npy").symlink_to("/etc/passwd")),
    "a guest": lambda f: (f / "guest").write_bytes(b""),
    "a gap": lambda f: (f / "names.json").unlink(),
    "no words": lambda f: (f / "verdict.json").write_text(""),
    "deep words": lambda f: (f / "verdict.json").write_text("[" * 100_000),
    "a list": lambda f: (f / "verdict.json").write_text("[1]"),
    "a long sentence": lambda f: (f / "verdict.json").write_text(
        json.dumps({"ok": False, "say": "x" * 301})
    ),
    "two lines": lambda f: (f / "verdict.json").write_text('{"ok": false, "say": "a\\nb"}'),
    "twins": lambda f: say(f, genes=["a", "a"]),
    "numbers": lambda f: say(f, genes=[1, 2]),
    "text": lambda f: say(f, genes="ab"),
    "names too few": lambda f: say(f, genes=["a"]),
    "cells too few": lambda f: say(f, cells=["x"]),
    "labels short": lambda f: forge(f, "labels", np.array([0], "<i2")),
    "label too large": lambda f: forge(f, "labels", np.array([0, 2], "<i2")),
    "label too small": lambda f: forge(f, "labels", np.array([0, -2], "<i2")),
    "label twins": lambda f: say(f, labels={"kind": ["p", "p"]}),
    "label of numbers": lambda f: say(f, labels={"kind": [1, 2]}),
    "label of nothing": lambda f: say(f, labels={"kind": []}),
    "label of too much": lambda f: say(f, labels={"kind": [f"{k}" for k in range(1001)]}),
    "label without a name": lambda f: say(f, labels={"": ["p", "q"]}),
    "labels a list": lambda f: say(f, labels=["p", "q"]),
    "labels too many": lambda f: say(f, labels={f"l{k}": ["p", "q"] for k in range(40)}, many=40),
    "labels too long": lambda f: say(
        f, labels={f"l{k}": [f"{j:0250}" for j in range(60)] for k in range(32)}, many=32
    ),
    "too many": lambda f: (f / "verdict.json").write_text(
        json.dumps({"ok": True, "shape": [2, 10**9], "nnz": 3, "total": 8})
    ),
}


def forge(folder: Path, name: str, value: np.ndarray) -> None:
    np.save(folder / f"{name}.npy", value, allow_pickle=True)


def say(folder: Path, many: int = 1, **other: Any) -> None:
    """Names as an honest reader hands them over, but for some; codes of so many labels."""
    told = {"genes": ["a", "b"], "cells": ["x", "y"], "labels": {"kind": ["p", "q"]}}
    (folder / "names.json").write_text(json.dumps(told | other))
    forge(folder, "labels", np.tile(np.array([1, -1], "<i2"), many))


def handed(folder: Path) -> None:
    """What an honest reader hands over."""
    say(folder)
    forge(folder, "data", np.array([1, 2, 5], "<i8"))
    forge(folder, "indices", np.array([0, 1, 1], "<i4"))
    forge(folder, "indptr", np.array([0, 2, 3], "<i8"))
    held = {"ok": True, "shape": [2, 2], "nnz": 3, "total": 8}
    (folder / "verdict.json").write_text(json.dumps(held))


@pytest.mark.parametrize("forgery", FORGED)
def test_a_turned_reader_is_not_believed(tmp_path: Path, forgery: str):
    handed(tmp_path)
    found = upload_results.received(tmp_path, PUBLIC)
    assert found.matrix.toarray().tolist() == [[1, 2], [0, 5]]
    assert found.labels["kind"].codes.tolist() == [1, -1]
    FORGED[forgery](tmp_path)
    with pytest.raises(BadUpload, match="damaged"):
        upload_results.received(tmp_path, PUBLIC)


@st.composite
def structures(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sparse structures of 4 x 5, most of them nearly right."""
    x = draw(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=4, max_size=4))
    m = sparse.csr_matrix(np.array(x, "f8"))
    parts = [m.data.copy(), m.indices.astype("i8"), m.indptr.astype("i8")]
    for _ in range(draw(st.integers(0, 2))):
        held = parts[draw(st.integers(0, 2))]
        if held.size:
            place = draw(st.integers(0, held.size - 1))
            held[place] = draw(st.sampled_from([-1, 0, 1, 2, 4, 5, 2**24, 2**31, 2**40]))
    return parts[0], parts[1], parts[2]


def valid(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> bool:
    """Whether a structure is a matrix of counts, told entry by entry."""
    ends = indptr.tolist()
    if ends[0] != 0 or ends[-1] != len(data) or ends != sorted(ends):
        return False
    rows = [indices[a:b].tolist() for a, b in itertools.pairwise(ends)]
    if any(len(set(row)) < len(row) or not set(row) <= set(range(5)) for row in rows):
        return False
    return all(0 <= v <= 2**24 for v in data) and data.sum() > 0


@settings(max_examples=60)
@given(structures())
def test_any_sparse_structure_is_judged_right(
    tmp_path_factory: pytest.TempPathFactory, parts: tuple[np.ndarray, np.ndarray, np.ndarray]
):
    file = tmp_path_factory.mktemp("law") / "a.h5ad"
    made(file, n=4, g=5)
    with h5py.File(file, "r+") as held:
        for name, value in zip(("data", "indices", "indptr"), parts, strict=True):
            put(held["X"], name, value)
    if valid(*parts):
        wanted = sparse.csr_matrix(parts, shape=(4, 5)).toarray()
        assert np.array_equal(read_counts(file).matrix.toarray(), wanted)
    else:
        verdict(file)


# ---- flipped bytes


def resident() -> int:
    """Bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def flipped(folder: Path, number: int) -> tuple[float, bool]:
    """Flip one to three bytes of an honest file; (seconds to the verdict, whether accepted)."""
    chance = np.random.default_rng(number)
    sources = sorted(folder.glob("honest*.h5ad"))
    content = bytearray(sources[number % len(sources)].read_bytes())
    for place in chance.integers(len(content), size=chance.integers(1, 4)):
        content[place] ^= int(chance.integers(1, 256))
    file = folder / f"flip{number}.h5ad"
    file.write_bytes(content)
    start, found, said = time.perf_counter(), None, ""
    try:
        found = read_counts(file)
    except BadUpload as reason:
        said = str(reason)
    seconds = time.perf_counter() - start
    if found is None:
        assert 0 < len(said) <= 300 and not re.search(RUDE, said)
    else:
        assert found.matrix.sum() == found.total and found.matrix[:, :2].shape[1] == 2
        found.matrix.check_format(full_check=True)
        assert all(-1 <= c < len(one.names) for one in found.labels.values() for c in one.codes)
    file.unlink()
    return seconds, found is not None


def flip_many(folder: Path, numbers: range) -> None:
    """Flip bytes in two readers at once; all verdicts in time, and no memory gained."""
    for k, (form, packing) in enumerate(itertools.product(AS, (None, "gzip"))):
        made(folder / f"honest{k}.h5ad", form, compression=packing)
    for number in range(-20, 0):
        flipped(folder, 10**6 - number)  # what is loaded once is loaded
    gc.collect()
    before = resident()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda number: flipped(folder, number), numbers))
    gc.collect()
    seconds = sorted(s for s, _ in found)
    gained = (resident() - before) / 2**20
    print(
        f"{len(found)} flips: median {seconds[len(found) // 2]:.3f} s, slowest {seconds[-1]:.3f} s,"
        f" {sum(a for _, a in found)} accepted, {gained:+.1f} MB"
    )
    assert seconds[-1] < 2 and gained < 10
    assert 0 < sum(a for _, a in found) < len(found)


def test_a_few_flipped_bytes(tmp_path: Path):
    flip_many(tmp_path, range(100))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_thousand_flipped_bytes(tmp_path: Path):
    flip_many(tmp_path, range(1000, 3000))
