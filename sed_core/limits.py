"""What one call may ask for: checked before any work starts, wherever the call comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import cast

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Limits:
    """Upper bounds of one sampling call.

    `work` bounds rows x steps x (1, or 2 where guidance needs the network twice): a call may have
    many rows or many steps, not both.
    """

    rows: int
    steps: int
    work: int
    guidance: float = 20.0
    temperature: float = 4.0

    def check(
        self,
        *,
        rows: object,
        steps: object,
        guidance: object = 1.0,
        eta: object = 0.0,
        temperature: object = 1.0,
        seed: object = 0,
    ) -> None:
        """Let a call through, or say which number is too large and what the limit is.

        Raises:
            ValueError: naming the number asked for and the limit; also for NaN, booleans and
                fractions where a whole number is wanted.
        """
        n, k = whole("rows", rows, 1, self.rows), whole("steps", steps, 1, self.steps)
        w = real("guidance", guidance, 0, self.guidance)
        real("eta", eta, 0, 1)
        real("temperature", temperature, 0, self.temperature)
        whole("seed", seed, 0, LARGEST_SEED)
        work = n * k * (1 if w in (0, 1) else 2)
        if work > self.work:
            raise ValueError(
                f"{n} rows x {k} steps at guidance {w:g} are {work} network rows, the limit is "
                f"{self.work}; ask for fewer rows or steps"
            )


LAPTOP = Limits(rows=100_000, steps=4_000, work=40_000_000)
WORKSHOP = Limits(rows=256, steps=1_000, work=60_000)
STREAMED = Limits(rows=100_000_000, steps=4_000, work=10**12)  # to disk, in constant memory
PUBLIC = Limits(rows=64, steps=250, work=12_800)
PRESETS: Mapping[str, Limits] = {"laptop": LAPTOP, "workshop": WORKSHOP, "public": PUBLIC}


def whole(name: str, value: object, low: int, high: int) -> int:
    """`value` as an int in low..high; refuses booleans, fractions and text."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {_show(value)}")
    return int(value)


def real(name: str, value: object, low: float, high: float) -> float:
    """`value` as a float in low..high; refuses booleans, NaN and text."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not low <= cast(float, value) <= high
    ):
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {_show(value)}")
    return float(value)


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """Let one of the choices through; refuse anything else and list them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {_show(value)}")


def _show(value: object) -> str:
    """A value for a message, however long it is."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python refuses to write whole numbers of thousands of digits
        return "a number too long to show"
