"""How fast pairs are decoded: cached, uncached, and beside GPT-2 of the same shape.

    python -m benchmarks.decode [--json] [--threads 1] [--out benchmarks/results/decode.json]

All contenders have random weights, the same width, depth, heads and vocabulary (D dimensions and
stop), draw from their law and add 150 tokens to every row of the batch. SED draws a value with
every index besides. Runs are interleaved; figures are medians over the repeats.

    cached      `SAVAE.decode`, as the app and `sed-core sample` call it
    uncached    the same model, which recomputes the whole prefix for every pair; at large batches
                every 15th step is timed once and stands for its neighbours
                "at the end": one pair behind a prefix of 150 instead of the mean of the whole run
    GPT-2       `transformers` `generate(use_cache=True)`, the usual peer
"""

import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sed_core.chance import seeded
from sed_core.recipes import digit_savae
from sed_core.savae import SAVAE, SAVAEConfig
from sed_core.savae_networks import DraftHead
from sed_core.sparse import SparseBatch

PAIRS = 150
BATCHES = (1, 16, 64, 256)
REPEATS = 5
LAST = 10  # cached steps that stand for the end of a row
WHOLE_UNCACHED = 16  # up to this batch all uncached steps are timed, beyond it every 15th
RESULTS = Path(__file__).parent / "results" / "decode.json"


@dataclass(frozen=True)
class Timing:
    """Medians of one batch size: milliseconds for one pair in every row."""

    batch: int
    repeats: int
    cached_ms: float
    uncached_ms: float
    gpt2_ms: float
    uncached_ratio: float
    uncached_ratio_at_end: float
    gpt2_ratio: float
    matmul_share: float
    bytes_a_step: int


# -- contenders ------------------------------------------------------------------------------------


def shipped_shape() -> SAVAEConfig:
    """The configuration of sed-mnist, with values as those of grey levels."""
    few = SparseBatch.from_dense(torch.rand(4, 784, generator=seeded(0)))
    return replace(digit_savae(few), max_pairs=PAIRS)


def endless(config: SAVAEConfig) -> SAVAE:
    """Random weights whose draft holds a third of all dimensions: no row stops before the cap."""
    model = SAVAE(config).eval().requires_grad_(False)
    assert isinstance(model.draft_head, DraftHead)
    model.draft_head.logit.weight.zero_()
    model.draft_head.logit.bias.fill_(-0.7)
    return model


class Seconds(NamedTuple):
    """Of a whole run, and of one pair at its end."""

    whole: float
    end: float


def cached(model: SAVAE, z: Tensor) -> Seconds:
    """Decode every row to the cap."""
    at, shortest = [time.perf_counter()], 0
    for step in model.decode(z, generator=seeded(0), detail=False):
        at.append(time.perf_counter())
        shortest = int(step.x.nnz.min()) if step.i == PAIRS else shortest
    if shortest != PAIRS:
        raise RuntimeError(f"a row stopped before its {PAIRS} pairs")
    return Seconds(at[-1] - at[0], (at[PAIRS] - at[PAIRS - LAST]) / LAST)


@torch.no_grad()
def uncached(model: SAVAE, z: Tensor, every: int) -> Seconds:
    """Decode every row while recomputing the prefix, or every so many of the steps."""
    decoder, rows, spent = model.decoder, len(z), []
    index = torch.arange(PAIRS).expand(rows, -1).clone()
    value = torch.zeros(rows, PAIRS)
    u = torch.rand(PAIRS, rows, generator=seeded(0))
    base = model.base(z)
    for i in range((PAIRS - 1) % every, PAIRS, every):
        started = time.perf_counter()
        h = decoder(index[:, :i], value[:, :i], z)[:, -1]
        before = index[:, i - 1] if i else torch.full((rows,), -1)
        chosen = decoder.index_head.pick(h, before, base.index, u[i]).clamp_max(783)
        mean, sd = decoder.value_law(h, chosen, base.value_of(chosen))
        value[:, i] = mean + sd * u[i]
        spent.append(time.perf_counter() - started)
    return Seconds(sum(spent) * every, spent[-1])


