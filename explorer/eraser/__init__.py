"""The eraser: a picture of which a reader rubs out parts, by mouse, finger or keyboard."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from explorer import player
from explorer.figures.colours import COLOURS, table

HERE = Path(__file__).parent
LARGEST = 255  # grey level at the darkest colour


def eraser(
    levels: Sequence[int],
    side: int,
    mask: str,
    *,
    key: str,
    disabled: bool = False,
    on_mask: Callable[[], None] | None = None,
) -> Any:
    """Show a picture of side x side grey levels, and let the reader erase parts of it.

    Args:
        mask: what is seen, packed; a new one redraws the picture, the reader's own does not.
        disabled: show it, but take no changes.

    Returns:
        the component's result: `.mask`, packed, about 300 ms after the reader's last change; None
        before any. It stays what it was when `mask` changes, so read it where `on_mask` is called.
    """
    data = payload(levels, side, mask, disabled=disabled)
    return _component()(key=key, data=data, on_mask_change=on_mask or _nothing)


def payload(
    levels: Sequence[int], side: int, mask: str, *, disabled: bool = False
) -> dict[str, Any]:
    """What eraser.js takes as `data`: the picture, the mask, and the colour rules."""
    shown = [int(level) for level in levels]
    if len(shown) != side * side or not all(0 <= level <= LARGEST for level in shown):
        raise ValueError(
            f"the eraser takes {side} x {side} grey levels from 0 to {LARGEST}, got {len(shown)} "
            f"numbers from {min(shown, default=0)} to {max(shown, default=0)}"
        )
    unpack(mask, side * side)
    colours = COLOURS | {"table": base64.b64encode(table().tobytes()).decode()}
    picture = {"side": side, "levels": shown, "colours": colours}
    name = hashlib.blake2b(json.dumps(picture).encode(), digest_size=8).hexdigest()
    return {"id": name, **picture, "mask": mask, "disabled": disabled}


def pack(seen: Bool[Tensor, " D"]) -> str:
    """A mask as short text for a link: its bits, the first one highest, in base64url."""
    bits = np.packbits(seen.cpu().numpy())
    return base64.urlsafe_b64encode(bits.tobytes()).decode().rstrip("=")


def unpack(text: str, dim: int) -> Bool[Tensor, " D"]:
    """The mask that `pack` wrote.

    Raises:
        ValueError: for text that is no mask of `dim` entries.
    """
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        found = b""
    bits = np.unpackbits(np.frombuffer(found, dtype=np.uint8))[:dim]
    seen = torch.from_numpy(bits.astype(bool))
    if len(seen) != dim or pack(seen) != text:
        raise ValueError(
            f"a mask of {dim} entries is {len(pack(torch.ones(dim, dtype=torch.bool)))} letters of "
            f"base64url, got {len(text)} that are none; take a mask that this page wrote"
        )
    return seen


def source(name: str) -> str:
    """The text of eraser.js or eraser.css, with what it shares with the first player."""
    shared = "parts.js" if name.endswith(".js") else "player.css"
    own = (HERE / name).read_text(encoding="utf-8")
    return f"{(player.HERE / shared).read_text(encoding='utf-8')}\n{own}"


@cache
def _component() -> Any:
    from streamlit.components.v2 import component

    return component("sed_eraser", js=source("eraser.js"), css=source("eraser.css"))


def _nothing() -> None:
    """Streamlit reports a value only where a callback stands."""
