"""Limits: every value a form, a URL or an API may carry passes or is named with its bound."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sed_core.limits import LAPTOP, LARGEST_SEED, PRESETS, PUBLIC, Limits, real, whole

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.text(), st.integers(), st.floats(), st.binary(),
    st.lists(st.integers()), st.complex_numbers(), st.decimals(), st.fractions(),
)  # fmt: skip


@pytest.mark.parametrize("limits", PRESETS.values(), ids=PRESETS)
def test_the_largest_call_passes_and_one_more_does_not(limits: Limits):
    limits.check(rows=1, steps=limits.steps)
    limits.check(rows=limits.rows, steps=1, guidance=limits.guidance)
    with pytest.raises(ValueError, match=f"to {limits.rows}, got {limits.rows + 1}"):
        limits.check(rows=limits.rows + 1, steps=1)
    with pytest.raises(ValueError, match=f"{limits.steps}, got {limits.steps + 1}"):
        limits.check(rows=1, steps=limits.steps + 1)


def test_both_at_once_is_too_much_and_guidance_doubles_it():
    limits = Limits(rows=100, steps=100, work=1_000)
    limits.check(rows=10, steps=100)
    with pytest.raises(ValueError, match=r"2000 network rows, the limit is 1000"):
        limits.check(rows=10, steps=100, guidance=2)
    with pytest.raises(ValueError, match=r"10000 network rows, the limit is 1000"):
        limits.check(rows=100, steps=100)


def test_presets_grow():
    for field in ("rows", "steps", "work"):
        public, workshop, laptop = (
            getattr(PRESETS[n], field) for n in ("public", "workshop", "laptop")
        )
        assert public <= workshop <= laptop


@given(
    st.dictionaries(
        st.sampled_from(["rows", "steps", "guidance", "eta", "temperature", "seed"]), ANYTHING
    )
)
def test_whatever_comes_it_passes_or_is_a_plain_value_error(values: dict[str, Any]):
    asked = {"rows": 1, "steps": 1, **values}
    said = ""
    try:
        PUBLIC.check(**asked)
    except ValueError as fault:
        said = str(fault)
    assert "\n" not in said and len(said) < 200
    if not said:
        assert all(not isinstance(value, bool | str | bytes) for value in asked.values())
        assert all(math.isfinite(value) for value in asked.values())
        assert 1 <= asked["rows"] <= PUBLIC.rows and asked["rows"] == int(asked["rows"])


@pytest.mark.parametrize(
    "value",
    [True, 2.5, 2.0, float("nan"), "3", None, [1], 10**400, 10**5000],
    ids=lambda v: type(v).__name__,
)
def test_whole_numbers_only(value: object):
    with pytest.raises(ValueError, match="rows must be"):
        whole("rows", value, 1, 9)


@pytest.mark.parametrize(
    "value",
    [True, float("nan"), float("inf"), "1", None, 1j, -0.1, 1.1, 10**400, 10**5000],
    ids=lambda v: type(v).__name__,
)
def test_finite_numbers_only(value: object):
    with pytest.raises(ValueError, match="eta must be"):
        real("eta", value, 0, 1)


def test_numbers_of_numpy_are_numbers():
    assert whole("rows", np.int64(3), 1, 9) == 3
    assert real("eta", np.float32(0.5), 0, 1) == 0.5
    LAPTOP.check(rows=np.int32(2), steps=3, seed=LARGEST_SEED)
