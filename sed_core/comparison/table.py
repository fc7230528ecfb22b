"""The table: its columns, what the paper reports, and how it is written."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sed_core.comparison.peers import write
from sed_core.evaluation import Figures


class Column(NamedTuple):
    """A figure of the table."""

    key: str
    title: str
    group: str  # zeros, quality or cost
    unit: str
    better: str  # "lower", "higher", or "test": the nearer to the test data
    about: str


SCALE = "; in data units (energies: log(1 + E / median))."
_MOMENTS = (
    ("pt", "W1 P_T", "GeV", "transverse momentum"),
    ("mass", "W1 mass", "GeV", "mass"),
    ("energy", "W1 energy", "GeV", "summed energy"),
    ("multiplicity", "W1 hits", "hits", "number of hits"),
)


def _z(key: str, title: str, unit: str, better: str, about: str) -> Column:
    return Column(key, title, "zeros", unit, better, about)


def _q(key: str, title: str, unit: str, better: str, about: str) -> Column:
    return Column(key, title, "quality", unit, better, about)


def _c(key: str, title: str, unit: str, about: str) -> Column:
    return Column(key, title, "cost", unit, "lower", about)


COLUMNS: tuple[Column, ...] = (
    _z("zero_share", "zeros", "", "test", "Mean share of exact zeros in a sample."),
    _z("count_w1_share", "count W1", "", "lower",
       "W1 between the non-zero counts of samples and test rows, over the mean count."),
    _z("spurious", "spurious", "a sample", "lower",
       "Non-zeros too many: the sum over dimensions of how much more often samples than test rows "
       "have one there; a lower bound, whatever test row a sample is set beside."),
    _z("missing", "missing", "a sample", "lower", "Non-zeros too few, in the same way."),
    _z("impossible", "impossible", "a sample", "test",
       "Non-zeros where fewer than 1 in 10,000 training rows has one."),
    _z("smear", "smear", "a sample", "lower",
       "Values that are not zero but below half the smallest training non-zero; SED has none by "
       "construction."),
    _q("sure", "judge sure", "", "test", "Share of samples of which a judge is above 0.9 sure."),
    _q("agreement", "agreement", "", "higher", "Share whose judged class is the one asked for."),
    _q("frechet", "Frechet", "", "lower", "Frechet distance in judge features."),
    *(_q(f"w1_{key}", title, unit, "lower", f"W1 of the {about}.")
      for key, title, unit, about in _MOMENTS),
    *(_q(f"w1_{key}_std", title, "sd", "lower", f"W1 of the {about}, in training sd.")
      for key, title, _, about in _MOMENTS),
    _q("sliced_w2", "sliced W2", "", "lower", "W2 seen along 128 random directions" + SCALE),
    _q("energy_distance", "energy dist.", "", "lower", "Energy distance" + SCALE),
    _q("mmd", "MMD", "", "lower", "Five summed kernels, biased, squared" + SCALE),
    _c("parameters", "parameters", "", "Parameters of the checkpoint."),
    _c("multiply_adds", "multiply-adds", "a sample",
       "Of matrix products, convolutions and attention, counted during a real run of 64."),
    _c("ms_batch_1", "batch 1", "ms a sample", "Wall time, one sample at a time."),
    _c("ms_batch_64", "batch 64", "ms a sample", "Wall time, 64 samples at once."),
    _c("peak_bytes", "peak memory", "B",
       "What loading the model and drawing 64 samples adds to a process at its peak."),
)  # fmt: skip

# Source: the SED paper (sed.md, section 7); other data, other sizes, other hardware.
REPORTED_MARK = "reported, other data or hardware"
REPORTED = (
    ("Muon signal", "DDPM 37M", "W1 of P_T", "220.32"),
    ("Muon signal", "DDPM-T 37M", "W1 of P_T", "24.22"),
    ("Muon signal", "SARM 25M", "W1 of P_T", "28.01"),
    ("Muon signal", "SED 15M", "W1 of P_T", "16.31"),
    ("Muon signal, 95 % zeros", "SED", "ms a sample", "24"),
    ("Muon signal, 95 % zeros", "DDPM", "ms a sample", "453"),
    ("MNIST", "SED", "times faster than DDPM", "7"),
    ("Fashion-MNIST", "SED", "times faster than DDPM", "about 1; LDM is faster than both"),
    ("Fashion-MNIST", "SED", "order accuracy", "100 %"),
)
REPORTED_FOR: Mapping[tuple[str, str], str] = {
    ("ecal", "SED"): "Muon: W1 P_T 16.31, 24 ms",
    ("ecal", "DDPM"): "Muon: W1 P_T 220.32, 453 ms",
    ("ecal", "DDPM + threshold (match)"): "Muon: W1 P_T 24.22 (rule not stated)",
    ("ecal", "SARM"): "Muon: W1 P_T 28.01",
    ("mnist", "SED"): "7 times as fast as DDPM",
    ("fashion_mnist", "SED"): "about as fast as DDPM",
    ("fashion_mnist", "LDM"): "faster than SED and DDPM",
}


# Markdown ---------------------------------------------------------------------------------------


def markdown(result: Mapping[str, Any]) -> str:
    """The table for a reader: one part for zeros, one for quality, one for cost."""
    lines = [f"### {result['title']}", ""]
    for group in ("zeros", "quality", "cost"):
        columns = [Column(**c) for c in result["columns"] if c["group"] == group]
        lines += _part(group, columns, result) if columns else []
    notes = {f"{m['checkpoint']}: {note}" for m in result["methods"] for note in m["notes"]}
    lines += [f"* {note}." for note in sorted(notes)]
    lines += [f"* {c['title']}{_unit(c['unit'])}: {c['about']}" for c in result["columns"]]
    taus = [f"{m['checkpoint']} {m['rule']} {m['tau']:.4g}" for m in result["methods"] if m["rule"]]
    lines += [f"* thresholds: {', '.join(taus)}."] if taus else []
    told = ", ".join(f"{k} {v}" for k, v in result["setting"].items() if v is not None)
    lines += ["* in brackets: 95 % bootstrap intervals; of times, quartiles."]
    return "\n".join([*lines, "", f"Measured with: {told}.", ""])


def _part(group: str, columns: Sequence[Column], result: Mapping[str, Any]) -> list[str]:
    """A Markdown table of some columns; the best method of each column is bold."""
    last = [REPORTED_MARK] if group == "cost" else []
    lines = ["| | " + " | ".join([*(_head(c) for c in columns), *last]) + " |"]
    lines += ["|---" * (1 + len(columns) + len(last)) + "|"]
    best = {c.key: best_methods(c, result) for c in columns}
    for m in result["methods"]:
        found = _all_figures(m)
        cells = [_cell(found.get(c.key), m["name"] in best[c.key]) for c in columns]
        cells += [m["reported"] or ""] if last else []
        lines.append(f"| {m['name']}{' (undertrained)' * _undertrained(m)} | {' | '.join(cells)} |")
    for other in (result["test"], result["real"]) if group != "cost" else ():
        cells = [_cell(other["figures"].get(c.key), False) for c in columns]
        lines.append(f"| *{other['name']}* | {' | '.join(cells)} |")
    return [*lines, ""]


def _undertrained(method: Mapping[str, Any]) -> bool:
    return any(note.startswith("undertrained") for note in method["notes"])


def _all_figures(row: Mapping[str, Any]) -> Figures:
    return row["figures"] | (row.get("costs") or {})


def best_methods(column: Column, result: Mapping[str, Any]) -> set[str]:
    """Names of the methods that no other beats."""
    found = {m["name"]: _all_figures(m).get(column.key, {}).get("value") for m in result["methods"]}
    known = {name: value for name, value in found.items() if value is not None}
    if column.better == "higher":
        known = {name: -value for name, value in known.items()}
    if column.better == "test":
        aim = result["test"]["figures"][column.key]["value"]
        known = {name: abs(value - aim) for name, value in known.items()}
    least = min(known.values(), default=0)
    return {name for name, value in known.items() if value == least}


def _head(column: Column) -> str:
    arrow = {"lower": " ↓", "higher": " ↑", "test": ""}[column.better]
    return f"{column.title}{_unit(column.unit)}{arrow}"


def _unit(unit: str) -> str:
    return f" ({unit})" if unit else ""


def _cell(figure: Mapping[str, Any] | None, best: bool) -> str:
    if figure is None or figure["value"] is None:
        return ""
    value = f"**{_number(figure['value'])}**" if best else _number(figure["value"])
    ends = f" ({_number(figure['low'])} to {_number(figure['high'])})" if "low" in figure else ""
    return value + ends


def _number(value: float) -> str:
    """Three or four digits, large ones with a letter."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.3g} {letter}"
    return f"{value:.4g}"


