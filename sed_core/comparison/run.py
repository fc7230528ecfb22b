"""The comparison itself: every checkpoint drawn from, cut, measured and timed in one run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sed_core import costs as cost
from sed_core.baselines import cut, fit_threshold
from sed_core.comparison.aims import Aim
from sed_core.comparison.figures import BINS, figures_of_test, histogram, measure, zero_share
from sed_core.comparison.peers import Peer, Plan, load_peer, samples
from sed_core.comparison.table import COLUMNS, REPORTED, REPORTED_FOR, REPORTED_MARK, Column
from sed_core.evaluation import Figures, machine

Progress = Callable[[float, str], None]

OTHER = 1_000_003  # between the seed of the samples and that of the validation samples
SURE_ENOUGH = 0.70  # a peer that the judge is sure of less often is undertrained


def compare(
    refs: Sequence[str],
    aim: Aim,
    *,
    plan: Plan | None = None,
    device: str = "auto",
    network: bool = False,
    keep: Path | None = None,
    progress: Progress = lambda share, words: None,
) -> dict[str, Any]:
    """Figures of every checkpoint, as JSON can hold them.

    Args:
        refs: checkpoints, in the order of the table.
        keep: folder in which samples are kept, a batch at a time; an interrupted run goes on there.
        progress: called with the share of the work that is done, and what is being done.

    Raises:
        ValueError: where a checkpoint makes no samples, or none of this data.
    """
    plan, started = plan or Plan(), time.perf_counter()
    if not refs or len(set(refs)) < len(refs):
        raise ValueError(f"wanted one or more different checkpoints, got {', '.join(refs)}")
    peers = [load_peer(ref, aim, device=device, network=network) for ref in refs]
    meter = _Meter(sum(_work(peer, plan) for peer in peers), progress)
    found = [entry for peer in peers for entry in _methods(peer, aim, plan, keep, meter)]
    methods = [method for method, _ in found]
    _note_undertrained(methods, aim)
    rows = aim.floor_rows(plan.samples, plan.seed)
    floor = measure(aim.train[rows].to_dense(), aim, aim.train_labels[rows], plan.seed)
    progress(1.0, "done")
    return {
        "format": "sed-compare",
        "version": 1,
        "data": aim.data,
        "title": aim.title,
        "setting": _setting(peers, aim, plan, time.perf_counter() - started),
        "columns": [column._asdict() for column in _used(methods)],
        "test": {"name": "test data", "figures": figures_of_test(aim, plan.seed)},
        "real": {"name": "training data (floor)", "figures": floor},
        "methods": methods,
        "histograms": {
            "bins": [round(k / BINS, 4) for k in range(BINS + 1)],
            "test": _shares(zero_share(aim.test.nnz, aim.test.dim)),
            "methods": [_shares(share) for _, share in found],
        },
        "reported": [
            {"task": task, "model": model, "figure": what, "value": value, "mark": REPORTED_MARK}
            for task, model, what, value in REPORTED
        ],
    }


def _methods(
    peer: Peer, aim: Aim, plan: Plan, keep: Path | None, meter: "_Meter"
) -> Iterator[tuple[dict[str, Any], Float[Tensor, " n"]]]:
    """One entry of the table for each threshold rule, and the zero share of each sample."""
    tick = meter.of(peer.ref)
    labels = _labels(peer, aim, plan.samples, plan.seed)
    made = samples(peer, plan.samples, labels, plan, seed=plan.seed, keep=keep, tick=tick)
    other = _validation(peer, aim, plan, keep, tick) if len(peer.rules) > 1 else made[:0]
    costs = _costs(peer, plan, tick)
    for rule in peer.rules:
        tau = None if rule is None else fit_threshold(rule, other, aim.train)
        x = made if tau is None else cut(made, tau)
        method = {
            "name": peer.name(rule),
            "checkpoint": peer.ref,
            "family": peer.family,
            "rule": rule,
            "tau": None if tau is None else round(tau, 9),
            "sampler": "ddim",
            "steps": plan.steps,
            "figures": measure(x, aim, labels, plan.seed),
            "costs": costs,
            "notes": [] if peer.classes else ["unconditional, no class is asked for"],
            "reported": REPORTED_FOR.get((aim.data, peer.name(rule))),
        }
        yield method, zero_share((x != 0).sum(1), x.shape[1])


def _labels(peer: Peer, aim: Aim, n: int, seed: int) -> Tensor | None:
    """Classes to ask for: those of the floor's rows, so that both follow one law."""
    return aim.train_labels[aim.floor_rows(n, seed)] if peer.classes else None


