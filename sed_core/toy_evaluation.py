"""What a model of the toy's ten counts is worth, beside the exact law and the published figures.

Every method is trained several times and sampled once from each training; the floor is as many
rows of the exact law, drawn again. All are compared with the same rows of the exact law.

Published: notebook of CountsDiff (Soatto et al. 2026), stored outputs (`countsdiff.md` 7.2). Its
CountsDiff is trained with one schedule and sampled with another, its Gaussian sampler is neither
DDPM nor DDIM, and its masked network is four units wide (`countsdiff.md` 8).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int64
from torch import Tensor, nn

from sed_core.chance import seeded
from sed_core.domains import toy
from sed_core.evaluation import machine, target, target_rows
from sed_core.metrics.counts import distances, variance_error, w1_each

LARGEST_SLICED_W2, LARGEST_VARIANCE_ERROR = 0.45, 0.35  # targets, of the worst training
LONGEST_TRAINING = 180.0  # seconds on two cores
COMMON = 0.2  # dimensions whose mean is above count for the variance target
NAMES = {"CountsDiff": "CountsDiff", "LogGaussian": "Gaussian", "MaskedDiffusion": "Masked"}
JOINT = ("sliced_w2", "w1", "mmd", "energy_distance")


@dataclass(frozen=True)
class Published:
    """Figures of the notebook; its sliced W2 spreads because its projections are not seeded."""

    variance: tuple[float, ...]
    w1: tuple[float, ...]
    sliced_w2: str
    mmd: float


PUBLISHED: Mapping[str, Published] = {
    "CountsDiff": Published(
        (0.55, 1.99, 0.07, 0.08, 0.21, 1.10, 0.44, 4.50, 0.46, 0.96),
        (0.07, 0.43, 0.03, 0.03, 0.05, 0.18, 0.15, 1.00, 0.05, 0.24),
        "0.76 to 0.83",
        0.001,
    ),
    "Gaussian": Published(
        (0.19, 0.46, 0.01, 0.02, 0.05, 0.24, 0.24, 1.04, 0.17, 0.22),
        (0.32, 0.95, 0.09, 0.10, 0.20, 0.71, 0.20, 1.88, 0.28, 0.69),
        "1.17 to 1.29",
        0.054,
    ),
    "Masked": Published(
        (3.06, 9.22, 1.89, 2.49, 7.27, 4.78, 5.19, 19.83, 11.63, 4.09),
        (0.10, 0.35, 0.08, 0.08, 0.15, 0.07, 0.12, 0.29, 0.25, 0.07),
        "1.47 to 1.51",
        0.001,
    ),
}


def evaluate_toy(
    models: Iterable[tuple[str, nn.Module]],
    *,
    samples: int = 4000,
    steps: int = 200,
    seed: int = 0,
    training_seconds: Mapping[str, Sequence[float]] | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Figures of trainings of the toy, as metrics.json holds them.

    Args:
        models: (what it is called, trained model), several of one family for several trainings.
        steps: of each sampler.
        training_seconds: how long each training took, by the method's name.
        tell: called with what is being sampled.

    Raises:
        ValueError: for fewer than two samples, or a model of other rows.
    """
    if samples < 2:
        raise ValueError(f"a variance needs at least 2 samples, got {samples}")
    started, real = time.perf_counter(), toy.load("validation")
    found: dict[str, list[dict[str, Any]]] = {}
    for k, (name, model) in enumerate(models):
        method = method_of(model)
        tell(name)
        x, seconds = _drawn(model, samples, steps, seed + k)
        told = {"name": name, "parameters": sum(p.numel() for p in model.parameters())}
        found.setdefault(method, []).append(
            {**told, "seconds": round(seconds, 2), **figures(x, real, seed=seed)}
        )
        device = machine(model)
    floor = [figures(toy.TOY.sample(samples, generator=seeded(1000 + seed + k)), real, seed=seed)
             for k in range(max(map(len, found.values())))]  # fmt: skip
    setting = {"seed": seed, "samples": samples, "real": len(real), "steps": steps, **device}
    setting["seconds"] = round(time.perf_counter() - started, 1)
    trained = {name: [round(s, 1) for s in took] for name, took in (training_seconds or {}).items()}
    return {
        "setting": setting,
        "toy": {"exact": _exact(), "floor": floor, "methods": found, "training_seconds": trained},
        "targets": _targets(found.get("CountsDiff", []), trained.get("CountsDiff", [])),
    }


def method_of(model: nn.Module) -> str:
    """What a model of the toy is called in the table."""
    family, dim = type(model).__name__, getattr(model, "dim", None)
    if family not in NAMES or dim != len(toy.TOY.mu):
        raise ValueError(
            f"the toy has {len(toy.TOY.mu)} counts and is for {', '.join(NAMES)}; "
            f"got a {family} of {dim} dimensions"
        )
    return NAMES[family]


