"""Training: a loss in, a stream of progress out; killed at any moment it resumes to the same curve.

`fit` is a generator: the command line draws a bar over it, a page a curve. Batch k and the draws of
step k depend on the seed and k only, so a resumed run repeats an uninterrupted one exactly.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

T = TypeVar("T")
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, eq=False)
class Loss:
    """What is minimised, and the named parts that it consists of."""

    total: Float[Tensor, ""]
    parts: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Progress(Loss):
    """The loss of one finished training step, and how far the run is."""

    step: int  # 1..steps
    steps: int
    rate: float  # steps a second
    seconds_left: float
    stage: str = "train"


@runtime_checkable
class StateStore(Protocol):
    """Where `fit` keeps what it needs to go on (see `sed_core.store`)."""

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]
    ) -> Any: ...

    def load(self) -> tuple[int, Any, Any] | None: ...


def fit(
    model: nn.Module,
    batches: Sequence[T],
    *,
    lr: float,
    ema: float = 0.999,
    generator: torch.Generator,
    loss: Callable[[T, torch.Generator], Loss] | None = None,
    warmup: int = 100,
    lr_floor: float = 0.03,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    precision: Precision = "auto",
    stage: str = "train",
    store: StateStore | None = None,
    save_seconds: float = 60.0,
) -> Iterator[Progress]:
    """Train in place, one step a batch, and leave the averaged (EMA) weights in the model.

    Args:
        batches: batch k is used in step k + 1; its length is the number of steps.
        lr: peak learning rate, after a linear warm-up; then a cosine down to `lr_floor` of it.
        loss: loss of a batch; `model.loss(batch, generator=...)` if left out.
        precision: "auto" takes bfloat16 where this machine multiplies matrices faster in it.
        store: where to keep the state about every `save_seconds`, and to resume from.

    Raises:
        FloatingPointError: if the loss is not finite, naming the step.
    """
    run = _Run(model, lr, ema, warmup, lr_floor, weight_decay, clip, len(batches), generator)
    run.precision = best_precision(_device(model)) if precision == "auto" else precision
    run.resume(store)
    loss = loss or (lambda batch, chance: model.loss(batch, generator=chance))  # type: ignore
    started, saved, first = time.monotonic(), time.monotonic(), run.step
    model.train()
    while run.step < run.steps:
        found = run.advance(loss, batches[run.step])
        now = time.monotonic()
        rate = (run.step - first) / max(1e-9, now - started)
        if store is not None and (now - saved > save_seconds or run.step == run.steps):
            run.save(store)
            saved = now
        left = (run.steps - run.step) / rate
        yield Progress(found.total, found.parts, run.step, run.steps, rate, left, stage)
    run.finish()
    model.eval()


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        ema: float,
        warmup: int,
        lr_floor: float,
        weight_decay: float,
        clip: float,
        steps: int,
        generator: torch.Generator,
    ):
        self.model, self.generator, self.steps, self.step = model, generator, steps, 0
        self.lr, self.warmup, self.lr_floor, self.clip = lr, warmup, lr_floor, clip
        self.decay, self.precision = ema, "float32"
        self.seconds, self.started = 0.0, time.monotonic()
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            _groups(list(self.named.values()), weight_decay), lr=lr, betas=(0.9, 0.99)
        )
        self.average = {name: p.detach().clone() for name, p in self.named.items()}

    def advance(self, loss: Callable[[Any, torch.Generator], Loss], batch: Any) -> Loss:
        """One optimiser step; returns the detached loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self._warm_cosine()
        device = _device(self.model).type
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            found = loss(batch, self.generator)
        self._refuse_infinite(found)
        self.optimizer.zero_grad(set_to_none=True)
        found.total.backward()
        nn.utils.clip_grad_norm_(self.named.values(), self.clip)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return Loss(found.total.detach(), {k: part.detach() for k, part in found.parts.items()})

    def finish(self) -> None:
        """Put the averaged weights into the model."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(self.average[name])

    def _warm_cosine(self) -> float:
        if self.step < self.warmup:
            return (self.step + 1) / self.warmup
        done = (self.step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr_floor + (1 - self.lr_floor) * 0.5 * (1 + cos(pi * done))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))  # follow fast at the start
        for name, parameter in self.named.items():
            self.average[name].lerp_(parameter.detach(), 1 - decay)

    def _refuse_infinite(self, found: Loss) -> None:
        if not bool(found.total.isfinite()):
            parts = {name: part.item() for name, part in found.parts.items()}
            raise FloatingPointError(
                f"the loss is not finite at step {self.step + 1} ({parts}); lower the learning rate"
            )

    def save(self, store: StateStore) -> None:
        """Write everything the next step depends on."""
        optimizer = {
            f"{name}.{key}": torch.as_tensor(value)
            for name, parameter in self.named.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        tensors = {
            "model": dict(self.model.state_dict()),
            "average": self.average,
            "optimizer": optimizer,
            "chance": {"state": self.generator.get_state()},
        }
        store.save(self.step, tensors, self._meta())

    def _meta(self) -> dict[str, Any]:
        seconds = self.seconds + time.monotonic() - self.started
        return {"steps": self.steps, "precision": self.precision, "seconds": round(seconds, 1)}

    def resume(self, store: StateStore | None) -> None:
        """Go on from the newest whole state, if there is one."""
        found = store.load() if store is not None else None
        if found is None:
            return
        self.step, tensors, meta = found
        if meta["steps"] != self.steps:
            raise ValueError(
                f"the stored run has {meta['steps']} steps, this one {self.steps}; "
                "use its budget, or another output folder"
            )
        self.precision, self.seconds = meta["precision"], meta.get("seconds", 0.0)
        self.model.load_state_dict(tensors["model"])
        for name, parameter in self.named.items():
            self.average[name].copy_(tensors["average"][name])
            self._resume_moments(parameter, name, tensors["optimizer"])
        self.generator.set_state(tensors["chance"]["state"])

    def _resume_moments(
        self, parameter: nn.Parameter, name: str, stored: Mapping[str, Tensor]
    ) -> None:
        """The optimiser's state of one parameter; one that the loss leaves out has none."""
        if f"{name}.step" not in stored:
            return
        moments = {k: stored[f"{name}.{k}"].to(parameter.device) for k in ("exp_avg", "exp_avg_sq")}
        self.optimizer.state[parameter] = {"step": stored[f"{name}.step"], **moments}


