"""Where a dense diffusion spends its bits: rate and distortion of zeros and of the rest.

    python -m benchmarks.rate [ddpm-mnist] [--rows 200] [--steps 250] [--seed 0]

Writes benchmarks/results/rate-DATA.json. Source of the diagnostic: SED paper, figure 3; ours is
`sed_core.metrics.rate`.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor

from sed_core import comparison, hub
from sed_core.baselines import DDPM, SparsityBits
from sed_core.chance import seeded
from sed_core.evaluation import machine
from sed_core.metrics.rate import RateCurve, Spent, rate_distortion

RESULTS = Path(__file__).parent / "results"


def measure(model: DDPM, x: Tensor, label: Tensor | None, *, steps: int, seed: int) -> RateCurve:
    """The curve of a DDPM on rows in data units."""
    x0 = model.to_network(x)
    return rate_distortion(
        model.denoise(label, len(x)),
        model.denoiser.schedule,
        x0,
        (x == 0).view(x0.shape).to(x0.device),
        steps=steps,
        generator=seeded(seed),
    )


def report(name: str, *, rows: int, steps: int, seed: int) -> dict[str, Any]:
    """Everything that `rate-DATA.json` holds."""
    model = hub.load(name)
    if not isinstance(model, DDPM) or isinstance(model, SparsityBits):
        raise ValueError(f"wanted a DDPM, {name} is a {type(model).__name__}")
    data: Any = next((card.data for card in hub.shipped() if card.name == name), "mnist")
    aim, started = comparison.aim_at(data), time.perf_counter()
    chosen = torch.randperm(len(aim.test), generator=seeded(seed))[:rows]
    label = aim.test_labels[chosen] if model.classes else None
    curve = measure(model, aim.test[chosen].to_dense(), label, steps=steps, seed=seed)
    setting = {
        "rows": len(chosen),
        "steps": steps,
        "seed": seed,
        **machine(model),
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    told = {"format": "sed-rate", "version": 1, "data": data, "checkpoint": name}
    return {**told, "setting": setting, **as_json(curve)}


def as_json(curve: RateCurve) -> dict[str, Any]:
    """The curve as lists."""
    return {
        "t": _list(curve.t),
        "alpha_bar": _list(curve.alpha_bar),
        "zero": _spent(curve.zero),
        "nonzero": _spent(curve.nonzero),
        "share_of_bits_on_zeros": round(curve.share_of_bits, 6),
        "share_of_dimensions_zero": round(curve.share_of_dimensions, 6),
    }


def _spent(kind: Spent) -> dict[str, Any]:
    return {
        "bits": _list(kind.bits),
        "rmse": _list(kind.rmse),
        "total_bits": round(kind.total, 4),
        "dimensions": round(kind.dimensions, 4),
    }


def _list(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def main(
    name: Annotated[str, typer.Argument(help="A DDPM checkpoint.")] = "ddpm-mnist",
    rows: Annotated[int, typer.Option(help="Test rows.")] = 200,
    steps: Annotated[int, typer.Option(help="Steps of the path.")] = 250,
    seed: Annotated[int, typer.Option(help="Where chance starts.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the result.")] = RESULTS,
) -> None:
    """Measure what zeros cost a dense diffusion."""
    found = report(name, rows=rows, steps=steps, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"rate-{found['data']}.json").write_text(json.dumps(found, indent=1) + "\n")
    Console().print(
        f"{name}: zeros are {found['share_of_dimensions_zero']:.1%} of the dimensions and take "
        f"{found['share_of_bits_on_zeros']:.1%} of the bits "
        f"({found['zero']['total_bits']:.0f} of "
        f"{found['zero']['total_bits'] + found['nonzero']['total_bits']:.0f} a row)"
    )


if __name__ == "__main__":
    typer.run(main)
