"""Steps, lazily: what the app draws, the tests check and the evaluation folds.

A sampler yields `Step`s; `last` keeps the end, `record` keeps all of them as a `Trace`, which can
be written to JSON and played again anywhere.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from sed_core.sparse import SparseBatch

X = TypeVar("X")
FORMAT = "sed-trace"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Step(Generic[X]):
    """One finished move of a sampler: number i of n in its stage, now at time t in state x.

    `n` is the largest number of steps still possible; it equals i at the stage's last step.
    `x0` is the clean guess, where there is one; `aux` holds what a picture needs, rows first.
    """

    stage: str
    i: int
    n: int
    t: float
    x: X
    x0: X | None = None
    aux: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, eq=False)
class Trace(Generic[X]):
    """Finished moves, in order."""

    steps: tuple[Step[X], ...]

    @property
    def x(self) -> X:
        """The last state."""
        return self.steps[-1].x

    def to_json(self) -> str:
        """The whole trace as versioned JSON text; tensors as nested lists with dtype and shape."""
        steps = [_step_to_data(step) for step in self.steps]
        return json.dumps({"format": FORMAT, "version": VERSION, "steps": steps})

    @staticmethod
    def from_json(text: str) -> "Trace[Any]":
        """Read `to_json` back.

        Raises:
            ValueError: if the text is no trace, or one of a newer version.
        """
        try:
            found: Any = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"a trace is JSON text, but reading it failed: {error}") from error
        data = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        if data.get("format") != FORMAT:
            raise ValueError(f'a trace starts with "format": "{FORMAT}"; this file does not')
        version = data.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise ValueError(
                f"this trace has version {version}, this program reads up to {VERSION}; "
                "update sed-core"
            )
        try:
            return Trace(tuple(_step_from_data(step) for step in data["steps"]))
        except (KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
            raise ValueError(f"this trace is damaged ({error!r}); record it again") from error


def record(stream: Iterable[Step[X]]) -> Trace[X]:
    """Keep every step."""
    return Trace(tuple(stream))


def last(stream: Iterable[Step[X]]) -> X:
    """Run to the end and keep the last state only."""
    final = deque(stream, maxlen=1)
    if not final:
        raise ValueError("a stream needs at least one step, got none")
    return final[0].x


def every(k: int, stream: Iterable[Step[X]]) -> Iterator[Step[X]]:
    """Every k-th step, and always the last of each stage."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return (step for step in stream if step.i % k == 0 or step.i == step.n)


def _step_to_data(step: Step[Any]) -> dict[str, Any]:
    aux = {name: _to_data(part) for name, part in step.aux.items()}
    states = {"x": _to_data(step.x), "x0": _to_data(step.x0)}
    return {"stage": step.stage, "i": step.i, "n": step.n, "t": step.t, **states, "aux": aux}


def _step_from_data(data: Mapping[str, Any]) -> Step[Any]:
    aux = {name: _from_data(part) for name, part in data["aux"].items()}
    x, x0 = _from_data(data["x"]), _from_data(data["x0"])
    return Step(data["stage"], data["i"], data["n"], data["t"], x, x0, aux)


def _to_data(part: Any) -> Any:
    if isinstance(part, Tensor):
        dtype = str(part.dtype).removeprefix("torch.")
        numbers = cast("list[Any]", part.flatten().tolist())
        return {"dtype": dtype, "shape": list(part.shape), "data": numbers}
    if isinstance(part, SparseBatch):
        pairs = [part.pairs(row) for row in range(len(part))]
        rows: Any = [{"index": index.tolist(), "value": value.tolist()} for index, value in pairs]
        return {"dim": part.dim, "rows": rows}
    return part


def _from_data(data: Any) -> Any:
    if data is None:
        return None
    if "rows" in data:
        return _sparse_from_rows(data["rows"], data["dim"])
    return torch.tensor(data["data"], dtype=getattr(torch, data["dtype"])).reshape(data["shape"])


def _sparse_from_rows(rows: list[dict[str, list[Any]]], dim: int) -> SparseBatch:
    width = max((len(row["index"]) for row in rows), default=0)
    index = torch.zeros(len(rows), width, dtype=torch.int64)
    value = torch.zeros(len(rows), width)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for b, row in enumerate(rows):
        length = len(row["index"])
        if len(row["value"]) != length:
            raise ValueError(f"row {b} has {length} indices but {len(row['value'])} values")
        index[b, :length] = torch.tensor(row["index"], dtype=torch.int64)
        value[b, :length] = torch.tensor(row["value"], dtype=torch.float32)
        mask[b, :length] = True
    return SparseBatch(index, value, mask, dim)