# files ------------------------------------------------------------------------------------------


def csv_text(result: Mapping[str, Any]) -> str:
    """One row a method, and one for the test data and for the floor."""
    keys = [column["key"] for column in result["columns"]]
    parts = [f"{key}{end}" for key in keys for end in ("", "_low", "_high")]
    told = ("name", "checkpoint", "rule", "tau", "sampler", "steps")
    rows = [
        {name: m.get(name) for name in told}
        | _flat(_all_figures(m))
        | {"notes": "; ".join(m.get("notes", [])), REPORTED_MARK: m.get("reported")}
        for m in (*result["methods"], result["test"], result["real"])
    ]
    text = io.StringIO()
    names = [*told, *parts, "notes", REPORTED_MARK]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(figures: Figures) -> dict[str, Any]:
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {
        f"{key}{tail}": figure[end]
        for key, figure in figures.items()
        for tail, end in ends.items()
        if end in figure
    }


def _json_text(result: Mapping[str, Any]) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


WRITERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    ".json": _json_text,
    ".md": markdown,
    ".csv": csv_text,
}


def files_of(outs: Sequence[Path]) -> list[Path]:
    """The files that these name: each with its ending, or all three for a name without one.

    Raises:
        ValueError: for another ending.
    """
    files: list[Path] = []
    for path in outs:
        if path.suffix and path.suffix not in WRITERS:
            raise ValueError(f"a table is written as {', '.join(WRITERS)}, got {path.name!r}")
        files += [path] if path.suffix else [path.with_suffix(ending) for ending in WRITERS]
    return files


def write_table(result: Mapping[str, Any], outs: Sequence[Path]) -> list[Path]:
    """Write the table in every form asked for; see `files_of`."""
    files = files_of(outs)
    for path in files:
        write(path, WRITERS[path.suffix](result).encode())
    return files
