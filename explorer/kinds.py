"""Kinds of data as people see them: how a sample is drawn, its unit, the names of its classes.

Torch-free, because the first page needs it; a test compares the names with `sed_core.domains`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from explorer.figures.colours import Tone


@dataclass(frozen=True)
class Kind:
    """What the pages say and draw of one set of data.

    `low` and `top` are the data values at the lightest and the darkest colour; what lies beyond
    gets the colour of the end.
    """

    data: str
    name: str  # in the data picker
    title: str
    things: str  # what samples are, in the plural
    side: int
    unit: str
    cell: str
    scale: float  # data units times this are in `unit`
    low: float
    top: float
    tone: Tone
    classes: tuple[str, ...]
    noun: str  # what a class is called before its name

    @property
    def dim(self) -> int:
        """Dimensions of a sample."""
        return self.side**2

    def what(self, label: int | None) -> str:
        """A class in words."""
        if label is None:
            return f"any {self.noun}"
        named = self.classes[label] if label < len(self.classes) else str(label)
        return f"{self.noun} {named}" if named.isdigit() else named


_GREY = {"side": 28, "unit": "grey level", "cell": "pixel", "scale": 255.0}
_GREY |= {"low": 1 / 255, "top": 1.0, "tone": "linear"}

MNIST = Kind(
    data="mnist", name="Digits", title="MNIST digits", things="digits", **_GREY,
    classes=tuple("0123456789"), noun="digit",
)  # fmt: skip
FASHION = Kind(
    data="fashion_mnist", name="Fashion", title="Fashion-MNIST", things="items", **_GREY,
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
             "Bag", "Ankle boot"),
    noun="item",
)  # fmt: skip
SHOWERS = Kind(
    data="ecal", name="Showers", title="CMS calorimeter windows", things="windows", side=32,
    unit="GeV", cell="cell", scale=1.0, low=0.005, top=30.0, tone="log",
    classes=("jet", "electron", "photon", "muon", "cluster"), noun="object",
)  # fmt: skip

KINDS: Mapping[str, Kind] = {kind.data: kind for kind in (MNIST, FASHION, SHOWERS)}


def kind(data: str) -> Kind:
    """The kind of that name; unknown pictures are drawn like digits."""
    return KINDS.get(data, MNIST)
