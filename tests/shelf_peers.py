"""Small peers beside the ring, a SED for every kind of data, and recordings of them."""

import json
from pathlib import Path

import torch

from explorer import record_compare
from sed_core import hub
from sed_core.baselines import DDPM, LDM, AutoencoderConfig, DDPMConfig, DenseValues, SparsityBits
from sed_core.domains.digits import Digits
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from tests import shelf
from tests.small import randomise

WIDTHS = (8, 8)


def models():
    """A dense peer of each family with random weights."""
    picture = DDPMConfig(dim=784, side=28, widths=WIDTHS, condition=16, classes=10)
    latent = DenoiserConfig(latent=16, widths=(32, 16), condition=16, classes=10)
    autoencoder = AutoencoderConfig(dim=784, side=28, latent=16, widths=WIDTHS)
    return {
        "ddpm-mnist": DDPM(DenseValues(), picture),
        "ldm-mnist": LDM(DenseValues(), autoencoder, latent),
        "bits-mnist": SparsityBits(DenseValues(), picture),
    }


def showers() -> SED:
    """A SED for calorimeter windows with random weights: log-normal energies, five classes."""
    savae = SAVAEConfig(
        dim=1024, latent=16, width=32, encoder_layers=1, decoder_layers=2, value_law="lognormal",
        value_mean=-2.3, value_sd=1.2, value_smallest=0.001,
    )  # fmt: skip
    made = SED(savae, DenoiserConfig(latent=16, widths=(64, 32), condition=32, classes=5))
    randomise(made, gain=0.5)
    with torch.no_grad():
        made.savae.draft_head.logit.bias.fill_(-3.4)
    return made


def fill(folder: Path, *, slow: bool = False) -> Path:
    """The checkpoints of tests.shelf, its sed-mnist for MNIST, and a peer of each family."""
    shelf.fill(folder, slow=slow)
    others = {"sed-fashion": (shelf.model(32, 2), "fashion_mnist"), "sed-ecal": (showers(), "ecal")}
    cards = (folder / "cards.toml").read_text(encoding="utf-8").replace('"ring"', '"mnist"', 1)
    for name, model in models().items():
        hub.save(randomise(model, gain=0.7), folder / name, metrics={}, card=f"# {name}\n",
                 recipe="tests")  # fmt: skip
        card = shelf.CARD.format(name=name).replace('"ring"', '"mnist"')
        cards += card.replace('family = "SED"', f'family = "{type(model).__name__}"')
    for name, (model, data) in others.items():
        hub.save(model, folder / name, metrics={}, card=f"# {name}\n", recipe="tests")
        cards += shelf.CARD.format(name=name).replace('"ring"', f'"{data}"')
    (folder / "cards.toml").write_text(cards, encoding="utf-8")
    return folder


def digits(rows: int = 60, seed: int = 0) -> Digits:
    """Pictures of rings of different sizes, as data that needs no file."""
    chance = torch.Generator().manual_seed(seed)
    size = 6 + 5 * torch.rand(rows, 1, generator=chance)
    axis = torch.arange(28) - 13.5
    radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt().flatten()
    levels = (255 * (1 - (radius - size).abs() / 2).clamp(0, 1)).round().to(torch.uint8)
    return Digits(levels, torch.arange(rows) % 10)


def record(folder: Path, checkpoints: Path, monkeypatch, samples: int = 12) -> Path:
    """Record those peers, as the command does, with rings in place of MNIST."""
    monkeypatch.setenv("SED_CHECKPOINTS", str(checkpoints))
    with monkeypatch.context() as patch:
        patch.setattr(record_compare.digits, "load", lambda name, split: digits())
        patch.setattr(record_compare, "GRID", 12)
        patch.setattr(record_compare, "VALIDATION", 8)
        record_compare.record("mnist", samples, 0, 2.0, 5, folder)
    return folder


def results(folder: Path) -> Path:
    """Small results of every kind that the figures read."""
    folder.mkdir(parents=True, exist_ok=True)
    setting = {"date": "2026-01-01", "device": "cpu", "threads": 1, "seed": 0, "n": 20}
    figure = {"value": 2.0, "low": 1.5, "high": 3.0}
    names = [("SED", None), ("DDPM", None), ("DDPM + threshold (match)", "match"), ("LDM", None)]
    methods = [
        {"name": name, "checkpoint": "x", "rule": rule, "tau": None, "figures": {"zeros": figure},
         "costs": {"ms_batch_64": figure, "multiply_adds": {"value": 3e6}}}
        for name, rule in names
    ]  # fmt: skip
    row = {"name": "test data", "figures": {"zeros": figure}}
    columns = [{"key": "zeros", "title": "zeros"}, {"key": "multiply_adds", "title": "work"}]
    runs = [
        {"method": method, "active": active, "dim": dim, "sample_ms": figure, "step_ms": figure}
        for method in ("sed_nested", "ddpm") for active in (1000, 50) for dim in (1000, 10_000)
    ]  # fmt: skip
    fits = [{"method": "ddpm", "active": 1000, "figure": "sample_ms", "exponent": 0.98}]
    kinds = [{"key": "sed_nested", "name": "SED, nested head"}, {"key": "ddpm", "name": "DDPM"}]
    part = {"bits": [0.0, 1.0], "rmse": [0.5, 0.1]}
    shares = {"share_of_bits_on_zeros": 0.3, "share_of_dimensions_zero": 0.8}
    found = {
        "compare-mnist": {"methods": methods, "test": row, "real": row, "columns": columns},
        "scaling": {"methods": kinds, "runs": runs, "fits": fits},
        "rate-mnist": {"zero": part, "nonzero": part, **shares},
    }
    for name, content in found.items():
        text = json.dumps({"setting": setting, **content})
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder
