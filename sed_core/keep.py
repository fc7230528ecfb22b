"""What a training run begins and ends with: weights from a seed, and a checkpoint of it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sed_core import hub
from sed_core.stages import Run, Stage
from sed_core.store import Store
from sed_core.vocabulary import GeneVocabulary

M = TypeVar("M", bound=nn.Module)
Plan = Mapping[str, Stage]  # the stages of a recipe
NOT_YET = "Not evaluated yet; `sed-core evaluate FOLDER --save` does it.\n"


def built(make: Callable[[], M], run: Run) -> M:
    """An untrained model whose weights depend on the seed; global chance stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(run.seed)  # initialisation of torch's modules takes no generator
        return make().to(run.device)


def keep(
    model: nn.Module,
    name: str,
    plan: Plan,
    run: Run,
    command: str,
    *,
    latents: Mapping[str, Tensor] | None = None,
    vocabulary: GeneVocabulary | None = None,
) -> None:
    """Write the trained model to the run's folder, with the conditions of its training."""
    hub.save(
        model,
        run.out / "checkpoint",
        metrics={"training": _conditions(model, plan, run)},
        card=f"# {name}\n\n{NOT_YET}",
        recipe=command,
        dtype="int8",  # quality does not suffer, measured (docs/decisions.md); the file halves
        latents=latents,
        vocabulary=vocabulary,
    )


def _conditions(model: nn.Module, plan: Plan, run: Run) -> dict[str, Any]:
    """What the training consisted of, for metrics.json."""
    stages = {name: {**asdict(size), **_stored(run.out / name)} for name, size in plan.items()}
    curves = {name: run.curve(name) for name in plan}
    return {"seed": run.seed, **where(model), "stages": stages, "curves": curves}


def _stored(folder: Path) -> dict[str, Any]:
    found = Store(folder).load()
    return {} if found is None else {key: found.meta.get(key) for key in ("seconds", "precision")}


def where(model: nn.Module) -> dict[str, Any]:
    """What a model was trained on, when, and how large it is."""
    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
