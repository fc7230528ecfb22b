"""The README of a checkpoint, written from what was measured and nothing else."""

from collections.abc import Mapping
from typing import Any

from sed_core import comparison
from sed_core.count_evaluation import counts_tables
from sed_core.domains import calorimeter, digits
from sed_core.evaluation import table
from sed_core.toy_evaluation import NAMES, toy_table

TITLES = {**digits.TITLES, "ecal": calorimeter.TITLE}
CREDITS = {**digits.CREDITS, "ecal": calorimeter.CREDIT}


def sed_card(name: str, data: str, metrics: Mapping[str, Any]) -> str:
    """README.md of a SED checkpoint, from its evaluated metrics.json."""
    missed = [t for t in metrics["targets"] if not t["met"]]
    said = "".join(f"- {t['name']}: wanted {t['wanted']}, got {t['got']:.4g}.\n" for t in missed)
    return SED_CARD.format(
        name=name,
        data=TITLES[data],
        credit=CREDITS[data],
        zeros=_zeros(metrics),
        table=table(metrics),
        missed=said or "None: every target is met.\n",
        training=training_lines(metrics.get("training", {})),
        recipe=metrics.get("recipe", ""),
    )


def of_checkpoint(result: Mapping[str, Any], ref: str) -> dict[str, Any]:
    """A comparison's rows of one checkpoint, beside the floor."""
    return {**result, "methods": [m for m in result["methods"] if m["checkpoint"] == ref]}


def compared_card(name: str, data: str, metrics: Mapping[str, Any]) -> str:
    """README.md of a checkpoint whose figures come from a comparison."""
    result = metrics["comparison"]
    family = result["methods"][0]["family"]
    return COMPARED_CARD.format(
        name=name,
        what=WHAT[family],
        source=SOURCE[family],
        data=TITLES[data],
        credit=CREDITS[data],
        table=comparison.markdown(result),
        training=training_lines(metrics.get("training", {})),
        recipe=metrics.get("recipe", ""),
    )


def counts_card(name: str, data: str, metrics: Mapping[str, Any]) -> str:
    """README.md of a CountsDiff of grey levels, from its evaluated metrics.json."""
    return COUNTS_CARD.format(
        name=name,
        what=WHAT["CountsDiff"],
        data=TITLES[data],
        credit=CREDITS[data],
        zeros=_zeros(metrics),
        table=table(metrics),
        more=counts_tables(metrics),
        training=training_lines(metrics.get("training", {})),
        recipe=metrics.get("recipe", ""),
        source=SOURCE["CountsDiff"],
    )


def toy_card(name: str, ref: str, metrics: Mapping[str, Any]) -> str:
    """README.md of a model of the toy, from the table in which it is called `ref`."""
    methods: Mapping[str, Any] = metrics["toy"]["methods"]
    found = next(key for key, rows in methods.items() if any(row["name"] == ref for row in rows))
    family = next(family for family, method in NAMES.items() if method == found)
    return TOY_CARD.format(
        name=name,
        what=WHAT[family],
        table=toy_table(metrics),
        training=training_lines(metrics.get("training", {})),
        recipe=metrics.get("recipe", ""),
        source=SOURCE[family],
    )


def _zeros(metrics: Mapping[str, Any]) -> str:
    share = metrics["figures"]["zero_share"]
    return f"{share['real']:.1%} in real test digits, {share['value']:.1%} in samples"


def training_lines(training: Mapping[str, Any]) -> str:
    """One line a stage, and where it ran."""
    lines = [
        f"- {name}: " + ", ".join(f"{key} {value}" for key, value in stage.items())
        for name, stage in training.get("stages", {}).items()
    ]
    told = training.keys() - {"stages", "curves"}
    where = ", ".join(f"{key} {value}" for key, value in training.items() if key in told)
    return "\n".join([*lines, f"- {where}"]) if training else "- not recorded"


SED_CARD = """\
---
library_name: sed-core
license: apache-2.0
pipeline_tag: unconditional-image-generation
tags: [sparse-diffusion, sed]
---

# {name}

Noise becomes 64 numbers by diffusion; a decoder writes them out as (pixel, value) pairs, one at a
time, in ascending order, until it says stop. Every pixel that is not named is an exact zero: no
threshold, no rounding. Exact zeros: {zeros}.

```python
from sed_core import load, seeded

batch = load("{name}").sample(16, label=3, guidance=2.0, generator=seeded(7))
batch.to_dense()  # or batch.to_csr(), which never makes the dense matrix
```

## Figures

{table}

### Targets that are missed

{missed}
## Training

{training}

The same again: `{recipe}`

## Data and licence

{data}: {credit}. None of the data is in this folder, only what was learned from it, and the 2-D
map of some training latents. Weights and card: Apache-2.0.

## Limits

Small centred grey pictures only. A sample is as good as the figures above say, and no better: look
at the distances beside those of real against real. One seed gives one sample on one kind of
processor; on another the last digits may differ, and with them, rarely, a pixel.

## Source of the method

Ostheimer et al., "Skipping the Zeros in Diffusion Models for Sparse Data Generation", ICML 2026.
This is an independent implementation; what the paper leaves open is decided in docs/decisions.md.
"""

