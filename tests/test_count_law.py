"""Counts of a sparse row: the truncated negative binomial, and a SAVAE that starts at its draft."""

from math import exp
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import nbinom
from small import ascending, largest, randomise, untouched_global_chance
from torch import Tensor

from sed_core import count_law
from sed_core.chance import seeded
from sed_core.count_law import CountDraft
from sed_core.savae import SAVAE, SAVAEConfig
from sed_core.sparse import SparseBatch
from sed_core.stream import last, record

means = st.floats(-8, 5)
thetas = st.floats(-3, 6)
UPTO = torch.arange(1, 4000).double()


def of(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


@given(means, thetas)
def test_the_law_is_the_negative_binomial(log_mean: float, log_theta: float) -> None:
    theta = exp(log_theta)
    wanted = nbinom(theta, theta / (theta + exp(log_mean)))
    found = count_law.log_prob(UPTO[:50], of(log_mean), of(log_theta))
    assert largest(found, torch.from_numpy(wanted.logpmf(UPTO[:50].numpy()))) < 1e-7
    surprise = count_law.surprise_of_zero(of(log_mean), of(log_theta))
    assert surprise.item() == pytest.approx(-wanted.logpmf(0), rel=1e-9)
    odds = np.log(wanted.sf(0)) - wanted.logpmf(0)
    assert count_law.logit_of_presence(surprise).item() == pytest.approx(odds, rel=1e-6, abs=1e-9)


@given(means, thetas)
def test_the_truncated_law_sums_to_one_and_has_its_moments(log_mean: float, log_theta: float):
    x = torch.arange(1, 60_000).double()
    prob = (-count_law.truncated_nll(x, of(log_mean), of(log_theta))).exp()
    assert prob.sum().item() == pytest.approx(1, abs=1e-6)
    mean, sd = count_law.truncated_moments(of(log_mean), of(log_theta))
    first = (prob * x).sum()
    assert mean.item() == pytest.approx(first.item(), rel=1e-5)
    assert sd.item() == pytest.approx((prob * (x - first) ** 2).sum().sqrt().item(), abs=2e-3)


@given(means, thetas, st.integers(0, 2**31))
def test_quantiles_invert_the_truncated_law(log_mean: float, log_theta: float, seed: int) -> None:
    u = torch.rand(64, dtype=torch.float64, generator=seeded(seed))
    below = (-count_law.truncated_nll(UPTO, of(log_mean), of(log_theta))).exp().cumsum(0)
    u = u[u < below[-1] - 1e-9]
    found = count_law.truncated_quantile(u, *(of(x).expand(len(u)) for x in (log_mean, log_theta)))
    reach = torch.cat([of(0.0)[None], below])
    assert (reach[found - 1] <= u + 1e-9).all()
    assert (u - 1e-9 <= reach[found]).all()


def test_extreme_laws_stay_finite_and_ordered() -> None:
    for log_mean in (-30.0, -5.0, 12.0):
        for log_theta in (-5.0, 7.0):
            u = torch.tensor([0.0, 0.5, 1 - 1e-12], dtype=torch.float64)
            parts = (torch.tensor(x).expand(3) for x in (log_mean, log_theta))
            found = count_law.truncated_quantile(u, *parts)
            assert (found >= 1).all()
            assert (found.diff() >= 0).all()
            nll = count_law.truncated_nll(
                torch.tensor([1.0, 1e4]), torch.tensor(log_mean), torch.tensor(log_theta)
            )
            assert nll.isfinite().all()


# -- SAVAE of counts -------------------------------------------------------------------------------


def counting(dim: int = 27, seed: int = 0, **options: Any) -> SAVAE:
    sizes = {"latent": 4, "width": 16, "heads": 2, "encoder_layers": 0, "decoder_layers": 2}
    laws = {"pool_width": 24, "draft_width": 8, "value_law": "counts", "index_head": "nested"}
    return SAVAE(SAVAEConfig(dim=dim, **{**sizes, **laws, **options}))  # pyright: ignore


def some_counts(n: int = 6, dim: int = 27, seed: int = 0) -> SparseBatch:
    x = torch.poisson(torch.rand(n, dim, generator=seeded(seed)), generator=seeded(seed))
    x[0] = 0  # a cell without anything
    return SparseBatch.from_dense(x)


@torch.no_grad()
def test_before_it_is_trained_the_decoder_tells_the_draft_exactly() -> None:
    """p(pairs | z) of the autoregressive decoder = product of the draft's negative binomials."""
    model, batch = counting(), some_counts()
    randomise(model.draft_head, 3)  # pyright: ignore[reportArgumentType]
    model.expose(torch.tensor([10, 20, 40]))
    for part in model.decoder.value_head[-1].parameters():
        part.zero_()
    z = torch.randn(len(batch), 4, generator=seeded(1))
    index, value = model.nll(batch, z)
    head = model.draft_head
    assert isinstance(head, CountDraft)
    log_mean, log_theta = head(z, model.total_of(z))
    wanted = -count_law.log_prob(batch.to_dense(), log_mean, log_theta).sum(1)
    assert largest(index + value, wanted) < 1e-3
    whole, _ = model._count_draft_loss(batch, z, head)
    assert largest(whole, wanted) < 1e-4


def test_it_trains_and_decodes_to_whole_counts_in_order() -> None:
    model, batch = counting(), some_counts()
    model.start_from(batch.to_dense().sum(0), len(batch))
    model.expose(batch.value.sum(1))
    randomise(model.decoder.value_head[-1], 4)  # zero at the start would stop gradients behind it
    randomise(model.decoder.index_head, 5)  # pyright: ignore[reportArgumentType]
    with untouched_global_chance():
        loss = model.loss(batch, generator=seeded(0))
    loss.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    model.eval()
    z = torch.randn(5, 4, generator=seeded(1))
    steps = record(model.decode(z, generator=seeded(2))).steps
    found = steps[-1].x
    assert ascending(found)
    values = found.value[found.mask]
    assert len(values)
    assert ((values >= 1) & (values == values.round())).all()
    assert (steps[0].aux["mean"][steps[0].aux["index"] < 27] >= 1).all()


def test_a_latent_knows_its_total() -> None:
    model, batch = counting(), some_counts()
    model.expose(batch.value.sum(1))
    mu, logvar = model.encode(batch)
    wanted = batch.value.sum(1).clamp_min(1).log()
    assert largest(model.total_of(mu), wanted) < 1e-5
    assert (logvar[:, -1] < -5).all()


@torch.no_grad()
def test_decoded_counts_follow_the_draft() -> None:
    """4,000 rows of one latent: means and zeros of every dimension are the draft's, |z| < 5."""
    n, model = 4_000, counting(dim=9).eval()
    randomise(model.draft_head, 1)  # pyright: ignore[reportArgumentType]
    model.expose(torch.tensor([6, 30]))
    for part in model.decoder.value_head[-1].parameters():
        part.zero_()
    z = torch.randn(1, 4, generator=seeded(2)).expand(n, -1)
    x = last(model.decode(z, generator=seeded(3), detail=False)).to_dense()
    there, given_there = (part[0] for part in model.draft(z[:1]))
    off = (x > 0).double().mean(0) - there
    assert (off.abs() < 5 * (there * (1 - there) / n).sqrt() + 1e-6).all()
    seen = x.sum(0) / (x > 0).sum(0)
    enough = (x > 0).sum(0) > 200
    spread = torch.stack([x[x[:, j] > 0, j].std() for j in range(9)])
    error = 5 * spread / (x > 0).sum(0).sqrt()
    assert ((seen - given_there).abs() < error)[enough].all()


def test_the_same_rows_whatever_the_batch() -> None:
    model = counting().eval()
    z = torch.randn(4, 4, generator=seeded(5))
    chance = [torch.Generator().manual_seed(k) for k in range(4)]
    together = last(model.decode(z, generator=chance, detail=False)).to_dense()
    for k in range(4):
        alone = model.decode(
            z[k : k + 1], generator=[torch.Generator().manual_seed(k)], detail=False
        )
        assert torch.equal(last(alone).to_dense()[0], together[k])


@pytest.mark.parametrize("options", [{"draft": "none"}, {"draft": "beside"}, {"latent": 1}])
def test_counts_need_a_draft_and_a_place_for_the_total(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="draft='base' and a latent of at least 2"):
        counting(**options)


def test_counts_are_never_signed() -> None:
    with pytest.raises(ValueError, match="positive"):
        counting(signed=True)
