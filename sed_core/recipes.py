"""How each shipped checkpoint is trained: one recipe, two budgets, the device found by itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sed_core import hub
from sed_core.baselines import (
    DDPM,
    LDM,
    SARM,
    AutoencoderConfig,
    DDPMConfig,
    DenseValues,
    SARMConfig,
    SparsityBits,
)
from sed_core.cell_counts import CELL_COUNTS_PLANS, train_cell_counts
from sed_core.cell_peers import CELL_PEER_PLANS, CELL_PEER_TRAINERS
from sed_core.cell_sed import CELL_SED_PLANS, train_cell_sed
from sed_core.chance import seeded
from sed_core.counts_recipes import COUNTS_DATA, COUNTS_TRAINERS, counts_plan, counts_set
from sed_core.domains import calorimeter, digits, pbmc
from sed_core.domains.cells import Cells
from sed_core.keep import NOT_YET, Plan, built, keep, where
from sed_core.metrics.judge import new_judge, train_judge
from sed_core.savae import SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.sparse import SparseBatch
from sed_core.stages import (
    Run,
    Stage,
    TrainingSet,
    dense_latents,
    latent_map,
    latents,
    train_autoencoder,
    train_dense,
    train_latent,
    train_savae,
)
from sed_core.training import Progress

Budget = Literal["cpu", "gpu"]
GREY = 1 / 255
LATENT = 64
DENOISER_WIDTHS = {"ecal": (256, 256, 128, 64)}  # where a small network does, a small file
JUDGED = 420_000  # pictures that a judge is trained on, each counted as often as it is seen
COPIES = 12  # of each calorimeter window: itself, and mirrored or shifted

CELLS = "pbmc3k"
CELL_PLANS: Mapping[str, Mapping[Budget, Plan]] = {
    "sed": CELL_SED_PLANS,
    "counts": CELL_COUNTS_PLANS,
    **CELL_PEER_PLANS,
}
DATA = {"mnist": "mnist", "fashion": "fashion_mnist", "ecal": "ecal"}
RECIPES = (
    *(f"sed-{data}" for data in DATA),
    *(f"ddpm-{data}" for data in DATA),
    *(f"ldm-{data}" for data in DATA),
    *(f"bits-{data}" for data in DATA),
    *(f"sarm-{data}" for data in DATA),
    *(f"{family}-{data}" for family, sets in COUNTS_DATA.items() for data in sets),
    *(f"{family}-{CELLS}" for family in CELL_PLANS),
    "judge-mnist",
    "judge-fashion",
)

# At most 60 minutes on two cores; about 10 minutes on one data-centre GPU.
SED_PLANS_ON_CPU: Mapping[str, Plan] = {
    "mnist": {
        "draft": Stage(steps=15_000, rows=32, lr=2e-3),
        "savae": Stage(steps=4_000, rows=16, lr=1e-3),
        "latent": Stage(steps=10_000, rows=512, lr=1e-3),
    },
    "fashion": {
        "draft": Stage(steps=10_000, rows=16, lr=2e-3),
        "savae": Stage(steps=6_000, rows=6, lr=1e-3),
        "latent": Stage(steps=6_000, rows=512, lr=1e-3),
    },
    "ecal": {
        "draft": Stage(steps=6_000, rows=64, lr=2e-3),
        "savae": Stage(steps=2_500, rows=32, lr=1e-3),
        "latent": Stage(steps=5_000, rows=512, lr=1e-3),
    },
}
SED_PLAN_ON_GPU: Plan = {
    "draft": Stage(steps=20_000, rows=128, lr=2e-3),
    "savae": Stage(steps=20_000, rows=128, lr=1e-3),
    "latent": Stage(steps=60_000, rows=1024, lr=1e-3, ema=0.9999),
}
DENSE_PLANS_ON_CPU: Mapping[str, Plan] = {
    "mnist": {"dense": Stage(steps=4_500, rows=64, lr=1e-3)},
    "fashion": {"dense": Stage(steps=2_000, rows=64, lr=1e-3)},
    "ecal": {"dense": Stage(steps=2_000, rows=64, lr=1e-3)},
}
DENSE_PLAN_ON_GPU: Plan = {"dense": Stage(steps=40_000, rows=256, lr=1e-3, ema=0.9995)}
LDM_PLANS: Mapping[Budget, Plan] = {
    "cpu": {
        "autoencoder": Stage(steps=3_000, rows=64, lr=1e-3),
        "latent": Stage(steps=5_000, rows=512, lr=1e-3),
    },
    "gpu": {
        "autoencoder": Stage(steps=20_000, rows=256, lr=1e-3),
        "latent": Stage(steps=60_000, rows=1024, lr=1e-3, ema=0.9999),
    },
}


def train(
    name: str,
    *,
    budget: Budget = "cpu",
    out: Path,
    seed: int = 0,
    device: str = "auto",
    plan: Plan | None = None,
) -> Iterator[Any]:
    """Train the checkpoint of that name and write it to `out`/checkpoint; yields progress.

    Killed at any moment, the same call goes on where it stopped.

    Args:
        plan: other stages than those of the budget, for a trial.

    Raises:
        ValueError: for a name without a recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"there is a recipe for {', '.join(RECIPES)}, got {name!r:.80}")
    out.mkdir(parents=True, exist_ok=True)
    family, data = name.split("-")
    run = Run(out, seed, hub.place(device))
    command = f"sed-core train {name} --budget {budget} --seed {seed}"
    if family == "judge":
        yield from _train_judge(data, run, f"sed-core train {name} --seed {seed}")
        return
    plan = plan or plan_of(family, data, budget)
    if data == CELLS:
        yield from CELL_TRAINERS[family](name, cells_of(family), plan, run, command)
        return
    found = counts_set(data) if family in COUNTS_DATA else training_set(data, seed=seed)
    yield from TRAINERS[family](name, found, plan, run, command)


