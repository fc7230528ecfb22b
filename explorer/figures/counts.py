"""The figures of Counts: schedule, histograms, variances, loss; and pictures of counts as files.

Counts in, plotly.Figure or Pillow image out. A histogram starts with zero as a bar of its own, and
shows the exact law as points on it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from plotly.subplots import make_subplots

from explorer.figures.colours import COLOURS, rgb
from explorer.figures.compare import below, dressed
from explorer.figures.looks import DATA, INK, LOOKS, QUIET, Look
from explorer.figures.picture import indexed, picture, saved, spread

SIDE, LARGEST = 28, 255
OURS: Mapping[str, Look] = {
    "counts": LOOKS["sed"], "own": Look("#7a4fa3", "dashdot", "diamond-open"),
    "gauss": LOOKS["ddpm"], "masked": LOOKS["ldm"],
}  # fmt: skip
CHANCE = Look(DATA, "solid", "square")  # draws of the exact law
MOST_BARS, REST = 40, 0.002  # of a histogram: bars at most; what may lie beyond the last
FRAMES, FRAME_MS, HOLD_MS = 45, 80, 1500  # of each half of a GIF
ERASED, HATCH = "#eceef1", "#a3a9b3"
Array = NDArray[Any]


# -- plotly ----------------------------------------------------------------------------------------


def schedule(curve: Any) -> go.Figure:
    """p(t) and log-odds over time, with a mark wherever a step begins or ends."""
    fig = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    marks = {"color": COLOURS["fork"], "size": max(4, 9 - len(curve.edges) // 25)}
    for row, (line, points, what) in enumerate(
        [(curve.alive, curve.alive_at, "alive, p(t)"), (curve.odds, curve.odds_at, "log-odds")], 1
    ):
        fig.add_scatter(
            x=curve.t, y=line, mode="lines", name="schedule", showlegend=row == 1, row=row, col=1,
            line={"color": COLOURS["latent"], "width": 2.5}, legendgroup="line",
            hovertemplate="t %{x:.3f}: %{y:.3g}<extra></extra>",
        )  # fmt: skip
        fig.add_scatter(
            x=curve.edges, y=points, mode="markers", name="steps begin and end",
            showlegend=row == 1, row=row, col=1, marker=marks, legendgroup="marks",
            hovertemplate="t %{x:.4f}: %{y:.3g}<extra></extra>",
        )  # fmt: skip
        fig.update_yaxes(title_text=what, row=row, col=1, fixedrange=True)
    fig.update_xaxes(title_text="time t: 0 is the data, 1 is nothing", row=2, col=1)
    fig.update_xaxes(fixedrange=True, range=[-0.02, 1.02])
    fig.update_yaxes(tickformat=".0%", range=[-0.05, 1.05], row=1, col=1)
    return below(dressed(fig, 420))


def schedule_words(curve: Any) -> str:
    """The schedule in a sentence."""
    return f"Share alive and its log-odds over time. {late_words(curve)}"


def late_words(curve: Any) -> str:
    """How many of the steps are spent where hardly anything lives."""
    half = min(range(len(curve.t)), key=lambda k: abs(curve.alive[k] - 0.5))
    late = sum(edge > curve.t[half] for edge in curve.edges[1:])
    return (
        f"Half of all units are dead at t = {curve.t[half]:.2f}; {late} of "
        f"{len(curve.edges) - 1} steps lie beyond."
    )


def histograms(
    columns: Mapping[str, tuple[str, Array]], law: Array, *, title: str = ""
) -> go.Figure:
    """Share of each count in one dimension: a row a method, the exact law as points on each.

    Args:
        columns: key -> (name, samples of that dimension).
        law: exact probability of 0, 1, 2, ...
    """
    last = cut(law)
    exact = np.append(law[:last], 1 - law[:last].sum())
    fig = make_subplots(rows=len(columns), shared_xaxes=True, vertical_spacing=0.03)
    places = np.arange(last + 1)
    words = [*(str(k) for k in places[:-1]), f"{last}+"]
    top = 1.3 * max(exact.max(), *(shares(x, last).max() for _, x in columns.values()))
    for row, (key, (name, x)) in enumerate(columns.items(), 1):
        fig.add_bar(
            x=places, y=shares(x, last), marker_color=OURS[key].colour, width=0.8, row=row, col=1,
            customdata=words, hovertemplate="count %{customdata}: %{y:.2%}<extra></extra>",
            showlegend=False,
        )  # fmt: skip
        fig.add_scatter(
            x=places, y=exact, mode="lines+markers", name="exact law", showlegend=row == 1,
            line={"color": INK, "width": 1.2, "dash": "dot"}, row=row, col=1,
            marker={"symbol": "line-ew-open", "size": 11, "line": {"width": 2.5, "color": INK}},
            customdata=words, hovertemplate="exact, %{customdata}: %{y:.2%}<extra></extra>",
            legendgroup="exact",
        )  # fmt: skip
        fig.add_annotation(
            x=1, xref="x domain", y=0.96 * top, xanchor="right", yanchor="top", showarrow=False,
            text=f"<b>{name}</b>", font={"color": INK}, bgcolor="rgba(255,255,255,0.85)",
            row=row, col=1,
        )  # fmt: skip
    fig.update_yaxes(tickformat=".0%", range=[0, top], nticks=4, fixedrange=True)
    shown = places if last <= 12 else places[:: max(2, last // 8)]
    fig.update_xaxes(tickvals=shown, ticktext=[words[k] for k in shown], fixedrange=True,
                     showgrid=False)  # fmt: skip
    fig.update_xaxes(title_text=title, row=len(columns), col=1)
    return below(dressed(fig, 118 * len(columns) + 110))


def cut(law: Array) -> int:
    """The first count whose bar takes all beyond it too."""
    beyond = 1 - np.cumsum(law)
    return int(np.clip(np.argmax(beyond < REST) + 1, 2, min(MOST_BARS, len(law) - 1)))


def shares(x: Array, last: int) -> Array:
    """Share of the samples at 0, 1, ..., and at `last` or beyond."""
    return np.bincount(np.minimum(np.asarray(x), last), minlength=last + 1) / len(x)


def histogram_words(columns: Mapping[str, tuple[str, Array]], law: Array, title: str) -> str:
    """The histograms in a sentence."""
    parts = [f"{name} {np.mean(np.asarray(x) == 0):.1%}" for name, x in columns.values()]
    return f"Histograms of {title}. Zero: exact law {law[0]:.1%}, {', '.join(parts)}."


def variances(
    table: Mapping[str, tuple[str, Sequence[float]]], exact: Sequence[float]
) -> go.Figure:
    """Variance of each dimension as a share of the exact one; 1 is right."""
    fig, places = go.Figure(), [str(j + 1) for j in range(len(exact))]
    for key, (name, found) in table.items():
        look = OURS.get(key, CHANCE)
        fig.add_bar(
            x=places, y=[one / right for one, right in zip(found, exact, strict=True)], name=name,
            marker={"color": look.colour, "line": {"color": QUIET, "width": int(look is CHANCE)}},
            customdata=[[one, right] for one, right in zip(found, exact, strict=True)],
            hovertemplate="dimension %{x}: %{customdata[0]:.3g}, exact %{customdata[1]:.3g}",
        )  # fmt: skip
    fig.add_hline(y=1, line={"color": INK, "width": 2, "dash": "dot"})
    fig.update_layout(barmode="group", bargap=0.25)
    fig.update_xaxes(title_text="dimension", type="category", fixedrange=True, showgrid=False)
    fig.update_yaxes(title_text="variance / exact", rangemode="tozero", fixedrange=True)
    return below(dressed(fig, 380))


def variance_words(table: Mapping[str, tuple[str, Sequence[float]]], exact: Sequence[float]) -> str:
    """The variances in a sentence."""
    parts = []
    for name, found in table.values():
        ratios = [one / right for one, right in zip(found, exact, strict=True)]
        parts.append(f"{name} from {min(ratios):.2f} to {max(ratios):.2f}")
    return f"Variance of each dimension over the exact one: {'; '.join(parts)}."


def losses(points: Sequence[tuple[int, float]], steps: int) -> go.Figure:
    """How the loss of a training falls."""
    fig = go.Figure()
    fig.add_scatter(
        x=[step for step, _ in points], y=[loss for _, loss in points], mode="lines",
        line={"color": OURS["own"].colour, "width": 2.5}, name="loss", showlegend=False,
        hovertemplate="step %{x:,}: %{y:.4f}<extra></extra>",
    )  # fmt: skip
    fig.update_xaxes(title_text="training step", range=[0, steps], fixedrange=True)
    fig.update_yaxes(title_text="loss", fixedrange=True, nticks=6)
    return dressed(fig, 260)


def losses_words(points: Sequence[tuple[int, float]]) -> str:
    """The curve in a sentence."""
    if not points:
        return "The loss of the training; no step is finished yet."
    return (
        f"The loss falls from {points[0][1]:.3g} to {points[-1][1]:.3g} at step {points[-1][0]:,}."
    )


# -- pictures --------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """A picture with the line that stands under it."""

    words: str
    image: Image.Image
    marked: bool = False


def digit(counts: Any, zoom: int = 5) -> Image.Image:
    """784 grey levels as the player draws them."""
    return picture(counts, SIDE, SIDE, LARGEST, low=1, zoom=zoom)


def deviation(sd: Any, zoom: int = 5) -> Image.Image:
    """784 standard deviations; the largest is the darkest."""
    most = float(np.asarray(sd).max())
    return picture(sd, SIDE, SIDE, max(most, 1e-6), low=min(1.0, max(most, 1e-6) / 2), zoom=zoom)


def erased(counts: Any, seen: Any, zoom: int = 5) -> Image.Image:
    """A digit of which only a part is seen; what is erased is hatched, as in the eraser."""
    image, seen = digit(counts, zoom), np.asarray(seen).reshape(SIDE, SIDE)
    pixels = np.array(image)
    high, wide = pixels.shape[:2]
    inside = np.zeros((high, wide), dtype=bool)
    inside[1:, 1:] = (~seen).repeat(zoom, 0).repeat(zoom, 1)
    down, across = np.mgrid[:high, :wide]
    pixels[inside] = rgb(ERASED)
    pixels[inside & ((down + across) % 6 == 0)] = rgb(HATCH)
    return Image.fromarray(pixels)


def bars(counts: Any, names: Sequence[str], *, most: int) -> Image.Image:
    """A few counts as bars with their numbers."""
    counts, wide, high = np.asarray(counts).reshape(-1), 64, 260
    image = Image.new("RGB", (wide * len(counts) + 16, high + 64), "#ffffff")
    pen = ImageDraw.Draw(image)
    for place, (count, name) in enumerate(zip(counts.tolist(), names, strict=True)):
        middle, top = 8 + wide * place + wide // 2, 28 + high - round(high * count / max(1, most))
        pen.rectangle((middle - 22, top, middle + 22, 28 + high), fill=COLOURS["value"][7])
        pen.text((middle, top - 4), str(count), fill=INK, anchor="mb", font_size=18)
        pen.text((middle, high + 34), name, fill=QUIET, anchor="mt", font_size=18)
    pen.line((8, 28 + high, image.width - 8, 28 + high), fill="#8a8f98", width=2)
    return image


def outlined(image: Image.Image) -> Image.Image:
    """A picture with a frame that marks it among others."""
    marked = image.copy()
    edge = (0, 0, image.width - 1, image.height - 1)
    ImageDraw.Draw(marked).rectangle(edge, outline=COLOURS["latent"], width=4)
    return marked


def sheet(tiles: Sequence[Tile], columns: int = 5) -> Image.Image:
    """Pictures with their lines, in rows."""
    gap, foot = 20, 30
    wide, high = (max(size) for size in zip(*(tile.image.size for tile in tiles), strict=True))
    rows = -(-len(tiles) // columns)
    across = min(columns, len(tiles))
    image = Image.new(
        "RGB", (across * (wide + gap) + gap, rows * (high + gap + foot) + gap), "#ffffff"
    )
    pen = ImageDraw.Draw(image)
    for place, tile in enumerate(tiles):
        left, up = (
            gap + place % columns * (wide + gap),
            gap + place // columns * (high + gap + foot),
        )
        image.paste(tile.image, (left, up))
        pen.text((left, up + high + 6), tile.words, fill=INK, font_size=14)
    return image


def png(image: Image.Image) -> bytes:
    """An image as PNG."""
    return saved(image, "PNG", optimize=True)


def gif(parts: Sequence[Array], *, columns: int = 1, zoom: int = 8) -> bytes:
    """Parts of a story, (n, K, 784) each: K digits side by side that move; a part holds its end."""
    frames, times = [], []
    for states in parts:
        for at in spread(0, len(states) - 1, FRAMES):
            frames.append(indexed(_side_by_side(states[at], columns, zoom)))
            times.append(FRAME_MS)
        times[-1] = HOLD_MS
    return saved(
        frames[0], "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0,
        disposal=1,
    )  # fmt: skip


def _side_by_side(row: Array, columns: int, zoom: int) -> Image.Image:
    drawn = [digit(one, zoom) for one in row]
    wide, high = drawn[0].size
    lines = -(-len(drawn) // columns)
    image = Image.new("RGB", (columns * (wide + 8) - 8, lines * (high + 8) - 8), "#ffffff")
    for place, one in enumerate(drawn):
        image.paste(one, (place % columns * (wide + 8), place // columns * (high + 8)))
    return image
