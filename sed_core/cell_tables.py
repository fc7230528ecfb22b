"""The table of cells: for a reader, for a spreadsheet, for a program; and a checkpoint's card."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sed_core.comparison.peers import write
from sed_core.comparison.table import files_of
from sed_core.domains.cells import PBMC3K_CREDIT
from sed_core.evaluation import target_rows
from sed_core.imputation_table import imputation_table
from sed_core.model_card import SOURCE, WHAT, training_lines


class Column(NamedTuple):
    """A figure of the table."""

    key: str
    title: str
    unit: str
    best: float | None  # what it is 0 away from at best; None: the held-out cells' own
    about: str


def _c(key: str, title: str, unit: str, best: float | None, about: str) -> Column:
    return Column(key, title, unit, best, about)


GROUPS: Mapping[str, tuple[Column, ...]] = {
    "Genes and zeros": (
        _c("scc", "SCC", "", 1, "Spearman correlation of the means of genes."),
        _c("pcc", "PCC", "", 1, "Pearson correlation of the means of genes."),
        _c("zero_share", "zeros", "", None, "Mean share of exact zeros in a cell."),
        _c("zero_difference", "zeros off", "pp", 0,
           "Share of zeros less that of held-out cells, in percentage points."),
        _c("zero_error_of_genes", "zeros a gene", "pp", 0,
           "Mean absolute difference of the share of zeros of a gene."),
        _c("zero_w1_of_cells", "zeros W1", "pp", 0, "W1 between the shares of zeros of cells."),
        _c("mean_variance_error", "mean-variance", "decades", 0,
           "Mean |log10 of the ratio| of the two curves of variance over mean of genes."),
        _c("library_w1", "library W1", "counts", 0, "W1 between library sizes on these genes."),
    ),
    "Whole cells": (
        _c("mmd", "MMD", "of 10", 0,
           "Squared, biased, five summed kernels, on 50 principal axes of real cells."),
        _c("lisi", "LISI", "", 1, "How well made and real cells mix: 0 apart, 1 as equal parts."),
        _c("forest_auc", "forest AUC", "", 0.5,
           "How well a random forest tells made from real cells; of one set."),
        _c("correlation_error", "gene-gene", "RMS", 0,
           "Difference of correlations of all pairs of the 200 most variable genes; most of it is "
           "the noise of so few cells, of which training cells have as much."),
        _c("correlation_excess", "beyond noise", "RMS", 0,
           "The same without noise: gaps of one half of the cells times those of the other, over "
           "20 halvings of all sets together; below zero by chance."),
        _c("correlation_error_all", "gene-gene, all", "RMS", 0,
           "The same error of all sets together against training and held-out cells together; the "
           "training row holds the noise that as many cells of the real law would have."),
    ),
    "Types": (
        _c("de_slope", "LFC slope", "", 1,
           "Slope of log-fold changes between two types, made over real, where halves of the real "
           "cells stand in for each other, so that their noise does not lower it; median of pairs "
           "of types."),
        _c("de_least_squares", "least squares", "", 1,
           "The plain slope, which the noise of few real cells lowers: compare the training row, "
           "0.60 on all genes of PBMC3k at 10 % held out."),
        _c("de_spearman", "LFC ranks", "", 1, "Spearman correlation of log-fold changes."),
        _c("de_overlap", "top 50", "", 1, "Share of the 50 largest fold changes in both."),
    ),
}  # fmt: skip
COLUMNS = tuple(column for columns in GROUPS.values() for column in columns)
TRAINING = "real training cells"

# Markdown -----------------------------------------------------------------------------------------


def cells_markdown(result: Mapping[str, Any]) -> str:
    """All tables of a result for a reader: one of targets, three for each choice of genes."""
    lines = [f"### {result['title']}", ""]
    for space in result["spaces"]:
        lines += _space_lines(space)
    lines += [*target_rows(result["targets"]), ""] if result["targets"] else []
    keys = {key for space in result["spaces"] for m in space["methods"] for key in m["figures"]}
    lines += [f"* {c.title}{_unit(c)}: {c.about}" for c in COLUMNS if c.key in keys]
    lines += [f"* {words}" for words in _remarks(result)]
    told = ", ".join(f"{k} {v}" for k, v in result["setting"].items() if v is not None)
    lines += ["", f"Measured with: {told}.", ""]
    if "imputation" in result:
        filled = result["imputation"]
        lines += [f"#### Imputation with {filled['checkpoint']}", "", imputation_table(filled)]
    return "\n".join(lines)


def _space_lines(space: Mapping[str, Any]) -> list[str]:
    """Every group of figures on one choice of genes, and the lines on memorisation."""
    lines = [f"#### {space['name']}", ""]
    for title, columns in GROUPS.items():
        known = [c for c in columns if any(c.key in m["figures"] for m in space["methods"])]
        lines += _part(title, known, space) if known else []
    lines += [f"Compared on: {space['space']}.", ""]
    return [*lines, *memorisation_rows(space), ""]


def _part(title: str, columns: Sequence[Column], space: Mapping[str, Any]) -> list[str]:
    """A table of some columns; of each the best model is bold, floors are in italics."""
    methods: Sequence[Mapping[str, Any]] = space["methods"]
    lines = [f"| {title} | " + " | ".join(f"{c.title}{_unit(c)}" for c in columns) + " |"]
    lines += ["|---" * (1 + len(columns)) + "|"]
    best = {c.key: _best(c, methods, space["held_out"]) for c in columns}
    for m in methods:
        cells = [_cell(m["figures"].get(c.key), m["name"] in best[c.key]) for c in columns]
        name = m["name"] if m["checkpoint"] else f"*{m['name']}*"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    floor = [_cell(_floor(methods, c.key), False) for c in columns]
    return [*lines, f"| *{TRAINING}* | {' | '.join(floor)} |", ""]


def _floor(methods: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any] | None:
    """What training cells get; of the share of zeros, held-out cells."""
    rows = [m["figures"][key] for m in methods if key in m["figures"]]
    if not rows or rows[0].get("real") is None:
        return None
    found: Mapping[str, Any] = rows[0]
    return {"value": found["real"], **({"sd": found["real_sd"]} if "real_sd" in found else {})}


def _best(
    column: Column, methods: Sequence[Mapping[str, Any]], held_out: Mapping[str, Any]
) -> set[str]:
    """Names of the models that no other model beats; floors do not take part."""
    aim = held_out["zero_share"]["value"] if column.best is None else column.best
    found = {
        m["name"]: m["figures"].get(column.key, {}).get("value") for m in methods if m["checkpoint"]
    }
    away = {name: abs(value - aim) for name, value in found.items() if value is not None}
    least = min(away.values(), default=0)
    return {name for name, value in away.items() if value == least and len(away) > 1}


def memorisation_rows(space: Mapping[str, Any]) -> list[str]:
    """Whether made cells are training cells again, in one table."""
    known = [m for m in space["methods"] if "in_train" in m["memorisation"]]
    if not known:
        return ["Memorisation: not told, for the model's own training cells are not in the file."]
    one = known[0]["memorisation"]
    nearest = f"nearest is a training cell ({one['expected']:.0%} if it knows none)"
    nearer = "nearer to one than 99 % of held-out cells (1 %)"
    lines = [f"| Memorisation | identical | {nearest} | {nearer} | made |", "|---" * 5 + "|"]
    for m in known:
        f = m["memorisation"]
        parts = [f"{f[key]:.1%}" for key in ("identical", "in_train", "copies")]
        lines.append(f"| {m['name']} | {' | '.join(parts)} | {f['made']:,} |")
    return lines


def _remarks(result: Mapping[str, Any]) -> list[str]:
    """How many cells, what is left out, and what holds for one method alone."""
    first = result["spaces"][0]["methods"][0]
    sets = (
        f"n = {first['n']:,} cells a set, against as many held-out cells; a figure is the mean "
        f"over {first['sets']} sets of made cells, and over as many of training cells; "
        "in brackets the sd of one set."
    )
    told = [sets if first["sets"] > 1 else f"n = {first['n']:,} cells of each set."]
    left = sorted({name for space in result["spaces"] for m in space["methods"]
                   for name in m["left_out"]})  # fmt: skip
    told += [f"types with too few held-out cells for fold changes: {', '.join(left)}."] * bool(left)
    own = {(m["name"], note) for space in result["spaces"] for m in space["methods"]
           for note in m["notes"]}  # fmt: skip
    told += [f"{name}: {note}." for name, note in sorted(own)]
    made = {m["name"]: m["setting"] for m in result["spaces"][0]["methods"] if m["setting"]}
    return told + [
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in setting.items()) + "."
        for name, setting in made.items()
    ]


def _unit(column: Column) -> str:
    return f" ({column.unit})" if column.unit else ""


def _cell(figure: Mapping[str, Any] | None, best: bool) -> str:
    if figure is None or figure["value"] is None:
        return ""
    value = f"**{figure['value']:.4g}**" if best else f"{figure['value']:.4g}"
    return f"{value} ({figure['sd']:.2g})" if "sd" in figure else value


# files --------------------------------------------------------------------------------------------


def cells_csv(result: Mapping[str, Any]) -> str:
    """One row a method and choice of genes: figures, their sd, and what training cells get."""
    ends = {"": "value", "_sd": "sd", "_training": "real"}
    keys = [c.key for c in COLUMNS]
    copies = ("identical", "in_train", "expected", "copies", "closer")
    told = ("name", "checkpoint", "family", "rule", "n", "sets")
    names = ["space", *told, *(f"{key}{end}" for key in keys for end in ends), *copies, "notes"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for space in result["spaces"]:
        for m in space["methods"]:
            figures = {
                f"{key}{end}": m["figures"][key].get(part)
                for key in keys
                for end, part in ends.items()
                if key in m["figures"]
            }
            own = {key: m["memorisation"].get(key) for key in copies}
            row = {name: m[name] for name in told} | figures | own
            writer.writerow({"space": space["name"], **row, "notes": "; ".join(m["notes"])})
    return text.getvalue()


def _json_text(result: Mapping[str, Any]) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


WRITERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    ".json": _json_text,
    ".md": cells_markdown,
    ".csv": cells_csv,
}


def write_cells(result: Mapping[str, Any], outs: Sequence[Path]) -> list[Path]:
    """Write the tables in every form asked for; see `comparison.files_of`."""
    files = files_of(outs)
    for path in files:
        write(path, WRITERS[path.suffix](result).encode())
    return files


# card ---------------------------------------------------------------------------------------------


def cells_card(name: str, metrics: Mapping[str, Any]) -> str:
    """README.md of a checkpoint of PBMC3k, from its evaluated metrics.json."""
    result = {**metrics["cells"], "setting": metrics["setting"], "targets": metrics["targets"]}
    result |= {key: metrics[key] for key in ("imputation",) if key in metrics}
    method = result["spaces"][0]["methods"][0]
    family = method["family"]
    missed = [t for t in metrics["targets"] if not t["met"]]
    said = "".join(f"- {t['name']}: wanted {t['wanted']}, got {t['got']:.4g}.\n" for t in missed)
    return CARD.format(
        name=name,
        what=CELLS_WHAT.get(family) or WHAT[family],
        call=CALLS.get(family, "made = cells.sample(100, seed=7)  # an AnnData of counts"),
        genes=f"{result['spaces'][-1]['genes']:,}",
        table=cells_markdown(result),
        missed=said or "None: every target is met.\n",
        training=training_lines(metrics.get("training", {})),
        recipe=metrics.get("recipe", ""),
        credit=PBMC3K_CREDIT,
        source=CELLS_SOURCE.get(family) or SOURCE[family],
    )


CELLS_WHAT: Mapping[str, str] = {
    "SED": (
        "Noise becomes a latent by diffusion; a decoder writes the expressed genes of a cell as "
        "(gene, count) pairs, one at a time, until it says stop. Every gene that is not named is "
        "an exact zero, and counts are whole by themselves."
    ),
    "GatedLogGaussian": (
        "A dense peer: DDPM on log(1 + x) of every gene, zeros included, with a gate by which "
        "each gene sees its own noisy value; rounded to whole numbers in the end."
    ),
    "NegativeBinomialVAE": (
        "A peer of our own in the manner of scVI: a variational autoencoder whose decoder gives "
        "the mean of a negative binomial for each gene, the library as exposure."
    ),
}
CELLS_SOURCE: Mapping[str, str] = {
    "GatedLogGaussian": SOURCE["LogGaussian"],
    "NegativeBinomialVAE": (
        'Lopez et al., "Deep generative modeling for single-cell transcriptomics", Nature Methods '
        "15, 2018"
    ),
}
CALLS: Mapping[str, str] = {
    "CountsDiff": (
        "made = cells.sample(100, seed=7)  # an AnnData of counts\n"
        "full = cells.impute(adata, draws=10, seed=7)  # layers mean and sd"
    ),
}
CARD = """\
---
library_name: sed-core
license: apache-2.0
tags: [single-cell, count-data, sparse-diffusion]
---

# {name}

{what} Blood cells, {genes} genes, raw counts.

```python
from sed_core.cell_model import CellModel

cells = CellModel.load("{name}")
{call}
```

## Figures

{table}
### Targets that are missed

{missed}
## Training

{training}

The same again: `{recipe}`

## Data and licence

PBMC3k: {credit}. 2,430 of its 2,700 cells were trained on. None of the data is in this folder, only
what was learned from it. Weights and card: Apache-2.0.

## Limits

One donor, one chemistry, blood only: it knows no other tissue, and made cells are no evidence of
biology. Small shares of rare types are learned from a few dozen cells. Zeros are not told apart
into those of dropout and those of the cell. Made cells are as good as the figures above say.

## Source of the method

{source}. This is an independent implementation; what was decided is in docs/decisions.md.
"""
