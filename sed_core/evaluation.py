"""What a digit model is worth: rebuilt digits, made digits, and the same figures of real digits.

    reconstruction   test digit -> z -> pairs, without chance; with another digit's z; with z = 0
    samples          noise -> z -> pairs, every class equally often, read by a judge of real digits
    real             the same figure of real training digits, as many as there are samples

The real figure is what a perfect model would get: a floor of distances, a ceiling of shares.
"""

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sed_core.chance import seeded, split
from sed_core.domains.digits import CREDITS, TITLES, Digits
from sed_core.metrics import sparsity
from sed_core.metrics.distance import frechet, interval, nearest, w1
from sed_core.metrics.judge import DigitJudge, read
from sed_core.sed import SED
from sed_core.sparse import SparseBatch
from sed_core.stream import last

SURE = 0.9  # a judge is sure of a digit above this probability
NEAREST = 1000  # digits whose nearest training digit is looked up
Figures = dict[str, dict[str, Any]]

WORDS: Mapping[str, str] = {
    "whole": "samples: entries that are whole and in range",
    "level_w1": "samples: W1 of the grey levels (of 255)",
    "support_iou": "reconstruction: support IoU",
    "value_error": "reconstruction: value error (grey levels of 255)",
    "support_iou_shuffled": "the same with another digit's z",
    "support_iou_prior": "the same with z = 0, the prior mean",
    "order_accuracy": "samples: indices emitted in ascending order",
    "bad_steps": "samples: share of steps out of order",
    "count_w1": "samples: W1 of the non-zero count (pairs)",
    "count_w1_share": "samples: W1 of the non-zero count over its mean",
    "ink_w1_share": "samples: W1 of the summed values over their mean",
    "zero_share": "samples: share of zeros (floor: test digits)",
    "sure": "samples: judge above 0.9 sure",
    "agreement": "samples: judged class is the class asked for",
    "agreement_guidance_1": "the same at guidance 1",
    "frechet": "samples: Frechet distance in judge features",
    "nearest": "samples: median distance to the nearest training digit",
    "judge_accuracy": "judge: right on real test digits",
    "judge_worst": "judge: right on its hardest class",
    "judge_sure": "judge: above 0.9 sure on real test digits",
}