def plan_of(family: str, data: str, budget: Budget) -> Plan:
    """The stages of a recipe on a budget."""
    if data == CELLS:
        return CELL_PLANS[family][budget]
    if family == "sed":
        return SED_PLANS_ON_CPU[data] if budget == "cpu" else SED_PLAN_ON_GPU
    if family == "ldm":
        return LDM_PLANS[budget]
    if family in COUNTS_DATA:
        return counts_plan(data, budget)
    return DENSE_PLANS_ON_CPU[data] if budget == "cpu" else DENSE_PLAN_ON_GPU


def training_set(data: str, *, seed: int) -> TrainingSet:
    """The training rows behind a recipe; calorimeter windows come augmented."""
    if data == "ecal":
        shown = calorimeter.load("train")
        some = calorimeter.augmented(shown, copies=COPIES, generator=seeded(seed))
        return TrainingSet(some.batch(), some.labels, len(calorimeter.CLASS_NAMES), 32)
    found = digits.load(DATA[data], "train")
    return TrainingSet(found.batch(), found.labels, 10, 28)


def cells_of(family: str) -> Cells:
    """Training cells: all genes for SED, those that vary most for models that compute on each."""
    return (pbmc.parts() if family == "sed" else pbmc.panel_parts())["train"]


# -- SED -------------------------------------------------------------------------------------------


def train_sed(
    name: str, data: TrainingSet, plan: Plan, run: Run, command: str
) -> Iterator[Progress]:
    """SED in three stages: draft, SAVAE, latent."""
    denoiser = latent_denoiser(name, data)
    savae = (energy_savae if name.endswith("ecal") else digit_savae)(data.batch)
    model = built(lambda: SED(savae, denoiser), run)
    yield from train_savae(model.savae, data.batch, dict(plan), run)
    mu, logvar = latents(model, data.batch)
    model.standardise(mu)
    mu, logvar = model.standard(mu, logvar)
    yield from train_latent(model.denoiser, mu, logvar, data.labels, plan["latent"], run)
    keep(model, name, plan, run, command, latents=latent_map(mu.cpu(), data.labels))


def latent_denoiser(name: str, data: TrainingSet) -> DenoiserConfig:
    """The same for SED and LDM, so that only the autoencoder differs."""
    usual = DenoiserConfig(latent=LATENT, classes=data.classes)
    widths = DENOISER_WIDTHS.get(name.split("-")[1], usual.widths)
    return replace(usual, widths=widths)


