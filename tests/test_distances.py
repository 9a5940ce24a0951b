"""The laws of all distances, and their names."""

from __future__ import annotations

import pytest
import torch
from distances import ALL, IMAGES, batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from constropt.problems.attacks import fmn, minimal
from constropt.problems.distances import L0, L0_PIXELS, L1, L2, SSIM, Distance, Linf, as_distance, names

every = pytest.mark.parametrize("name", ALL)
every_image = pytest.mark.parametrize("name", IMAGES)

KINDS = ["noise", "grey", "saturated", "black", "white", "flat"]
kinds = st.sampled_from(KINDS)
few = settings(max_examples=8, deadline=None, derandomize=True)


def gradient(distance: Distance, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_(True)
    value = distance(x, reference)
    (slope,) = torch.autograd.grad(value.sum(), x, allow_unused=True)  # counts have none
    return value.detach(), torch.zeros_like(x) if slope is None else slope


# ------------------------------------------------------------------------------------------------------------- laws


@every
@given(kind=kinds, seed=st.integers(0, 1000))
@few
def test_zero_with_a_finite_gradient_at_equality(name, kind, seed):
    x = batch(seed, kind)
    value, slope = gradient(ALL[name], x, x)
    assert (value == 0).all() and value.shape == (3,)
    assert (slope == 0).all()


@every
@given(first=kinds, second=kinds, seed=st.integers(0, 1000))
@few
def test_nonnegative_symmetric_and_finite(name, first, second, seed):
    x, y = batch(seed, first), batch(seed + 1, second)
    value, slope = gradient(ALL[name], x, y)
    assert (value >= 0).all() and value.isfinite().all() and slope.isfinite().all()
    there = ALL[name](y, x)
    assert torch.allclose(value, there, rtol=0.05 if name == "wasserstein" else 1e-3, atol=1e-5)


@every
@given(size=st.floats(1e-6, 1e-2), kind=kinds, seed=st.integers(0, 1000))
@few
def test_finite_gradients_near_equality(name, size, kind, seed):
    x = batch(seed, kind)
    value, slope = gradient(ALL[name], (x + size * (batch(seed + 1) - 0.5)).clamp(0, 1), x)
    assert (value >= 0).all() and value.isfinite().all() and slope.isfinite().all()


@every
def test_rows_are_independent(name):
    x, y = batch(0, rows=4), batch(1, rows=4)
    y[2] = x[2]
    value, slope = gradient(ALL[name], x, y)
    for row in range(4):
        alone, steep = gradient(ALL[name], x[row : row + 1], y[row : row + 1])
        assert torch.allclose(alone, value[row], rtol=1e-4, atol=1e-6)
        assert torch.allclose(steep[0], slope[row], rtol=1e-3, atol=1e-4 * float(slope[row].abs().max()) + 1e-7)
    assert value[2] == 0


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(name, dtype):
    x, y = batch(0, dtype=torch.float64).to(dtype), batch(1, dtype=torch.float64).to(dtype)
    value, slope = gradient(ALL[name], x, y)
    assert value.dtype == dtype and slope.dtype == dtype and slope.isfinite().all()
    exact = ALL[name](x.double(), y.double())
    assert torch.allclose(value.double(), exact, rtol=20 * torch.finfo(dtype).eps, atol=1e-6)


@every_image
def test_bounds_only_scale(name):
    x, y = batch(0, dtype=torch.float64), batch(1, dtype=torch.float64)
    wide = IMAGES[name](x * 255 - 128, y * 255 - 128, (-128.0, 127.0))
    assert torch.allclose(wide, IMAGES[name](x, y), rtol=1e-9)


@every_image
def test_bound_once_evaluated_often(name):
    x, y = batch(0), batch(1)
    bound = IMAGES[name].bind(y)
    assert torch.equal(bound(x), IMAGES[name](x, y)) and torch.equal(bound(x), bound(x))
    with pytest.raises(ValueError, match=f"{name!r} compares images of one shape"):
        bound(x[:1])


@every_image
def test_autocast_does_not_reach_in(name):
    x, y = batch(0), batch(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = IMAGES[name](x, y)
    assert torch.equal(value, IMAGES[name](x, y))


@every_image
def test_no_random_number_is_drawn(name):
    before = torch.random.get_rng_state()
    gradient(IMAGES[name], batch(0), batch(1))
    assert torch.equal(before, torch.random.get_rng_state())


@every_image
def test_what_is_no_image_is_refused(name):
    with pytest.raises(ValueError, match=f"distance: {name!r} takes floating point images"):
        IMAGES[name].bind(torch.rand(2, 12))


@pytest.mark.parametrize("name", ["ciede2000", "lpips"])
def test_one_channel_is_refused_where_color_matters(name):
    with pytest.raises(ValueError, match=f"{name!r}.* takes RGB images"):
        IMAGES[name].bind(torch.rand(2, 1, 32, 32))


# ------------------------------------------------------------------------------------------------------------ norms


def test_counts():
    x = torch.zeros(3, 2, 2, 2)
    x[1, 0, 0, 0] = x[1, 1, 0, 0] = 1e-6
    x[2] = 0.5
    assert L0(x, torch.zeros_like(x)).tolist() == [0, 2, 8]
    assert L0_PIXELS(x, torch.zeros_like(x)).tolist() == [0, 1, 4]
    with pytest.raises(ValueError, match="l0_pixels: takes images .* use 'l0'"):
        L0_PIXELS(torch.zeros(2, 3), torch.zeros(2, 3))


def test_norms_closed_form():
    x, zero = torch.tensor([[3.0, -4.0, 0.0]]), torch.zeros(1, 3)
    assert [d(x, zero).item() for d in (L0, L1, L2, Linf)] == [2, 7, 5, 4]
    slopes = [gradient(d, x, zero)[1].tolist()[0] for d in (L0, L1, L2, Linf)]
    expected = [[0, 0, 0], [1, -1, 0], [0.6, -0.8, 0], [0, -1, 0]]
    assert all(a == pytest.approx(b) for a, b in zip(slopes, expected))


# ------------------------------------------------------------------------------------------------------------ names


def test_every_name_is_a_distance_with_a_first_step():
    assert set(ALL) == set(names())
    for name in names():
        assert as_distance(name).name == name and as_distance(name).first_step > 0
    table = {"l1": 0.5, "l2": 0.1, "ssim": 3e-5, "lpips": 1e-3}
    assert {name: as_distance(name).first_step for name in table} == table


def test_names_are_built_once():
    assert as_distance("lpips") is as_distance("lpips")


def test_unknown_names_list_near_ones():
    with pytest.raises(ValueError, match=r"takes one of .*'ssim'.* got 'msssim'; did you mean ms_ssim, ssim\?"):
        as_distance("msssim")
    with pytest.raises(ValueError, match=r"got 'CIEDE'; did you mean ciede2000\?"):
        as_distance("CIEDE")
    with pytest.raises(ValueError, match=r"got 'quux'$"):
        as_distance("quux")


def test_a_distance_without_a_projection_names_who_takes_it():
    x, y = torch.rand(1, 3, 4, 4), torch.tensor([0])
    for attack in (fmn, minimal):
        for distance in ("ssim", SSIM()):
            with pytest.raises(
                ValueError, match=r"takes one of \[.*'l2', 'linf'\] here, got 'ssim'; .*alma, cw and pdgd"
            ):
                attack(lambda x: x.flatten(1), x, y, distance=distance)


def test_a_callable_and_a_wrong_type():
    def mine(x: Tensor, reference: Tensor) -> Tensor:
        return (x - reference).abs().flatten(1).sum(1)

    distance = as_distance(mine)
    assert distance.name == "mine" and distance.bind(torch.zeros(1, 2))(torch.ones(1, 2)).item() == 2
    with pytest.raises(TypeError, match="distance: takes a name, a Distance or a callable"):
        as_distance(3)
    with pytest.raises(TypeError, match="measure: takes a callable"):
        Distance("nothing")