def _validation(
    peer: Peer, aim: Aim, plan: Plan, keep: Path | None, tick: Callable[[int], None]
) -> Float[Tensor, "v D"]:
    """Other samples, of another seed, to fit thresholds on."""
    seed = plan.seed + OTHER
    labels = _labels(peer, aim, plan.validation, seed)
    return samples(peer, plan.validation, labels, plan, seed=seed, keep=keep, tick=tick)


def _costs(peer: Peer, plan: Plan, tick: Callable[[int], None]) -> Figures | None:
    if not plan.costs:
        return None
    found = cost.costs(
        peer.ref,
        peer.model,
        classes=peer.classes,
        repeats=plan.repeats,
        seed=plan.seed,
        **peer.options(plan, None),
    )
    tick(_timed_rows(plan))
    return found


def _work(peer: Peer, plan: Plan) -> int:
    """Rows that a peer draws, those of the timings among them."""
    validation = plan.validation if len(peer.rules) > 1 else 0
    return plan.samples + validation + (_timed_rows(plan) if plan.costs else 0)


def _timed_rows(plan: Plan) -> int:
    return max(cost.BATCHES) * (plan.repeats + 2)


def _used(methods: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns in which something stands."""
    known = {key for m in methods for key in (*m["figures"], *(m["costs"] or ()))}
    return [column for column in COLUMNS if column.key in known]


def _note_undertrained(methods: Sequence[dict[str, Any]], aim: Aim) -> None:
    """Say so of every checkpoint on MNIST whose samples the judge is too seldom sure of.

    A judge may be sure of noise too, so the class it sees must be the one asked for as often.
    """
    if aim.data != "mnist":
        return
    for ref in {m["checkpoint"] for m in methods}:
        mine = [m for m in methods if m["checkpoint"] == ref]
        for key, words in (("sure", "is sure of"), ("agreement", "sees the class asked for in")):
            share = max(m["figures"].get(key, {"value": 1.0})["value"] for m in mine)
            if share < SURE_ENOUGH:
                told = f"undertrained, the judge {words} {share:.0%} of its samples"
                for m in mine:
                    m["notes"] = [*m["notes"], f"{told}; {SURE_ENOUGH:.0%} are asked for"]


def _setting(peers: Sequence[Peer], aim: Aim, plan: Plan, seconds: float) -> dict[str, Any]:
    return {
        "n": plan.samples,
        "validation": plan.validation,
        "train": len(aim.train),
        "test": len(aim.test),
        "seed": plan.seed,
        "validation_seed": plan.seed + OTHER,
        "guidance": plan.guidance if any(peer.classes for peer in peers) else None,
        "steps": plan.steps,
        "sampler": "ddim",
        "eta": 0.0,
        **machine(peers[0].model),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
    }


def _shares(share: Tensor) -> list[float]:
    return [round(value, 6) for value in cast("list[float]", histogram(share).tolist())]


@dataclass
class _Meter:
    """Counts rows over all peers and tells the share that is done."""

    total: int
    progress: Progress
    done: int = 0

    def of(self, words: str) -> Callable[[int], None]:
        def tick(rows: int) -> None:
            self.done += rows
            self.progress(min(0.99, 0.99 * self.done / self.total), words)

        return tick
