"""Index heads: exact laws, exact masks, two levels that are one."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import largest, randomise
from torch import Tensor

from sed_core.chance import seeded
from sed_core.heads import BlockedHead, FlatHead, hazard_law, invert, tempered

WIDTH = 6
seeds = st.integers(0, 2**31)
dims = st.integers(1, 30)  # 1, squares, primes: ragged last blocks of every kind
heads = pytest.mark.parametrize("kind", [FlatHead, BlockedHead])


def head(kind: type, dim: int, seed: int):
    return randomise(kind(WIDTH, dim), seed).requires_grad_(False)


def states(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=seeded(seed))


def bases(seed: int, rows: int, dim: int) -> Tensor:
    """Log-weights as a draft gives them."""
    return hazard_law(3 * torch.randn(rows, dim, generator=seeded(seed + 9)))


def every_last(dim: int) -> Tensor:
    return torch.arange(-1, dim)


# laws -------------------------------------------------------------------------------------------


@heads
@given(seeds, dims, st.booleans())
def test_law_sums_to_one_and_leaves_the_past_at_exactly_zero(kind, seed, dim, based) -> None:
    last = every_last(dim)
    h, base = states(seed, dim + 1), bases(seed, dim + 1, dim) if based else None
    law = head(kind, dim, seed).law(h, last, base, 1.0)
    assert law.shape == (dim + 1, dim + 1)
    assert largest(law.sum(1), torch.ones(dim + 1)) < 1e-6
    past = torch.arange(dim + 1) <= last[:, None]
    assert (law[past] == 0).all()
    assert (law[~past] > 0).all()
    assert (law[-1, :-1] == 0).all()  # after the last dimension only stop is left
    assert law[-1, -1] == 1


@heads
@given(seeds, dims, st.booleans())
def test_log_prob_is_the_log_of_the_law(kind, seed, dim, based) -> None:
    """Every admissible pair of last and next, laid out as one batch of two rows."""
    model = head(kind, dim, seed)
    moves = [(a, b) for a in range(-1, dim) for b in range(a + 1, dim + 1)]
    last, target = (torch.tensor(part).expand(2, -1) for part in zip(*moves, strict=True))
    h, base = states(seed, 2, len(moves)), bases(seed, 2, dim) if based else None
    found = model.log_prob(h, target, last, base)
    assert found.isfinite().all()
    for row in range(2):
        rows_base = None if base is None else base[row].expand(len(moves), -1)
        law = model.law(h[row], last[row], rows_base, 1.0)
        wanted = law.gather(1, target[row][:, None])[:, 0].log()
        assert largest(found[row], wanted) < 1e-4  # logs of float32 softmaxes


@given(seeds, dims)
def test_blocked_law_is_the_brute_force_product(seed: int, dim: int) -> None:
    model = head(BlockedHead, dim, seed).double()
    h = states(seed, 1).double()
    block_logits = model.block(h)[0]
    offset_logits = ((model.weight @ h[0]) + model.bias).flatten()[:dim]
    groups = torch.arange(dim).split(model.size)  # the last one may be ragged
    for last in range(-1, dim):
        left = [group[group > last] for group in groups]
        alive = torch.tensor([len(group) > 0 for group in left] + [True])
        block = block_logits.masked_fill(~alive, float("-inf")).softmax(0)
        wanted = torch.zeros(dim + 1, dtype=torch.float64)
        wanted[-1] = block[-1]
        for k, group in enumerate(left):
            wanted[group] = block[k] * offset_logits[group].softmax(0)
        assert largest(model.law(h, torch.tensor([last]), None, 1.0)[0], wanted) < 1e-9


def test_used_dimensions_alone_are_gone() -> None:
    used = torch.tensor([[True, False, True, False, False]])
    law = head(FlatHead, 5, 0).law(states(0, 1), torch.tensor([-1]), None, 1.0, used[:, None])
    assert law[0, :-1].eq(0).tolist() == used[0].tolist()
    assert law.sum().item() == pytest.approx(1, abs=1e-6)


@given(seeds)
def test_hazard_law_is_the_next_index_of_independent_bernoullis(seed: int) -> None:
    """Brute force over all supports of five dimensions, after every prefix."""
    dim = 5
    logit = 2 * torch.randn(1, dim, generator=seeded(seed), dtype=torch.float64)
    p = logit.sigmoid()[0]
    law = hazard_law(logit)
    for last in range(-1, dim):
        wanted = torch.zeros(dim + 1, dtype=torch.float64)
        rest = range(last + 1, dim)
        for on in itertools.product([0, 1], repeat=len(rest)):
            chance = [p[j] if x else 1 - p[j] for j, x in zip(rest, on, strict=True)]
            first = next((j for j, x in zip(rest, on, strict=True) if x), dim)
            wanted[first] += torch.stack([torch.ones_like(p[0]), *chance]).prod()
        gone = torch.arange(dim + 1) <= last
        assert largest(law.masked_fill(gone, float("-inf")).softmax(1)[0], wanted) < 1e-12


@given(seeds, dims)
def test_a_blocked_head_without_weights_is_its_base(seed: int, dim: int) -> None:
    """With all weights zero the two-level law is the draft's own law, split by blocks."""
    model = BlockedHead(WIDTH, dim)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    last, base = every_last(dim), bases(seed, dim + 1, dim)
    gone = torch.arange(dim + 1) <= last[:, None]
    wanted = base.masked_fill(gone, float("-inf")).softmax(1)
    assert largest(model.law(states(seed, dim + 1), last, base, 1.0), wanted) < 1e-5