WHAT = {
    "SED": (
        "Noise becomes 64 numbers by diffusion; a decoder writes them out as (place, value) "
        "pairs, one at a time, in ascending order, until it says stop. Every place that is not "
        "named is an exact zero."
    ),
    "CountsDiff": (
        "Every unit of a count dies on its own; a network says how many are missing, and the "
        "reverse process brings them back, some at each step. States and samples are whole "
        "numbers throughout: nothing is rounded in the end."
    ),
    "LogGaussian": (
        "A peer of CountsDiff: DDPM on log(1 + x) with ancestral steps, rounded to whole numbers "
        "in the end."
    ),
    "MaskedDiffusion": (
        "A peer of CountsDiff: masked (absorbing) diffusion, for which every count is a class "
        "that noise hides as a whole."
    ),
    "DDPM": (
        "The dense peer of SED: the same diffusion (schedule, target, self-conditioning, classes, "
        "guidance) on every value of the data, zeros included."
    ),
    "SparsityBits": (
        "The predecessor of SED: a bit beside every value says whether it is zero, and values and "
        "bits are diffused together, with the same schedule, target and guidance as SED."
    ),
    "LDM": (
        "The latent peer of SED: a dense autoencoder reads and writes every value, zeros "
        "included; latent size and latent diffusion are SED's."
    ),
    "SARM": (
        "An autoregressive peer of SED: gate and value of one pixel after the other along a "
        "spiral, zeros included."
    ),
}
SOURCE = {
    "SED": (
        'Ostheimer et al., "Skipping the Zeros in Diffusion Models for Sparse Data Generation", '
        "ICML 2026"
    ),
    "CountsDiff": (
        'Soatto et al., "CountsDiff: A Diffusion Model on the Natural Numbers for Generation and '
        'Imputation of Count-Based Data", ICML 2026, arXiv 2604.03779'
    ),
    "LogGaussian": 'Ho et al., "Denoising Diffusion Probabilistic Models", 2020',
    "MaskedDiffusion": (
        'Austin et al., "Structured Denoising Diffusion Models in Discrete State-Spaces", 2021; '
        'Sahoo et al., "Simple and Effective Masked Diffusion Language Models", 2024'
    ),
    "DDPM": 'Ho et al., "Denoising Diffusion Probabilistic Models", 2020',
    "SparsityBits": 'Ostheimer et al., "Sparse Data Diffusion", arXiv 2502.02448',
    "LDM": ('Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022'),
    "SARM": 'Lu et al., "Sparse autoregressive models", PRD 103, 036012, 2021',
}

COMPARED_CARD = """\
---
library_name: sed-core
license: apache-2.0
tags: [sparse-diffusion]
---

# {name}

{what}

```python
from sed_core import load, seeded

x = load("{name}").sample(16, label=1, guidance=2.0, generator=seeded(7))
```

## Figures

{table}
## Training

{training}

The same again: `{recipe}`

## Data and licence

{data}: {credit}. None of the data is in this folder, only what was learned from it. Weights and
card: Apache-2.0.

## Limits

It is here to be compared with the other checkpoints of the same data, in the same run, and was
trained for minutes rather than days. Its samples are as good as the figures above say.

## Source of the method

{source}. This is an independent implementation; what was decided is in docs/decisions.md.
"""

COUNTS_CARD = """\
---
library_name: sed-core
license: apache-2.0
pipeline_tag: unconditional-image-generation
tags: [count-diffusion, countsdiff]
---

# {name}

{what} Here the counts are grey levels from 0 to 255. Exact zeros: {zeros}.

```python
from sed_core import load, seeded

model = load("{name}")
counts = model.sample(16, label=3, guidance=2.0, steps=100, generator=seeded(7))  # int64
observed = counts > 0  # any mask: what is true comes back as it is
draws = model.impute(counts, observed, draws=8, generator=seeded(7))  # (8, 16, 784)
```

## Figures

{table}

{more}
The interval is from the smallest to the largest of the draws; 77.8 % of the truths would be inside
if they were continuous, counts that tie are inside more often.

## Training

{training}

The same again: `{recipe}`

## Data and licence

{data}: {credit}. None of the data is in this folder, only what was learned from it. Weights and
card: Apache-2.0.

## Limits

Small centred grey pictures only. Imputation by "replace" follows what is observed too weakly; it
is there to be compared with. A sample is as good as the figures above say, and no better.

## Source of the method

{source}. This is an independent implementation; what was decided is in docs/decisions.md.
"""

TOY_CARD = """\
---
library_name: sed-core
license: apache-2.0
tags: [count-diffusion]
---

# {name}

{what} Trained on ten negative binomial counts that share a size factor: a toy whose joint law is
known exactly, so that every figure below has a right answer.

```python
from sed_core import load, seeded

x = load("{name}").sample(1000, steps=200, generator=seeded(7))  # int64, (1000, 10)
```

## Figures

Three models of the same toy, of about the same size, beside the exact law and beside the figures
that the authors of CountsDiff published. Published figures come from other settings than the
paper's own: see `sed_core/toy_evaluation.py`.

{table}
## Training

{training}

The same again: `{recipe}`

## Data and licence

Drawn from the law in `sed_core/domains/toy.py`. Weights and card: Apache-2.0.

## Source of the method

{source}. This is an independent implementation; what was decided is in docs/decisions.md.
"""
