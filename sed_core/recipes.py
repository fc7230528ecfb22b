"""How each shipped checkpoint is trained: one recipe, two budgets, the device found by itself."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sed_core import hub
from sed_core.chance import seeded
from sed_core.domains import digits
from sed_core.metrics.judge import new_judge, train_judge
from sed_core.savae import SAVAE, SAVAEConfig
from sed_core.sed import SED, DenoiserConfig
from sed_core.sparse import SparseBatch
from sed_core.store import Store
from sed_core.training import Batches, LengthBuckets, Loss, Progress, fit, shuffled

Budget = Literal["cpu", "gpu"]
GREY = 1 / 255
MAP_POINTS = 3_000  # training latents shown behind a sample's path


@dataclass(frozen=True)
class Stage:
    """Size of one training stage."""

    steps: int
    rows: int  # a batch holds as many pairs as this number of average rows
    lr: float
    ema: float = 0.999


@dataclass(frozen=True)
class Plan:
    """The three stages of SED: what a budget changes."""

    draft: Stage
    savae: Stage
    latent: Stage


RECIPES = ("sed-mnist", "judge-mnist")

# At most 60 minutes on two cores; about 10 minutes on one data-centre GPU.
PLANS: Mapping[str, Plan] = {
    "cpu": Plan(
        draft=Stage(steps=15_000, rows=32, lr=2e-3),
        savae=Stage(steps=4_000, rows=16, lr=1e-3),
        latent=Stage(steps=10_000, rows=512, lr=1e-3),
    ),
    "gpu": Plan(
        draft=Stage(steps=20_000, rows=128, lr=2e-3),
        savae=Stage(steps=20_000, rows=128, lr=1e-3),
        latent=Stage(steps=60_000, rows=1024, lr=1e-3, ema=0.9999),
    ),
}


def train(
    name: str, *, budget: Budget = "cpu", out: Path, seed: int = 0, device: str = "auto"
) -> Iterator[Any]:
    """Train the checkpoint of that name and write it to `out`/checkpoint; yields progress.

    Killed at any moment, the same call goes on where it stopped.

    Raises:
        ValueError: for a name without a recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"there is a recipe for {', '.join(RECIPES)}, got {name!r:.80}")
    out.mkdir(parents=True, exist_ok=True)
    place = hub.place(device)
    if name == "judge-mnist":
        yield from _train_judge(out, seed, place)
    else:
        yield from train_sed_digits(
            name, digits.load("mnist", "train"), budget=budget, out=out, seed=seed, device=place
        )


def train_sed_digits(
    name: str,
    data: digits.Digits,
    *,
    budget: Budget,
    out: Path,
    seed: int,
    device: torch.device,
    plan: Plan | None = None,
) -> Iterator[Progress]:
    """SED on digits in three stages, each resumable: draft, SAVAE, latent."""
    plan, batch = plan or PLANS[budget], data.batch()
    model = new_sed(digit_savae(batch), DenoiserConfig(latent=64, classes=10), seed=seed).to(device)
    model.savae.start_from(_counts(batch).to(device), len(batch))
    yield from _train_savae(model.savae, batch, plan, out, seed, device)
    mu, logvar = latents(model, batch)
    model.standardise(mu)
    mu, logvar = model.standard(mu, logvar)
    yield from _train_latent(model, mu, logvar, data.labels, plan.latent, out, seed)
    hub.save(
        model,
        out / "checkpoint",
        metrics={"training": _conditions(model, plan, out, seed)},
        card=f"# {name}\n\nNot evaluated yet; `sed-core evaluate FOLDER --save` does it.\n",
        recipe=f"sed-core train {name} --budget {budget} --seed {seed}",
        latents=latent_map(mu.cpu(), data.labels),
    )


