"""A checkpoints folder for the app's tests: two models that draw a ring, one of them slow."""

from pathlib import Path

import torch

from sed_core import hub
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from tests.small import randomise

SIDE = 28
CARD = """
[{name}]
family = "SED"
domain = "digits"
data = "ring"
title = "A ring"
story = "Draws a ring; for tests."
licence = "Apache-2.0"
data_licence = "none"
zeros = 0.8
judge = ""
"""


def ring() -> torch.Tensor:
    """Log-odds of each pixel of a 28 x 28 picture to lie on a ring."""
    axis = torch.arange(SIDE) - (SIDE - 1) / 2
    radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
    return (6 - 4 * (radius - 8).abs()).clamp(-9, 6).flatten()


def model(width: int, layers: int) -> SED:
    """A SED with random weights, except that its draft head knows the ring."""
    savae = SAVAEConfig(
        dim=SIDE**2, latent=16, width=width, encoder_layers=1, decoder_layers=layers,
        value_step=1 / 255, value_mean=0.5, value_sd=0.3, value_smallest=1 / 255, value_largest=1,
    )  # fmt: skip
    made = SED(savae, DenoiserConfig(latent=16, widths=(64, 32), condition=32, classes=10))
    randomise(made, gain=0.5)
    with torch.no_grad():
        made.savae.draft_head.logit.bias.copy_(ring())
    return made


def fill(folder: Path, *, slow: bool = False) -> Path:
    """Put the checkpoints `sed-mnist` and maybe `sed-slow` and their cards into a folder."""
    chance = torch.Generator().manual_seed(0)
    map_of_latents = {
        "xy": torch.randn(300, 2, generator=chance).half(),
        "label": torch.arange(300).remainder(10).to(torch.uint8),
        "project": torch.randn(16, 2, generator=chance) / 4,
        "origin": torch.zeros(2),
    }
    sizes = {"sed-mnist": (32, 2)} | ({"sed-slow": (192, 16)} if slow else {})
    for name, (width, layers) in sizes.items():
        hub.save(
            model(width, layers), folder / name, metrics={}, card=f"# {name}\n\nA ring.",
            recipe="tests", latents=map_of_latents,
        )  # fmt: skip
    cards = "".join(CARD.format(name=name) for name in sizes)
    (folder / "cards.toml").write_text(cards, encoding="utf-8")
    return folder
