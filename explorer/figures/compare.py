"""The figures of Compare: zeros, costs, growth and bits. Data in, plotly.Figure out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from explorer.figures.looks import DATA, GRID, INK, LOOKS, QUIET, Look

BINS = 48
FONT = '"Source Sans", "Source Sans Pro", system-ui, "Liberation Sans", sans-serif'
KEYS = {"SED": "sed", "DDPM": "ddpm", "LDM": "ldm", "Sparsity": "bits", "SARM": "sarm"}
PLAIN = Look("#5b5b5b", "solid", "circle")


class Zeros(NamedTuple):
    """Exact zeros of a method's samples, and how far they are from real ones (W1, in cells)."""

    key: str
    name: str
    counts: NDArray[Any]
    gap: float


def zeros(methods: Sequence[Zeros], real: NDArray[Any], dim: int, *, cell: str) -> go.Figure:
    """Share of exact zeros a sample, one row a method, real samples as grey behind each."""
    edges = _edges([*(m.counts for m in methods), real], dim)
    fig = make_subplots(rows=len(methods), shared_xaxes=True, vertical_spacing=0.0)
    grey = _histogram(real, dim, edges)
    for row, method in enumerate(methods, 1):
        own, look = _histogram(method.counts, dim, edges), LOOKS[method.key]
        top = max(min(own.max(), 3 * grey.max()), grey.max())
        own = np.minimum(own, top)  # a spike ends at the frame
        step = {"mode": "lines", "line_shape": "hv", "hovertemplate": "%{x:.1%}: %{y:.1%}"}
        fig.add_scatter(
            x=edges, y=[*grey, 0], fill="tozeroy", fillcolor=DATA, line_width=0, name="real",
            legendgroup="real", showlegend=row == 1, row=row, col=1, **step,
        )  # fmt: skip
        fig.add_scatter(
            x=edges, y=[*own, 0], name=method.name, showlegend=False, row=row, col=1,
            line={"color": look.colour, "dash": "solid", "width": 2.5}, **step,
        )  # fmt: skip
        fig.update_yaxes(visible=False, range=[0, 1.45 * top], fixedrange=True, row=row, col=1)
        fig.add_annotation(
            x=0, xref="x domain", y=1.4 * top, xanchor="left", yanchor="top", showarrow=False,
            text=f"<b>{method.name}</b>, {_away(method, dim, cell)}",
            font={"color": INK}, bgcolor="rgba(255,255,255,0.85)", row=row, col=1,
        )  # fmt: skip
    fig.update_xaxes(showgrid=False, showline=True, linecolor="#8a8f98", fixedrange=True)
    fig.update_xaxes(
        title_text="share of exact zeros in a sample", tickformat=".0%", row=len(methods), col=1
    )
    fig.update_layout(showlegend=False)
    return dressed(fig, 96 * len(methods) + 60).update_layout(margin_l=8)


def costs(result: Mapping[str, Any], *, batch: int = 64) -> go.Figure:
    """Time and multiply-adds of a sample, one bar a method, on scales of equal ratios."""
    methods = [method for method in result["methods"] if method["rule"] is None][::-1]
    figures = {f"ms_batch_{batch}": "milliseconds a sample", "multiply_adds": "multiply-adds"}
    fig = make_subplots(rows=2, vertical_spacing=0.24)
    for row, (figure, title) in enumerate(figures.items(), 1):
        values = [_value(method["costs"].get(figure)) for method in methods]
        fig.add_bar(
            x=values, y=[method["name"] for method in methods], orientation="h", row=row, col=1,
            marker={"color": [_look(method["name"]).colour for method in methods]},
            text=[_amount(value) for value in values], textposition="outside", cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra></extra>", width=0.62,
        )  # fmt: skip
        known = [value for value in values if value]
        low, high = (np.log10(min(known)), np.log10(max(known))) if known else (0.0, 1.0)
        fig.update_xaxes(
            type="log", title_text=title, range=[np.floor(low - 0.3), high + 0.55],
            dtick=1, fixedrange=True, exponentformat="SI", row=row, col=1,
        )  # fmt: skip
    fig.update_yaxes(showgrid=False, fixedrange=True)
    fig.update_layout(showlegend=False)
    return dressed(fig, 88 * len(methods) + 150)


def costed(result: Mapping[str, Any]) -> bool:
    """Whether any cost was measured."""
    return any(method["costs"].get("multiply_adds") for method in result["methods"])


