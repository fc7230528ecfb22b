"""Small models of counts on a shelf, with recordings of them: what the page Counts needs."""

import contextlib
from pathlib import Path

from explorer import record_counts
from sed_core import hub
from sed_core.baselines import DDPMConfig, DenseValues, LogGaussian, MaskedConfig, MaskedDiffusion
from sed_core.chance import seeded
from sed_core.counts_recipes import toy_config
from sed_core.countsdiff import CountsConfig, CountsDiff
from sed_core.domains.toy import TOY
from tests.small import randomise

CARD = """
[{name}]
family = "{family}"
domain = "counts"
data = "{data}"
title = "Counts"
story = "Small; for tests."
licence = "Apache-2.0"
data_licence = "none"
zeros = 0.8
judge = ""
"""


def models():
    """One model of each card, with random weights."""
    picture = CountsConfig(
        dim=784, network="unet", side=28, widths=(8, 8), condition=16, classes=10, largest=255,
        class_names="\n".join("0123456789"), unit=20.0, schedule="shifted",
    )  # fmt: skip
    rows = TOY.sample(200, generator=seeded(0))
    masked = MaskedConfig(dim=10, largest=int(rows.max()), embedding=4, width=16, layers=1)
    gauss = DDPMConfig(dim=10, widths=(16, 8), condition=8)
    return {
        "counts-mnist": CountsDiff(picture), "counts-toy": CountsDiff(toy_config()),
        "gauss-toy": LogGaussian(DenseValues.of_counts(rows), gauss),
        "masked-toy": MaskedDiffusion(masked),
    }  # fmt: skip


def fill(folder: Path) -> Path:
    """Put them and their cards into a folder."""
    cards = ""
    for name, model in models().items():
        hub.save(randomise(model, gain=0.3), folder / name, metrics={}, card=f"# {name}\n",
                 recipe="tests")  # fmt: skip
        cards += CARD.format(name=name, family=type(model).__name__, data=name.split("-")[1])
    with (folder / "cards.toml").open("a", encoding="utf-8") as file:
        file.write(cards)
    return folder


def record(folder: Path, checkpoints: Path, monkeypatch) -> Path:
    """Record them, as the command does, with as little as the page allows."""
    monkeypatch.setenv("SED_CHECKPOINTS", str(checkpoints))
    with contextlib.redirect_stdout(None):
        record_counts.record(folder, 1_000, 10)
    return folder
