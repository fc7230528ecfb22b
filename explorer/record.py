"""Record the sample of the Start page.

python -m explorer.record sed-mnist --seed 7 --label 3 --out assets/start.json
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from explorer import exports
from explorer.controls import DEFAULTS, Params
from explorer.models import load
from explorer.runs import generate, shown


def record(
    model: Annotated[str, typer.Argument(help="a shipped checkpoint")] = DEFAULTS.model,
    label: Annotated[int | None, typer.Option(help="class; -1 for any")] = DEFAULTS.label,
    seed: int = DEFAULTS.seed,
    steps: int = DEFAULTS.steps,
    guidance: float = DEFAULTS.guidance,
    out: Path = Path("assets/start.json"),
) -> None:
    """Generate one sample and write its scene, with the recipe, as JSON."""
    loaded = load(model)
    label = None if label is None or label < 0 else label
    params = Params(model=model, label=label, seed=seed, steps=steps, guidance=guidance)
    run = generate(loaded.model, params, loaded.sha, lambda fraction: None)
    recipe = exports.recipe(run)
    scene = shown(run, recipe, loaded.cloud).scene
    data = {"scene": scene, "recipe": recipe, "pairs": recipe["pairs"], "dim": run.sample.dim}
    out.write_text(json.dumps(data, separators=(",", ":")))
    typer.echo(f"{out}: {recipe['pairs']} pairs, recipe {run.stamp}, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    typer.run(record)
