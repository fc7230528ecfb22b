"""Models and data small enough to test in milliseconds, with weights that hide nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sed_core.baselines import (
    DDPM,
    LDM,
    SARM,
    AutoencoderConfig,
    DDPMConfig,
    DenseValues,
    GatedLogGaussian,
    LogGaussian,
    MaskedConfig,
    MaskedDiffusion,
    NBVAEConfig,
    NegativeBinomialVAE,
    SARMConfig,
    SparsityBits,
)
from sed_core.chance import seeded
from sed_core.countsdiff import CountsConfig, CountsDiff
from sed_core.savae import SAVAE, SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.sparse import SparseBatch


def randomise(model: nn.Module, seed: int = 0, gain: float = 1.5) -> nn.Module:
    """Random weights everywhere: blocks that start as the identity would hide mistakes."""
    chance = seeded(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=chance).to(parameter)
            if parameter.ndim >= 2:
                parameter.copy_(noise * gain / parameter.shape[-1] ** 0.5)
            else:
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.2 * noise)
    return model


def savae(dim: int = 20, seed: int = 0, **options: Any) -> SAVAE:
    """An autoencoder of a few thousand random weights."""
    sizes = {"latent": 6, "width": 16, "heads": 2, "encoder_layers": 2, "decoder_layers": 2}
    laws = {"pool_width": 24, "draft_width": 16, "value_mean": 0.4, "value_sd": 0.3}
    config = SAVAEConfig(dim=dim, **{**sizes, **laws, **options})
    model = randomise(SAVAE(config), seed)
    _spread_lengths(model)
    return model.eval()


@torch.no_grad()
def _spread_lengths(model: SAVAE) -> None:
    """Move the weight of stop so that rows of 20 dimensions end at many lengths, 0 to 20."""
    c, head = model.config, model.decoder.index_head
    stop = (head.linear if c.index_head == "flat" else head.block).bias
    if c.mask == "past":
        stop[-1] -= 4.0 if c.draft == "none" else 0.0
        return
    stop[-1] += 0.5 if c.index_head == "flat" else -1.0
    if model.draft_head is not None:
        model.draft_head.logit.bias -= 3.0


def sed(dim: int = 20, seed: int = 0, classes: int = 3, **options: Any) -> SED:
    """A whole SED of a few thousand random weights and an arbitrary latent standard."""
    autoencoder = savae(dim, seed, **options).config
    config = DenoiserConfig(
        latent=autoencoder.latent, widths=(24, 16, 8), condition=12, classes=classes
    )
    model = SED(autoencoder, config)
    randomise(model, seed)
    chance = seeded(seed + 1)
    model.standardise(torch.randn(50, autoencoder.latent, generator=chance) * 0.7 + 0.3)
    return model.eval()


def ddpm(dim: int = 20, side: int = 0, family: type[DDPM] = DDPM, classes: int = 3) -> DDPM:
    """A dense diffusion of random weights, on vectors or on pictures of that side."""
    config = DDPMConfig(
        dim=side**2 if side else dim, side=side, widths=(16, 8), condition=12, classes=classes
    )
    model = family(DenseValues(), config)
    randomise(model)
    return model.eval()


def bits(side: int = 0) -> SparsityBits:
    """Sparsity Bits of random weights."""
    model = ddpm(side=side, family=SparsityBits)
    assert isinstance(model, SparsityBits)
    return model


def ldm(dim: int = 20, side: int = 0, classes: int = 3) -> LDM:
    """A latent diffusion of random weights and an arbitrary latent standard."""
    size = side**2 if side else dim
    autoencoder = AutoencoderConfig(dim=size, side=side, latent=6, widths=(16, 8))
    denoiser = DenoiserConfig(latent=6, widths=(24, 16, 8), condition=12, classes=classes)
    model = LDM(DenseValues(), autoencoder, denoiser)
    randomise(model)
    model.standardise(torch.randn(50, 6, generator=seeded(1)) * 0.7 + 0.3)
    return model.eval()


def sarm(dim: int = 20, side: int = 0, classes: int = 3) -> SARM:
    """An autoregressive gate-and-value model of random weights."""
    config = SARMConfig(dim=side**2 if side else dim, side=side, hidden=40, classes=classes)
    model = SARM(DenseValues(), config)
    randomise(model)
    return model.eval()


def countsdiff(dim: int = 10, **options: Any) -> CountsDiff:
    """A diffusion of counts of random weights."""
    sizes = {"width": 24, "layers": 2, "condition": 12, "classes": 3}
    if options.get("network") == "unet":
        sizes |= {"side": round(dim**0.5), "widths": (16, 8), "largest": 255, "unit": 50.0}
    model = CountsDiff(CountsConfig(dim=dim, **{**sizes, **options}))
    randomise(model, gain=0.7)
    with torch.no_grad():
        model.label.weight[-1] = 0  # unknown
    return model.eval()


def masked(**options: Any) -> MaskedDiffusion:
    """A masked diffusion of counts of a few thousand random weights."""
    sizes = {"dim": 5, "largest": 6, "embedding": 4, "width": 12, "layers": 2, "condition": 6}
    model = MaskedDiffusion(MaskedConfig(**{**sizes, "classes": 3, **options}))
    randomise(model)
    return model.eval()


def log_gaussian(
    counts: Tensor, classes: int = 0, family: type[LogGaussian] = LogGaussian
) -> LogGaussian:
    """A Gaussian diffusion of random weights in the units of these counts."""
    shape = DDPMConfig(dim=counts.shape[1], widths=(16, 8), condition=12, classes=classes)
    model = family(DenseValues.of_counts(counts), shape)
    randomise(model)
    return model.eval()


def gated(counts: Tensor, classes: int = 0) -> LogGaussian:
    """The same with gates."""
    return log_gaussian(counts, classes, GatedLogGaussian)


def nbvae(dim: int = 10, **options: Any) -> NegativeBinomialVAE:
    """A negative-binomial VAE of random weights, with libraries of about 30 counts."""
    sizes = {"latent": 4, "width": 12, "condition": 6, "classes": 3}
    model = NegativeBinomialVAE(NBVAEConfig(dim=dim, **{**sizes, **options}))
    randomise(model)
    sizes = torch.linspace(20, 40, model.classes + 1)
    model.get_buffer("library_mean").copy_(sizes.log())
    return model.eval()


def counts(seed: int = 0, *, rows: int = 7, dim: int = 10) -> Tensor:
    """Random rows of counts from 0 to 12, the second one all zero."""
    x = torch.randint(0, 13, (rows, dim), generator=seeded(seed))
    x[1] = 0
    return x


def pairs(
    seed: int = 0, *, rows: int = 7, dim: int = 20, share: float = 0.4, empty: bool = False
) -> SparseBatch:
    """Random rows of different lengths with values in (0.05, 1.05); maybe the second one empty."""
    chance = seeded(seed)
    kept = torch.rand(rows, dim, generator=chance) < share
    if empty:
        kept[1] = False
    return SparseBatch.from_dense((torch.rand(rows, dim, generator=chance) + 0.05) * kept)


def equal(a: SparseBatch, b: SparseBatch) -> bool:
    """Whether two batches hold the same pairs in the same order, bit for bit."""
    return (
        a.dim == b.dim
        and torch.equal(a.nnz, b.nnz)
        and torch.equal(a.index[a.mask], b.index[b.mask])
        and torch.equal(a.value[a.mask], b.value[b.mask])
    )


def ascending(batch: SparseBatch) -> bool:
    """Whether every row's indices rise strictly and lie in range."""
    both = batch.mask[:, 1:] & batch.mask[:, :-1]
    rising = (batch.index[:, 1:] > batch.index[:, :-1]) | ~both
    inside = (batch.index >= 0) & (batch.index < batch.dim)
    return bool(rising.all()) and bool(inside[batch.mask].all())


def largest(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a.double() - b.double()).abs().max().item() if a.numel() else 0.0


@contextmanager
def untouched_global_chance() -> Iterator[None]:
    """Fail if the block drew from torch's global generator."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())
