"""What a CountsDiff of grey pictures is worth: samples read by a judge, and what it fills in.

samples      class -> counts, every class equally often; beside real training pictures
imputation   test pictures of which a part is wiped out, several draws each; beside filling
             with zeros, and beside training-free replacement
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from sed_core.chance import seeded, split
from sed_core.countsdiff import CountsDiff
from sed_core.domains.digits import Digits
from sed_core.evaluation import (
    NEAREST,
    Figures,
    judge_figures,
    machine,
    mean_figure,
    plain_figure,
    shape_figures,
    target,
)
from sed_core.imputation import Method
from sed_core.masks import scattered
from sed_core.metrics.counts import coverage, crps, rmse
from sed_core.metrics.distance import nearest, w1
from sed_core.metrics.judge import DigitJudge, read
from sed_core.sparse import SparseBatch

LEVELS = (0, 1, 32, 64, 96, 128, 160, 192, 224, 256)  # edges of the histogram of grey levels
TIMED = 64  # pictures made in one batch for the clock
AGREEMENT, SECONDS = 0.90, 60.0  # targets
FILLED, DRAWS = 64, 8  # test pictures filled in, and how often each
RANGE = 1 - 2 / (DRAWS + 1)  # share of continuous truths between smallest and largest draw


@torch.no_grad()
def evaluate_counts(
    model: CountsDiff,
    judge: DigitJudge,
    train: Digits,
    test: Digits,
    *,
    samples: int = 1000,
    guidance: float = 2.0,
    steps: int = 100,
    seed: int = 0,
    batch: int = TIMED,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Figures, floors and targets of a model of grey levels, as metrics.json holds them.

    Args:
        samples: pictures to make; a fifth as many are made once more at guidance 1.

    Raises:
        ValueError: for fewer samples than a batch, on which the clock is run.
    """
    if samples < batch or len(train) < samples:
        raise ValueError(f"samples must be from {batch} to {len(train)}, got {samples}")
    again, tell, started = samples // 5, progress or _silent, time.perf_counter()
    label = torch.arange(samples) % model.classes
    made, seconds = _make(model, label, guidance, steps, batch, seed, lambda k: tell(0.7 * k))
    plain, _ = _make(model, label[:again], 1.0, steps, batch, seed, lambda k: tell(0.7 + 0.1 * k))
    rows = torch.randperm(len(train), generator=seeded(seed))[:samples]
    floor = Digits(train.images[rows], train.labels[rows])
    found = sample_figures(model, judge, made, label, test, floor, train, seed=seed)
    right = (_judged(judge, plain) == label[:again]).double()
    found["agreement_guidance_1"] = mean_figure(right, seeded(seed))
    filled = filled_figures(model, test, steps=steps, seed=seed, tell=lambda k: tell(0.8 + 0.2 * k))
    setting = {
        "seed": seed,
        "samples": samples,
        "test": len(test),
        "train": len(train),
        "guidance": guidance,
        "steps": steps,
        "schedule": model.config.schedule,
        "births": "stochastic",
        "attrition": "none",
        **machine(model),
        f"seconds_{batch}": round(seconds, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return {
        "setting": setting,
        "figures": found,
        "levels": _levels(made, test),
        "imputation": filled,
        "targets": _targets(found, seconds, batch, steps, guidance),
    }


def _silent(share: float) -> None:
    """Tell nobody."""


def _make(
    model: CountsDiff,
    label: Int64[Tensor, " n"],
    guidance: float,
    steps: int,
    batch: int,
    seed: int,
    tell: Callable[[float], None],
) -> tuple[Int64[Tensor, "n D"], float]:
    """Samples of these classes, and the seconds that the first batch took."""
    chance, parts, first_took = split(seeded(seed), len(label)), list[Tensor](), 0.0
    for first in range(0, len(label), batch):
        rows, started = slice(first, first + batch), time.perf_counter()
        asked = label[rows]
        parts.append(
            model.sample(
                len(asked), steps=steps, label=asked, guidance=guidance, generator=chance[rows]
            )
        )
        first_took = first_took or time.perf_counter() - started
        tell(min(1.0, (first + batch) / len(label)))
    return torch.cat(parts), first_took


def sample_figures(
    model: CountsDiff,
    judge: DigitJudge,
    made: Int64[Tensor, "n D"],
    label: Int64[Tensor, " n"],
    test: Digits,
    floor: Digits,
    train: Digits,
    *,
    seed: int,
) -> Figures:
    """Samples beside as many real pictures."""
    pairs, n = SparseBatch.from_dense(made.float() / model.config.largest), len(made)
    shape = shape_figures(pairs, test.batch(), floor.batch())
    kept = ("zero_share", "count_w1_share", "ink_w1_share")
    fits = (made >= 0) & (made <= model.config.largest)
    level = w1(made.flatten(), test.images.flatten())
    level_floor = w1(floor.images.flatten(), test.images.flatten())
    some = made[:NEAREST].float()
    near, near_real = (
        (nearest(part, train.images) / 255).median().item()
        for part in (some, test.images[: len(some)].float())
    )
    return {
        "whole": plain_figure(fits.double().mean().item() * (made.dtype == torch.int64), n),
        **judge_figures(judge, pairs, label, test, floor, seed=seed),
        **{name: shape[name] for name in kept},
        "level_w1": plain_figure(level, n, floor=level_floor),
        "nearest": plain_figure(near, len(some), floor=near_real),
    }


def _judged(judge: DigitJudge, counts: Tensor) -> Tensor:
    prob, _ = read(judge, counts.float() / 255)
    return prob.argmax(1)


def _levels(made: Tensor, test: Digits) -> dict[str, Any]:
    """Share of pixels in each bin of grey levels; the first is 0 alone."""
    edges = torch.tensor(LEVELS)
    shares = {
        name: torch.bincount(torch.bucketize(x.flatten().long(), edges[1:], right=True),
                             minlength=len(LEVELS) - 1) / x.numel()
        for name, x in (("samples", made), ("test", test.images))
    }  # fmt: skip
    rounded = {name: [round(float(k), 5) for k in share] for name, share in shares.items()}
    return {"edges": list(LEVELS), **rounded}


# -- imputation ------------------------------------------------------------------------------------


def filled_figures(
    model: CountsDiff,
    test: Digits,
    *,
    steps: int,
    seed: int,
    tell: Callable[[float], None] = _silent,
) -> list[dict[str, Any]]:
    """RMSE of the mean of the draws, coverage and CRPS, for each mask and method."""
    truth, label = test.images[:FILLED].long(), test.labels[:FILLED]
    found: list[dict[str, Any]] = []
    masks = wiped(truth.shape[1], seed)
    for mask, seen in masks.items():
        seen = seen[: len(truth)]
        zero = rmse(truth * seen, truth=truth, target=~seen)
        for method in get_args(Method):
            started = time.perf_counter()
            draws = model.impute(
                truth, seen, draws=DRAWS, steps=steps, method=method, label=label,
                generator=seeded(seed),
            )  # fmt: skip
            told = {"mask": mask, "method": method, "seconds": time.perf_counter() - started}
            scores = {
                "rmse": rmse(draws.double().mean(0), truth=truth, target=~seen),
                "rmse_of_zeros": zero,
                "crps": crps(draws, truth=truth, target=~seen),
                "coverage": coverage(draws, truth=truth, target=~seen, level=RANGE),
            }
            found.append({**told, **{name: round(value, 4) for name, value in scores.items()}})
            tell(len(found) / (len(masks) * len(get_args(Method))))
    return [{**one, "seconds": round(one["seconds"], 1), "n": len(truth)} for one in found]


def wiped(dim: int, seed: int) -> dict[str, Bool[Tensor, "n D"]]:
    """What is seen of each test picture: not the lower half, or half of the pixels at random."""
    upper = (torch.arange(dim) < dim // 2).expand(FILLED, dim)
    share = torch.full((FILLED, 1), 0.5)
    return {
        "lower half": upper,
        "half of the pixels": scattered(share, dim, generator=seeded(seed)),
    }


# -- telling ---------------------------------------------------------------------------------------


def _targets(
    found: Figures, seconds: float, batch: int, steps: int, guidance: float
) -> list[dict[str, Any]]:
    return [
        target("samples: entries that are whole and in range", "==", 1.0, found["whole"]["value"]),
        target(f"samples: judged class is the class asked for, at guidance {guidance:g}", ">=",
               AGREEMENT, found["agreement"]["value"]),
        target(f"seconds for {batch} samples at {steps} steps", "<=", SECONDS, seconds),
    ]  # fmt: skip


def counts_tables(result: Mapping[str, Any]) -> str:
    """Grey levels and imputation as Markdown; the figures have `evaluation.table`."""
    levels = result["levels"]
    names = [f"{low} to {high - 1}" if high - low > 1 else str(low)
             for low, high in zip(levels["edges"], levels["edges"][1:], strict=False)]  # fmt: skip
    shares = [f"| {name} | {' | '.join(f'{share:.2%}' for share in levels[name])} |"
              for name in ("samples", "test")]  # fmt: skip
    lines = [f"| grey level | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *shares, ""]
    columns = ("hidden", "method", "RMSE of the mean", "of zeros", "CRPS", "inside the draws", "n",
               "seconds")  # fmt: skip
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [
        f"| {one['mask']} | {one['method']} | {one['rmse']:.1f} | {one['rmse_of_zeros']:.1f} | "
        f"{one['crps']:.2f} | {one['coverage']:.1%} | {one['n']} | {one['seconds']} |"
        for one in result["imputation"]
    ]
    return "\n".join(lines) + "\n"