def scaling(
    result: Mapping[str, Any],
    *,
    figure: str = "sample_ms",
    active: int = 1000,
    own: Mapping[str, Any] | None = None,
) -> go.Figure:
    """Time against dimensions, both on scales of equal ratios, with what was measured here."""
    fig = go.Figure()
    for method in result["methods"]:
        look = LOOKS.get(method["key"].removesuffix("_nested"), PLAIN)
        runs = [r for r in result["runs"] if r["method"] == method["key"] and r["active"] == active]
        runs = sorted((r for r in runs if r.get(figure)), key=lambda r: r["dim"])
        if not runs:
            continue
        fig.add_scatter(
            x=[r["dim"] for r in runs], y=[r[figure]["value"] for r in runs],
            name=f"{method['name']}{_power(result, method['key'], figure, active)}",
            mode="lines+markers", line={"color": look.colour, "dash": look.dash, "width": 2.5},
            marker={"symbol": look.symbol, "size": 9},
        )  # fmt: skip
    if own is not None and figure == "sample_ms" and active == own["active"]:
        _add_own(fig, own)
    what = "milliseconds a sample" if figure == "sample_ms" else "milliseconds a training step"
    fig.update_xaxes(type="log", title_text="dimensions", dtick=1, exponentformat="SI")
    fig.update_yaxes(type="log", title_text=what, dtick=1)
    return below(dressed(fig, 430))


def _add_own(fig: go.Figure, own: Mapping[str, Any]) -> None:
    """What was measured on the reader's machine, as hollow points."""
    for key, power in own["exponents"].items():
        runs = [run for run in own["runs"] if run["method"] == key]
        look = LOOKS[key.removesuffix("_nested")]
        fig.add_scatter(
            x=[run["dim"] for run in runs], y=[run["ms"] for run in runs], mode="lines+markers",
            name=f"{'SED' if 'sed' in key else 'DDPM'}, this machine (power {power:.2f})",
            line={"color": look.colour, "width": 1, "dash": "dot"},
            marker={"symbol": f"{look.symbol}-open", "size": 12, "line": {"width": 2.5}},
        )  # fmt: skip


def rate(result: Mapping[str, Any]) -> go.Figure:
    """Bits that a dense model spends on zeros and on the others, and what they buy."""
    parts = {
        "zero": ("dimensions that are zero", "#56606e", "dash"),
        "nonzero": ("dimensions that are not", LOOKS["ddpm"].colour, "solid"),
    }
    fig = make_subplots(rows=2, vertical_spacing=0.2, row_heights=[0.72, 0.28])
    for key, (name, colour, dash) in parts.items():
        fig.add_scatter(
            x=result[key]["bits"], y=result[key]["rmse"], name=name, mode="lines", row=1, col=1,
            line={"color": colour, "dash": dash, "width": 2.5}, legendgroup=key,
        )  # fmt: skip
    share, dims = result["share_of_bits_on_zeros"], result["share_of_dimensions_zero"]
    for key, at in (("zero", (dims, share)), ("nonzero", (1 - dims, 1 - share))):
        fig.add_bar(
            x=list(at), y=["dimensions", "bits"], orientation="h", row=2, col=1, width=0.7,
            marker={"color": parts[key][1], "line": {"color": "#fff", "width": 2}},
            text=[f"{x:.0%}" for x in at], textposition="inside", textangle=0,
            textfont={"color": INK if key == "nonzero" else "#fff"}, insidetextanchor="middle",
            showlegend=False,
        )  # fmt: skip
    fig.update_layout(barmode="stack")
    most = np.log10(max(result["nonzero"]["bits"][-1], result["zero"]["bits"][-1]))
    fig.update_xaxes(
        title_text="bits a dimension so far", type="log", range=[most - 4, most + 0.1], dtick=1,
        row=1, col=1,
    )  # fmt: skip
    fig.update_yaxes(title_text="error left (RMSE)", rangemode="tozero", row=1, col=1)
    fig.update_xaxes(tickformat=".0%", range=[0, 1], fixedrange=True, showgrid=False, row=2, col=1)
    fig.update_yaxes(showgrid=False, autorange="reversed", fixedrange=True, row=2, col=1)
    return below(dressed(fig, 500))


# -- words for who can't see them ------------------------------------------------------------------


