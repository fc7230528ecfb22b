"""Runs and their files: forks differ where they should, every file opens and carries its recipe."""

import io
import json
import shlex
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise

import nbformat
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from explorer import exports
from explorer.controls import Params, stamp
from explorer.jobs import Cancelled, JobQueue
from explorer.runs import GUESSES, fork, generate, shown
from sed_core import cli, hub
from sed_core.chance import seeded
from sed_core.stream import Trace, last
from tests import shelf

SHA = "ab" * 32
PARAMS = Params(steps=5, seed=11)


def ignore(fraction):
    """A tick that nobody watches."""


@pytest.fixture(scope="module")
def model():
    return shelf.model(32, 2).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def thin():
    """A smaller model of a thinner ring: a run has some thirty pairs, and takes a fifth."""
    made = shelf.model(16, 1)
    with torch.no_grad():
        made.savae.draft_head.logit.bias.sub_(5.5)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def run(model):
    return generate(model, PARAMS, SHA, ignore)


@pytest.fixture(scope="module")
def result(run):
    return shown(run, exports.recipe(run), None)


# -- runs ------------------------------------------------------------------------------------------


def test_a_run_is_what_the_model_samples(model, run):
    sample = model.sample(1, steps=5, label=3, guidance=2.0, generator=seeded(11))
    assert run.sample.pairs(0)[0].tolist() == sample.pairs(0)[0].tolist()
    assert 50 < int(run.sample.nnz[0]) < 400 and len(run.guesses) == 5


def test_guesses_stay_until_the_next_and_end_with_the_latent(model):
    run = generate(model, replace(PARAMS, steps=50), SHA, ignore)
    assert len(run.guesses) == 50
    rows = [run.guesses.pairs(row)[0].tolist() for row in range(50)]
    assert sum(before != after for before, after in pairwise(rows)) <= GUESSES - 1
    z = run.latent_steps[-1].x0
    alone = model.decode(z, temperature=0, value_temperature=0, generator=seeded(0), detail=False)
    assert rows[-1] == last(alone).pairs(0)[0].tolist()


