"""How the shipped models of counts are trained: the toy's three, and digits as grey levels."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from sed_core.baselines import DDPMConfig, DenseValues, LogGaussian, MaskedConfig, MaskedDiffusion
from sed_core.countsdiff import CountsConfig, CountsDiff
from sed_core.domains import digits, toy
from sed_core.keep import Plan, built, keep
from sed_core.stages import CountsSet, Run, Stage, train_on_counts
from sed_core.training import Progress

COUNTS_DATA = {"counts": ("toy", "mnist"), "gauss": ("toy",), "masked": ("toy",)}

# The same for all three, so that none is favoured: about half a minute on one core each.
TOY_PLAN: Plan = {"counts": Stage(steps=5_000, rows=256, lr=5e-3, ema=0.99)}
MNIST_PLANS: Mapping[str, Plan] = {
    "cpu": {"counts": Stage(steps=9_000, rows=64, lr=1e-3)},
    "gpu": {"counts": Stage(steps=60_000, rows=256, lr=1e-3, ema=0.9995)},
}


def counts_plan(data: str, budget: Literal["cpu", "gpu"]) -> Plan:
    """The stages of a recipe on a budget; the toy needs no more than a CPU's."""
    return TOY_PLAN if data == "toy" else MNIST_PLANS[budget]


def counts_set(data: str) -> CountsSet:
    """The training rows behind a recipe."""
    if data == "toy":
        return CountsSet(toy.load("train"), None)
    found = digits.load(data, "train")
    return CountsSet(found.images, found.labels, classes=10, side=28)


def train_counts(
    name: str, data: CountsSet, plan: Plan, run: Run, command: str
) -> Iterator[Progress]:
    """CountsDiff: pictures with a U-Net, up to 255; the toy with one small hidden layer."""
    config = picture_config(data) if data.side else toy_config()
    yield from _train(lambda: CountsDiff(config), name, data, plan, run, command)


def train_gauss(
    name: str, data: CountsSet, plan: Plan, run: Run, command: str
) -> Iterator[Progress]:
    """DDPM on log(1 + x), with as many parameters as the toy's CountsDiff."""
    values = DenseValues.of_counts(data.counts.long())
    config = DDPMConfig(dim=data.counts.shape[1], widths=(40, 20), condition=20, target="v")
    yield from _train(lambda: LogGaussian(values, config), name, data, plan, run, command)


def train_masked(
    name: str, data: CountsSet, plan: Plan, run: Run, command: str
) -> Iterator[Progress]:
    """Masked diffusion, with as many parameters as the toy's CountsDiff."""
    config = MaskedConfig(
        dim=data.counts.shape[1],
        largest=int(data.counts.max()),
        embedding=6,
        width=40,
        layers=1,
        condition=8,
    )

    def make() -> MaskedDiffusion:
        model = MaskedDiffusion(config)
        model.start_from(data.counts)
        return model

    yield from _train(make, name, data, plan, run, command)


COUNTS_TRAINERS: Mapping[str, Callable[..., Iterator[Progress]]] = {
    "counts": train_counts,
    "gauss": train_gauss,
    "masked": train_masked,
}


def toy_config() -> CountsConfig:
    """The network of the toy."""
    return CountsConfig(dim=10, width=40, layers=2, condition=20)


def picture_config(data: CountsSet) -> CountsConfig:
    """Grey levels as counts; what is decided at small p is where most of the training is."""
    ink = data.counts[data.counts > 0].float().mean().item()
    return CountsConfig(
        dim=data.side**2,
        network="unet",
        side=data.side,
        classes=data.classes,
        class_names="\n".join(digits.CLASS_NAMES["mnist"]),
        observed_rows=0.5,
        largest=255,
        unit=round(ink, 2),
        schedule="shifted",
        training="shifted",
    )


def _train(
    make: Callable[[], Any], name: str, data: CountsSet, plan: Plan, run: Run, command: str
) -> Iterator[Progress]:
    model = built(make, run)
    yield from train_on_counts(model, data, plan["counts"], run)
    keep(model, name, plan, run, command)