# picking ----------------------------------------------------------------------------------------


@heads
@given(seeds, dims, st.sampled_from([0.0, 0.5, 1.0, 1.7]), st.booleans())
def test_picks_follow_the_law(kind, seed: int, dim: int, temperature: float, based: bool) -> None:
    """Inverted on a fine grid of u, each class is picked as often as its probability says."""
    n = 2000
    model = head(kind, dim, seed)
    last = torch.tensor([seed % (dim + 1) - 1]).expand(n)
    h = states(seed, 1).expand(n, -1)
    base = bases(seed, 1, dim).expand(n, -1) if based else None
    u = (torch.arange(n) + 0.5) / n
    found = model.pick(h, last, base, u, temperature)
    share = torch.bincount(found, minlength=dim + 1) / n
    law = model.law(h[:1], last[:1], None if base is None else base[:1], temperature)[0]
    assert largest(share, law) < 1.5 / n  # a grid of n points misses a share by 1/n at most


@heads
@given(seeds, dims)
def test_extreme_draws_never_pick_what_is_masked(kind, seed: int, dim: int) -> None:
    model, last = head(kind, dim, seed), every_last(dim)
    for u in (0.0, 1 - 2**-24):
        found = model.pick(states(seed, dim + 1), last, None, torch.full((dim + 1,), u), 1.0)
        assert (found > last).all()
        assert (found <= dim).all()


@given(seeds, dims, st.floats(0.1, 3))
def test_temperature_divides_the_logits(seed: int, dim: int, temperature: float) -> None:
    model, last = head(FlatHead, dim, seed), every_last(dim)
    h = states(seed, dim + 1)
    law = model.law(h, last, None, 1.0)
    wanted = law.double().pow(1 / temperature)
    wanted = wanted / wanted.sum(1, keepdim=True)
    assert largest(model.law(h, last, None, temperature), wanted) < 1e-5


def test_temperature_zero_takes_the_largest() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, float("-inf"), 4.0]])
    assert tempered(logits, 0).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert tempered(logits, 1e-3).tolist() == [[0, 1, 0], [1, 0, 0]]  # the limit of small ones


def test_inverting_skips_impossible_classes() -> None:
    law = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).expand(5, -1)
    u = torch.tensor([0.0, 0.4999, 0.5, 0.75, 1 - 2**-24])
    assert invert(law, u).tolist() == [1, 1, 3, 3, 3]


# work -------------------------------------------------------------------------------------------


@given(seeds, dims, st.integers(0, 25))
def test_grouped_offsets_are_each_tokens_own_block(seed: int, dim: int, n: int) -> None:
    model = head(BlockedHead, dim, seed)
    block = torch.randint(model.blocks, (n,), generator=seeded(seed))
    h = states(seed, n)
    wanted = torch.einsum("nw,nsw->ns", h, model.weight[block]) + model.bias[block]
    assert largest(model._grouped_offsets(h, block), wanted) < 1e-5


def test_a_blocked_pick_reads_far_less_than_a_flat_one() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    dim, width, rows = 27_000, 16, 2
    cost = {}
    for kind in (FlatHead, BlockedHead):
        model = kind(width, dim)
        h, last, u = torch.zeros(rows, width), torch.full((rows,), -1), torch.zeros(rows)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.pick(h, last, None, u, 1.0)
        cost[kind] = counter.get_total_flops() / (2 * rows)
    assert cost[FlatHead] == width * (dim + 1)
    assert cost[BlockedHead] == width * (164 + 1 + 165)  # d (n + 1 + m): 82 times less
