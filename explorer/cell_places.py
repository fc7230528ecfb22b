"""Where cells lie on a map: two principal axes at once, UMAP once it is fitted; and how near they
are to the cells that a model was trained on.

umap-learn compiles itself for half a minute and can't be interrupted, so it works in a thread of
its own while a job waits for it: a stopped job leaves the line at once, the fit goes on and serves
the next.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import exp
from typing import Any, TypeVar

import numpy as np
import torch

from explorer.cell_reference import Array, Reference
from explorer.jobs import Tick
from sed_core.metrics.distance import nearest

NEIGHBOURS, SPREAD, EPOCHS, GENTLE = 15, 0.3, 30, 0.01
USUAL_SECONDS = 40.0  # of a fit that has to compile first; for the progress bar only
FITTED = 0.9  # share of the progress bar that is done then
T = TypeVar("T")


def there() -> bool:
    """Whether umap-learn is installed."""
    return find_spec("umap") is not None


def layout(pcs: Array, *, seed: int = 0) -> Array:
    """A UMAP of cells by their coordinates on principal axes, in a box from 0 to 10: (n, 2)."""
    made = _umap(seed).fit_transform(pcs)
    low, high = made.min(0), made.max(0)
    return (10 * (made - low) / (high - low)).astype(np.float32)


def _umap(seed: int, **options: Any) -> Any:
    from umap import UMAP

    return UMAP(n_neighbors=NEIGHBOURS, min_dist=SPREAD, random_state=seed, n_jobs=1, **options)


# -- one fit a process -----------------------------------------------------------------------------


@dataclass(eq=False)
class _Fit:
    """UMAP fitted to a reference, from its stored layout on, so that the map hardly moves."""

    found: Reference
    begun: float = field(default_factory=time.monotonic)
    fitted: Any = None
    fault: BaseException | None = None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self.begun

    @property
    def share(self) -> float:
        """About how much of it is done, by how long it usually takes."""
        return FITTED if self.over.is_set() else FITTED * (1 - exp(-self.seconds / USUAL_SECONDS))

    def run(self) -> None:
        try:
            start: Any = "spectral" if self.found.layout is None else self.found.layout
            gentle = {} if self.found.layout is None else {"learning_rate": GENTLE}
            made = _umap(0, init=start, n_epochs=EPOCHS, **gentle)
            made.fit(self.found.pcs)
            made.transform(self.found.pcs[:2] + 1e-3)  # compiles what the first visitor waits for
            self.fitted = made
        except Exception as fault:
            self.fault = fault
        finally:
            self.over.set()


_fits: dict[int, _Fit] = {}
_changing = threading.Lock()


def fitting(found: Reference) -> _Fit:
    """The one fit of a reference in this process; it starts when it is first asked for."""
    with _changing:
        if id(found) not in _fits or _fits[id(found)].fault:
            fit = _fits[id(found)] = _Fit(found)
            threading.Thread(target=fit.run, name="umap", daemon=True).start()
        return _fits[id(found)]


def is_fitted(found: Reference) -> bool:
    """Whether cells can be placed by UMAP at once."""
    fit = _fits.get(id(found))
    return fit is not None and fit.fitted is not None


def by_umap(found: Reference, pcs: Array, tick: Tick) -> tuple[Array, Array]:
    """Where UMAP has the cells of a reference, and where it places others: (n, 2) and (m, 2).

    Raises:
        ImportError: where umap-learn is missing.
    """
    fit = fitting(found)
    while not fit.over.wait(0.1):
        tick(fit.share)
    if fit.fault is not None:
        raise fit.fault
    placed = patiently(lambda: fit.fitted.transform(pcs), lambda: tick(FITTED))
    return fit.fitted.embedding_, placed


def patiently(work: Callable[[], T], tick: Callable[[], None]) -> T:
    """Do what can't be interrupted in a thread of its own, and let the job hear Stop meanwhile."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append((work(), None))
        except Exception as fault:
            results.append((None, fault))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        tick()
    found, fault = results[0]
    if fault is not None:
        raise fault
    return found


# -- memorisation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nearness:
    """Whether made cells are too near to the training cells, held-out cells telling what is near.

    The definitions are those of `sed_core.metrics.mixing.Memorisation`.
    """

    closer: float  # chance that a made cell is nearer to training than a held-out one is
    copies: float  # share nearer to training than 99 % of the held-out cells are
    made: float  # median distance to the nearest training cell
    held: float  # that of the held-out cells
    cells: int
    held_out: int


def nearness(found: Reference, pcs: Array) -> Nearness | None:
    """Of made cells on the axes of a reference; None where it has no held-out cells."""
    if not len(found.held):
        return None
    seen, held, made = (torch.from_numpy(x).double() for x in (found.pcs, found.held, pcs))
    usual, near = nearest(held, seen), nearest(made, seen)
    order = usual.sort().values
    below = torch.searchsorted(order, near) + torch.searchsorted(order, near, right=True)
    return Nearness(
        closer=1 - (below.double().mean() / (2 * len(held))).item(),
        copies=(near < usual.quantile(0.01)).double().mean().item(),
        made=near.median().item(), held=usual.median().item(),
        cells=len(made), held_out=len(held),
    )  # fmt: skip
