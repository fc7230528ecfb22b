"""Cells on the command line: h5ad in, train, sample, impute, read back; killed, it goes on."""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse
from test_cell_model import CELLS, GENES, TYPES, adata, counts, in_float32

from sed_core import cli
from sed_core.cell_model import CellModel
from sed_core.domains.cell_files import CellFile

ROOT = Path(__file__).parents[1]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of cells and two models trained on it by the command line."""
    folder = tmp_path_factory.mktemp("bench")
    observed = np.random.default_rng(1).random((CELLS, len(GENES))) < 0.6
    data = adata(layers={"known": scipy.sparse.csr_matrix(observed.astype(np.float32))})
    data.write_h5ad(folder / "cells.h5ad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sed_core.training.best_precision", in_float32)
        for family in ("sed", "counts"):
            own = ["--label", "cell_type", "--steps", "6", "--device", "cpu", "--json"]
            more = ["--hold-out", "0.25"] if family == "counts" else ["--unknown", TYPES[0]]
            call = ["sed-core", "train", family, "--data", "cells.h5ad", *own, *more]
            patch.setattr(sys, "argv", call)
            with pytest.raises(SystemExit, match="0"):
                cli.main()
    return folder


@pytest.fixture
def run(
    bench: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Run the command line in an empty folder beside the file and the models; code, outputs."""
    monkeypatch.chdir(tmp_path)
    for name in ("cells.h5ad", "runs"):
        (tmp_path / name).symlink_to(bench / name)
    capfd.readouterr()

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sed-core", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capfd.readouterr())

    return call


SED, COUNTS = "runs/sed-cells/checkpoint", "runs/counts-cells/checkpoint"
SAMPLE = ("sample", COUNTS, "-n", 10, "--steps", 3, "--label", "B", "--seed", 4)


def matrix(file: str, layer: str | None = None) -> np.ndarray:
    found = anndata.read_h5ad(file)
    return (found.X if layer is None else found.layers[layer]).toarray()


# -- the loop --------------------------------------------------------------------------------------


def test_training_leaves_a_model_its_recipe_and_what_was_held_out(bench: Path):
    found = CellModel.load(bench / COUNTS)
    assert found.genes == GENES and found.labels == TYPES
    typed = found.metrics["recipe"]
    assert typed.startswith("sed-core train counts --data cells.h5ad --label cell_type --steps 6")
    test = anndata.read_h5ad(bench / "runs/counts-cells/test.h5ad")
    assert test.n_obs == 6 and tuple(test.var_names) == GENES
    place = [int(name.split()[1]) for name in test.obs_names]
    assert np.array_equal(test.X.toarray(), counts()[place])
    types = adata().obs["cell_type"].iloc[place]
    assert test.obs["cell_type"].astype(str).tolist() == types.astype(str).tolist()


def test_a_value_of_the_label_can_mean_unknown(bench: Path):
    assert CellModel.load(bench / SED).labels == TYPES[1:]


@pytest.mark.parametrize("name", [SED, COUNTS])
def test_samples_are_read_by_anndata_as_the_library_makes_them(run: Run, name: str):
    asked = ("-n", 5, "--label", "B", "--steps", 3, "--seed", 4, "--chunk", 2)
    code, out, _ = run("sample", name, *asked, "--out", "new.h5ad", "--json")
    told, found = json.loads(out), anndata.read_h5ad("new.h5ad")
    assert code == 0 and told["cells"] == 5 and told["out"] == "new.h5ad"
    assert tuple(found.var_names) == GENES
    assert found.layers["counts"].dtype == np.int32 and isinstance(found.X, scipy.sparse.csr_matrix)
    own = CellModel.load(name).sample(5, label="B", steps=3, seed=4)
    assert np.array_equal(found.X.toarray(), own.X.toarray())
    assert found.obs["cell_type"].tolist() == ["B"] * 5
    recipe = json.loads(found.uns["sed_recipe"])
    assert recipe == told["recipe"] and recipe["seed"] == 4 and recipe["checkpoint"] == name
    assert sorted(p.name for p in Path().iterdir()) == ["cells.h5ad", "new.h5ad", "runs"]


def test_a_label_may_be_a_number_and_may_be_left_out(run: Run):
    assert run(*SAMPLE, "--out", "name.h5ad")[0] == 0
    assert run(*SAMPLE[:6], "--label", 1, "--seed", 4, "--out", "number.h5ad")[0] == 0
    assert np.array_equal(matrix("name.h5ad"), matrix("number.h5ad"))
    code, out, _ = run(*SAMPLE[:6], "--seed", 4, "--out", "any.h5ad")
    found = anndata.read_h5ad("any.h5ad")
    assert code == 0 and found.obs["cell_type"].isna().all()
    assert out.startswith("10 cells x 14 genes in any.h5ad")
    code, out, _ = run(*SAMPLE, "--json")  # pairs, as of any model
    pairs = [sum(row > 0) for row in matrix("name.h5ad")]
    assert code == 0 and json.loads(out)["pairs"] == pairs


