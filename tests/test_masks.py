"""Masks hide as much as they are asked to, where they are asked to."""

from math import exp

import pytest
import torch

from sed_core.chance import seeded
from sed_core.masks import dropout, rectangles, scattered


def test_scattered_masks_show_the_share_of_their_row() -> None:
    share = torch.tensor([[0.0], [0.3], [1.0]]).repeat(200, 1)
    seen = scattered(share, 500, generator=seeded(0)).view(200, 3, 500).float().mean((0, 2))
    assert seen[0] == 0
    assert seen[2] == 1
    assert abs(seen[1] - 0.3) < 5 * (0.21 / 100_000) ** 0.5


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_what_a_rectangle_hides_is_one_rectangle_of_about_that_area(share: float) -> None:
    seen = rectangles(torch.full((400, 1), share), 28, generator=seeded(1)).view(400, 28, 28)
    hidden = ~seen
    for one in hidden:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns[None])
        for side in (rows, columns):
            places = side.nonzero().flatten()
            assert not len(places) or int(places[-1] - places[0]) == len(places) - 1
    assert abs(hidden.float().mean().item() - (1 - share)) < 0.02
    if 0 < share < 1:
        assert len({tuple(one.any(1).tolist()) for one in hidden}) > 20  # at many places


def test_masks_depend_on_their_generator_only() -> None:
    share = torch.full((5, 1), 0.5)
    for make in (
        lambda g: scattered(share, 49, generator=g),
        lambda g: rectangles(share, 7, generator=g),
    ):
        assert torch.equal(make(seeded(3)), make(seeded(3)))
        assert not torch.equal(make(seeded(3)), make(seeded(4)))


def test_dropout_hides_small_counts_more_often_and_as_many_as_asked_for() -> None:
    counts = torch.arange(4).repeat(300, 1000)
    seen = dropout(counts, 0.25, decay=0.7, generator=seeded(2))
    hidden = [(~seen)[counts == x].double().mean().item() for x in range(4)]
    whole = sum(exp(-0.7 * x) for x in range(4)) / 4
    for x, share in enumerate(hidden):
        assert share == pytest.approx(0.25 / whole * exp(-0.7 * x), abs=0.005)
    assert torch.equal(seen, dropout(counts, 0.25, decay=0.7, generator=seeded(2)))
    alike = dropout(counts, 0.4, decay=0.0, generator=seeded(3))
    assert (~alike).double().mean() == pytest.approx(0.4, abs=0.005)


def test_dropout_refuses_to_hide_a_zero_more_often_than_always() -> None:
    counts = torch.tensor([[0, 50]])
    assert dropout(counts, 0.5, generator=seeded(0)).tolist() == [[False, True]]
    with pytest.raises(ValueError, match=r"at most 0\.500 can be hidden, not 0\.6"):
        dropout(counts, 0.6, generator=seeded(0))
    with pytest.raises(ValueError, match="share from 0 to 1"):
        dropout(counts, -0.1, generator=seeded(0))
