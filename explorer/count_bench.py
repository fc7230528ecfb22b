"""The toy's bench of the page Counts: every method beside the exact law, and a training live."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explorer.count_params import SIZES, Params
from explorer.count_runs import device, finished, now, way
from explorer.jobs import Tick
from explorer.models import Peer
from sed_core.chance import seeded, split
from sed_core.counts_recipes import TOY_PLAN, toy_config
from sed_core.countsdiff import CountsDiff
from sed_core.domains import toy
from sed_core.domains.toy import TOY
from sed_core.keep import built
from sed_core.metrics import counts as metrics
from sed_core.metrics.distance import energy_distance, sliced_w2
from sed_core.stages import Run
from sed_core.training import Batches, fit, shuffled

ROWS = 256  # rows drawn at once, as the command line does, so that both draw the same
METHODS = {"counts": "CountsDiff", "own": "Trained here", "gauss": "Gaussian",
           "masked": "Masked"}  # fmt: skip
EXACT = "exact"
MEASURES = {
    "sliced_w2": "sliced W2", "w1": "mean W1", "mmd": "MMD", "energy_distance": "energy distance",
    "variance": "worst variance",
}  # fmt: skip
DRAWN = 0.8  # share of a measurement that is done when all samples are drawn
WANTED_MEAN = 0.2  # variances of rarer counts say little


@dataclass(frozen=True, eq=False)
class Measured:
    """Samples of every method beside the exact law's, and how far they are from them."""

    params: Params
    shas: Mapping[str, str]
    samples: Mapping[str, Tensor]  # (n, 10) int64; EXACT among them
    figures: Mapping[str, Mapping[str, float]]  # EXACT: the floor, of as many exact rows
    seconds: Mapping[str, float]
    made: str
    device: str
    trained: str = ""  # the command that trains what was trained here

    @property
    def sha(self) -> str:
        """One name for all models that take part."""
        return hashlib.sha256("".join(self.shas[key] for key in self.shas).encode()).hexdigest()

    @property
    def stamp(self) -> str:
        """The name of this result."""
        return self.params.stamp(self.sha)


def measure(peers: Mapping[str, Peer], params: Params, trained: str, tick: Tick) -> Measured:
    """Draw with every method, then compare each with as many exact rows."""
    real, other = (TOY.sample(params.n, generator=chance) for chance in exact_chance(params.seed))
    samples: dict[str, Tensor] = {}
    seconds, begun_share = {}, 0.0
    for place, (key, peer) in enumerate(peers.items(), start=1):
        end, begun = DRAWN * place / len(peers), time.perf_counter()
        samples[key] = _rows(key, peer.model, params, tick, begun_share, end)
        seconds[key], begun_share = time.perf_counter() - begun, end
    found, all_sets = {}, {**samples, EXACT: other}
    for place, (key, some) in enumerate(all_sets.items()):
        part = lambda done, place=place: tick(DRAWN + (1 - DRAWN) * (place + done) / len(all_sets))  # noqa: E731
        found[key] = _distances(some, real, part)
    tick(1.0)
    shas = {key: peer.sha for key, peer in peers.items()}
    where = device(next(iter(peers.values())).model)
    samples[EXACT] = real
    return Measured(params, shas, samples, found, seconds, now(), where, trained)


def exact_chance(seed: int) -> list[torch.Generator]:
    """Chance of the two exact sets, apart from that of the models' rows."""
    return split(seeded(seed), SIZES[-1] + 2)[-2:]


def _rows(key: str, model: Any, params: Params, tick: Tick, first: float, end: float) -> Tensor:
    """n rows, as many at once as the command line draws."""
    options = way(params) if key in ("counts", "own") else {"steps": params.steps}
    chance, parts = split(seeded(params.seed), params.n), []
    for begin in range(0, params.n, ROWS):
        some, share = chance[begin : begin + ROWS], (end - first) / params.n
        with torch.inference_mode():
            steps = model.stream(len(some), **options, generator=some)
            here = first + share * begin
            parts.append(finished(steps, tick, here, here + share * len(some)))
    return torch.cat(parts).cpu().long()


def _distances(some: Tensor, real: Tensor, tick: Tick) -> dict[str, float]:
    """The distances of two sets, a pause between them so that Stop is heard."""
    found, asked = {}, {
        "sliced_w2": lambda: sliced_w2(some, real, projections=500, generator=seeded(0)),
        "w1": lambda: metrics.w1_each(some, real).mean().item(),
        "mmd": lambda: metrics.counts_mmd(some, real),
        "energy_distance": lambda: energy_distance(some, real),
        "variance": lambda: metrics.variance_error(
            some, TOY.mean, TOY.variance, above=WANTED_MEAN
        ),
    }  # fmt: skip
    for place, (name, work) in enumerate(asked.items()):
        tick(place / len(asked))
        found[name] = work()
    return found


# -- training the toy ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Trained:
    """A CountsDiff of the toy that was trained here, and how its loss fell."""

    peer: Peer
    seed: int
    losses: tuple[tuple[int, float], ...]
    seconds: float
    made: str

    @property
    def command(self) -> str:
        """The same training from the command line."""
        return f"sed-core train counts-toy --seed {self.seed}"


TRAINING = TOY_PLAN["counts"].steps
POINT = 20  # steps of training whose mean loss is one point of the curve


def train(seed: int, losses: list[tuple[int, float]], tick: Tick) -> Trained:
    """Train the toy's CountsDiff as its recipe does; the curve grows while it runs."""
    size, rows, begun = TOY_PLAN["counts"], toy.load("train"), time.perf_counter()
    model = built(lambda: CountsDiff(toy_config()), Run(Path(), seed, torch.device("cpu")))
    batches = Batches(shuffled(len(rows), size=size.rows, steps=size.steps, seed=seed),
                      lambda chosen: rows[chosen])  # fmt: skip
    some = list[float]()
    for move in fit(
        model, batches, lr=size.lr, ema=size.ema, generator=seeded(seed), stage="counts",
        loss=lambda batch, chance: model.loss(batch, generator=chance),
    ):  # fmt: skip
        tick(move.step / move.steps)
        some.append(move.total.item())
        if move.step % POINT == 0:
            losses.append((move.step, sum(some) / len(some)))
            some.clear()
    model.requires_grad_(False)
    seconds = time.perf_counter() - begun
    return Trained(Peer(model, _sha(model)), seed, tuple(losses), seconds, now())


def _sha(model: torch.nn.Module) -> str:
    """sha256 of the weights."""
    parts = [part.detach().numpy().tobytes() for part in model.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()
