"""Record the samples of the Compare page, and what each threshold does to those of DDPM.

python -m explorer.record_compare mnist --samples 500 --seed 0

Needs the checkpoints of the set (those that are missing are left out), its judge where it has one,
and the data in SED_DATA. All measures are of the samples as they are stored, in half precision.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.numpy import save
from torch import Tensor

from explorer import compared, exports, models
from explorer.compared import FORMAT, VERSION, halved
from explorer.controls import Params, stamp
from explorer.kinds import KINDS, Kind
from sed_core.baselines import fit_threshold
from sed_core.chance import seeded, split
from sed_core.domains import calorimeter, digits
from sed_core.metrics.distance import frechet, w1
from sed_core.metrics.judge import DigitJudge, read
from sed_core.sparse import SparseBatch

SURE = 0.9
VALIDATION = 200  # samples that the two rules are fitted to, drawn with the next seed
GRID = 72  # thresholds of the curve, zero among them
ROWS = 50  # samples drawn at once
REAL = 5000  # real rows that samples are measured against, at most
Measure = Callable[[Tensor], dict[str, float]]


def record(
    data: Annotated[str, typer.Argument(help=f"one of {', '.join(KINDS)}")],
    samples: Annotated[int, typer.Option(help="of each method")] = 500,
    seed: int = 0,
    guidance: float = 2.0,
    steps: int = 50,
    out: Path = Path("assets/compare"),
) -> None:
    """Draw the samples of every method there is, measure them, and write both files."""
    kind, made = KINDS[data], datetime.now(UTC).isoformat(timespec="seconds")
    train, labels, test = real_rows(kind)
    chosen = torch.randperm(len(train), generator=seeded(seed))[: max(samples, VALIDATION)]
    floor, labels = train[chosen[:samples]].to_dense(), labels[chosen]  # the data's own classes
    measure, about_quality = measures(kind, floor, test)
    tensors: dict[str, Any] = {}
    methods, curve = [], None
    for key, card in models.peers(data).items():
        params = Params(model=card.name, label=None, guidance=guidance, steps=steps, seed=seed)
        begun = time.perf_counter()
        values = draw(card.name, params, labels[:samples])
        seconds = time.perf_counter() - begun
        sha = models.sha(card.folder)
        tensors |= packed(key, values)
        methods.append({
            "key": key, "checkpoint": card.name, "sha": sha, "recipe": stamp(params, sha),
            "params": vars(params), "seconds": round(seconds, 1),
            "quality": measure(torch.from_numpy(values.astype(np.float32))),
        })  # fmt: skip
        if key == "ddpm":
            again = Params(**{**vars(params), "seed": seed + 1})
            other = draw(card.name, again, labels[:VALIDATION])
            curve = thresholds(values, other, train, measure)
        typer.echo(f"{card.name}: {seconds:.0f} s, {(values == 0).mean():.4f} zeros")
    stored = save(tensors)
    about = {
        "format": FORMAT, "version": VERSION, "data": data, "samples": samples, "seed": seed,
        "guidance": guidance, "steps": steps, "sampler": "ddim", "made": made,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "command": f"python -m explorer.record_compare {data} --samples {samples} --seed {seed} "
        f"--guidance {guidance:g} --steps {steps}",
        "labels": labels[:samples].tolist(),
        "versions": dict(exports.versions()), "sha256": hashlib.sha256(stored).hexdigest(),
        "real": {
            "zeros": (kind.dim - test.nnz[:REAL]).tolist(),
            "floor": (floor == 0).sum(1).tolist(), "share": round(train.sparsity, 6),
            "smallest": train.value[train.mask].min().item(),
        },
        "quality": about_quality, "methods": methods, "curve": curve,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{data}.safetensors").write_bytes(stored)
    (out / f"{data}.json").write_text(json.dumps(about, separators=(",", ":")), encoding="utf-8")
    typer.echo(f"{out / data}: {len(stored):,} bytes of samples")


def real_rows(kind: Kind) -> tuple[SparseBatch, Tensor, SparseBatch]:
    """Training rows and their classes, and rows that no model was trained on."""
    if kind.data == "ecal":
        shown = calorimeter.load("train")
        return shown.batch(), shown.labels, calorimeter.load("test").batch()
    train, test = (digits.load(kind.data, split) for split in ("train", "test"))
    some = torch.randperm(len(test), generator=seeded(0))[:REAL]  # the first are easier ones
    return train.batch(), train.labels, test.batch(some)


@torch.inference_mode()
def draw(name: str, params: Params, labels: Tensor) -> Any:
    """A sample of each class asked for, in half precision; what is not zero stays not zero."""
    model = models.peer(name).model
    chance, parts = split(seeded(params.seed), len(labels)), []
    for first in range(0, len(labels), ROWS):
        some = chance[first : first + ROWS]
        label = labels[first : first + ROWS] if model.classes else None
        options = {"steps": params.steps, "guidance": params.guidance, "label": label}
        made = model.sample(len(some), generator=some, **options)
        parts.append(made.to_dense() if isinstance(made, SparseBatch) else made)
    return halved(torch.cat(parts).cpu().numpy())


def packed(key: str, values: Any) -> dict[str, Any]:
    """Rows as they are stored: as pairs where most entries are zero, else as they are."""
    if key != "sed":
        return {key: values}
    row, index = values.nonzero()
    offset = np.concatenate([[0], np.bincount(row, minlength=len(values)).cumsum()])
    return {
        f"{key}.index": index.astype(np.uint16), f"{key}.value": values[row, index],
        f"{key}.offset": offset.astype(np.int32),
    }  # fmt: skip


def thresholds(values: Any, validation: Any, train: SparseBatch, measure: Measure) -> dict:
    """Zeros and quality of the samples at every threshold of a grid, and the two rules' choices."""
    fitted = torch.from_numpy(validation.astype(np.float32))
    rules = {rule: fit_threshold(rule, fitted, train) for rule in ("match", "half_min")}
    taus = grid(values, train, rules)
    cuts = [torch.from_numpy(compared.cut(values, tau).astype(np.float32)) for tau in taus]
    found = [measure(x) for x in cuts]
    return {
        "of": "ddpm", "tau": taus, "rules": rules, "validation": len(validation),
        "zeros": [round((x == 0).float().mean().item(), 6) for x in cuts],
        "quality": {name: [one[name] for one in found] for name in found[0]},
    }  # fmt: skip


