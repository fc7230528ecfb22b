"""The negative-binomial VAE: its law, its bound, and libraries that are those of a type."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from small import counts, nbvae
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from sed_core.baselines import NBVAEConfig, NegativeBinomialVAE
from sed_core.baselines.nbvae import LARGEST_LOG, log_likelihood
from sed_core.chance import seeded
from sed_core.sparse import SparseBatch
from sed_core.stream import record
from sed_core.training import fit

SHARE = torch.tensor([0.05, 0.1, 0.15, 0.3, 0.4])
THETA = torch.tensor([0.3, 1.0, 3.0, 10.0, 1000.0])


def known_law(library: float = 20.0, sd: float = 0.0) -> NegativeBinomialVAE:
    """A model whose shares do not depend on the latent."""
    model = nbvae(dim=5, classes=0)
    with torch.no_grad():
        model.share.weight.zero_()
        model.share.bias.copy_(SHARE.log())
        model.log_theta.copy_(THETA.log())
        model.prior.weight.copy_(torch.tensor([[3.0] * 4 + [4.0] * 4]))
    model.get_buffer("library_mean").fill_(float(np.log(library)))
    model.get_buffer("library_sd").fill_(sd)
    return model


def scipy_law(mean: Tensor, theta: Tensor) -> Any:
    return scipy.stats.nbinom(theta.numpy(), (theta / (theta + mean)).numpy())


def test_the_likelihood_is_that_of_the_negative_binomial() -> None:
    x = counts(rows=40, dim=5).double()
    mean = 8 * torch.rand(40, 5, generator=seeded(1)).double() + 0.01
    theta = THETA.double()
    wanted = scipy_law(mean, theta).logpmf(x.numpy()).sum(1)
    assert log_likelihood(x, mean.log(), theta).numpy() == pytest.approx(wanted, rel=1e-9)
    single = log_likelihood(x.float(), mean.log().float(), THETA)
    assert single.numpy() == pytest.approx(wanted, abs=2e-3)  # in the precision of training


def test_the_loss_is_the_bound_in_nats() -> None:
    model, x = nbvae(classes=0, label_dropout=0.0, beta=0.3), counts(rows=9)
    found = model.loss(x, generator=seeded(4))
    mu, logvar = model.encode(x)
    centre, width = model.prior.weight[0].chunk(2)
    prior = Normal(centre, (width / 2).exp())
    kl = kl_divergence(Normal(mu, (logvar / 2).exp()), prior).sum(1).mean()
    assert found.parts["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    chance = seeded(4)
    torch.rand(9, generator=chance)  # which labels are hidden
    z = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=chance)
    library = x.sum(1).clamp_min(1)
    label = torch.zeros(9, dtype=torch.int64)
    mean = model.log_mean(z, library.float(), label).exp().double().detach()
    assert mean.sum(1).numpy() == pytest.approx(library.numpy(), rel=1e-5)
    wanted = -scipy_law(mean, model.theta.double().detach()).logpmf(x.numpy()).sum(1).mean()
    assert found.parts["reconstruction"].item() == pytest.approx(wanted, rel=1e-4)
    total = (found.parts["reconstruction"] + 0.3 * found.parts["kl"]) / model.dim
    assert found.total.item() == pytest.approx(total.item(), rel=1e-6)


def test_samples_have_the_mean_variance_and_zeros_of_the_law() -> None:
    n, mean = 8000, 20 * SHARE.double()
    x = known_law().sample(n, generator=seeded(0)).double()
    law = scipy_law(mean, THETA.double())
    error = np.sqrt(law.var() / n)
    assert (np.abs(x.mean(0).numpy() - law.mean()) < 5 * error).all()
    fourth = law.stats(moments="k") + 2  # excess kurtosis: relative variance of a variance, times n
    assert (np.abs(x.var(0).numpy() / law.var() - 1) < 5 * np.sqrt(fourth / n)).all()
    zeros = law.pmf(0)
    gap = np.abs((x == 0).double().mean(0).numpy() - zeros)
    assert (gap < 5 * np.sqrt(zeros * (1 - zeros) / n) + 1e-9).all()


def test_a_library_is_log_normal_and_the_means_of_a_row_sum_to_it() -> None:
    steps = record(known_law(100.0, 0.4).stream(4000, generator=seeded(0))).steps
    assert [step.stage for step in steps] == ["latent", "counts"]
    library, mean = steps[1].aux["library"], steps[1].aux["mean"]
    logs = library.double().log()
    assert logs.mean().item() == pytest.approx(np.log(100), abs=5 * 0.4 / 4000**0.5)
    assert logs.std().item() == pytest.approx(0.4, abs=5 * 0.4 / 8000**0.5)
    assert mean.sum(1).numpy() == pytest.approx(library.numpy(), rel=1e-4)
    assert steps[0].x.mean().item() == pytest.approx(3, abs=5 * np.exp(2) / 16_000**0.5)
    assert steps[0].x.std().item() == pytest.approx(np.exp(2), rel=0.03)
    assert not NegativeBinomialVAE(NBVAEConfig(dim=3, latent=2)).prior.weight.any()


def test_libraries_are_those_of_a_type_s_training_rows() -> None:
    x = torch.tensor([[1, 3], [2, 6], [0, 50], [50, 50], [0, 9]])
    label = torch.tensor([0, 0, 1, 1, 3])  # the last cell is of no known type, type 2 has none
    model = nbvae(dim=2)
    model.start_from(x, label)
    logs = x.sum(1).double().log()
    mean, sd = (model.get_buffer(f"library_{part}").double() for part in ("mean", "sd"))
    for k, own in enumerate((logs[:2], logs[2:4], logs, logs)):
        assert mean[k].item() == pytest.approx(own.mean().item(), rel=1e-6)
        assert sd[k].item() == pytest.approx(own.std(correction=0).item(), rel=1e-6)
    share = (x.sum(0) + 0.5) / (x.sum() + 1.0)
    assert torch.allclose(model.share.bias, share.log())
    drawn = {k: model.sample(300, label=k, generator=seeded(0)).sum(1) for k in (0, 1)}
    assert drawn[1].float().mean() > 5 * drawn[0].float().mean()


def test_without_a_label_it_is_unknown_and_rows_may_be_of_different_types() -> None:
    model = nbvae()
    plain = model.sample(6, generator=seeded(2))
    assert torch.equal(plain, model.sample(6, label=model.classes, generator=seeded(2)))
    mixed = model.sample(6, label=torch.tensor([0, 1, 2, 3, 1, 0]), generator=seeded(2))
    ones = model.sample(6, label=1, generator=seeded(2))
    assert torch.equal(mixed[[1, 4]], ones[[1, 4]])
    assert not torch.equal(mixed[0], ones[0])
    model.loss(counts(), label=torch.tensor([0, 1, 2, 3, 3, 0, 1]), generator=seeded(0))


def test_pairs_and_dense_counts_are_the_same_data_and_an_empty_row_is_one() -> None:
    model, x = nbvae(), counts()
    pairs = model.loss(SparseBatch.from_dense(x.float()), generator=seeded(0)).total
    assert pairs.item() == model.loss(x, generator=seeded(0)).total.item()
    nothing = model.loss(torch.zeros(3, 10).long(), generator=seeded(0))
    assert nothing.total.isfinite()


def test_a_dispersion_that_runs_away_stays_a_number() -> None:
    model = nbvae()
    with torch.no_grad():
        model.log_theta[0], model.log_theta[1] = 90.0, -90.0
    assert model.theta[:2].log().tolist() == pytest.approx([LARGEST_LOG, -LARGEST_LOG])
    assert model.loss(counts(), generator=seeded(0)).total.isfinite()
    assert model.sample(20, generator=seeded(0)).min() >= 0


def test_training_finds_what_tells_two_types_apart_and_their_spread() -> None:
    n, dim = 600, 8
    chance = np.random.default_rng(0)
    label = torch.arange(n) % 2
    share = torch.tensor([[8.0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 8]]) / 15
    mean = 40 * share[label].double().numpy()
    x = torch.from_numpy(chance.negative_binomial(2.0, 2.0 / (2.0 + mean)))
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        model = NegativeBinomialVAE(NBVAEConfig(dim=dim, latent=2, width=16, classes=2))
    model.start_from(x, label)

    def loss(rows: Tensor, generator: torch.Generator) -> Any:
        return model.loss(x[rows], label=label[rows], generator=generator)

    rows = [torch.randint(n, (64,), generator=seeded(k)) for k in range(60)]
    options: Any = {
        "lr": 3e-2,
        "warmup": 5,
        "ema": 0.95,
        "precision": "float32",
        "generator": seeded(0),
        "loss": loss,
    }
    curve = [p.total.item() for p in fit(model, rows, **options)]
    assert sum(curve[-20:]) < sum(curve[:20])
    for k in (0, 1):
        drawn = model.sample(2000, label=k, generator=seeded(k)).double()
        real = x[label == k].double()
        assert drawn.mean(0).numpy() == pytest.approx(real.mean(0).numpy(), rel=0.25)
        spread = drawn.var(0) / real.var(0)
        assert (spread > 0.5).all() and (spread < 3).all()  # Poisson's would be 0.1 to 0.4 of it


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent": 0}, "at least 1"),
        ({"beta": -1.0}, "not negative"),
        ({"label_dropout": 1.5}, "from 0 to 1"),
    ],
)
def test_impossible_shapes_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NBVAEConfig(dim=3, **options)


def test_what_is_no_count_and_what_is_no_class_is_refused() -> None:
    model = nbvae()
    with pytest.raises(ValueError, match=r"whole numbers from 0 up, got 0\.5"):
        model.loss(torch.full((2, 10), 0.5), generator=seeded(0))
    with pytest.raises(ValueError, match="rows of 10 dimensions, got"):
        model.loss(counts(dim=9), generator=seeded(0))
    with pytest.raises(ValueError, match="from 0 to 2, got 7"):
        model.sample(2, label=7, generator=seeded(0))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        model.sample(0, generator=seeded(0))
