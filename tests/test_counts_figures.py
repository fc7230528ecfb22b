"""The figures and pictures of the page Counts: what is drawn is what is there."""

import ast
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

from explorer import count_runs
from explorer.count_params import Params
from explorer.figures import counts as figures
from explorer.figures.colours import COLOURS, rgb
from explorer.figures.counts import OURS, Tile
from sed_core.domains.toy import TOY
from sed_core.thinning import SURVIVAL, survival_grid

SIDE = 28


def digit():
    x = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    x[5:20, 8:12], x[4, 4] = 200, 1
    return x.flatten()


@pytest.mark.parametrize("spacing", ["t", "log_odds"])
@pytest.mark.parametrize("name", SURVIVAL)
def test_the_schedule_marks_every_step_on_its_own_curve(name, spacing):
    curve = count_runs.curve(Params(schedule=name, spacing=spacing, steps=25), "cosine")
    fig = figures.schedule(curve)
    line, marks, odds, _ = fig.data
    assert len(marks.x) == 26 and (marks.x[0], marks.x[-1]) == (0.0, 1.0)
    assert np.allclose(np.interp(marks.x[1:-1], line.x, line.y), marks.y[1:-1], atol=0.02)
    assert all(a >= b for a, b in zip(line.y, line.y[1:], strict=False))
    assert [odds.y[-1], odds.y[0]] == pytest.approx([-15, 15], abs=0.5)  # cut off at 15
    edges = {0.0, *(t for t, _ in survival_grid(SURVIVAL[name], 25, spacing=spacing))}
    assert sorted(edges) == pytest.approx(list(marks.x))


def test_the_model_s_own_schedule_is_the_default_one():
    own, other = (count_runs.curve(Params(), name) for name in ("shifted", "cosine"))
    assert own.alive == count_runs.curve(Params(schedule="shifted"), "cosine").alive != other.alive


def test_the_words_count_the_steps_beyond_the_half():
    words = figures.schedule_words(count_runs.curve(Params(steps=10), "linear"))
    assert "t = 0.50; 5 of 10 steps lie beyond" in words


def test_a_histogram_starts_at_zero_as_a_bar_of_its_own_and_loses_nobody():
    law = TOY.pmf(200)[5].numpy()
    x = torch.tensor([0, 0, 0, 1, 2, 150]).numpy()
    fig = figures.histograms({"counts": ("CountsDiff", x), "gauss": ("Gaussian", x)}, law)
    bars = [trace for trace in fig.data if isinstance(trace, go.Bar)]
    exact = [trace for trace in fig.data if isinstance(trace, go.Scatter)]
    assert len(bars) == len(exact) == 2 and bars[0].x[0] == 0
    assert bars[0].y[0] == 0.5 and sum(bars[0].y) == pytest.approx(1)
    assert bars[0].y[-1] == pytest.approx(1 / 6)  # 150 stands in the last bar
    assert sum(exact[0].y) == pytest.approx(1) and exact[0].y[0] == pytest.approx(law[0])


@pytest.mark.parametrize("place", range(10))
def test_hardly_anything_lies_beyond_the_last_bar(place):
    law = TOY.pmf(200)[place].numpy()
    last = figures.cut(law)
    assert 2 <= last <= figures.MOST_BARS
    assert law[last + 1 :].sum() < figures.REST or last == figures.MOST_BARS


def test_variances_are_told_as_shares_of_the_exact_ones():
    table = {"counts": ("CountsDiff", [2.0, 3.0]), "exact": ("exact law, drawn", [1.0, 4.0])}
    fig = figures.variances(table, [1.0, 4.0])
    assert list(fig.data[0].y) == [2.0, 0.75] and list(fig.data[1].y) == [1.0, 1.0]
    assert fig.layout.shapes[0].y0 == 1
    assert "CountsDiff from 0.75 to 2.00" in figures.variance_words(table, [1.0, 4.0])