def figures(x: Int64[Tensor, "n 10"], real: Int64[Tensor, "m 10"], *, seed: int) -> dict[str, Any]:
    """Variance and W1 of each dimension, and distances of whole rows."""
    joint = distances(x, real, generator=seeded(seed))
    return {
        "mean": _rounded(x.double().mean(0)),
        "variance": _rounded(x.double().var(0)),
        "variance_error": round(variance_error(x, toy.TOY.mean, toy.TOY.variance, above=COMMON), 4),
        "w1_each": _rounded(w1_each(x, real)),
        **{name: round(value, 6) for name, value in joint.items()},
    }


def _drawn(model: Any, n: int, steps: int, seed: int) -> tuple[Tensor, float]:
    started = time.perf_counter()
    x = model.sample(n, steps=steps, generator=seeded(seed))
    return x.cpu(), time.perf_counter() - started


def _exact() -> dict[str, list[float]]:
    return {"mean": _rounded(toy.TOY.mean), "variance": _rounded(toy.TOY.variance)}


def _rounded(x: Tensor) -> list[float]:
    return [round(float(value), 4) for value in x]


def _targets(trainings: list[dict[str, Any]], seconds: list[float]) -> list[dict[str, Any]]:
    if not trainings:
        return []
    of = f"the worst of {len(trainings)} trainings" if len(trainings) > 1 else "one training"
    worst = {name: max(one[name] for one in trainings) for name in ("sliced_w2", "variance_error")}
    wanted = [
        (f"sliced W2 of {of}", "<=", LARGEST_SLICED_W2, worst["sliced_w2"]),
        (f"largest error of a variance (mean above {COMMON:g}) of {of}", "<=",
         LARGEST_VARIANCE_ERROR, worst["variance_error"]),
    ]  # fmt: skip
    if seconds:
        wanted.append(("seconds of the longest training", "<=", LONGEST_TRAINING, max(seconds)))
    return [target(*row) for row in wanted]


# -- telling ---------------------------------------------------------------------------------------


def toy_table(result: Mapping[str, Any]) -> str:
    """Variances, W1 and distances beside the exact law and the published, as Markdown."""
    found = result["toy"]
    exact, floor = found["exact"], found["floor"]
    ours = found["methods"]
    head = f"| {{}} | {' | '.join(map(str, range(len(exact['mean']))))} |"
    rule = "|---" * (len(exact["mean"]) + 1) + "|"
    variance = [head.format("variance of dimension"), rule, _row("exact law", exact["variance"])]
    variance += [_row("exact law, drawn again", _mean(floor, "variance"))]
    w1 = [head.format("W1 of dimension"), rule]
    w1 += [_row("exact law, drawn again", _mean(floor, "w1_each"))]
    joint = ["| whole rows | sliced W2 | mean W1 | MMD | energy distance | parameters | seconds |",
             "|---" * 7 + "|", _joint("exact law, drawn again", floor)]  # fmt: skip
    for method, trainings in ours.items():
        variance += [_row(f"{method}, ours", _mean(trainings, "variance"))]
        w1 += [_row(f"{method}, ours", _mean(trainings, "w1_each"))]
        joint += [_joint(f"{method}, ours", trainings)]
        if old := PUBLISHED.get(method):
            variance += [_row(f"{method}, published", old.variance)]
            w1 += [_row(f"{method}, published", old.w1)]
            published = (old.sliced_w2, f"{_average(old.w1):.3f}", str(old.mmd), "", "", "")
            joint += [f"| {method}, published | {' | '.join(published)} |"]
    lines = [*variance, "", *w1, "", *joint, "", _said(result)]
    lines += ["", *target_rows(result["targets"])] if result["targets"] else []
    return "\n".join(lines) + "\n"


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |"


def _joint(name: str, trainings: Sequence[Mapping[str, Any]]) -> str:
    cells = [_range([one[figure] for one in trainings]) for figure in JOINT]
    size = f"{trainings[0]['parameters']:,}" if "parameters" in trainings[0] else ""
    seconds = _range([one["seconds"] for one in trainings]) if "seconds" in trainings[0] else ""
    return f"| {name} | {' | '.join([*cells, size, seconds])} |"


def _range(values: Sequence[float]) -> str:
    """One value, or the smallest and the largest."""
    low, high = (f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _mean(trainings: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    columns = zip(*(one[name] for one in trainings), strict=True)
    return [_average(column) for column in columns]


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _said(result: Mapping[str, Any]) -> str:
    setting, found = result["setting"], result["toy"]
    trainings = max(map(len, found["methods"].values()))
    spread = (
        f"{trainings} trainings each: means over them by dimension, ranges for whole rows."
        if trainings > 1
        else "One training each."
    )
    took = "; ".join(
        f"{name} {_range(seconds)} s" for name, seconds in found["training_seconds"].items()
    )
    told = ", ".join(f"{name} {value}" for name, value in setting.items())
    return f"{spread}{f' Training took: {took}.' if took else ''} Measured with: {told}."