class LengthBuckets(Sequence[Int[Tensor, " rows"]]):
    """Row numbers of batches whose rows have similar lengths and whose pairs fit a budget.

    Batch k depends on the seed and k only. Every epoch visits every row once.

    Args:
        lengths: pairs of each row.
        pairs: largest number of padded pairs in a batch.
        steps: number of batches.
    """

    def __init__(self, lengths: Int[Tensor, " rows"], *, pairs: int, steps: int, seed: int):
        self.lengths, self.pairs, self.steps, self.seed = lengths, pairs, steps, seed
        self.batches: list[Tensor] = []
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, k: Any) -> Any:
        while len(self.batches) <= k:
            self.batches += self._plan(self.epoch)
            self.epoch += 1
        return cast(Tensor, self.batches[k])

    def _plan(self, epoch: int) -> list[Tensor]:
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        jitter = torch.rand(len(self.lengths), generator=chance) * 0.2 * self.lengths.float().mean()
        order = (self.lengths + jitter).argsort()
        longest = self.lengths[order].cummax(0).values.clamp_min(1)
        cuts: list[int] = []
        start = 0
        while start < len(order):
            size = torch.arange(1, len(order) - start + 1)[: self.pairs]
            fits = size * longest[start : start + len(size)] <= self.pairs
            start += max(1, int(fits.sum()))
            cuts.append(start)
        batches = cast("list[Tensor]", torch.tensor_split(order, cuts[:-1]))
        return [batches[i] for i in torch.randperm(len(batches), generator=chance)]


class Batches(Sequence[T]):
    """`make(rows)` of every entry of a plan of row numbers, made when asked for."""

    def __init__(self, plan: Sequence[Any], make: Callable[[Any], T]):
        self.plan, self.make = plan, make

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, k: Any) -> Any:
        return self.make(self.plan[k])


def shuffled(rows: int, *, size: int, steps: int, seed: int) -> Sequence[Int[Tensor, " size"]]:
    """A plan of `steps` batches of `size` row numbers drawn afresh each step."""
    return Batches(range(steps), lambda k: _draw(rows, size, seed * 1_000_003 + k))


def best_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """bfloat16 where this machine multiplies matrices faster in it, else float32 (measured)."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    seconds = {dtype: _matmul_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return "bfloat16" if seconds[torch.bfloat16] < 0.8 * seconds[torch.float32] else "float32"


def _matmul_seconds(dtype: torch.dtype) -> float:
    a, b = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 512, dtype=dtype)
    torch.mm(a, b)
    started = time.perf_counter()
    for _ in range(5):
        torch.mm(a, b)
    return time.perf_counter() - started


def _draw(rows: int, size: int, seed: int) -> Tensor:
    return torch.randint(rows, (size,), generator=torch.Generator().manual_seed(seed))


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    matrices = [p for p in parameters if p.ndim >= 2]
    rest = [p for p in parameters if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
