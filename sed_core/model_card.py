"""The README of a checkpoint, written from what was measured and nothing else."""

from collections.abc import Mapping
from typing import Any

from sed_core.domains.digits import CREDITS, TITLES
from sed_core.evaluation import table


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
        training=_training(metrics.get("training", {})),
        recipe=metrics.get("recipe", ""),
    )


def _zeros(metrics: Mapping[str, Any]) -> str:
    share = metrics["figures"]["zero_share"]
    return f"{share['real']:.1%} in real test digits, {share['value']:.1%} in samples"


def _training(training: Mapping[str, Any]) -> str:
    """One line a stage, and where it ran."""
    lines = [
        f"- {name}: " + ", ".join(f"{key} {value}" for key, value in stage.items())
        for name, stage in training.get("stages", {}).items()
    ]
    where = ", ".join(f"{key} {value}" for key, value in training.items() if key != "stages")
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
