"""Still and moving pictures of a sample, with the player's colours: PNG and GIF through Pillow."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from explorer.figures.colours import COLOURS, Tone, rgb, shade, table

Scene = Mapping[str, Any]
ZOOM = 12  # image pixels a cell
LATENT_FRAMES, PAIR_FRAMES = 24, 90  # frames of a GIF at most
LATENT_MS, PAIR_MS, HOLD_MS = 120, 70, 2500


def picture(
    values: Any,
    width: int,
    height: int,
    scale: float = 1.0,
    *,
    low: float | None = None,
    tone: Tone = "linear",
    zoom: int = ZOOM,
) -> Image.Image:
    """One row of values as an image: exact zeros white with hairlines, `scale` the darkest value.

    Args:
        values: `width * height` numbers, or a SparseBatch of one row.
    """
    dense = values.to_dense() if hasattr(values, "to_dense") else values
    dense = dense.detach().cpu().numpy() if hasattr(dense, "detach") else np.asarray(dense)
    if dense.size != width * height:
        raise ValueError(f"a {width} x {height} picture needs that many values, got {dense.size}")
    least = scale / 255 if low is None else low
    return _draw(shade(dense.reshape(height, width), low=least, top=scale, tone=tone), zoom)


def png(scene: Scene, position: int, *, zoom: int = ZOOM) -> bytes:
    """The player's picture at a position of the time line."""
    image = _frame(scene, position, zoom)
    image.info.clear()
    return saved(image, "PNG", optimize=True)


def gif(scene: Scene, *, zoom: int = 8) -> bytes:
    """The whole time line, moving: guesses on the way, then pair by pair; it holds its end."""
    steps = scene["latent"]["n"] if scene["latent"]["guess"] else 0
    pairs = len(scene["pairs"]["index"])
    early = [int(k) for k in spread(1, steps, LATENT_FRAMES)] if steps else []
    late = [scene["start"] + int(k) for k in spread(0, pairs, PAIR_FRAMES)]
    frames = [indexed(_frame(scene, position, zoom)) for position in early + late]
    times = [LATENT_MS] * len(early) + [PAIR_MS] * (len(late) - 1) + [HOLD_MS]
    return saved(
        frames[0],
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=times,
        loop=0,
        disposal=1,
    )


def _frame(scene: Scene, position: int, zoom: int) -> Image.Image:
    """What stands on the player's canvas at a position."""
    width, height = scene["width"], scene["height"]
    if position < scene["start"]:
        return _draw(_guess(scene, position).reshape(height, width), zoom)
    k = min(position - scene["start"], len(scene["pairs"]["index"]))
    rows = np.zeros(width * height, dtype=np.uint8)
    rows[scene["pairs"]["index"][:k]] = scene["pairs"]["shade"][:k]
    image = _draw(rows.reshape(height, width), zoom)
    if 0 < k < len(scene["pairs"]["index"]):
        _outline(image, scene["pairs"]["index"][k - 1], width, zoom)
    return image


def _guess(scene: Scene, step: int) -> NDArray[np.uint8]:
    dim, stored = scene["dim"], scene["latent"]["guess"]
    if step < 1 or stored is None:
        return np.zeros(dim, dtype=np.uint8)
    rows = np.frombuffer(base64.b64decode(stored), dtype=np.uint8)
    return rows[(step - 1) * dim : step * dim]


def _draw(rows: NDArray[np.uint8], zoom: int) -> Image.Image:
    """Cells of colour-table rows between hairlines."""
    height, width = rows.shape
    canvas = np.empty((height * zoom + 1, width * zoom + 1, 3), dtype=np.uint8)
    canvas[:] = rgb(COLOURS["grid"])
    cells = table()[rows].repeat(zoom, axis=0).repeat(zoom, axis=1)
    inside = canvas[1:, 1:]
    inside[:] = cells
    inside[zoom - 1 :: zoom] = rgb(COLOURS["grid"])
    inside[:, zoom - 1 :: zoom] = rgb(COLOURS["grid"])
    return Image.fromarray(canvas)


def _outline(image: Image.Image, index: int, width: int, zoom: int) -> None:
    x, y = index % width * zoom, index // width * zoom
    box = (x, y, x + zoom, y + zoom)
    ImageDraw.Draw(image).rectangle(box, outline=rgb(COLOURS["ink"]), width=max(1, zoom // 6))


def indexed(image: Image.Image) -> Image.Image:
    """A frame of a GIF."""
    return image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)


def spread(first: int, last: int, frames: int) -> NDArray[np.int64]:
    """At most `frames` whole numbers from first to last, both among them."""
    return np.unique(np.linspace(first, last, min(frames, last - first + 1)).round()).astype(int)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