def gpt2(config: SAVAEConfig) -> Callable[[int], None]:
    """`generate` of a GPT-2 of this width, depth, heads and vocabulary."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import GPT2Config, GPT2LMHeadModel
        from transformers.utils import logging

    logging.set_verbosity_error()
    shape = GPT2Config(
        vocab_size=config.dim + 1,
        n_positions=256,
        n_embd=config.width,
        n_layer=config.decoder_layers,
        n_head=config.heads,
        bos_token_id=0,
        eos_token_id=None,
    )
    model: Any = GPT2LMHeadModel(shape).eval().requires_grad_(False)
    options: dict[str, Any] = {
        "do_sample": True,
        "top_k": 0,
        "use_cache": True,
        "min_new_tokens": PAIRS,
        "max_new_tokens": PAIRS,
        "pad_token_id": 0,
    }

    def generate(rows: int) -> None:
        prompt = torch.zeros(rows, 1, dtype=torch.int64)
        found: Any = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        assert found.shape == (rows, PAIRS + 1)

    return generate


# -- figures ---------------------------------------------------------------------------------------


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def matmul_rate() -> float:
    """Multiply-adds a second of a large float32 matrix product: the best of ten."""
    n = 1024
    a, b = torch.ones(n, n), torch.ones(n, n)
    return n**3 / min(seconds(lambda: a @ b) for _ in range(10))


def work(config: SAVAEConfig) -> float:
    """Multiply-adds of a pair, at half the final length: 12 d^2 L + 2 t d L + d (s + 1)."""
    d, layers = config.width, config.decoder_layers
    return 12 * d**2 * layers + PAIRS * d * layers + d * (config.dim + 1)


def weights(model: SAVAE) -> int:
    """Parameters that a decoding step reads."""
    return sum(p.numel() for p in model.decoder.parameters())


def traffic(model: SAVAE, rows: int) -> int:
    """Bytes of weights, and of keys and values at half the final length, read in one step."""
    c = model.config
    return 4 * (weights(model) + rows * PAIRS * c.width * c.decoder_layers)


def measure(model: SAVAE, peer: Callable[[int], None], rows: int, rate: float) -> Timing:
    """All contenders in turn, again and again."""
    z = torch.randn(rows, model.config.latent, generator=seeded(1))
    every = 1 if rows <= WHOLE_UNCACHED else 15
    found: list[tuple[Seconds, Seconds, float]] = []
    for k in range(REPEATS):
        slow = uncached(model, z, every) if every == 1 or k == 0 else found[0][1]
        found.append((cached(model, z), slow, seconds(lambda: peer(rows))))
    ours = 1000 * statistics.median(a.whole for a, _, _ in found) / PAIRS
    return Timing(
        batch=rows,
        repeats=len(found),
        cached_ms=round(ours, 4),
        uncached_ms=round(1000 * statistics.median(b.whole for _, b, _ in found) / PAIRS, 4),
        gpt2_ms=round(1000 * statistics.median(c for *_, c in found) / PAIRS, 4),
        uncached_ratio=round(statistics.median(b.whole / a.whole for a, b, _ in found), 2),
        uncached_ratio_at_end=round(statistics.median(b.end / a.end for a, b, _ in found), 2),
        gpt2_ratio=round(statistics.median(c / a.whole for a, _, c in found), 2),
        matmul_share=round(rows * work(model.config) / (ours / 1000) / rate, 4),
        bytes_a_step=traffic(model, rows),
    )


def report() -> dict[str, Any]:
    """Everything that `decode.json` holds."""
    torch.manual_seed(0)
    model = endless(shipped_shape())
    peer = gpt2(model.config)
    cached(model, torch.zeros(1, model.config.latent))
    peer(1)
    rate = matmul_rate()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pairs": PAIRS,
        "parameters_a_step": weights(model),
        "multiply_adds_a_pair": work(model.config),
        "matmul_gflops": round(2 * rate / 1e9, 1),
        "timings": [vars(measure(model, peer, rows, rate)) for rows in BATCHES],
    }


def table(found: dict[str, Any]) -> Table:
    """The report for a reader."""
    title = (
        f"ms for one pair in every row, {found['pairs']} pairs a row, {found['threads']} threads, "
        f"matrix products {found['matmul_gflops']} GFLOP/s"
    )
    shown = Table(title=title)
    names = (
        "batch",
        "cached",
        "uncached",
        "GPT-2",
        "uncached / cached",
        "at the end",
        "GPT-2 / cached",
    )
    for name in (*names, "of matmul rate", "MB a step"):
        shown.add_column(name, justify="right")
    for t in found["timings"]:
        shown.add_row(
            str(t["batch"]),
            f"{t['cached_ms']:.2f}",
            f"{t['uncached_ms']:.2f}",
            f"{t['gpt2_ms']:.2f}",
            f"{t['uncached_ratio']:.1f}",
            f"{t['uncached_ratio_at_end']:.1f}",
            f"{t['gpt2_ratio']:.1f}",
            f"{t['matmul_share']:.1%}",
            f"{t['bytes_a_step'] / 1e6:.1f}",
        )
    return shown


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
    out: Annotated[Path, typer.Option(help="Where the figures are kept.")] = RESULTS,
    threads: Annotated[int, typer.Option(help="Of torch; the app decodes with one.")] = 1,
) -> None:
    """Measure decoding against its uncached self and against GPT-2 of the same shape."""
    torch.set_num_threads(threads)
    found = report()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    if as_json:
        print(json.dumps(found))
    else:
        Console(width=120).print(table(found))


if __name__ == "__main__":
    typer.run(main)
