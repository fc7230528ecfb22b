"""What a sample costs: multiply-adds, milliseconds and memory of real sampling runs.

Multiply-adds are those of matrix products, convolutions and attention, counted while they run; time
is that of the wall clock; memory is the peak of a process of its own, because a process that has
measured one model keeps what that model made it take.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sed_core import hub
from sed_core.chance import seeded
from sed_core.sparse import SparseBatch

Result = TypeVar("Result")
Figure = dict[str, Any]
BATCHES = (1, 64)  # samples at once of the timings


def costs(
    ref: str | Path,
    model: nn.Module,
    *,
    classes: int = 0,
    repeats: int = 5,
    seed: int = 0,
    memory: bool = True,
    **sampling: Any,
) -> dict[str, Figure]:
    """All costs of a sample of one checkpoint.

    Args:
        ref: where the checkpoint lies; a process of its own loads it to measure the memory.
        model: the same, loaded.
        classes: ask for each of so many classes equally often, for they may cost differently.
        repeats: timed runs a batch size, one a class at least where one sample is drawn at a time;
            the first run, in which is counted, is not timed.
        sampling: options of `model.sample`.
    """
    most, turn = max(BATCHES), count()

    def asked(n: int) -> dict[str, Any]:
        first = next(turn) if n < classes else 0
        label = {"label": (torch.arange(n) + first) % classes} if classes else {}
        return {**sampling, **label}

    found = {
        "parameters": {"value": sum(p.numel() for p in model.parameters())},
        "multiply_adds": {"value": multiply_adds(model, most, seed=seed, **asked(most)), "n": most},
    }
    for n in BATCHES:
        found[f"ms_batch_{n}"] = milliseconds(
            lambda n=n: draw(model, n, seed=seed, **asked(n)),
            repeats=repeats if n >= classes else max(repeats, classes),
            rows=n,
            device=_device(model),
        )
    if memory:
        peak = apart(peak_of_sampling, str(ref), most, str(_device(model)), seed, asked(most))
        found["peak_bytes"] = {"value": peak, "n": most}
    return found


def draw(model: nn.Module, n: int, *, seed: int, **sampling: Any) -> SparseBatch | Tensor:
    """n samples of whatever family."""
    return cast(Any, model).sample(n, generator=seeded(seed), **sampling)


# work -------------------------------------------------------------------------------------------


def multiply_adds(model: nn.Module, n: int = 1, *, seed: int = 0, **sampling: Any) -> int:
    """Multiply-adds of one sample, counted while n of them are drawn at once."""
    return round(counted(lambda: draw(model, n, seed=seed, **sampling)) / n)


def counted(call: Callable[[], Any]) -> int:
    """Multiply-adds of matrix products, convolutions and attention during a call."""
    with FlopCounterMode(display=False, custom_mapping=_UNKNOWN_TO_TORCH) as counter:
        call()
    return counter.get_total_flops() // 2


def _product_in_place(
    _: Any, a: Sequence[int], b: Sequence[int], *rest: Any, **options: Any
) -> int:
    """Floating-point operations of addmm_, which torch's counter leaves out."""
    return 2 * a[0] * a[1] * b[1]


def _attention(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], *rest: Any, **options: Any
) -> int:
    """Floating-point operations of attention on a CPU, which torch's counter leaves out."""
    rows, heads, queries, width = q
    return 2 * rows * heads * queries * k[2] * (width + v[3])


_UNKNOWN_TO_TORCH: Any = {
    torch.ops.aten.addmm_: _product_in_place,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}


# time -------------------------------------------------------------------------------------------


def milliseconds(
    call: Callable[[], Any], *, repeats: int, rows: int = 1, device: torch.device | None = None
) -> Figure:
    """Median and quartiles of the wall time of a call, divided by the rows it makes."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    spent = [1000 * seconds(call, device) / rows for _ in range(repeats)]
    low, high = (spent[0], spent[0]) if repeats == 1 else _quartiles(spent)
    value = statistics.median(spent)
    return {"value": round(value, 5), "low": round(low, 5), "high": round(high, 5), "n": repeats}


def seconds(call: Callable[[], Any], device: torch.device | None = None) -> float:
    """Wall time of one call, to its last kernel."""
    cuda = device is not None and device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _quartiles(values: list[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


# memory -----------------------------------------------------------------------------------------


def peak_of_sampling(ref: str, n: int, device: str, seed: int, sampling: Mapping[str, Any]) -> int:
    """Bytes that loading a model and drawing n samples add to this process at their peak."""
    warm_up()
    before = peak_memory()
    model = hub.load(ref, device=device)
    draw(model, n, seed=seed, **sampling)
    if _device(model).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory() - before


def warm_up() -> None:
    """Touch the libraries that any model touches, so that they count for none."""
    x = torch.ones(1, 8, 8, 8)
    nn.functional.conv2d(x, torch.ones(8, 8, 3, 3))
    nn.functional.scaled_dot_product_attention(x, x, x)
    torch.linspace(0, 1, 64).view(8, 8).matmul(x[0, 0]).softmax(-1).cumsum(-1).sort()
    nn.functional.layer_norm(nn.functional.gelu(x), (8,))


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes.

    Linux: VmHWM, because the usual ru_maxrss of a child starts from its parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """The result of a function in a fresh process with as many threads as this one.

    Raises:
        BrokenProcessPool: where that process was killed, as for too much memory.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["sed_core.costs"])
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        return pool.submit(function, *arguments).result()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
