"""Streams are lazy, traces are whole, and JSON brings every number back."""

import json
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import equal, pairs

from sed_core.chance import seeded
from sed_core.stream import Step, Trace, every, last, record

seeds = st.integers(0, 2**31)


def count(n: int, stage: str = "count") -> Iterator[Step[int]]:
    return (Step(stage, i, n, 1 - i / n, i) for i in range(1, n + 1))


def test_record_keeps_all_and_last_the_last() -> None:
    assert [step.x for step in record(count(5)).steps] == [1, 2, 3, 4, 5]
    assert record(count(5)).x == last(count(5)) == 5
    with pytest.raises(ValueError, match="at least one step"):
        last(iter(()))


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 40))
def test_every_keeps_each_kth_and_the_end_of_each_stage(a: int, b: int, k: int) -> None:
    both = [*count(a, "a"), *count(b, "b")]
    kept = [(step.stage, step.i) for step in every(k, both)]
    wanted = [
        (s, i) for s, n in (("a", a), ("b", b)) for i in range(1, n + 1) if i % k == 0 or i == n
    ]
    assert kept == wanted


def test_every_refuses_less_than_one() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        every(0, count(3))


def test_every_is_lazy() -> None:
    made: list[int] = []
    source = (made.append(step.i) or step for step in count(10))
    next(every(3, source))
    assert made == [1, 2, 3]


@given(seeds)
def test_json_brings_every_bit_back(seed: int) -> None:
    z = torch.randn(3, 2, generator=seeded(seed)) * 1e-20
    aux = {"index": torch.tensor([1, -1]), "law": torch.rand(2, 3, generator=seeded(seed)).double()}
    steps = (
        Step("latent", 1, 1, 0.1 + 0.2, z, z * 3),
        Step("pairs", 1, 4, 1 / 3, pairs(seed, empty=True), None, aux),
        Step("pairs", 2, 2, 0.0, pairs(seed, share=0.0), None, {"none": torch.zeros(2, 0)}),
    )
    text = Trace(steps).to_json()
    back = Trace.from_json(text)
    assert back.to_json() == text
    for a, b in zip(steps, back.steps, strict=True):
        assert (a.stage, a.i, a.n, a.t) == (b.stage, b.i, b.n, b.t)
        assert a.aux.keys() == b.aux.keys()
        assert all(torch.equal(a.aux[k], b.aux[k]) for k in a.aux)
        assert all(a.aux[k].dtype == b.aux[k].dtype for k in a.aux)
    assert torch.equal(back.steps[0].x, z)
    assert torch.equal(back.steps[0].x0, z * 3)
    assert equal(back.steps[1].x, steps[1].x)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "reading it failed"),
        ("[" * 100_000, "reading it failed"),
        ("[1, 2]", 'starts with "format"'),
        ('{"format": "other"}', 'starts with "format"'),
        ('{"format": "sed-trace", "version": 2, "steps": []}', "version 2, this program reads"),
        ('{"format": "sed-trace", "steps": []}', "version None"),
        ('{"format": "sed-trace", "version": 1}', "damaged"),
        ('{"format": "sed-trace", "version": 1, "steps": [{"stage": "a"}]}', "damaged"),
    ],
)
def test_what_is_no_trace_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trace.from_json(text)


@pytest.mark.parametrize(
    "x",
    [
        {"dtype": "float32", "shape": [3], "data": [1.0]},
        {"dtype": "load", "shape": [1], "data": [1.0]},
        {"dtype": "float33", "shape": [1], "data": [1.0]},
        {"dim": 3, "rows": [{"index": [2, 1], "value": [1.0, 1.0]}]},
        {"dim": 3, "rows": [{"index": [1, 2], "value": [1.0]}]},
        {"dim": "3", "rows": [{"index": [1], "value": [1.0]}]},
    ],
)
def test_damaged_states_are_refused(x: object) -> None:
    step = {"stage": "pairs", "i": 1, "n": 1, "t": 0.0, "x": x, "x0": None, "aux": {}}
    text = json.dumps({"format": "sed-trace", "version": 1, "steps": [step]})
    with pytest.raises(ValueError):
        Trace.from_json(text)