@pytest.mark.parametrize("way", [("--observed", "known"), ("--hide", 0.5), ("--zeros-missing",)])
def test_gaps_are_filled_and_what_is_known_stays(run: Run, way: tuple):
    call = ("impute", COUNTS, "cells.h5ad", "--draws", 3, "--steps", 3, "--seed", 2, *way)
    code, out, _ = run(*call, "--out", "filled.h5ad", "--chunk", 7, "--json")
    found, whole = anndata.read_h5ad("filled.h5ad"), counts()
    known = found.layers["observed"].toarray() > 0
    assert code == 0 and json.loads(out)["filled"] == int((~known).sum())
    assert tuple(found.var_names) == GENES
    assert list(found.obs_names) == list(adata().obs_names)
    assert found.obs["cell_type"].astype(str).tolist() == [
        str(name) for name in adata().obs["cell_type"]
    ]
    assert np.array_equal(found.X.toarray()[known], whole[known])
    assert np.array_equal(found.layers["mean"].toarray()[known], whole[known])
    assert set(found.layers) == {"counts", "mean", "sd", "lower", "upper", "observed"}
    assert (found.layers["sd"].toarray()[~known] > 0).any()
    wanted = {"--observed": matrix("cells.h5ad", "known") > 0, "--zeros-missing": whole > 0}
    if way[0] in wanted:
        assert np.array_equal(known, wanted[way[0]])
    else:
        assert 0.35 < known.mean() < 0.65
    run(*call, "--out", "again.h5ad", "--chunk", 3)
    for layer in ("counts", "mean", "lower", "observed"):
        assert np.array_equal(matrix("again.h5ad", layer), matrix("filled.h5ad", layer)), layer


def test_each_cells_own_label_is_used_where_its_column_is_named(run: Run):
    call = ("impute", COUNTS, "cells.h5ad", "--draws", 2, "--steps", 3, "--hide", 0.5)
    for name, more in {"own": ("cell_type",), "one": ("B",)}.items():
        assert run(*call, "--label", *more, "--out", f"{name}.h5ad")[0] == 0
    own, one = (anndata.read_h5ad(f"{name}.h5ad") for name in ("own", "one"))
    assert own.obs["cell_type"].isna().sum() == 1 and own.obs["cell_type"].iloc[0] == "T cells"
    assert one.obs["cell_type"].tolist() == ["B"] * CELLS


# -- killed, and gone on with ----------------------------------------------------------------------


