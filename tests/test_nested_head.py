"""The nested head: exact laws and masks through three levels, and work that hardly grows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import ascending, equal, largest, pairs, randomise, savae, untouched_global_chance
from torch import Tensor
from torch.nn.functional import gelu

from sed_core import savae as decoding
from sed_core.chance import seeded
from sed_core.costs import counted
from sed_core.nested_head import NestedHead
from sed_core.savae import SAVAEConfig
from sed_core.stream import record

WIDTH = 6
seeds = st.integers(0, 2**31)
dims = st.sampled_from([1, 2, 3, 7, 8, 9, 26, 27, 28, 31, 63, 64, 65])  # cubes and their neighbours


def head(dim: int, seed: int) -> NestedHead:
    model = randomise(NestedHead(WIDTH, dim), seed).requires_grad_(False)
    assert isinstance(model, NestedHead)
    return model


def states(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=seeded(seed))


@given(seeds, dims)
def test_law_sums_to_one_and_leaves_the_past_at_exactly_zero(seed: int, dim: int) -> None:
    last = torch.arange(-1, dim)
    law = head(dim, seed).law(states(seed, dim + 1), last, None, 1.0)
    assert law.shape == (dim + 1, dim + 1)
    assert largest(law.sum(1), torch.ones(dim + 1)) < 1e-6
    past = torch.arange(dim + 1) <= last[:, None]
    assert (law[past] == 0).all()
    assert (law[~past] > 0).all()
    assert law[-1, -1] == 1  # after the last dimension only stop is left


@given(seeds, st.sampled_from([1, 5, 8, 11, 27, 30]))
def test_law_is_the_brute_force_product(seed: int, dim: int) -> None:
    """Softmax over what is left of the blocks, of the block's parts, of the part's dimensions."""
    model = head(dim, seed).double()
    h, size = states(seed, 1)[0].double(), model.size
    tree = [part.split(size) for part in torch.arange(dim).split(size**2)]

    def scores(level: int, node: int) -> Tensor:
        rows = model.rows[level]
        bent = gelu(model.mix[level](h) + model.shift[level].weight[node])
        return rows.weight @ bent + rows.bias

    for last in range(-1, dim):
        wanted = torch.zeros(dim + 1, dtype=torch.float64)
        alive = torch.tensor([int(block[-1][-1]) > last for block in tree] + [True])
        top = model.block(h).masked_fill(~alive, float("-inf")).softmax(0)
        wanted[-1] = top[-1]
        for k, block in enumerate(tree):
            if not alive[k]:
                continue
            left = torch.tensor([int(part[-1]) > last for part in block])
            inner = scores(0, k)[: len(block)].masked_fill(~left, float("-inf")).softmax(0)
            for m, part in enumerate(block):
                if left[m]:
                    logits = scores(1, k * size + m)[: len(part)]
                    share = logits.masked_fill(part <= last, float("-inf")).softmax(0)
                    wanted[part] = top[k] * inner[m] * share
        assert largest(model.law(h[None], torch.tensor([last]), None, 1.0)[0], wanted) < 1e-9


@given(seeds, dims)
def test_log_prob_is_the_log_of_the_law(seed: int, dim: int) -> None:
    model = head(dim, seed)
    moves = [(a, b) for a in range(-1, dim) for b in range(a + 1, dim + 1)]
    last, target = (torch.tensor(part).expand(2, -1) for part in zip(*moves, strict=True))
    h = states(seed, 2, len(moves))
    found = model.log_prob(h, target, last, None)
    for row in range(2):
        law = model.law(h[row], last[row], None, 1.0)
        wanted = law.gather(1, target[row][:, None])[:, 0].log()
        assert largest(found[row], wanted) < 1e-4  # logs of float32 softmaxes


@given(seeds, dims, st.sampled_from([0.0, 0.5, 1.0, 1.7]))
def test_picks_follow_the_law(seed: int, dim: int, temperature: float) -> None:
    """Inverted on a fine grid of u, each class is picked as often as its probability says."""
    n = 2000
    model, h = head(dim, seed), states(seed, 1)
    last = torch.tensor([seed % (dim + 1) - 1]).expand(n)
    u = (torch.arange(n) + 0.5) / n
    found = model.pick(h.expand(n, -1), last, None, u, temperature)
    assert (found.diff() >= 0).all()  # it is an inverse: the larger u, the larger the class
    share = torch.bincount(found, minlength=dim + 1) / n
    assert largest(share, model.law(h, last[:1], None, temperature)[0]) < 1.5 / n


@given(seeds, dims)
def test_extreme_draws_never_pick_what_is_masked(seed: int, dim: int) -> None:
    model, last = head(dim, seed), torch.arange(-1, dim)
    for u in (0.0, 1 - 2**-24):
        found = model.pick(states(seed, dim + 1), last, None, torch.full((dim + 1,), u), 1.0)
        assert (found > last).all()
        assert (found <= dim).all()


def based(dim: int, seed: int) -> Tensor:
    return 3 * torch.randn(dim + 1, dim + 1, generator=seeded(seed + 1))


@given(seeds, dims)
def test_without_weights_it_is_its_base(seed: int, dim: int) -> None:
    model, base, last = head(dim, seed), based(dim, seed), torch.arange(-1, dim)
    model.start_from_base()
    past = torch.arange(dim + 1) <= last[:, None]
    wanted = base.masked_fill(past, float("-inf")).softmax(1)
    found = model.law(states(seed, dim + 1), last, model.prepared(base))
    assert largest(found, wanted) < 1e-5


@given(seeds, dims)
def test_with_a_base_law_and_log_prob_agree(seed: int, dim: int) -> None:
    model, base, last = head(dim, seed), based(dim, seed), torch.arange(-1, dim)
    h, ready = states(seed, dim + 1), model.prepared(base)
    law = model.law(h, last, ready)
    assert largest(law.sum(1), torch.ones(dim + 1)) < 1e-5
    for target in range(dim + 1):
        after = target > last
        aim = torch.full((int(after.sum()), 1), target)
        assert ready is not None
        found = model.log_prob(h[after, None], aim, last[after, None], ready[after])
        assert largest(found[:, 0].exp(), law[after, target]) < 1e-5


@given(seeds, dims)
def test_with_a_base_picks_follow_the_law(seed: int, dim: int) -> None:
    n, model, base = 2000, head(dim, seed), based(dim, seed)[:1]
    h, last = states(seed, 1), torch.tensor([seed % (dim + 1) - 1]).expand(n)
    ready = model.prepared(base)
    assert ready is not None
    u = (torch.arange(n) + 0.5) / n
    found = model.pick(h.expand(n, -1), last, ready.expand(n, -1), u)
    assert (found.diff() >= 0).all()
    share = torch.bincount(found, minlength=dim + 1) / n
    assert largest(share, model.law(h, last[:1], ready)[0]) < 1.5 / n


def test_a_thousandfold_of_dimensions_is_a_tenfold_of_a_small_part() -> None:
    """Multiply-adds of a pick: W (blocks + 1) + 2 (W^2 + W size); parameters: D^(2/3) rows."""
    width = 128
    for dim, size in ((1_000, 10), (1_000_000, 100)):
        model = NestedHead(width, dim).requires_grad_(False)
        h, last, u = torch.zeros(2, width), torch.full((2,), -1), torch.zeros(2)
        work = counted(lambda model=model, h=h, last=last, u=u: model.pick(h, last, None, u)) / 2
        assert work == width * (size + 1) + 2 * (width**2 + width * size)
        parameters = sum(p.numel() for p in model.parameters())
    assert parameters < 1.4e6  # a flat head has 129 million


def test_a_savae_trains_and_decodes_with_it() -> None:
    model = savae(index_head="nested", draft="none")
    batch = pairs(3, empty=True)
    with untouched_global_chance():
        loss = model.loss(batch, generator=seeded(0))
    loss.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    z = torch.randn(5, 6, generator=seeded(1))
    steps = record(model.decode(z, generator=seeded(2))).steps
    assert ascending(steps[-1].x)
    assert steps[0].aux["next"].shape == (5, 21)
    with pytest.raises(ValueError, match="'used' needs the flat head"):
        SAVAEConfig(dim=20, index_head="nested", draft="none", mask="used")


def test_room_for_pairs_grows_while_steps_told_before_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little room decoding starts with, every step holds the same pairs."""
    model, z = savae(), torch.randn(5, 6, generator=seeded(1))
    whole = record(model.decode(z, generator=seeded(2))).steps
    assert len(whole) > 4
    for room in (1, 3):
        monkeypatch.setattr(decoding, "ROOM", room)
        again = record(model.decode(z, generator=seeded(2))).steps
        assert len(again) == len(whole)
        assert all(equal(a.x, b.x) for a, b in zip(again, whole, strict=True))