def test_progress_rises_to_one_and_a_stop_ends_it(model):
    seen = []
    generate(model, PARAMS, SHA, seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0

    def stop(fraction):
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        generate(model, PARAMS, SHA, stop)


def test_runs_beside_each_other_are_the_runs_alone(thin):
    jobs = JobQueue(workers=2, heartbeat=1e6, keep=1e6)  # nobody looks while they run alone
    every = [replace(PARAMS, seed=seed, label=seed % 10) for seed in range(12)]
    tickets = [
        jobs.submit(str(n), partial(generate, thin, params, SHA)) for n, params in enumerate(every)
    ]
    alone = [generate(thin, params, SHA, ignore).sample.to_dense() for params in every]
    views = [jobs.look(ticket) for ticket in tickets]
    while not all(view.result for view in views):
        time.sleep(0.01)
        views = [jobs.look(ticket) for ticket in tickets]
    jobs.close()
    assert all(10 < int(view.result.sample.nnz[0]) < 100 for view in views)
    for view, expected in zip(views, alone, strict=True):
        assert (view.result.sample.to_dense() == expected).all()


@pytest.mark.parametrize("at", [0, 1, 40])
def test_a_fork_differs_after_the_chosen_pair_and_only_there(model, run, at):
    step = run.pair_steps[at]
    chosen = int(step.aux["index"][0])
    other = next(int(i) for i in step.aux["top_index"][0] if int(i) != chosen)
    forked = fork(model, run, at, other, ignore)
    index, value = run.sample.pairs(0)
    other_index, other_value = forked.sample.pairs(0)
    assert other_index[:at].tolist() == index[:at].tolist()
    assert other_value[:at].tolist() == value[:at].tolist()
    assert int(other_index[at]) == other != int(index[at])
    assert [step.i for step in forked.pair_steps] == list(range(1, len(forked.pair_steps) + 1))
    assert forked.stamp == f"{run.stamp}-at{at}-{other}"


def test_choosing_the_same_pair_changes_nothing(model, run):
    same = fork(model, run, 10, int(run.sample.index[0, 10]), ignore)
    assert same.sample.pairs(0)[0].tolist() == run.sample.pairs(0)[0].tolist()


def test_a_fork_may_choose_to_stop(model, run):
    forked = fork(model, run, 7, run.sample.dim, ignore)
    assert int(forked.sample.nnz[0]) == 7


def test_a_fork_of_a_fork_forgets_what_it_undoes(model, run):
    once = fork(model, run, 20, run.sample.dim, ignore)
    chosen = int(run.pair_steps[5].aux["index"][0])
    later = fork(model, fork(model, run, 5, chosen + 1, ignore), 9, run.sample.dim, ignore)
    assert [at for at, _ in later.forks] == [5, 9]
    assert [at for at, _ in fork(model, once, 5, chosen, ignore).forks] == [5]


@pytest.mark.parametrize(("at", "index"), [(-1, 400), (10_000, 400), (30, 0), (30, 785)])
def test_an_impossible_fork_is_refused_in_words(model, run, at, index):
    with pytest.raises(ValueError, match=r"a sample of|must come from"):
        fork(model, run, at, index, ignore)


def test_numbers_beyond_the_limits_are_refused_in_words(model):
    with pytest.raises(ValueError, match=r"guidance must be .*from 0 to 20"):
        generate(model, replace(PARAMS, guidance=21.0), SHA, ignore)


# -- files -----------------------------------------------------------------------------------------


def test_the_recipe_says_what_is_needed(run):
    recipe = exports.recipe(run)
    assert recipe["recipe"] == stamp(PARAMS, SHA)
    assert Params(**recipe["parameters"]) == PARAMS
    assert recipe["model_sha256"] == SHA and recipe["pairs"] == int(run.sample.nnz[0])
    assert {"python", "torch", "numpy"} <= recipe["versions"].keys()
    json.dumps(recipe)


def test_npz_opens_in_scipy_and_keeps_the_exact_zeros(run):
    file = io.BytesIO(exports.npz(run))
    matrix = scipy.sparse.load_npz(file)
    assert matrix.format == "csr" and matrix.shape == (1, 784)
    assert matrix.nnz == int(run.sample.nnz[0])
    assert (matrix.toarray() == run.sample.to_dense().numpy()).all()
    file.seek(0)
    assert json.loads(str(np.load(file)["recipe"])) == exports.recipe(run)


def test_csv_holds_the_pairs_in_order(run):
    text = exports.pairs_csv(run)
    table = pd.read_csv(io.StringIO(text), comment="#")
    assert table["index"].tolist() == run.sample.pairs(0)[0].tolist()
    assert (table["row"] * 28 + table["column"] == table["index"]).all()
    assert table["order"].tolist() == list(range(1, len(table) + 1))
    assert json.loads(text.splitlines()[0][2:]) == exports.recipe(run)


@given(st.text() | st.floats(allow_nan=False))
def test_no_cell_can_start_a_formula(cell):
    (safe,) = exports.safe_cells([cell])
    if isinstance(cell, float):
        assert float(safe) == cell
    elif safe[:1] in ("=", "+", "-", "@", "\t", "\r"):
        float(safe)  # only a number may start like one


def test_trace_json_is_a_trace_with_a_recipe(run):
    text = exports.trace_json(run)
    assert len(Trace.from_json(text).steps) == len(run.trace.steps)
    assert json.loads(text)["recipe"] == exports.recipe(run)


def test_pictures_open_and_carry_the_recipe(run, result):
    png = Image.open(io.BytesIO(exports.png(result)))
    assert png.format == "PNG" and json.loads(png.text["recipe"]) == exports.recipe(run)
    gif = Image.open(io.BytesIO(exports.gif(result)))
    assert gif.format == "GIF" and gif.n_frames > 5
    gif.seek(gif.n_frames - 1)
    assert exports.gif(result).count(json.dumps(exports.recipe(run))[:40].encode()) == 1


def test_the_notebook_is_valid_and_says_the_same(model, run):
    book = nbformat.reads(exports.notebook(run), as_version=4)
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    assert "seeded(11)" in code and "steps=5" in code and "guidance=2.0" in code
    forked = fork(model, run, 7, run.sample.dim, ignore)
    assert "[(7, 784)]" in exports.notebook(forked)


def test_the_command_line_makes_the_same_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("SED_CHECKPOINTS", str(shelf.fill(tmp_path)))
    run = generate(hub.load("sed-mnist"), PARAMS, SHA, ignore)
    words = shlex.split(PARAMS.command(out=str(tmp_path / "sample.npz")))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    sample = scipy.sparse.load_npz(tmp_path / "sample.npz")
    assert (sample.toarray() == run.sample.to_dense().numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_the_notebook_runs_as_it_stands(tmp_path, monkeypatch, forked):
    from nbclient import NotebookClient

    monkeypatch.setenv("SED_CHECKPOINTS", str(shelf.fill(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(shelf.Path(__file__).parents[1]))
    model = hub.load("sed-mnist")
    run = generate(model, PARAMS, SHA, ignore)
    if forked:
        run = fork(model, run, 9, int(run.pair_steps[9].aux["top_index"][0, -1]), ignore)
    book = nbformat.reads(exports.notebook(run), as_version=4)
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    said = "".join(o.get("text", "") for cell in book.cells for o in cell.get("outputs", []))
    assert said.startswith(f"{int(run.sample.nnz[0])} of 784") and "another checkpoint" not in said
    assert any("image/png" in o.get("data", {}) for o in book.cells[-1].outputs)