def test_ctrl_c_loses_no_chunk(run: Run, monkeypatch: pytest.MonkeyPatch):
    run(*SAMPLE, "--chunk", 3, "--out", "whole.h5ad")
    append, left = CellFile.append, [2]

    def stopped(self: CellFile, *given: Any, **named: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(CellFile, "append", stopped)
        code, out, err = run(*SAMPLE, "--chunk", 3, "--out", "cut.h5ad")
    assert (code, out) == (130, "") and not Path("cut.h5ad").exists()
    assert "stopped; 6 of 10 cells are kept, the same command goes on from here" in err
    code, out, err = run(*SAMPLE, "--chunk", 3, "--out", "cut.h5ad", "--json")
    assert code == 0 and json.loads(out)["resumed_from"] == 6
    assert "going on behind the 6 of 10 cells" in err
    assert Path("cut.h5ad").read_bytes() == Path("whole.h5ad").read_bytes()


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from sed_core import cell_model, cli  # what children need, imported once
from sed_core.domains import cell_files

def die_after(calls):
    left = [calls]
    for name in ("fsync", "replace"):
        def mortal(*given, call=getattr(os, name)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given)
        setattr(os, name, mortal)

sys.argv = ["sed-core", *sys.argv[1:]]
for calls in (9, 5, 12, 30, 43, None):  # at 7 calls a chunk, and 3 to put the file in place
    child = os.fork()
    if child == 0:
        if calls is not None:
            die_after(calls)
        cli.main()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
"""


def test_killed_again_and_again_the_same_command_makes_the_same_file(run: Run):
    call = [*SAMPLE[:6], "--seed", 4, "--chunk", 2, "--device", "cpu", "--out"]
    run(*call, "whole.h5ad")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, call), "cut.h5ad"], check=True, timeout=280,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    codes = [int(line) for line in ended.stdout.splitlines() if line.isdecimal()]
    assert codes.count(9) >= 3 and codes[-1] == 0, ended.stderr
    assert Path("cut.h5ad").read_bytes() == Path("whole.h5ad").read_bytes()


def test_filling_goes_on_too(run: Run, monkeypatch: pytest.MonkeyPatch):
    call = ("impute", COUNTS, "cells.h5ad", "--draws", 2, "--steps", 2, "--hide", 0.3, "--chunk", 5)
    run(*call, "--out", "whole.h5ad")
    append, left = CellFile.append, [3]

    def stopped(self: CellFile, *given: Any, **named: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(CellFile, "append", stopped)
        assert run(*call, "--out", "cut.h5ad")[0] == 130
    code, out, _ = run(*call, "--out", "cut.h5ad", "--json")
    assert code == 0 and json.loads(out)["resumed_from"] == 15
    assert Path("cut.h5ad").read_bytes() == Path("whole.h5ad").read_bytes()


def test_another_recipe_does_not_go_on_with_it(run: Run, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(CellFile, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        run(*SAMPLE, "--out", "cut.h5ad")
    code, _, err = run(*SAMPLE[:-1], 5, "--out", "cut.h5ad")
    assert code == 1 and "unfinished cells of another recipe" in err


# -- memory ----------------------------------------------------------------------------------------


def test_memory_knows_one_chunk_at_a_time(run: Run, monkeypatch: pytest.MonkeyPatch):
    """However many cells: a chunk is made only when the one before is on disk and forgotten."""
    rows, made, alive = CellModel.rows, list[int](), list[Any]()

    def watched(self: CellModel, n: int, **asked: Any) -> Any:
        assert sum(chunk() is not None for chunk in alive) <= 1  # the loop's own name for the last
        found = rows(self, n, **asked)
        made.append(n)
        alive.append(weakref.ref(found.index))
        return found

    monkeypatch.setattr(CellModel, "rows", watched)
    code, _, _ = run("sample", COUNTS, "-n", 20, "--steps", 1, "--chunk", 3, "--out", "new.h5ad")
    assert code == 0 and made == [3] * 6 + [2]
    assert sum(chunk() is not None for chunk in alive) <= 1


# -- faults ----------------------------------------------------------------------------------------

FAULTS = [
    (("train", "sed"), "train sed is for cells of your own; name their file with --data"),
    (("train", "sed-mnist", "--label", "x"), "--label is for cells of your own"),
    (("train", "sed-mnist", "--data", "cells.h5ad"), "'train sed' and 'train counts'"),
    (("train", "sed", "--data", "none.h5ad"), "there is no file none.h5ad"),
    (("train", "sed", "--data", "cells.h5ad", "--label", "tissue"), "obs has no column 'tissue'"),
    (("train", "sed", "--data", "cells.h5ad", "--layer", "raw"), "there is no layer 'raw'"),
    (("train", "sed", "--data", "cells.h5ad", "--hold-out", 1), "--hold-out must be a number"),
    (("train", "sed", "--data", "cells.h5ad", "--steps", 7), "runs/sed-cells holds a run with"),
    ((*SAMPLE[:7], "NK", "--out", "a.h5ad"), "there is no label 'NK'; the model knows T cells, B"),
    ((*SAMPLE[:7], "NK"), "there is no label 'NK'"),
    ((*SAMPLE, "--chunk", 3), "--chunk is for cells"),
    ((*SAMPLE, "--chunk", 0, "--out", "a.h5ad"), "--chunk must be a whole number"),
    ((*SAMPLE, "--eta", 0.5, "--out", "a.h5ad"), "has no eta"),
    ((*SAMPLE, "--out", "nowhere/a.h5ad"), "no folder 'nowhere'"),
    (("sample", "cells.h5ad", "--out", "a.h5ad"), "cells.h5ad"),
    (("impute", SED, "cells.h5ad", "--hide", 0.5, "--out", "a.h5ad"), "impute with a CountsDiff"),
    (("impute", COUNTS, "cells.h5ad", "--out", "a.h5ad"), "say what is missing by one of"),
    (
        ("impute", COUNTS, "cells.h5ad", "--hide", 0.5, "--zeros-missing", "--out", "a.h5ad"),
        "got 2 of them",
    ),
    (("impute", COUNTS, "cells.h5ad", "--hide", 2, "--out", "a.h5ad"), "share must be"),
    (("impute", COUNTS, "cells.h5ad", "--hide", 0.5, "--out", "a.npz"), "change its ending"),
    (("impute", COUNTS, "cells.h5ad", "--hide", 0.5, "--out", "cells.h5ad"), "name another one"),
    (("impute", COUNTS, "cells.h5ad", "--observed", "x", "--out", "a.h5ad"), "no layer 'x'"),
    (("impute", COUNTS, "rows.npz", "--hide", 0.5, "--out", "a.npz"), "are for .h5ad files"),
]


def named(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else ""


@pytest.mark.parametrize(("arguments", "words"), FAULTS, ids=named)
def test_faults_are_one_sentence(run: Run, arguments: tuple, words: str):
    code, out, err = run(*arguments)
    last = err.splitlines()[-1]
    assert (code, out) == (1, "") and last.startswith("sed-core: ") and words in last, err
    assert "Traceback" not in err and not list(Path().glob(".a.h5ad*"))
