"""Pictures of samples and scenes: pure functions, the colour rules of the player, no streamlit."""

from explorer.figures.colours import COLOURS, shade, table
from explorer.figures.picture import gif, picture, png

__all__ = ["COLOURS", "gif", "picture", "png", "shade", "table"]
