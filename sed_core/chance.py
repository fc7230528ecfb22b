"""Chance is an argument: one CPU generator a sample, so that a sample never depends on its batch.

Sample 3 of seed 7 is the same alone, among 64, and on any device: its generator is a function of
(seed, 3) only, and always draws on the CPU.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Chance = torch.Generator | Sequence[torch.Generator]


def seeded(seed: int) -> torch.Generator:
    """A CPU generator that starts from `seed`."""
    return torch.Generator().manual_seed(seed)


def split(generator: Chance, n: int) -> list[torch.Generator]:
    """One generator a sample; number k of them is the same whatever n is. A sequence passes.

    Raises:
        ValueError: if a sequence holds another number of generators than n.
    """
    if isinstance(generator, torch.Generator):
        seeds = torch.randint(2**63 - 1, (n,), generator=generator, device=generator.device)
        return [seeded(int(seed)) for seed in seeds]
    if len(generator) != n:
        raise ValueError(f"expected one generator a sample ({n}), got {len(generator)}")
    return list(generator)


def normal(generators: Sequence[torch.Generator], *shape: int) -> Float[Tensor, "B ..."]:
    """Standard normal draws of the given shape, one row from each generator, on the CPU."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def uniform(
    generators: Sequence[torch.Generator], *shape: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B ..."]:
    """Uniform draws in [0, 1) of the given shape, one row from each generator, on the CPU."""
    draws = torch.empty(len(generators), *shape, dtype=dtype)
    for row, generator in zip(draws.unbind(0), generators, strict=True):
        row.uniform_(generator=generator)
    return draws


def offspring(generator: torch.Generator, n: int) -> list[torch.Generator]:
    """n new generators from the state of one, which itself does not move."""
    return split(generator.clone_state(), n)