def test_the_loss_curve_grows_from_nothing():
    assert list(figures.losses([], 100).data[0].x) == []
    assert "no step is finished" in figures.losses_words([])
    fig = figures.losses([(20, 1.5), (40, 0.5)], 100)
    assert list(fig.data[0].y) == [1.5, 0.5] and fig.layout.xaxis.range == (0, 100)
    assert "from 1.5 to 0.5" in figures.losses_words([(20, 1.5), (40, 0.5)])


def test_methods_have_colours_of_their_own():
    colours = [look.colour for look in OURS.values()]
    assert len(set(colours)) == len(colours)


# -- pictures --------------------------------------------------------------------------------------


def cells(image, zoom):
    """The colour in the middle of every cell."""
    pixels = np.array(image.convert("RGB"))
    places = 1 + zoom * np.arange(SIDE) + zoom // 2 - 1
    return pixels[np.ix_(places, places)].reshape(-1, 3)


def test_a_zero_is_white_and_a_single_unit_is_not():
    drawn = cells(figures.digit(digit(), zoom=6), 6)
    white = (drawn == 255).all(1)
    assert (white == (digit() == 0).numpy()).all()


def test_what_is_erased_is_hatched_and_nothing_else_changes():
    seen = torch.ones(784, dtype=torch.bool)
    seen[:392] = False
    whole, part = (
        np.array(image) for image in (figures.digit(digit()), figures.erased(digit(), seen))
    )
    changed = (whole != part).any(2)
    assert not changed[14 * 5 + 1 :].any()
    found = {tuple(colour) for colour in part[1 : 14 * 5, 1:].reshape(-1, 3)}
    assert found == {rgb(figures.ERASED), rgb(figures.HATCH)}


def test_nothing_varies_where_every_draw_is_the_same():
    assert (cells(figures.deviation(torch.zeros(784), zoom=6), 6) == 255).all()
    sd = torch.zeros(784)
    sd[5], sd[9] = 2.0, 40.0
    drawn = cells(figures.deviation(sd, zoom=6), 6)
    assert drawn[9].sum() < drawn[5].sum() < 3 * 255


def test_bars_show_the_numbers_and_a_row_of_zeros_too():
    image = np.array(figures.bars([0, 5, 10], "abc", most=10))
    dark = (image == rgb(COLOURS["value"][7])).all(2).sum(0)
    assert dark[8 + 32] < dark[8 + 64 + 32] < dark[8 + 128 + 32]
    assert figures.bars(torch.zeros(1, 10), [str(k) for k in range(10)], most=0).size[0] > 600


def test_a_sheet_holds_every_tile():
    tiles = [Tile(f"Draw {k}", figures.digit(digit(), zoom=2)) for k in range(7)]
    assert figures.sheet(tiles, columns=5).size == (5 * 77 + 20, 2 * 107 + 20)
    assert Image.open(io.BytesIO(figures.png(figures.sheet(tiles)))).format == "PNG"
    marked = figures.outlined(tiles[0].image)
    assert marked.size == tiles[0].image.size and marked.getpixel((0, 0)) == rgb(COLOURS["latent"])


def test_a_gif_moves_and_holds_the_end_of_each_part():
    falling = np.stack([digit().numpy() // (k + 1) for k in range(6)])[:, None]
    image = Image.open(io.BytesIO(figures.gif([falling, falling[::-1]], zoom=2)))
    assert image.n_frames == 11 and image.size == (57, 57)  # the two ends that touch are one frame
    image = Image.open(io.BytesIO(figures.gif([falling.repeat(4, 1)], columns=4, zoom=2)))
    assert image.size == (4 * 65 - 8, 57)


def test_figures_know_neither_streamlit_nor_models():
    source = ast.parse(Path(figures.__file__).read_text())
    names = [node.module for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    names += [
        one.name for node in ast.walk(source) if isinstance(node, ast.Import) for one in node.names
    ]
    assert not [name for name in names if name.split(".")[0] in ("streamlit", "sed_core", "torch")]


def test_the_schedule_takes_any_curve():
    curve = SimpleNamespace(t=[0, 1], alive=[1, 0], odds=[15, -15], edges=[0, 1],
                            alive_at=[1, 0], odds_at=[15, -15])  # fmt: skip
    assert len(figures.schedule(curve).data) == 4
