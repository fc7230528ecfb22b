"""Gates: nothing more than LogGaussian at first, and what a narrow network can't do afterwards."""

from typing import Any

import pytest
import torch
from small import counts, gated, log_gaussian
from torch import nn

from sed_core.baselines import DDPMConfig, DenseValues, GatedLogGaussian, LogGaussian
from sed_core.baselines.gated import Gated
from sed_core.chance import seeded
from sed_core.training import fit


def test_with_gates_at_zero_it_is_log_gaussian() -> None:
    model, plain = gated(counts(), 3), log_gaussian(counts(), 3)
    assert isinstance(model.denoiser.network, Gated)
    model.denoiser.network.network.load_state_dict(plain.denoiser.network.state_dict())
    for name in ("time", "label", "fourier"):
        getattr(model.denoiser, name).load_state_dict(getattr(plain.denoiser, name).state_dict())
    nn.init.zeros_(model.denoiser.network.gate.weight)
    nn.init.zeros_(model.denoiser.network.gate.bias)
    draw: Any = {"steps": 4, "label": 1, "guidance": 2.0}
    same = [m.sample(5, **draw, generator=seeded(0)) for m in (model, plain)]
    assert torch.equal(*same)
    fresh = GatedLogGaussian(DenseValues(), DDPMConfig(dim=4, widths=(8, 4))).denoiser.network
    assert isinstance(fresh, Gated)
    assert not fresh.gate.weight.any() and not fresh.gate.bias.any()


def test_a_gate_passes_a_dimension_s_own_noisy_value_and_not_the_guess_before() -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 3)

    network = Gated(Nothing(), 3, 2)
    with torch.no_grad():
        network.gate.bias.copy_(torch.tensor([1.0, 0.5, 0.0]))
    noisy, before = torch.tensor([[2.0, 4.0, 6.0]]), torch.full((1, 3), 100.0)
    out = network(torch.cat([noisy, before], 1), torch.zeros(1, 2))
    assert out.tolist() == [[2.0, 2.0, 0.0]]


def test_a_narrow_network_sees_a_hardly_noisy_value_only_through_gates() -> None:
    """40 independent counts through 6 numbers: without gates, the guess is little but a mean."""
    x = torch.poisson(torch.full((400, 40), 3.0), generator=seeded(0)).long()
    config = DDPMConfig(dim=40, widths=(12, 6), condition=8)
    error = {}
    for family in (LogGaussian, GatedLogGaussian):
        with torch.random.fork_rng():
            torch.random.manual_seed(0)
            model = family(DenseValues.of_counts(x), config)
        rows = [x[torch.randint(400, (64,), generator=seeded(k))] for k in range(80)]
        for _ in fit(model, rows, lr=2e-2, warmup=5, precision="float32", generator=seeded(0)):
            pass
        y, t = model.to_network(x), torch.full((400,), 0.05)
        with torch.no_grad():
            guess = model.denoise(None, 400)(y, t)
        error[family] = (guess - y).square().mean().item()
    assert error[LogGaussian] > 0.6  # of a variance of 1
    assert error[GatedLogGaussian] < 0.1


def test_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="gates are for vectors, got pictures of side 6"):
        GatedLogGaussian(DenseValues(), DDPMConfig(dim=36, side=6, widths=(8, 4)))
