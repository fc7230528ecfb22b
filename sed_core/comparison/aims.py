"""The real data of a comparison, and what judges samples of them: a judge, or physics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sed_core import hub
from sed_core.chance import seeded
from sed_core.comparison.spread import distance_figure
from sed_core.domains import calorimeter, digits
from sed_core.evaluation import Figures, mean_figure, plain_figure, sure
from sed_core.metrics import physics
from sed_core.metrics.distance import frechet, w1
from sed_core.metrics.judge import DigitJudge, read
from sed_core.sparse import SparseBatch

Data = Literal["mnist", "fashion_mnist", "ecal"]
# What data make of rows and the classes asked for, beyond their zeros; with a bootstrap seed.
Quality = Callable[[Tensor, Tensor | None, int], Figures]


@dataclass(frozen=True, eq=False)
class Aim:
    """The real data, and how samples are held against them."""

    data: Data
    title: str
    train: SparseBatch
    test: SparseBatch
    train_labels: Int[Tensor, " n"]
    test_labels: Int[Tensor, " m"]
    quality: Quality
    unit: float = 0.0  # of log(1 + x / unit), the scale of distances; 0 for linear

    def scaled(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Values on the scale in which distances are taken."""
        return (x / self.unit).log1p() if self.unit else x

    def floor_rows(self, n: int, seed: int) -> Int[Tensor, " n"]:
        """Training rows that stand beside n samples, and whose classes samples are asked for.

        Row k of a seed is the same whatever n is; where there are fewer rows, they come again.
        """
        order = torch.randperm(len(self.train), generator=seeded(seed))
        return order.repeat(-(-n // len(order)))[:n]


def aim_at(
    data: Data, *, judge: str | None = None, device: str = "auto", network: bool = False
) -> Aim:
    """A data set with its test data and what judges samples of it."""
    if data == "ecal":
        return shower_aim(calorimeter.load("train"), calorimeter.load("test"))
    named = judge or f"judge-{data.removesuffix('_mnist')}"
    found = hub.load(named, device=device, allow_network=network)
    if not isinstance(found, DigitJudge):
        raise ValueError(f"{named} is a {type(found).__name__}, which judges no pictures")
    train, test = (digits.load(data, part, allow_network=network) for part in ("train", "test"))
    return digit_aim(data, train, test, found)


def digit_aim(data: Data, train: digits.Digits, test: digits.Digits, judge: DigitJudge) -> Aim:
    """Pictures, read by a judge."""
    return Aim(
        data=data,
        title=digits.TITLES[data],
        train=train.batch(),
        test=test.batch(),
        train_labels=train.labels,
        test_labels=test.labels,
        quality=_DigitQuality(judge, test),
    )


class _DigitQuality:
    """What a judge says of pictures."""

    def __init__(self, judge: DigitJudge, test: digits.Digits):
        self.judge = judge
        self.features = read(judge, test.images.float() / 255)[1]

    def __call__(self, x: Tensor, labels: Tensor | None, seed: int) -> Figures:
        prob, features = read(self.judge, x)
        chance = seeded(seed)
        found = {
            "sure": mean_figure(sure(prob), chance),
            "frechet": plain_figure(frechet(features, self.features), len(x)),
        }
        if labels is not None:
            found["agreement"] = mean_figure((prob.argmax(1) == labels).double(), chance)
        return found


def shower_aim(train: calorimeter.Showers, test: calorimeter.Showers) -> Aim:
    """Calorimeter windows, read by a physicist."""
    batch = train.batch()
    return Aim(
        data="ecal",
        title=calorimeter.TITLE,
        train=batch,
        test=test.batch(),
        train_labels=train.labels,
        test_labels=test.labels,
        quality=_ShowerQuality(train.energy, test.energy),
        unit=batch.value[batch.mask].median().item(),
    )


class _ShowerQuality:
    """W1 of what a physicist reads off a window, in its own units and in those of training."""

    def __init__(self, train: Tensor, test: Tensor):
        self.train, self.test = read_shower(train), read_shower(test)

    def __call__(self, x: Tensor, labels: Tensor | None, seed: int) -> Figures:
        chance, found = seeded(seed), Figures()
        for name, made in read_shower(x).items():
            real, train = self.test[name], self.train[name]
            raw = distance_figure(
                lambda rows, made=made, real=real: w1(made[rows], real), len(x), chance
            )
            _, standard = physics.w1_pair(made, real, train)
            scale = standard / raw["value"] if raw["value"] else 1.0
            ends = {end: round(raw[end] * scale, 6) for end in ("value", "low", "high")}
            found |= {f"w1_{name}": raw, f"w1_{name}_std": raw | ends}
        return found


def read_shower(energy: Float[Tensor, "n D"]) -> dict[str, Float[Tensor, " n"]]:
    """Transverse momentum, mass, summed energy and hits of each window."""
    cell = physics.CMS_CELL
    return {
        "pt": physics.transverse_momentum(energy, cell=cell),
        "mass": physics.mass(energy, cell=cell),
        "energy": physics.total_energy(energy),
        "multiplicity": physics.multiplicity(energy).double(),
    }
