"""Chance: a sample's draws depend on the seed and its number, and on nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import untouched_global_chance

from sed_core.chance import normal, seeded, split, uniform

seeds = st.integers(0, 2**31)


@given(seeds, st.integers(1, 20), st.integers(0, 19))
def test_sample_k_does_not_depend_on_how_many_there_are(seed: int, n: int, k: int) -> None:
    k = k % n
    with untouched_global_chance():
        many, few = split(seeded(seed), n), split(seeded(seed), k + 1)
        assert torch.equal(normal(many, 3)[k], normal(few, 3)[k])
        assert torch.equal(uniform(many, 2)[k], uniform(few, 2)[k])


def test_a_slice_of_generators_is_those_samples() -> None:
    whole = normal(split(seeded(7), 4), 5)
    assert torch.equal(normal(split(split(seeded(7), 4)[3:], 1), 5), whole[3:])


def test_one_generator_a_sample_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"one generator a sample \(3\), got 2"):
        split([seeded(1), seeded(2)], 3)


def test_other_seeds_and_other_samples_draw_other_numbers() -> None:
    draws = torch.cat([normal(split(seeded(seed), 50), 1) for seed in range(20)])
    assert len(draws.unique()) == 1000


def test_first_draws_of_many_samples_follow_their_laws() -> None:
    n = 4000  # standard error of a mean 1/63, of a variance sqrt(2)/63: bounds are 4 of them
    z, u = normal(split(seeded(0), n), 1), uniform(split(seeded(1), n), 1)
    assert z.mean().abs() < 4 / n**0.5
    assert abs(z.var().item() - 1) < 4 * (2 / n) ** 0.5
    assert (u.mean() - 0.5).abs() < 4 * (1 / 12 / n) ** 0.5
    assert u.min() >= 0
    assert u.max() < 1