def grid(values: Any, train: SparseBatch, rules: Mapping[str, float]) -> list[float]:
    """Thresholds from 0 to where nearly all is cut, by equal ratios; the rules' among them."""
    some = train.value[train.mask]
    low, top = some.min().item(), some.double().quantile(0.97, interpolation="nearest").item()
    low = max(low / 4, top * 1e-4)
    ratios = np.geomspace(low, top, GRID - 1 - len(rules)).tolist()
    kept = {float(f"{tau:.4g}") for tau in ratios} | {max(0.0, tau) for tau in rules.values()}
    return sorted({0.0, *kept})


def measures(kind: Kind, floor: Tensor, test: SparseBatch) -> tuple[Measure, list[dict[str, Any]]]:
    """What quality means for a set of data, and what as many real training rows get."""
    judge = models.judge(kind.data)
    if kind.data == "ecal":
        measure, told = energies(test.to_dense()), ENERGIES
    elif judge is not None:
        measure, told = judged(judge, test.to_dense()), JUDGED
    else:
        measure, told = inks(test.to_dense()), INKS
    real = measure(floor)
    return measure, [{**one, "real": real[one["key"]]} for one in told]


def judged(judge: DigitJudge, test: Tensor) -> Measure:
    """Frechet distance in the judge's features, and the share that it is sure of."""
    _, wanted = read(judge, test)

    def measure(x: Tensor) -> dict[str, float]:
        prob, features = read(judge, x)
        sure = (prob.amax(1) > SURE).float().mean().item()
        return {"frechet": _short(frechet(features, wanted)), "sure": _short(sure)}

    return measure


def energies(test: Tensor) -> Measure:
    """W1 distances of the total energy and of the largest."""

    def measure(x: Tensor) -> dict[str, float]:
        energy, peak = w1(x.sum(1), test.sum(1)), w1(x.amax(1), test.amax(1))
        return {"energy": _short(energy), "peak": _short(peak)}

    return measure


def inks(test: Tensor) -> Measure:
    """W1 distance of the summed values, where no judge knows better."""
    return lambda x: {"ink": _short(w1(x.sum(1), test.sum(1)))}


def _short(number: float) -> float:
    return float(f"{number:.5g}")


JUDGED = [
    {"key": "frechet", "name": "Fréchet distance in the judge's features", "short":
     "Fréchet distance", "unit": "", "better": "lower"},
    {"key": "sure", "name": "share of which the judge is above 0.9 sure", "short": "judge sure of",
     "unit": "share", "better": "higher"},
]  # fmt: skip
ENERGIES = [
    {"key": "energy", "name": "W1 distance of the total energy", "short":
     "W1 of the total energy", "unit": "GeV", "better": "lower"},
    {"key": "peak", "name": "W1 distance of the energy of the hottest cell", "short":
     "W1 of the hottest cell", "unit": "GeV", "better": "lower"},
]  # fmt: skip
INKS = [
    {"key": "ink", "name": "W1 distance of the summed values", "short":
     "W1 of the summed values", "unit": "", "better": "lower"},
]  # fmt: skip


if __name__ == "__main__":
    typer.run(record)