def zeros_words(methods: Sequence[Zeros], real: NDArray[Any], dim: int) -> str:
    """The histograms in a sentence."""
    parts = [f"{m.name} {m.counts.mean() / dim:.1%}" for m in methods]
    return (
        f"Histograms of the share of exact zeros a sample; means: real {real.mean() / dim:.1%}, "
        f"{', '.join(parts)}."
    )


def costs_words(result: Mapping[str, Any], *, batch: int = 64) -> str:
    """The bars in a sentence."""
    parts = [
        f"{method['name']} {_amount(_value(method['costs'].get(f'ms_batch_{batch}')))} ms and "
        f"{_amount(_value(method['costs'].get('multiply_adds')))} multiply-adds"
        for method in result["methods"]
        if method["rule"] is None
    ]
    return f"Bars of the cost of a sample: {'; '.join(parts)}."


def scaling_words(
    result: Mapping[str, Any], *, figure: str, active: int, own: Mapping[str, Any] | None = None
) -> str:
    """The lines in a sentence."""
    parts = [
        f"{method['name']}{_power(result, method['key'], figure, active) or ' not fitted'}"
        for method in result["methods"]
    ]
    mine = own["exponents"].items() if own is not None and active == own["active"] else ()
    parts += [f"{key} on this machine (power {power:.2f})" for key, power in mine]
    return f"Lines of time against dimensions with {active} active ones: {'; '.join(parts)}."


def rate_words(result: Mapping[str, Any]) -> str:
    """The bits in a sentence."""
    return (
        f"{result['share_of_dimensions_zero']:.0%} of the dimensions are zero; they take "
        f"{result['share_of_bits_on_zeros']:.0%} of the bits."
    )


# -- small change ----------------------------------------------------------------------------------


def _edges(counts: Sequence[NDArray[Any]], dim: int) -> NDArray[Any]:
    """Bins that hold every sample but the outermost ones; the first and last take those."""
    low = min(np.quantile(some, 0.005) for some in counts) / dim
    return np.linspace(max(0.0, np.floor(20 * low) / 20), 1, BINS + 1)


def _away(method: Zeros, dim: int, cell: str) -> str:
    """How far a method's zeros are from real ones; a single sample can't say."""
    if len(method.counts) == 1:
        return f"{int(method.counts[0])} of {dim:,} {cell}s"
    return f"off by {method.gap:.3g} {cell}s a sample"


def _histogram(counts: NDArray[Any], dim: int, edges: NDArray[Any]) -> NDArray[Any]:
    shares = np.clip(counts / dim, edges[0], edges[-1])
    return np.histogram(shares, edges)[0] / len(counts)


def _value(figure: Mapping[str, Any] | None) -> float | None:
    return None if not figure else figure.get("value")


def _amount(value: float | None) -> str:
    """A number with two or three digits that count, and thousands as k, M, G."""
    if value is None:
        return "not measured"
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{value / (1000 if letter == ' k' else size):.3g}{letter}"
    return f"{value:.3g}"


def _look(name: str) -> Look:
    return LOOKS.get(KEYS.get(name.split(" ")[0], ""), PLAIN)


def _power(result: Mapping[str, Any], method: str, figure: str, active: int) -> str:
    """The fitted power of the dimension, as the legend says it."""
    for fit in result.get("fits", []):
        whole = fit.get("range", "all") == "all"
        if whole and (fit["method"], fit["figure"], fit["active"]) == (method, figure, active):
            return f" (power {fit['exponent']:.2f})"
    return ""


def below(fig: go.Figure) -> go.Figure:
    """The legend under the figure, where it has room on a phone too."""
    fig.update_layout(
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "title": None}
    )
    return fig


def dressed(fig: go.Figure, height: int) -> go.Figure:
    """One look for all: white, quiet, large enough for a projector."""
    fig.update_layout(
        height=height, template="none", paper_bgcolor="#ffffff", plot_bgcolor="#ffffff",
        font={"family": FONT, "size": 15, "color": INK},
        margin={"l": 64, "r": 16, "t": 12, "b": 54},
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": INK, "size": 14}},
    )  # fmt: skip
    ticks = {"gridcolor": GRID, "zeroline": False, "tickfont": {"color": QUIET}}
    fig.update_xaxes(automargin=True, title_standoff=10, **ticks)
    fig.update_yaxes(automargin=True, title_standoff=10, **ticks)
    return fig
