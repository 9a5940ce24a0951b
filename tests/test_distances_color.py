"""CIEDE2000 and the way from sRGB to CIELAB, against published values and finite differences."""

from __future__ import annotations

import csv

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from constropt.problems.distances import CIEDE2000, ciede2000, srgb_to_lab

# Of the 34 pairs of Sharma, Wu & Dalal (2005), Table 1: blue, grey, opposite hues and the jump between them, large
# differences, dark colors.
PAIRS = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0009), 7.1792),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0010), 7.1792),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
    ((50.0, -0.001, 2.49), (50.0, 0.0010, -2.49), 4.8045),
    ((50.0, -0.001, 2.49), (50.0, 0.0011, -2.49), 4.7461),
    ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
    ((50.0, 2.5, 0.0), (56.0, -27.0, -3.0), 31.9030),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


def both_ways(first: Tensor, second: Tensor, expected: Tensor, tolerance: float) -> None:
    for a, b in ((first, second), (second, first)):
        assert (ciede2000(a, b) - expected).abs().max() < tolerance


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-4), (torch.float32, 5e-4)])
def test_published_pairs(dtype, tolerance):
    first, second, expected = (torch.tensor(column, dtype=dtype) for column in zip(*PAIRS))
    both_ways(first, second, expected, tolerance)


def test_all_published_pairs(real_data):
    path = real_data / "ciede2000" / "ciede2000_pairs.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = torch.tensor([[float(v) for v in row] for row in list(csv.reader(file))[1:]], dtype=torch.float64)
    assert rows.shape == (34, 7)
    both_ways(rows[:, :3], rows[:, 3:6], rows[:, 6], 1e-4)


def test_lab_of_known_colors():
    # sRGB primaries, white and a dark grey on the linear branches, by the formulas of IEC 61966-2-1 and CIE 15
    colors = torch.tensor(
        [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [0.02, 0.02, 0.02], [0, 0, 0]],
        dtype=torch.float64,
    )
    expected = torch.tensor(
        [
            [100.0, 0.0, 0.0],
            [53.24, 80.09, 67.20],
            [87.73, -86.18, 83.18],
            [32.30, 79.19, -107.86],
            [53.39, 0.0, 0.0],
            [1.398, 0.0, 0.0],
            [0.0, 0.0, 0.0],
        ],
        dtype=torch.float64,
    )
    assert (srgb_to_lab(colors) - expected).abs().max() < 0.02
    with pytest.raises(ValueError, match="rgb: takes colors"):
        srgb_to_lab(torch.rand(2, 4, 5))


def test_lab_is_continuous_where_its_branches_meet():
    for value in (0.04045, 0.0962):  # the gamma's and, for greys, about the cube root's
        steps = value + torch.linspace(-1e-6, 1e-6, 5, dtype=torch.float64)
        lab = srgb_to_lab(steps.view(-1, 1).repeat(1, 3))
        assert lab.diff(dim=0).abs().max() < 1e-3


def test_the_units_of_the_published_tables():
    white = torch.ones(1, 3, 1, 1)
    assert srgb_to_lab(white, luminance=1.0)[0, 0].item() == pytest.approx(116 * 0.01 ** (1 / 3) - 16, abs=1e-4)
    assert CIEDE2000(luminance=1.0)(white, 0.9 * white) < 0.25 * CIEDE2000()(white, 0.9 * white)
    with pytest.raises(ValueError, match="luminance: must be > 0"):
        CIEDE2000(luminance=0.0)


def test_images_are_the_l2_norm_over_pixels():
    x, y = (torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    pixels = ciede2000(srgb_to_lab(x), srgb_to_lab(y))
    assert pixels.shape == (2, 4, 5)
    assert torch.allclose(CIEDE2000()(x, y), pixels.flatten(1).norm(dim=1), rtol=1e-5)


def test_gradients_of_images():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(1, 3, 2, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    near = (y + 0.01 * x).requires_grad_(True)
    x.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda t: CIEDE2000()(t, y), (x,))
    assert torch.autograd.gradcheck(lambda t: CIEDE2000()(t, y), (near,))


coordinate = st.floats(-100, 100, allow_subnormal=False)


@given(st.tuples(st.floats(0, 100), coordinate, coordinate), st.tuples(st.floats(0, 100), coordinate, coordinate))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_gradients_of_colors(first, second):
    a = torch.tensor([first], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([second], dtype=torch.float64)
    value = ciede2000(a, b)
    (slope,) = torch.autograd.grad(value, a)
    assert value.isfinite().all() and (value >= 0).all() and slope.isfinite().all()
    jumps = ((a[:, 1:] * b[:, 1:]).sum() < -0.99 * a[:, 1:].norm() * b[:, 1:].norm()).item()
    if value > 0.1 and not jumps and a[0, 1:].norm() > 1 and b[0, 1:].norm() > 1:
        h = 1e-5
        steps = torch.cat([h * torch.eye(3), -h * torch.eye(3)]).double()
        ahead, behind = ciede2000(a.detach() + steps, b.expand(6, 3)).chunk(2)
        assert torch.allclose((ahead - behind) / (2 * h), slope[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grey_equal_opposite_and_black_colors_have_finite_gradients(dtype):
    colors = torch.tensor(
        [[50, 0, 0], [50, 30, 0], [50, -30, 0], [50, 0, 30], [50, 0, -30], [0, 0, 0], [100, 1e-6, 0], [50, 30, -1e-7]],
        dtype=dtype,
    )
    count = len(colors)
    a = colors.repeat_interleave(count, 0).requires_grad_(True)
    value = ciede2000(a, colors.repeat(count, 1))
    (slope,) = torch.autograd.grad(value.sum(), a)
    assert value.isfinite().all() and slope.isfinite().all()
    assert (value.view(count, count).diagonal() == 0).all()
    # at equality the slope is 0, not whatever the sides would have it be
    assert (slope.view(count, count, 3).diagonal() == 0).all()


def test_continuous_around_the_wrap_of_the_hue():
    angles = torch.tensor([-1e-4, 1e-4], dtype=torch.float64)
    a = torch.stack([torch.full_like(angles, 60), 40 * angles.cos(), 40 * angles.sin()], 1)
    b = torch.tensor([[60.0, 35.0, 5.0]], dtype=torch.float64).expand(2, 3)
    assert ciede2000(a, b).diff().abs() < 0.01
