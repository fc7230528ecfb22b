"""Physics of an image: closed forms of one and two cells, laws, and the real windows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sed_core.chance import seeded
from sed_core.domains import calorimeter
from sed_core.metrics import physics
from sed_core.metrics.distance import w1
from sed_core.metrics.physics import (
    grid,
    mass,
    multiplicity,
    occupancy,
    total_energy,
    transverse_momentum,
    w1_pair,
)

seeds = st.integers(0, 2**31)
cells = st.integers(0, 1023)
energies = st.floats(0.01, 500)
widths = st.sampled_from([physics.PAPER_CELL, physics.CMS_CELL, 0.1])


def image(*hits: tuple[int, float]) -> torch.Tensor:
    energy = torch.zeros(1, 1024, dtype=torch.float64)
    for cell, value in hits:
        energy[0, cell] += value
    return energy


def some(seed: int, n: int = 6) -> torch.Tensor:
    chance = seeded(seed)
    hit = torch.rand(n, 1024, generator=chance) < 0.05
    return (torch.randn(n, 1024, generator=chance).exp() * hit).double()


# the grid ---------------------------------------------------------------------------------------


def test_the_grid_of_the_paper() -> None:
    eta, phi = grid()
    assert eta[0].item() == pytest.approx(-0.3875)
    assert eta[-1].item() == pytest.approx(0.3875)
    torch.testing.assert_close(eta.diff(), torch.full((31,), 0.025).double())
    assert torch.equal(phi, eta.flip(0))  # the first row is the largest
    assert abs(physics.CMS_CELL - 0.01745) < 1e-5


def test_rows_are_phi_and_columns_eta() -> None:
    one, other = image((0, 1.0), (31, 1.0)), image((0, 1.0), (31 * 32, 1.0))  # a row; a column
    d = 31 * physics.PAPER_CELL
    assert mass(one).item() == pytest.approx(math.sqrt(2 * (math.cosh(d) - 1)), rel=1e-9)
    assert mass(other).item() == pytest.approx(math.sqrt(2 * (1 - math.cos(d))), rel=1e-9)
    assert transverse_momentum(one).item() == pytest.approx(2, rel=1e-12)
    assert transverse_momentum(other).item() == pytest.approx(2 * math.cos(d / 2), rel=1e-12)


@pytest.mark.parametrize("cell", [0.0, -1.0, math.nan, math.inf])
def test_a_cell_without_width_is_refused(cell: float) -> None:
    with pytest.raises(ValueError, match="cell must be the width of a cell"):
        mass(torch.ones(1, 1024), cell=cell)


# momentum and mass ------------------------------------------------------------------------------


@given(cells, energies, widths)
def test_one_cell_has_its_energy_as_momentum_and_no_mass(
    cell: int, value: float, width: float
) -> None:
    energy = image((cell, value))
    assert transverse_momentum(energy, cell=width).item() == pytest.approx(value, rel=1e-12)
    assert mass(energy, cell=width).item() <= 1e-3 * value  # sed.md 33; rounding of E^2 - P^2
    single = energy.float()
    assert mass(single, cell=width).item() <= 1e-3 * value  # in float64 inside, so here too


@given(cells, cells, energies, energies, widths)
def test_two_cells_have_the_mass_of_two_massless_particles(
    a: int, b: int, one: float, two: float, width: float
) -> None:
    eta, phi = grid(cell=width)
    d_eta, d_phi = eta[a % 32] - eta[b % 32], phi[a // 32] - phi[b // 32]
    wanted = (2 * one * two * (d_eta.cosh() - d_phi.cos())).item()
    energy = image((a, one), (b, two))
    scale = (one + two) ** 2
    assert mass(energy, cell=width).item() ** 2 == pytest.approx(wanted, rel=1e-5, abs=1e-9 * scale)
    square = one**2 + two**2 + 2 * one * two * d_phi.cos().item()
    assert transverse_momentum(energy, cell=width).item() == pytest.approx(math.sqrt(square))


@given(seeds, st.floats(0.1, 10))
def test_momentum_and_mass_grow_with_the_energy_and_bear_mirrors(seed: int, scale: float) -> None:
    energy = some(seed)
    pictures = energy.view(-1, 32, 32)
    for quantity in (transverse_momentum, mass):
        wanted = quantity(energy)
        torch.testing.assert_close(quantity(energy * scale), wanted * scale)
        for axis in (1, 2):
            torch.testing.assert_close(quantity(pictures.flip(axis).flatten(1)), wanted)
    assert (transverse_momentum(energy) <= total_energy(energy) * (1 + 1e-12)).all()


def test_an_empty_image_has_nothing_and_another_side_works() -> None:
    empty = torch.zeros(2, 1024)
    for quantity in (transverse_momentum, mass, total_energy, multiplicity):
        assert quantity(empty).tolist() == [0, 0]
    assert transverse_momentum(torch.ones(1, 1)).item() == 1


# counts -----------------------------------------------------------------------------------------


@given(seeds)
def test_counts_equal_a_loop(seed: int) -> None:
    energy = some(seed)
    hits = [sum(value != 0 for value in row) for row in energy.tolist()]
    assert multiplicity(energy).tolist() == hits
    shares = [sum(v != 0 for v in column) / len(energy) for column in energy.T.tolist()]
    assert occupancy(energy).tolist() == pytest.approx(shares)
    assert occupancy(energy).sum().item() == pytest.approx(sum(hits) / len(hits))
    assert total_energy(energy).tolist() == pytest.approx([sum(row) for row in energy.tolist()])


@given(seeds)
def test_the_order_of_images_is_carried_along_or_does_not_matter(seed: int) -> None:
    energy = some(seed)
    order = torch.randperm(len(energy), generator=seeded(seed))
    for quantity in (transverse_momentum, mass, total_energy, multiplicity):
        torch.testing.assert_close(quantity(energy[order]), quantity(energy)[order])
    torch.testing.assert_close(occupancy(energy[order]), occupancy(energy))


def test_a_hit_is_whatever_is_not_exactly_zero() -> None:
    energy = torch.zeros(1, 1024)
    energy[0, :3] = torch.tensor([1e-45, -0.0, -1.0])
    assert multiplicity(energy).item() == 2


@pytest.mark.parametrize("quantity", [transverse_momentum, mass, multiplicity, occupancy])
def test_what_is_no_image_is_refused(quantity: object) -> None:
    assert callable(quantity)
    with pytest.raises(ValueError, match=r"rows of square images .*, got \(2, 1000\)"):
        quantity(torch.zeros(2, 1000))
    with pytest.raises(ValueError, match=r"rows of square images .*, got \(0, 1024\)"):
        quantity(torch.zeros(0, 1024))
    bad = torch.zeros(3, 1024)
    bad[1, 7] = torch.nan
    with pytest.raises(ValueError, match="image 1 has a value that is NaN or infinite"):
        quantity(bad)


# W1 in two units --------------------------------------------------------------------------------


@given(seeds, st.floats(-50, 50))
def test_w1_of_a_shift_is_the_shift_in_both_units(seed: int, shift: float) -> None:
    a = torch.randn(40, generator=seeded(seed)).double().exp()
    raw, standardised = w1_pair(a + shift, a, a)
    assert raw == pytest.approx(abs(shift), abs=1e-9)
    assert standardised == pytest.approx(abs(shift) / a.std(correction=0).item(), abs=1e-9)
    assert w1_pair(a, a, a) == (0, 0)


@given(seeds, st.floats(0.01, 100))
def test_standardised_w1_is_that_of_standardised_sets_and_has_no_unit(
    seed: int, scale: float
) -> None:
    made, real, train = (torch.randn(30, generator=seeded(seed + k)).double() for k in range(3))
    raw, standardised = w1_pair(made, real, train)
    mean, sd = train.mean(), train.std(correction=0)
    assert standardised == pytest.approx(w1((made - mean) / sd, (real - mean) / sd), abs=1e-9)
    scaled = w1_pair(made * scale, real * scale, train * scale)
    assert scaled == pytest.approx((raw * scale, standardised), rel=1e-6)


@pytest.mark.parametrize("train", [torch.ones(5), torch.zeros(0)])
def test_a_training_set_without_spread_sets_no_unit(train: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="train must spread to set a unit"):
        w1_pair(torch.ones(3), torch.zeros(3), train)


# the real windows -------------------------------------------------------------------------------


@pytest.mark.data
def test_the_real_windows_and_their_floors() -> None:
    train, test = calorimeter.load("train"), calorimeter.load("test")
    momentum = transverse_momentum(train.energy, cell=physics.CMS_CELL)
    assert torch.allclose(momentum, total_energy(train.energy), rtol=0.05)  # windows are narrow
    floor = w1_pair(momentum, transverse_momentum(test.energy, cell=physics.CMS_CELL), momentum)
    assert 0 < floor[1] < 0.5
    assert occupancy(train.energy).argmax().item() == 15 * 32 + 16  # the crystal cut around
