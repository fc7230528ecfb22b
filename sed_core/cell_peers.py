"""How the peers of cells are trained: dense diffusion, latent diffusion, a negative-binomial VAE.

All three read raw counts of a panel of genes and the type of each cell, where it is known. Each is
of about the size and has about the time of the others; widths, rates and targets were chosen on a
tenth of the training cells (docs/decisions.md).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from jaxtyping import Int64
from torch import Tensor

from sed_core.baselines import (
    LDM,
    AutoencoderConfig,
    DDPMConfig,
    DenseValues,
    GatedLogGaussian,
    NBVAEConfig,
    NegativeBinomialVAE,
)
from sed_core.cell_counts import cell_vocabulary
from sed_core.domains.cells import Cells
from sed_core.keep import Plan, built, keep
from sed_core.sed import DenoiserConfig
from sed_core.stages import (
    CountsSet,
    Run,
    Stage,
    TrainingSet,
    dense_latents,
    train_autoencoder,
    train_latent,
    train_on_counts,
)
from sed_core.training import Progress
from sed_core.vocabulary import GeneVocabulary

LATENT = 32  # of the dense autoencoder

# On 2,000 genes and 2,430 cells: 122, 63 and 22 s of one core. The VAE overfits soon: at 4e-3 and
# without dropout, the bound of 243 other cells was 1,280 nats after 500 steps, 1,291 after 1,000.
CELL_PEER_PLANS: Mapping[str, Mapping[Literal["cpu", "gpu"], Plan]] = {
    "ddpm": {
        "cpu": {"counts": Stage(steps=5_000, rows=128, lr=2e-3)},
        "gpu": {"counts": Stage(steps=20_000, rows=256, lr=2e-3, ema=0.9995)},
    },
    "ldm": {
        "cpu": {
            "autoencoder": Stage(steps=1_000, rows=128, lr=2e-3),
            "latent": Stage(steps=3_000, rows=256, lr=2e-3),
        },
        "gpu": {
            "autoencoder": Stage(steps=1_000, rows=128, lr=2e-3),
            "latent": Stage(steps=20_000, rows=512, lr=2e-3, ema=0.9995),
        },
    },
    "nbvae": {
        "cpu": {"counts": Stage(steps=700, rows=128, lr=4e-3, ema=0.99)},
        "gpu": {"counts": Stage(steps=700, rows=128, lr=4e-3, ema=0.99)},
    },
}


def train_cell_ddpm(
    name: str, cells: Cells, plan: Plan, run: Run, command: str, *, label: str | None = None
) -> Iterator[Progress]:
    """DDPM on log(1 + x), with gates past its network; the cells are held as dense counts.

    Args:
        label: column of types; the first if left out.

    Raises:
        DataError: where the values are no counts.
        ValueError: for a column that the cells do not have.
    """
    data, vocabulary = _counts_set(cells, label)
    values = DenseValues.of_counts(_whole(data))
    config = DDPMConfig(
        dim=cells.dim, widths=(80, 64), condition=32, classes=data.classes, target="v"
    )
    model = built(lambda: GatedLogGaussian(values, config), run)
    yield from train_on_counts(model, data, plan["counts"], run)
    keep(model, name, plan, run, command, vocabulary=vocabulary)


def train_cell_ldm(
    name: str, cells: Cells, plan: Plan, run: Run, command: str, *, label: str | None = None
) -> Iterator[Progress]:
    """A dense autoencoder of log(1 + x), then diffusion of its latent; see `train_cell_ddpm`."""
    counts, vocabulary = _counts_set(cells, label)
    data = TrainingSet(cells.rows(), _numbers(counts), counts.classes, 0)
    values = DenseValues.of_counts(_whole(counts))
    autoencoder = AutoencoderConfig(dim=cells.dim, latent=LATENT, widths=(128,))
    denoiser = DenoiserConfig(
        latent=LATENT, widths=(128, 128, 64), condition=64, classes=counts.classes
    )
    model = built(lambda: LDM(values, autoencoder, denoiser), run)
    yield from train_autoencoder(model, data, plan["autoencoder"], run)
    mu, logvar = dense_latents(model, data.batch)
    model.standardise(mu)
    mu, logvar = model.standard(mu, logvar)
    yield from train_latent(model.denoiser, mu, logvar, data.labels, plan["latent"], run)
    keep(model, name, plan, run, command, vocabulary=vocabulary)


def train_cell_nbvae(
    name: str, cells: Cells, plan: Plan, run: Run, command: str, *, label: str | None = None
) -> Iterator[Progress]:
    """A negative-binomial VAE with the libraries of each type; see `train_cell_ddpm`."""
    data, vocabulary = _counts_set(cells, label)
    config = NBVAEConfig(dim=cells.dim, classes=data.classes, dropout=0.3)

    def make() -> NegativeBinomialVAE:
        model = NegativeBinomialVAE(config)
        model.start_from(data.counts, data.labels)
        return model

    model = built(make, run)
    yield from train_on_counts(model, data, plan["counts"], run)
    keep(model, name, plan, run, command, vocabulary=vocabulary)


CELL_PEER_TRAINERS: Mapping[str, Callable[..., Iterator[Any]]] = {
    "ddpm": train_cell_ddpm,
    "ldm": train_cell_ldm,
    "nbvae": train_cell_nbvae,
}


def _counts_set(cells: Cells, label: str | None) -> tuple[CountsSet, GeneVocabulary]:
    """All counts, dense, with the type of each cell, and the names of genes and types."""
    vocabulary = cell_vocabulary(cells, label=label)
    column = vocabulary.label
    numbers = None if column is None else cells.labels[column].numbers
    return CountsSet(cells.counts().int(), numbers, len(vocabulary.labels)), vocabulary


def _whole(data: CountsSet) -> Int64[Tensor, "n D"]:
    return data.counts.long()


def _numbers(data: CountsSet) -> Int64[Tensor, " n"]:
    """The type of each cell; 0, which is "unknown", where there are none."""
    return data.counts.new_zeros(len(data.counts)).long() if data.labels is None else data.labels
