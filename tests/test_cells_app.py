"""The page Cells by its logic: reference, settings, links, jobs, your own file, files."""

import csv
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import anndata
import numpy as np
import pytest
import scipy.sparse
import streamlit as st
from hypothesis import given
from hypothesis import strategies as hs
from streamlit.testing.v1 import AppTest

from explorer import (
    cell_exports,
    cell_models,
    cell_own,
    cell_own_state,
    cell_params,
    cell_places,
    cell_reference,
    cell_runs,
    cell_state,
    cell_views,
    decoding,
    models,
    record_cells,
)
from explorer.cell_params import DEFAULTS, KEYS, Params, read
from explorer.figures import cells as figures
from explorer.jobs import Cancelled
from sed_core.cell_model import CellModel
from sed_core.metrics import cells as law
from sed_core.metrics.cell_space import cells as as_cells
from sed_core.metrics.cell_space import principal_axes
from tests import shelf_cells
from tests.shelf_cells import PANEL, TYPES

ROOT = Path(__file__).parents[1]
PATIENCE = 90.0
SHA = "ab" * 32
SHIPPED = ROOT / "assets" / "cells" / cell_state.REFERENCE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return shelf_cells.fill(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def tape(shelf, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return shelf_cells.record(tmp_path_factory.mktemp("recorded"), shelf, patch)


@pytest.fixture(autouse=True)
def app(shelf, tape, monkeypatch):
    """The page on small checkpoints; UMAP is not there unless a test brings it."""
    monkeypatch.setenv("SED_CHECKPOINTS", str(shelf))
    monkeypatch.setattr(cell_state, "RECORDED", tape)
    monkeypatch.setattr(cell_places, "there", lambda: False)
    st.cache_data.clear()
    yield opened
    decoding.queue().close()
    st.cache_resource.clear()


@pytest.fixture(scope="module")
def found():
    return shelf_cells.reference()


def opened(page="cells", **query):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=PATIENCE)
    for key, value in query.items():
        at.query_params[key] = value
    return at.switch_page(f"pages/{page}.py").run()


def words(at):
    kinds = ["title", "header", "markdown", "caption", "text", "warning", "error", "code", "info"]
    return "\n".join(str(element.value) for kind in kinds for element in at.get(kind))


def finish(at):
    end = time.monotonic() + PATIENCE
    while "cells_ticket" in at.session_state:
        assert time.monotonic() < end
        time.sleep(0.02)
        at.run()
    assert not at.exception and not at.error
    return at


def press(at, key="cells_go"):
    return finish(at.button(key=key).click().run())


def result(at, family="sed"):
    return at.session_state["cells_results"][family]


# -- the reference ---------------------------------------------------------------------------------


def test_statistics_are_those_of_the_cells_and_come_back_from_the_file(found):
    counts, kind = shelf_cells.cells()
    back = cell_reference.unpack(cell_reference.pack(found))
    dense = counts.toarray()
    for some in (found, back):
        mean, variance, zeros = some.moments(some.usual)
        assert np.allclose(mean, dense.mean(0)) and np.allclose(variance, dense.var(0))
        assert np.allclose(zeros, (dense == 0).mean(0)) and some.genes == PANEL
        bars = some.histogram(3, some.usual)
        assert np.allclose(bars, np.bincount(dense[:, 3]) / len(dense))
        assert np.array_equal(some.library, dense.sum(1)) and some.types == (*TYPES, "unknown")
    assert np.array_equal(back.pcs, found.pcs) and np.array_equal(back.kind, kind)


def test_a_mix_of_types_is_that_of_its_cells(found):
    counts, kind = shelf_cells.cells()
    mix = found.mix(["B", "Mono"] * 20)
    both = [counts.toarray()[kind == t].astype(float) for t in (0, 2)]
    mean = np.mean([part.mean(0) for part in both], 0)
    assert np.allclose(found.moments(mix)[0], mean)
    shares = np.mean([(part[:, 5] == 0).mean() for part in both])
    assert np.isclose(found.histogram(5, mix)[0], shares) and np.isclose(
        found.weights(mix).sum(), 1
    )
    assert np.array_equal(found.mix(["nobody"]), found.usual)


def test_correlations_and_places_are_those_of_the_metrics(found):
    counts, _ = shelf_cells.cells()
    import torch

    real = law.correlations(as_cells(counts), torch.from_numpy(found.variable)).numpy()
    off = ~np.eye(len(real), dtype=bool)
    assert np.allclose(found.correlations(found.usual)[off], real[off], atol=2e-3)
    assert np.allclose(found.project(counts), found.pcs, atol=2e-2)


def test_genes_are_matched_by_name_in_any_order(found):
    counts, _ = shelf_cells.cells(7)
    other = ("EXTRA", *reversed(PANEL[1:]))
    ones = scipy.sparse.csr_matrix(np.ones((7, 1), np.int32))
    wide = scipy.sparse.hstack([ones, counts[:, ::-1][:, :-1]], format="csr")
    panel = found.on_panel(wide, other).toarray()
    assert np.array_equal(panel[:, 1:], counts.toarray()[:, 1:]) and not panel[:, 0].any()


@pytest.mark.data
def test_the_shipped_reference_is_up_to_date():
    shipped, made = cell_reference.read(SHIPPED), record_cells.of_pbmc()
    assert shipped.genes == made.genes and shipped.types == made.types
    assert shipped.name == made.name == "2,430 training cells of PBMC3k"
    for key in ("kind", "library", "variable"):
        assert np.array_equal(getattr(shipped, key), getattr(made, key)), key
    for key in ("start", "value", "cells"):
        assert np.array_equal(getattr(shipped.marginals, key), getattr(made.marginals, key)), key
    assert np.allclose(shipped.pcs, made.pcs, atol=0.02) and shipped.held.shape == (270, 30)
    assert shipped.layout is not None and shipped.layout.shape == (2430, 2)


@pytest.mark.parametrize("family", cell_params.MODELS)
def test_what_is_recorded_is_of_the_shipped_checkpoint(family):
    path = SHIPPED.parent / f"{family}.safetensors.gz"
    folder = ROOT / "checkpoints" / cell_params.MODELS[family]
    if not path.exists() or not (folder / "manifest.json").exists():
        pytest.skip(f"{folder.name} is not recorded or not shipped")
    made = cell_exports.untape(path.read_bytes(), cell_reference.read(SHIPPED))
    assert made.sha == models.sha(folder) and made.model == folder.name
    assert len(made) == made.params.n == 500 and made.layout is not None
    assert made.panel.shape == (500, 2_000) and made.near is not None


def test_what_ships_is_small_and_holds_no_matrix_of_counts():
    sizes = {path.name: path.stat().st_size for path in SHIPPED.parent.iterdir()}
    assert sum(sizes.values()) < 1.5e6
    shipped = cell_reference.read(SHIPPED)
    cells = len(shipped)
    stored = [shipped.kind, shipped.library, shipped.pcs, shipped.layout]
    assert all(part.size <= 30 * cells for part in stored)


# -- parameters ------------------------------------------------------------------------------------

PARAMS = hs.builds(
    Params,
    family=hs.sampled_from([*cell_params.FAMILIES]),
    label=hs.none() | hs.sampled_from(TYPES),
    n=hs.sampled_from(cell_params.SIZES),
    guidance=hs.sampled_from([0.0, 1.0, 2.0, 4.0, 8.0]),
    steps=hs.sampled_from(cell_params.STEPS),
    seed=hs.integers(0, 2**31 - 1),
    gene=hs.sampled_from(PANEL),
    map=hs.sampled_from([*cell_params.MAPS]),
)


@given(PARAMS)
def test_a_link_says_everything(params):
    query = dict(parse_qsl(urlsplit(params.link("http://localhost/cells", SHA)).query))
    found, ignored = read(query, TYPES, PANEL)
    assert ignored == [] and found == params and query["sha"] == SHA[:8]
    assert found.stamp("sed", SHA) == params.stamp("sed", SHA) != params.stamp("counts", SHA)


@given(hs.dictionaries(hs.sampled_from(KEYS), hs.text(max_size=60)))
def test_no_text_in_a_link_makes_trouble(values):
    params, ignored = read(values, TYPES, PANEL)
    assert len(ignored) <= len(values) and params.gene in PANEL


@pytest.mark.parametrize(
    ("key", "bad"),
    [("view", "cook"), ("family", "ddpm"), ("label", "Plasma"), ("label", "<script>"), ("n", "7"),
     ("guidance", "3"), ("guidance", "nan"), ("steps", "20"), ("seed", "-1"), ("gene", "TP53"),
     ("map", "tsne"), ("task", "x"), ("share", "99"), ("draws", "5"), ("rows", "1"),
     ("learner", "scvi")],
)  # fmt: skip
def test_what_does_not_belong_is_named_and_left_at_its_default(key, bad):
    params, ignored = read({key: bad}, TYPES, PANEL)
    assert params == DEFAULTS and ignored == [f"{key}={bad}"]


def test_what_is_only_looked_at_changes_no_name():
    assert DEFAULTS.stamp("sed", SHA) == replace(DEFAULTS, gene="G1", map="pca").stamp("sed", SHA)
    assert DEFAULTS.stamp("sed", SHA) == replace(DEFAULTS, family="both", share=50).stamp(
        "sed", SHA
    )
    assert DEFAULTS.stamp("sed", SHA) != replace(DEFAULTS, label="B").stamp("sed", SHA)


@given(hs.dictionaries(hs.text(min_size=1), hs.integers(1, 900), min_size=1, max_size=9),
       hs.integers(1, 1_000))  # fmt: skip
def test_cells_are_shared_out_by_the_sizes_of_types(sizes, n):
    shared = cell_runs.quotas(sizes, n)
    total = sum(sizes.values())
    assert sum(shared.values()) == n
    assert all(abs(shared[name] - n * size / total) < 1 for name, size in sizes.items())
    over = {name: shared[name] - n * size / total for name, size in sizes.items()}
    rounded_up = [over[name] for name in sizes if over[name] > 1e-9]
    rounded_down = [over[name] for name in sizes if over[name] < -1e-9]
    assert not rounded_up or not rounded_down or max(rounded_up) <= 1 + min(rounded_down) + 1e-9


# -- making cells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sed", "counts", "both"])
def test_the_page_opens_at_once_with_what_is_recorded(app, family):
    at = app(family=family)
    assert not at.exception and not at.error and not at.warning
    assert at.title[0].value == "Cells" and "cells_ticket" not in at.session_state
    told = words(at)
    assert told.count("Recorded, not live") == (2 if family == "both" else 1)
    assert "Live" not in told and "Memorisation" in told
    assert "Generated cells are counts, not smoothed values." in told


def test_without_checkpoints_the_page_says_so_and_shows_what_is_recorded(
    app, monkeypatch, tmp_path
):
    (tmp_path / "cards.toml").write_text("", encoding="utf-8")
    monkeypatch.setenv("SED_CHECKPOINTS", str(tmp_path))
    at = app()
    assert "The checkpoint sed-pbmc3k is not here" in words(at)
    assert at.button(key="cells_go").disabled and "Recorded, not live" in words(at)
    assert not at.exception and not at.error


def test_without_recordings_it_says_so_too(app, monkeypatch, tape, tmp_path):
    (tmp_path / cell_state.REFERENCE).write_bytes((tape / cell_state.REFERENCE).read_bytes())
    monkeypatch.setattr(cell_state, "RECORDED", tmp_path)
    at = app()
    assert "No cells are recorded here yet" in words(at) and not at.exception


def test_cells_are_made_as_the_command_says(app, shelf):
    at = press(app(steps="10", label="NK", seed="5"))
    made = result(at)
    assert "Live: sed-pbmc3k, 100 cells, NK, guidance 1, 10 steps, seed 5" in words(at)
    again = CellModel.load(shelf / "sed-pbmc3k").sample(100, label="NK", steps=10, seed=5)
    assert (again.layers["counts"] != made.counts).nnz == 0
    assert set(made.types) == {"NK"} and made.counts.dtype == np.int32
    assert "label='NK'" in cell_exports.command(made)


def test_any_type_is_mixed_as_in_the_real_cells(app, found):
    made = result(press(app(family="counts", steps="10")), "counts")
    share = {name: made.types.count(name) / len(made) for name in TYPES}
    sizes = dict(zip(found.types, found.sizes, strict=True))
    whole = sum(sizes[name] for name in TYPES)
    assert all(abs(share[name] - sizes[name] / whole) < 0.011 for name in TYPES)
    code = cell_exports.command(made)
    assert "labels = ['B'] * " in code and code.count("] * ") == 3


def test_side_by_side_makes_both_with_the_same_settings(app):
    at = press(app(family="both", steps="10", seed="3"))
    sed, counts = result(at), result(at, "counts")
    assert sed.types == counts.types and sed.params == counts.params
    assert words(at).count("Live: ") == 2 and sed.stamp != counts.stamp
    assert len(at.get("plotly_chart")) == 2 + 1 + 5
    alone = result(press(app(steps="10", seed="3")))
    assert alone.stamp == sed.stamp and (alone.counts != sed.counts).nnz == 0


def test_nothing_runs_until_generate_and_changes_are_marked(app):
    at = app(steps="10")
    assert "cells_results" not in at.session_state
    press(at)
    at.button_group(key="cells_n").set_value(500).run()
    assert "Settings changed. Generate to update." in words(at) and len(result(at)) == 100
    at.button_group(key="cells_n").set_value(100).run()
    assert "Settings changed" not in words(at)
    at.selectbox(key="cells_gene").set_value("G7").run()
    assert "Settings changed" not in words(at)
    assert at.session_state["cells_params"].gene == "G7"


def test_a_link_sets_every_control(app):
    params = Params(family="counts", label="Mono", n=500, guidance=2.0, steps=25, seed=11,
                    gene="G9", map="pca")  # fmt: skip
    at = app(**dict(parse_qsl(urlsplit(params.link("", SHA)).query)))
    assert at.session_state["cells_params"] == params and "Ignored" not in words(at)
    assert "another version" in words(at) and at.selectbox(key="cells_label").value == "Mono"
    at.button(key="cells_reset").click().run()
    assert at.session_state["cells_params"] == DEFAULTS


def test_a_bad_link_is_named(app):
    at = app(seed="abc", label="<b>")
    assert {text.value for text in at.text} == {"Ignored: seed=abc", "Ignored: label=<b>"}
    assert not press(at.button_group(key="cells_steps").set_value(10).run()).text


def test_stop_keeps_the_previous_cells(app):
    at = press(app(steps="10"))
    at.button_group(key="cells_n").set_value(1_000).run()
    at.button(key="cells_go").click().run()
    at.button(key="cells_stop").click().run()
    assert "cells_ticket" not in at.session_state and len(result(at)) == 100
    assert "Settings changed. Generate to update." in words(at)


@pytest.mark.parametrize("family", ["sed", "counts"])
def test_a_job_hears_stop_within_a_step(app, found, family):
    shares = []

    def tick(share):
        shares.append(share)
        if share > 0.02:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        cell_runs.draw(cell_models.load(family), Params(steps=100), found, tick, family=family,
                       sha="")  # fmt: skip
    assert shares == sorted(shares) and shares[-1] < 0.2


# -- places ----------------------------------------------------------------------------------------


class Shifted:
    """Stands for umap-learn: the real cells where they were, others at their first two axes."""

    def __init__(self, **options):
        self.options = options

    def fit(self, pcs):
        self.embedding_ = self.options["init"]

    def transform(self, pcs):
        return pcs[:, :2] + 100


def test_cells_move_to_the_umap_once_it_is_fitted(app, monkeypatch):
    monkeypatch.setattr(cell_places, "there", lambda: True)
    monkeypatch.setattr(cell_places, "_umap", lambda seed, **options: Shifted(**options))
    at = press(app(steps="10"))
    end = time.monotonic() + PATIENCE
    while result(at).layout is None:
        assert time.monotonic() < end
        at.run()
    made = result(at.run())
    assert np.allclose(made.layout[1], made.pcs[:, :2] + 100)
    assert "placed by its transform" in words(at)
    at.button_group(key="cells_map").set_value("pca").run()
    assert "principal axes along which" in words(at)


def test_a_fit_goes_on_when_its_job_is_stopped_and_serves_the_next(found, monkeypatch):
    fits = []

    class Slow(Shifted):
        def fit(self, pcs):
            fits.append(1)
            time.sleep(0.5)
            super().fit(pcs)

    monkeypatch.setattr(cell_places, "_umap", lambda seed, **options: Slow(**options))
    other = replace(found)

    def stop(share):
        raise Cancelled("Stopped.")

    begun = time.monotonic()
    with pytest.raises(Cancelled):
        cell_places.by_umap(other, found.pcs, stop)
    assert time.monotonic() - begun < 0.4
    _, placed = cell_places.by_umap(other, found.pcs, lambda share: None)
    assert fits == [1] and placed.shape == (len(found), 2) and cell_places.is_fitted(other)


def test_nearness_knows_copies_from_fresh_cells(found):
    copied = cell_places.nearness(found, found.pcs)
    fresh = cell_places.nearness(found, found.held)
    assert copied.closer > 0.99 and copied.copies > 0.99 and copied.made < 1e-3
    assert abs(fresh.closer - 0.5) < 1e-9 and fresh.copies <= 0.04
    own = cell_reference.reference(*shelf_cells.cells()[:1], PANEL, name="own")
    assert cell_places.nearness(own, own.pcs) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of umap-learn's, about what it does not need here
def test_umap_learn_keeps_the_stored_layout_and_places_cells_by_their_kin():
    shipped = cell_reference.read(SHIPPED)
    real, placed = cell_places.by_umap(shipped, shipped.pcs[::5] + 1e-3, lambda share: None)
    moved = np.linalg.norm(real - shipped.layout, axis=1)
    away = np.linalg.norm(placed - real[::5], axis=1)
    assert np.median(moved) < 0.8 and np.median(away) < 0.4  # of a box of 10 x 10


# -- the gene panel --------------------------------------------------------------------------------


def test_bars_are_shares_and_zero_stands_alone():
    real = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    made = figures.Sample("sed", "SED", np.array([0, 0, 0, 1, 2, 9]))
    fig = figures.gene(real, [made], "counts of X")
    bars = {(bar.name, bar.xaxis): np.asarray(bar.y, float) for bar in fig.data}
    assert bars["real", "x"] == [0.5] and np.isclose(bars["SED", "x"][0], 0.5)
    for name in ("real", "SED"):
        assert np.isclose(bars[name, "x"].sum() + bars[name, "x2"].sum(), 1)
    assert figures.gene_words(real, [made], "counts of X").endswith("real 50.0%, SED 50.0%.")
    wide = figures.Sample("sed", "SED", np.arange(400))
    assert len(figures.gene(np.ones(400) / 400, [wide], "X").data[1].x) <= figures.MOST_BARS + 1


def test_a_selection_counts_made_cells_only():
    points = [{"customdata": -1}, {"customdata": 4}, {"customdata": [2]}, {}]
    event = SimpleNamespace(selection={"points": points})
    assert cell_views.inside(event) == [2, 4] and cell_views.inside(None) is None
    event.selection["points"] = [{"customdata": -1}]
    assert cell_views.inside(event) == []


def test_every_map_point_says_which_cell_it_is(app, tape, found):
    made = cell_state.recorded("sed")
    fig = figures.cells_map(
        figures.Cloud(found.pcs[:, :2], cell_views._types(found)),
        figures.Cloud(made.pcs[:, :2], made.types), found.types[:-1], asked="B",
    )  # fmt: skip
    real = [trace for trace in fig.data if "real" in trace.name]
    assert sum(len(trace.x) for trace in real) == len(found) and len(real) == 2
    rows = [row for trace in fig.data if trace not in real for row in trace.customdata]
    assert sorted(rows) == list(range(100))
    assert len({(trace.marker.color, trace.marker.symbol) for trace in fig.data}) == len(fig.data)


# -- files -----------------------------------------------------------------------------------------


def test_the_h5ad_holds_counts_labels_and_the_recipe(app, tmp_path):
    made = result(press(app(family="counts", steps="10")), "counts")
    path = tmp_path / cell_exports.name(made, "h5ad")
    path.write_bytes(cell_exports.h5ad(made))
    found = anndata.read_h5ad(path)
    assert found.X.format == "csr" and found.X.dtype == np.float32
    assert (found.layers["counts"] != made.counts).nnz == 0
    assert list(found.var_names) == list(PANEL)
    assert found.obs["cell_type"].astype(str).tolist() == list(made.types)
    told = json.loads(found.uns["sed_recipe"])
    assert told["recipe"] == made.stamp and made.stamp in path.name
    assert np.isclose(1 - (found.X != 0).mean(), made.zeros)
    assert found.obsm["X_pca"].shape == (100, found.obsm["X_pca"].shape[1])


def test_a_selection_is_a_table_of_these_cells(app):
    made = cell_state.recorded("counts")
    text = cell_exports.selection([made], [[3, 8]], PANEL)
    lines = text.splitlines()
    assert json.loads(lines[0][2:])[0]["recipe"] == made.stamp
    table = list(csv.DictReader(io.StringIO("\n".join(lines[1:]))))
    assert [line["cell"] for line in table] == ["4", "9"]
    got = np.array([[int(line[gene]) for gene in PANEL] for line in table])
    assert np.array_equal(got, made.panel[[3, 8]].toarray())
    assert cell_exports.plain("=1+1") == "'=1+1" and cell_exports.plain("B") == "B"


def test_figures_need_no_network(app, found):
    made = cell_state.recorded("sed")
    text = cell_views.page(cell_state.reference(), made)
    assert text.count('class="plotly-graph-div"') == 5 and made.stamp in text
    assert "cdn.plot.ly" not in text.split("</script>")[-1] and 'src="http' not in text


def test_a_recording_comes_back(app, found):
    made = cell_state.recorded("sed")
    again = cell_exports.untape(cell_exports.tape(made), cell_state.reference())
    assert again.stamp == made.stamp and (again.panel != made.panel).nnz == 0
    assert again.types == made.types and again.near == made.near


# -- your own file ---------------------------------------------------------------------------------


def h5ad(tmp_path, counts=None, genes=PANEL, **parts):
    counts = shelf_cells.cells(60, 3)[0] if counts is None else counts
    path = tmp_path / "mine.h5ad"
    found = anndata.AnnData(counts.astype(np.float32), **parts)
    found.var_names = list(genes)
    found.write_h5ad(path)
    return path.read_bytes()


def uploaded(at, data, name="mine.h5ad"):
    return at.file_uploader(key="cells_file").upload(name, data, "application/x-hdf5").run()


def test_what_is_in_a_file_is_told(app, tmp_path):
    at = uploaded(app(view="own"), h5ad(tmp_path))
    metrics = {metric.label: metric.value for metric in at.metric}
    counts = shelf_cells.cells(60, 3)[0]
    assert metrics["Cells"] == "60" and metrics["Genes"] == "41"
    assert metrics["Exact zeros"] == f"{1 - counts.nnz / (60 * 41):.1%}"
    assert "41 of the 41 genes of counts-pbmc3k are in it" in words(at) and not at.error


@pytest.mark.parametrize("what", ["pickle", "normalised", "negative", "empty"])
def test_what_is_no_counts_file_gets_one_sentence_and_the_page_goes_on(app, tmp_path, what):
    counts = shelf_cells.cells(60, 3)[0].astype(np.float32)
    data = {
        "pickle": lambda: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00" + b"x" * 200,
        "normalised": lambda: h5ad(tmp_path, counts * 0.37),
        "negative": lambda: h5ad(tmp_path, -counts),
        "empty": lambda: b"",
    }[what]()
    at = uploaded(app(view="own"), data)
    assert len(at.error) == 1 and at.error[0].value.count(". ") == 0 and not at.exception
    assert "went wrong" not in at.error[0].value
    at = uploaded(at, h5ad(tmp_path))
    assert not at.error and {metric.value for metric in at.metric} > {"60", "41"}


def test_hidden_entries_are_filled_in_and_seen_ones_stay(app, tmp_path):
    genes = [f"X{gene}" if k % 2 else gene for k, gene in enumerate(PANEL)]
    at = uploaded(app(view="own", steps="10", draws="4"), h5ad(tmp_path, genes=genes))
    assert "21 of the 41 genes" in words(at)
    press(at, "cells_own_go")
    found = at.session_state["cells_own_results"]["impute"]
    counts = shelf_cells.cells(60, 3)[0].toarray()[:50]
    assert found.genes == PANEL[::2] and np.array_equal(found.truth, counts[:, ::2])
    assert (found.draws[:, ~found.hidden] == found.truth[~found.hidden]).all()
    assert abs(found.hidden.mean() - 0.25) < 0.05 and found.draws.shape == (4, 50, 21)
    told = cell_own.scores(found)
    root = np.sqrt(np.mean(found.truth[found.hidden].astype(float) ** 2))
    assert np.isclose(told.rmse_zeros, root) and told.entries == found.hidden.sum()
    assert "Live: counts-pbmc3k, 50 cells, 21 genes that match" in words(at)
    path = tmp_path / "filled.h5ad"
    path.write_bytes(cell_own.filled_h5ad(found))
    made = anndata.read_h5ad(path)
    seen = made.layers["hidden"].toarray() == 0
    assert np.array_equal(made.X.toarray()[seen], found.truth[seen].astype(np.float32))
    assert made.obs_names[0] == "0" and json.loads(made.uns["sed_recipe"])["genes_matched"] == 21


def test_a_file_without_known_genes_can_only_be_trained_on(app, tmp_path):
    at = uploaded(app(view="own"), h5ad(tmp_path, genes=[f"ENS{k}" for k in range(41)]))
    assert at.button(key="cells_own_go").disabled and "None of the 41 genes" in words(at)
    at.button_group(key="cells_task").set_value("train").run()
    assert not at.button(key="cells_own_go").disabled


def test_a_model_is_trained_on_the_file_and_makes_cells(app, tmp_path, monkeypatch):
    monkeypatch.setattr(cell_own, "QUICK", {"counts": 12, "sed": 9})
    at = uploaded(app(view="own", task="train", steps="10"), h5ad(tmp_path))
    press(at, "cells_own_go")
    found = at.session_state["cells_own_results"]["train"]
    assert found.losses[-1][1:3] == (12, 12) and len(found.made) == 100
    assert found.made.genes == PANEL and found.made.near is None
    assert "Live: trained on 60 cells x 41 genes" in words(at) and "your file" in words(at)
    assert 'family="counts", steps=12' in cell_exports.command(found.made)
    at.button_group(key="cells_n").set_value(500).run()
    assert "Settings changed. Train to update." in words(at)


def test_training_stops_and_a_file_that_is_taken_away_is_forgotten(app, tmp_path, monkeypatch):
    at = uploaded(app(view="own", task="train"), h5ad(tmp_path))
    at.button(key="cells_own_go").click().run()
    at.button(key="cells_stop").click().run()
    assert "cells_ticket" not in at.session_state and cell_own_state.JOBS
    assert "cells_own_results" not in at.session_state
    at.file_uploader(key="cells_file").clear().run()
    assert "cells_own" not in at.session_state and not at.exception


def test_too_few_cells_to_train_on_is_said():
    few = cell_own.Own("x", "", shelf_cells.cells(5)[0].astype(np.int64), PANEL, tuple("abcde"))
    with pytest.raises(ValueError, match="A model needs 20 cells"):
        cell_own.train(few, DEFAULTS, [], lambda share: None)


def test_axes_of_the_reference_are_those_of_the_metrics(found):
    counts, _ = shelf_cells.cells()
    held, _ = shelf_cells.cells(30, 1)
    both = as_cells(scipy.sparse.vstack([counts, held], format="csr"))
    from sed_core.chance import seeded

    axes = principal_axes(both, axes=30, name="", generator=seeded(0))
    assert np.allclose(axes.project(as_cells(counts)).numpy(), found.pcs, atol=0.05)