@torch.no_grad()
def evaluate_digits(
    model: SED,
    judge: DigitJudge,
    train: Digits,
    test: Digits,
    *,
    samples: int = 10_000,
    guidance: float = 2.0,
    seed: int = 0,
    steps: int = 50,
    batch: int = 250,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Figures, floors and targets of a digit model, as metrics.json holds them.

    Args:
        samples: digits to make; a fifth as many are made once more at guidance 1.
        guidance: 0 unconditional, 1 conditional, above 1 amplified; unused if there are no classes.
        batch: rows decoded at once; changes the memory and the time, not the figures.
        progress: called with the share of the work that is done, up to 1.

    Raises:
        ValueError: where there are too few digits or samples for a covariance.
    """
    _check(samples, batch, train, test)
    labels = _balanced(samples, model.denoiser.config.classes)
    again = samples // 5 if labels is not None and guidance != 1 else 0
    meter, started = _Meter(len(test) + samples + again, progress), time.perf_counter()
    real = test.batch()
    rebuilt, prior = rebuild(model, real, batch=batch, tick=meter.tick)
    rebuild_seconds = meter.lap()
    make = partial(generate, model, seed=seed, steps=steps, batch=batch, tick=meter.tick)
    made = make(samples, labels, guidance=guidance)
    make_seconds = meter.lap()
    plain = make(again, labels, guidance=1.0) if again else None
    floor = _floor(train, samples, seed)
    figures = {
        **rebuilt_figures(real, rebuilt, prior, seed=seed),
        **shape_figures(made, real, floor.batch()),
        **judge_figures(judge, made, labels, test, floor, seed=seed),
        **_agreement("agreement_guidance_1", judge, plain, labels, seed=seed),
        "nearest": _nearest(made, test, train),
    }
    guided = guidance if labels is not None else None
    setting = {
        "seed": seed,
        "samples": samples,
        "test": len(test),
        "train": len(train),
        "guidance": guided,
        "steps": steps,
        "sampler": "ddim",
        "eta": 0.0,
        "temperature": 1.0,
        **machine(model),
        "seconds_rebuild": round(rebuild_seconds, 1),
        "seconds_make": round(make_seconds, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if progress:
        progress(1.0)
    return {"setting": setting, "figures": figures, "targets": targets(figures, guided)}


def _check(samples: int, batch: int, train: Digits, test: Digits) -> None:
    for what, count in (
        ("samples", samples),
        ("training digits", len(train)),
        ("test digits", len(test)),
    ):
        if count < 2:
            raise ValueError(f"an evaluation needs at least 2 {what}, got {count}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")


def _balanced(samples: int, classes: int) -> Int[Tensor, " n"] | None:
    """Every class equally often; None for a model without classes."""
    return torch.arange(samples) % classes if classes else None


def _floor(train: Digits, samples: int, seed: int) -> Digits:
    """As many training digits as there are samples, to stand where the samples stand."""
    rows = torch.randperm(len(train), generator=seeded(seed))[:samples]
    return Digits(train.images[rows], train.labels[rows])


def evaluate_judge(
    judge: DigitJudge, test: Digits, *, least: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """Figures of the judge itself on real test pictures; seed is the bootstrap's.

    Args:
        least: share of right answers that is the target; None for no target.
    """
    started, chance = time.perf_counter(), seeded(seed)
    prob, _ = read(judge, test.images.float() / 255)
    right = (prob.argmax(1) == test.labels).double()
    classes = cast("list[int]", test.labels.unique().tolist())
    worst = min((right[test.labels == label] for label in classes), key=_average)
    figures = {
        "judge_accuracy": mean_figure(right, chance),
        "judge_worst": mean_figure(worst, chance),
        "judge_sure": mean_figure(sure(prob), chance),
    }
    seconds = round(time.perf_counter() - started, 1)
    setting = {"seed": seed, "test": len(test), **machine(judge), "seconds": seconds}
    got = figures["judge_accuracy"]["value"]
    what = "judge: right on real test digits"
    reached = [] if least is None else [target(what, ">=", least, got)]
    return {"setting": setting, "figures": figures, "targets": reached}


def _average(values: Tensor) -> float:
    return values.mean().item()


# running the model ------------------------------------------------------------------------------


def rebuild(
    model: SED, real: SparseBatch, *, batch: int, tick: Callable[[int], None] = lambda n: None
) -> tuple[SparseBatch, SparseBatch]:
    """Every row encoded and decoded without chance, and the one row that z = 0 decodes to."""
    order = real.nnz.argsort()  # rows of like length end together
    parts: list[SparseBatch] = []
    for rows in torch.split(order, batch):
        parts.append(model.reconstruct(real[rows]).to("cpu"))
        tick(len(rows))
    zero = torch.zeros(1, model.savae.config.latent)
    stream = model.decode(
        zero, temperature=0.0, value_temperature=0.0, generator=seeded(0), detail=False
    )
    return tidy(SparseBatch.concat(parts)[order.argsort()]), tidy(last(stream).to("cpu"))


def generate(
    model: SED,
    n: int,
    labels: Int[Tensor, " n"] | None,
    *,
    guidance: float,
    seed: int,
    steps: int,
    batch: int,
    tick: Callable[[int], None] = lambda n: None,
) -> SparseBatch:
    """n samples, their pairs as they were emitted; sample k depends on (seed, k) only."""
    chance, parts = split(seeded(seed), n), list[SparseBatch]()
    for first in range(0, n, batch):
        rows = slice(first, min(n, first + batch))
        count, label = rows.stop - rows.start, None if labels is None else labels[rows]
        asked = 0.0 if labels is None else guidance
        made = model.sample(count, steps=steps, label=label, guidance=asked, generator=chance[rows])
        parts.append(made.to("cpu"))
        tick(count)
    return SparseBatch.concat(parts)


def tidy(batch: SparseBatch) -> SparseBatch:
    """The set that an unordered sequence of pairs draws: ascending, the twin written last wins."""
    if sparsity.order_accuracy(batch.index, batch.mask) == 1:
        return batch
    return SparseBatch.from_dense(batch.to_dense())


# figures ----------------------------------------------------------------------------------------


def rebuilt_figures(
    real: SparseBatch, rebuilt: SparseBatch, prior: SparseBatch, *, seed: int
) -> Figures:
    """How well digits come back, and how well they would with a z that says nothing of them."""
    iou, chance = sparsity.support_iou(rebuilt, real), seeded(seed)
    order = torch.randperm(len(real), generator=chance)
    other = order.roll(1)[order.argsort()]  # every digit gets the z of another one
    one_for_all = prior[torch.zeros(len(real), dtype=torch.int64)]
    return {
        "support_iou": mean_figure(iou, chance),
        "value_error": plain_figure(sparsity.value_error(rebuilt, real), len(real)),
        "support_iou_shuffled": mean_figure(sparsity.support_iou(rebuilt[other], real), chance),
        "support_iou_prior": mean_figure(sparsity.support_iou(one_for_all, real), chance),
    }


def shape_figures(made: SparseBatch, real: SparseBatch, floor: SparseBatch) -> Figures:
    """Order, counts and sums of the samples; floor is a second real set."""
    n, set_made = len(made), tidy(made)
    ink, ink_real, ink_floor = (part.value.sum(1) for part in (set_made, real, floor))
    mean_ink = ink_real.mean().item()
    return {
        "order_accuracy": plain_figure(sparsity.order_accuracy(made.index, made.mask), n),
        "bad_steps": plain_figure(sparsity.bad_steps(made.index, made.mask), n),
        "count_w1": plain_figure(
            sparsity.count_w1(set_made, real), n, floor=sparsity.count_w1(floor, real)
        ),
        "count_w1_share": plain_figure(
            sparsity.count_w1_share(set_made, real), n, floor=sparsity.count_w1_share(floor, real)
        ),
        "ink_w1_share": plain_figure(
            w1(ink, ink_real) / mean_ink, n, floor=w1(ink_floor, ink_real) / mean_ink
        ),
        "zero_share": plain_figure(set_made.sparsity, n, floor=real.sparsity),
    }


def judge_figures(
    judge: DigitJudge,
    made: SparseBatch,
    labels: Int[Tensor, " n"] | None,
    test: Digits,
    floor: Digits,
    *,
    seed: int,
) -> Figures:
    """What the judge says of the samples, and what it says of real digits."""
    chance = seeded(seed)
    prob, features = _read(judge, made)
    prob_real, features_real = read(judge, test.images.float() / 255)
    _, features_floor = read(judge, floor.images.float() / 255)
    right = (prob_real.argmax(1) == test.labels).double()
    figures = {
        "sure": mean_figure(sure(prob), chance, floor=sure(prob_real).mean().item()),
        "frechet": plain_figure(
            frechet(features, features_real),
            len(made),
            floor=frechet(features_floor, features_real),
        ),
        "judge_accuracy": mean_figure(right, chance),
    }
    if labels is not None:
        agree = (prob.argmax(1) == labels).double()
        figures["agreement"] = mean_figure(agree, chance, floor=right.mean().item())
    return figures


def _agreement(
    name: str, judge: DigitJudge, made: SparseBatch | None, labels: Tensor | None, *, seed: int
) -> Figures:
    if made is None or labels is None:
        return {}
    prob, _ = _read(judge, made)
    return {name: mean_figure((prob.argmax(1) == labels[: len(made)]).double(), seeded(seed))}


def _nearest(made: SparseBatch, test: Digits, train: Digits) -> dict[str, Any]:
    """Samples no nearer to a training digit than test digits are were not learned by heart."""
    some = made[: min(NEAREST, len(made))].to_dense() * 255
    real = test.images[: len(some)].float()
    near, near_real = (nearest(part, train.images) / 255 for part in (some, real))
    return plain_figure(near.median().item(), len(some), floor=near_real.median().item())


def _read(judge: DigitJudge, batch: SparseBatch) -> tuple[Tensor, Tensor]:
    """Probabilities and features of sparse rows, few of them dense at a time."""
    parts = [
        read(judge, batch[first : first + 500].to_dense()) for first in range(0, len(batch), 500)
    ]
    return torch.cat([prob for prob, _ in parts]), torch.cat([features for _, features in parts])


def sure(prob: Float[Tensor, "n K"]) -> Float[Tensor, " n"]:
    return (prob.amax(1) > SURE).double()


def mean_figure(
    values: Tensor, chance: torch.Generator, *, floor: float | None = None
) -> dict[str, Any]:
    """A figure that is a mean, with its 95 % bootstrap interval."""
    low, high = interval(values, generator=chance)
    figure = plain_figure(values.double().mean().item(), len(values), floor=floor)
    return {**figure, "low": round(low, 6), "high": round(high, 6)}


def plain_figure(value: float, n: int, *, floor: float | None = None) -> dict[str, Any]:
    """A value, how many rows it comes from, and what real digits get."""
    known = {"value": None if math.isnan(value) else round(value, 6), "n": n}
    return known if floor is None else {**known, "real": round(floor, 6)}


# targets ----------------------------------------------------------------------------------------


def targets(figures: Figures, guidance: float | None) -> list[dict[str, Any]]:
    """What a SED is held to."""
    got = {name: figure["value"] for name, figure in figures.items()}
    without = max(got["support_iou_shuffled"], got["support_iou_prior"])
    wanted = [
        ("reconstruction: support IoU", ">=", 0.90, got["support_iou"]),
        ("reconstruction: IoU over the best without the digit's own z", ">=", 2.0,
         got["support_iou"] / max(without, 1e-6)),
        ("samples: order accuracy", "==", 1.0, got["order_accuracy"]),
        ("samples: W1 of the non-zero count over its mean", "<=", 0.08, got["count_w1_share"]),
        ("samples: judge above 0.9 sure", ">=", 0.80, got["sure"]),
    ]  # fmt: skip
    if guidance is not None:
        name = f"samples: agreement of judged and asked class at guidance {guidance:g}"
        wanted.append((name, ">=", 0.95, got["agreement"]))
    return [target(*row) for row in wanted]


def target(name: str, sign: str, bound: float, got: float) -> dict[str, Any]:
    """What was wanted, what came, and whether that is enough."""
    met = {">=": got >= bound, "<=": got <= bound, "==": got == bound}[sign]
    words = {">=": "at least", "<=": "at most", "==": "exactly"}[sign]
    return {"name": name, "wanted": f"{words} {bound:g}", "got": round(got, 4), "met": met}


# telling ----------------------------------------------------------------------------------------


def rows(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Figure, value with its interval, the same of real digits, n: one row each, for a table."""
    for name, figure in result["figures"].items():
        value = "none" if figure["value"] is None else f"{figure['value']:.4g}"
        if "low" in figure:
            value += f" ({figure['low']:.4g} to {figure['high']:.4g})"
        real = f"{figure['real']:.4g}" if "real" in figure else ""
        yield WORDS.get(name, name), value, real, f"{figure['n']:,}"


def table(result: Mapping[str, Any]) -> str:
    """The figures, the targets and the setting as Markdown."""
    setting = result["setting"]
    lines = ["| figure | value (95 % interval) | real digits | n |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(result)]
    lines += ["", *target_rows(result["targets"])] if result["targets"] else []
    told = ", ".join(f"{name} {value}" for name, value in setting.items() if value is not None)
    return "\n".join([*lines, "", f"Measured with: {told}."])


def target_rows(reached: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table of targets."""
    return [
        "| target | wanted | got | met |",
        "|---|---|---|---|",
        *(
            f"| {t['name']} | {t['wanted']} | {t['got']:.4g} | {'yes' if t['met'] else 'no'} |"
            for t in reached
        ),
    ]


def judge_card(result: Mapping[str, Any], name: str) -> str:
    """README.md of the checkpoint of a judge that was trained on the set of that name."""
    return JUDGE_CARD.format(data=TITLES[name], credit=CREDITS[name], table=table(result))


JUDGE_TARGETS = {"mnist": 0.985}  # share of right answers
JUDGE_CARD = """\
# A judge of {data}

A small convolutional network (five convolutions, two linear layers, 0.2 million parameters) that
says which class a 28 x 28 grey picture shows. Its probabilities tell whether a generated picture
is what was asked for; its 96 features, the layer before the last, are the space in which the
Frechet distance of generated to real pictures is measured.

Use it to measure, not to read handwriting: it answers with one of its ten classes for any picture
at all, noise included, and distances in its features compare with no other network's.

## Data

The training pictures of {data} ({credit}), shifted, turned, scaled and sheared a little at
random. It never saw a generated picture, nor a test picture. None of the data is in this folder.

## Figures

{table}

Training repeats itself on one machine with one number of threads; elsewhere rounding differs, and
the last digits of the figures with it.

## Licence

Weights and card: Apache-2.0. Data: {credit}.
"""


# bookkeeping ------------------------------------------------------------------------------------


@dataclass
class _Meter:
    """Counts decoded rows, tells the share that is done, and clocks laps."""

    total: int
    progress: Callable[[float], None] | None
    done: int = 0

    def __post_init__(self) -> None:
        self.start = time.perf_counter()

    def tick(self, count: int) -> None:
        """Count rows; the last hundredth is left for the measuring."""
        self.done += count
        if self.progress:
            self.progress(0.99 * self.done / self.total)

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self.start = self.start, time.perf_counter()
        return self.start - before


def machine(model: nn.Module) -> dict[str, Any]:
    """Device, version and date of a measurement."""
    return machine_of(next(model.parameters()).device)


def machine_of(device: torch.device) -> dict[str, Any]:
    """The same of a device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name}, {torch.get_num_threads()} threads)",
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
