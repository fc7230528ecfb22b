"""Pictures for docs/results.md: samples of a checkpoint, and the loss curves of its training.

    python -m benchmarks.pictures ddpm-mnist [NAME ...] [--guidance 2] [--out docs]

Writes OUT/samples-NAME.png, four rows of every class from seed 0, and OUT/loss-NAME.svg.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from einops import rearrange
from PIL import Image
from torch import Tensor

from sed_core import hub, seeded
from sed_core.sparse import SparseBatch

ROWS, ZOOM = 4, 3
WIDTH, HEIGHT, EDGE = 640, 240, 46
COLOURS = ("#1f4e79", "#b3541e", "#3c6e47")


def samples(name: str, *, guidance: float, steps: int = 50) -> Image.Image:
    """A grid of samples, classes from left to right; dark is much, white is exactly zero."""
    model: Any = hub.load(name)
    labels = torch.arange(ROWS * model.classes) % model.classes
    made = model.sample(
        len(labels), steps=steps, label=labels, guidance=guidance, generator=seeded(0)
    )
    x = made.to_dense() if isinstance(made, SparseBatch) else made
    return picture(x, model.classes)


def picture(x: Tensor, columns: int) -> Image.Image:
    """Rows as one picture; energies on a logarithmic scale."""
    side = round(x.shape[1] ** 0.5)
    shown = x.clamp(0, 1) if side == 28 else (x / 0.05).log1p().div(6).clamp(0, 1)
    grid = rearrange(shown, "(r c) (i j) -> (r i) (c j)", c=columns, i=side)
    image = Image.fromarray((255 * (1 - grid)).byte().numpy())
    size = (image.width * ZOOM, image.height * ZOOM)
    return image.resize(size, Image.Resampling.NEAREST)


def loss_svg(curves: dict[str, list[list[float]]]) -> str:
    """Loss over steps of every stage, both axes logarithmic, each stage on its own scale."""
    parts = [_curve(points, COLOURS[k % 3]) for k, points in enumerate(curves.values()) if points]
    names = [
        f'<text x="{EDGE + 8 + 150 * k}" y="16" fill="{COLOURS[k % 3]}">{stage}: '
        f"{points[0][1]:.3g} to {points[-1][1]:.3g}</text>"
        for k, (stage, points) in enumerate(curves.items())
        if points
    ]
    frame = f'<path d="M{EDGE} 24V{HEIGHT - 30}H{WIDTH - 10}" fill="none" stroke="#555"/>'
    steps = max(points[-1][0] for points in curves.values() if points)
    axis = (
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 10}" text-anchor="end">step {steps:,.0f}</text>'
        f'<text x="{EDGE}" y="{HEIGHT - 10}">step</text>'
        f'<text x="6" y="{HEIGHT // 2}">loss</text>'
    )
    body = "".join([frame, axis, *names, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>'
        f"{body}</svg>\n"
    )


def _curve(points: list[list[float]], colour: str) -> str:
    """One stage as a line that fills the frame."""
    step = torch.tensor([p[0] for p in points]).log()
    loss = torch.tensor([p[1] for p in points]).log()
    x = EDGE + (WIDTH - EDGE - 20) * _unit(step)
    y = HEIGHT - 40 - (HEIGHT - 74) * _unit(loss)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _unit(x: Tensor) -> Tensor:
    return (x - x.min()) / (x.max() - x.min()).clamp_min(1e-9)


def main(
    names: Annotated[list[str], typer.Argument(help="Checkpoints.")],
    guidance: Annotated[float, typer.Option(help="0 unconditional, 1 conditional.")] = 2.0,
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("docs"),
) -> None:
    """Write the pictures of each checkpoint."""
    for name in names:
        samples(name, guidance=guidance).save(out / f"samples-{name}.png", optimize=True)
        curves = hub.figures(hub.resolve(name).folder).get("training", {}).get("curves", {})
        if any(curves.values()):
            (out / f"loss-{name}.svg").write_text(loss_svg(curves))
        typer.echo(f"{out}/samples-{name}.png, {len(curves)} curves")


if __name__ == "__main__":
    typer.run(main)