def new_sed(savae: SAVAEConfig, denoiser: DenoiserConfig, *, seed: int) -> SED:
    """An untrained SED whose weights depend on the seed; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)  # initialisation of torch's modules takes no generator
        return SED(savae, denoiser)


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


def _train_savae(
    savae: SAVAE, batch: SparseBatch, plan: Plan, out: Path, seed: int, device: torch.device
) -> Iterator[Progress]:
    def draft_loss(chosen: SparseBatch, chance: torch.Generator) -> Loss:
        return savae.draft_loss(chosen, generator=chance)

    def savae_loss(chosen: SparseBatch, chance: torch.Generator) -> Loss:
        return savae.loss(chosen, generator=chance)

    for stage, size, loss in (
        ("draft", plan.draft, draft_loss),
        ("savae", plan.savae, savae_loss),
    ):
        pairs = int(size.rows * batch.nnz.float().mean() * 1.05)
        rows = LengthBuckets(batch.nnz, pairs=pairs, steps=size.steps, seed=seed)
        yield from fit(
            savae,
            Batches(rows, lambda chosen: batch[chosen].to(device)),
            lr=size.lr,
            ema=size.ema,
            generator=seeded(seed),
            loss=loss,
            stage=stage,
            store=Store(out / stage),
        )


def _train_latent(
    model: SED, mu: Tensor, logvar: Tensor, labels: Tensor, size: Stage, out: Path, seed: int
) -> Iterator[Progress]:
    """The denoiser on posterior samples of all training rows; SAVAE stays as it is."""
    sd, labels = (logvar / 2).exp(), labels.to(mu.device)

    def loss(rows: Tensor, chance: torch.Generator) -> Loss:
        eps = torch.randn(len(rows), mu.shape[1], generator=chance).to(mu)
        rows = rows.to(mu.device)
        return model.latent_loss(mu[rows] + sd[rows] * eps, label=labels[rows], generator=chance)

    yield from fit(
        model.denoiser,
        shuffled(len(mu), size=size.rows, steps=size.steps, seed=seed),
        lr=size.lr,
        ema=size.ema,
        generator=seeded(seed),
        loss=loss,
        stage="latent",
        store=Store(out / "latent"),
    )


@torch.no_grad()
def latents(
    model: SED, batch: SparseBatch, size: int = 500
) -> tuple[Float[Tensor, "n Z"], Float[Tensor, "n Z"]]:
    """Posterior mean and log-variance of all rows as SAVAE gives them, not standardised."""
    order = batch.nnz.argsort()  # rows of like length together
    chunks = [order[first : first + size] for first in range(0, len(order), size)]
    parts = [model.savae.encode(batch[rows].to(model.device)) for rows in chunks]
    back = order.argsort().to(model.device)
    return torch.cat([mu for mu, _ in parts])[back], torch.cat([v for _, v in parts])[back]


def _counts(batch: SparseBatch) -> Tensor:
    return torch.bincount(batch.index[batch.mask], minlength=batch.dim)


@torch.no_grad()
def latent_map(z: Float[Tensor, "n Z"], labels: Int[Tensor, " n"]) -> dict[str, Tensor]:
    """The plane that tells the classes apart best (linear discriminants), and some latents in it.

    Returns:
        xy (n, 2), label (n,), project (Z, 2), origin (2,): z @ project + origin lies in the plane.
    """
    z = z.double()
    project = discriminants(z, labels)
    origin = -(z.mean(0) @ project)
    some = torch.randperm(len(z), generator=seeded(0))[:MAP_POINTS]
    points = (z[some] @ project + origin).half()
    return {
        "xy": points,
        "label": labels[some].to(torch.uint8),
        "project": project.float(),
        "origin": origin.float(),
    }


def discriminants(z: Float[Tensor, "n Z"], labels: Int[Tensor, " n"]) -> Float[Tensor, "Z 2"]:
    """The two directions of largest spread between classes relative to that inside them (LDA)."""
    member = torch.nn.functional.one_hot(labels).to(z)
    centres = (member.T @ z) / member.sum(0)[:, None]
    within = torch.cov((z - centres[labels]).T) + 1e-3 * torch.eye(z.shape[1], dtype=z.dtype)
    spread, axes = _eigen(within)
    whiten = axes / spread.sqrt()
    _, directions = _eigen(torch.cov((centres @ whiten).T))
    return whiten @ directions[:, -2:].flip(1)


def _eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors in columns."""
    return cast("tuple[Tensor, Tensor]", torch.linalg.eigh(symmetric))


def _train_judge(out: Path, seed: int, device: torch.device) -> Iterator[Any]:
    data = digits.load("mnist", "train")
    judge = new_judge(seed=seed).to(device)
    yield from train_judge(judge, data.images, data.labels, seed=seed)
    hub.save(
        judge,
        out / "checkpoint",
        metrics={"training": _where(judge)},
        card="# judge-mnist\n\nNot evaluated yet; `sed-core evaluate FOLDER --save` does it.\n",
        recipe=f"sed-core train judge-mnist --seed {seed}",
    )


def _conditions(model: SED, plan: Plan, out: Path, seed: int) -> dict[str, Any]:
    """What the training consisted of, for metrics.json."""
    stages = {name: {**asdict(size), **_stored(out / name)} for name, size in vars(plan).items()}
    return {"seed": seed, **_where(model), "stages": stages}


def _stored(folder: Path) -> dict[str, Any]:
    found = Store(folder).load()
    return {} if found is None else {key: found.meta.get(key) for key in ("seconds", "precision")}


def _where(model: nn.Module) -> dict[str, Any]:
    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