def digit_savae(batch: SparseBatch) -> SAVAEConfig:
    """The autoencoder for grey levels: value statistics of the training non-zeros."""
    values = batch.value[batch.mask]
    return SAVAEConfig(
        dim=batch.dim,
        value_mean=round(values.mean().item(), 6),
        value_sd=round(values.std().item(), 6),
        value_step=GREY,
        value_smallest=GREY,
        value_largest=1.0,
    )


def energy_savae(batch: SparseBatch) -> SAVAEConfig:
    """The autoencoder for energies: log-normal values, positive by construction."""
    values = batch.value[batch.mask]
    return SAVAEConfig(
        dim=batch.dim,
        draft_width=192,
        value_law="lognormal",
        value_mean=round(values.log().mean().item(), 6),
        value_sd=round(values.log().std().item(), 6),
        value_smallest=round(values.min().item(), 6),
    )


# -- dense peers -----------------------------------------------------------------------------------


def train_ddpm(
    name: str, data: TrainingSet, plan: Plan, run: Run, command: str
) -> Iterator[Progress]:
    """DDPM or Sparsity Bits: one stage on dense rows."""
    family = SparsityBits if name.startswith("bits") else DDPM
    config = DDPMConfig(dim=data.batch.dim, side=data.side, classes=data.classes)
    model = built(lambda: family(dense_values(name, data.batch), config), run)
    yield from train_dense(model, data, plan["dense"], run)
    keep(model, name, plan, run, command)


def train_ldm(
    name: str, data: TrainingSet, plan: Plan, run: Run, command: str
) -> Iterator[Progress]:
    """LDM in two stages: dense autoencoder, latent."""
    values, denoiser = dense_values(name, data.batch), latent_denoiser(name, data)
    config = AutoencoderConfig(dim=data.batch.dim, side=data.side, latent=LATENT)
    model = built(lambda: LDM(values, config, denoiser), run)
    yield from train_autoencoder(model, data, plan["autoencoder"], run)
    mu, logvar = dense_latents(model, data.batch)
    model.standardise(mu)
    mu, logvar = model.standard(mu, logvar)
    yield from train_latent(model.denoiser, mu, logvar, data.labels, plan["latent"], run)
    keep(model, name, plan, run, command, latents=latent_map(mu.cpu(), data.labels))


def train_sarm(
    name: str, data: TrainingSet, plan: Plan, run: Run, command: str
) -> Iterator[Progress]:
    """SARM: one stage on dense rows."""
    quantised = not name.endswith("ecal")
    config = SARMConfig(
        dim=data.batch.dim,
        side=data.side,
        classes=data.classes,
        step=GREY if quantised else 0.0,
        smallest=round(data.batch.value[data.batch.mask].min().item(), 6),
    )
    model = built(lambda: SARM(dense_values(name, data.batch), config), run)
    yield from train_dense(model, data, plan["dense"], run)
    keep(model, name, plan, run, command)


def dense_values(name: str, batch: SparseBatch) -> DenseValues:
    """Grey levels as 2x - 1, energies as standardised logarithms."""
    return DenseValues.of_energies(batch) if name.endswith("ecal") else DenseValues()


TRAINERS: Mapping[str, Callable[..., Iterator[Progress]]] = {
    "sed": train_sed,
    "ddpm": train_ddpm,
    "bits": train_ddpm,
    "ldm": train_ldm,
    "sarm": train_sarm,
    **COUNTS_TRAINERS,
}
CELL_TRAINERS: Mapping[str, Callable[..., Iterator[Progress]]] = {
    "sed": train_cell_sed,
    "counts": train_cell_counts,
    **CELL_PEER_TRAINERS,
}


# -- judge -----------------------------------------------------------------------------------------


def _train_judge(data: str, run: Run, command: str) -> Iterator[Any]:
    found = digits.load(DATA[data], "train")
    judge = new_judge(seed=run.seed).to(run.device)
    epochs = round(JUDGED / len(found))
    yield from train_judge(judge, found.images, found.labels, epochs=epochs, seed=run.seed)
    hub.save(
        judge,
        run.out / "checkpoint",
        metrics={"training": where(judge)},
        card=f"# judge-{data}\n\n{NOT_YET}",
        recipe=command,
    )
