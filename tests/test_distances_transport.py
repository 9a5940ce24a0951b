"""The entropic 1-Wasserstein distance against the exact one, by linear programming."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from constropt.problems.distances import Wasserstein
from constropt.problems.distances.wasserstein import _spread


def exact(x: Tensor, y: Tensor) -> float:
    """The least cost of a transport plan between two images of one channel, at |di| + |dj| a unit."""
    optimize = pytest.importorskip("scipy.optimize")
    a, b = ((t / t.sum()).flatten().numpy() for t in (x, y))
    places = np.indices(x.shape[-2:]).reshape(2, -1)
    cost = np.abs(places[:, :, None] - places[:, None, :]).sum(0)
    count = a.size
    leaving = np.kron(np.eye(count), np.ones(count))
    arriving = np.kron(np.ones(count), np.eye(count))
    return optimize.linprog(cost.ravel(), A_eq=np.vstack([leaving, arriving]), b_eq=np.concatenate([a, b])).fun


def images(rows: int = 4, side: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(rows, 1, side, side, generator=generator, dtype=torch.float64) for _ in range(2))
    x[0, 0, :2] = 0  # pixels without mass
    y[1] = x[1] + 0.01 * y[1]  # near each other
    return x, y


def test_tends_to_the_exact_distance():
    x, y = images()
    truth = torch.tensor([exact(a[0], b[0]) for a, b in zip(x, y)], dtype=torch.float64)
    errors = []
    for eps, iterations in ((0.2, 300), (0.05, 1000), (0.01, 4000)):
        found = Wasserstein(regularization=eps, iterations=iterations)(x, y)
        share = (x / x.sum((2, 3), keepdim=True) - y / y.sum((2, 3), keepdim=True)).clamp_min(0).sum((1, 2, 3))
        # between the exact one and the bound on what the entropy adds
        assert (found >= truth - 1e-4).all() and (found <= truth + share * eps * np.log(16 * 16) + 1e-4).all()
        errors.append(((found - truth) / truth).abs().max().item())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01


def test_the_default_is_near_the_exact_distance():
    x, y = images()
    truth = torch.tensor([exact(a[0], b[0]) for a, b in zip(x, y)], dtype=torch.float64)
    assert torch.allclose(Wasserstein()(x, y), truth, rtol=0.08)


@pytest.mark.parametrize("down, right", [(0, 1), (2, 0), (3, 4)])
def test_a_moved_pixel_costs_its_way(down, right):
    x, y = torch.zeros(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)
    x[0, 0, 1, 1] = y[0, 0, 1 + down, 1 + right] = 0.7
    assert Wasserstein()(x, y).item() == pytest.approx(down + right, rel=1e-4)


def test_brightness_does_not_count_and_black_is_uniform():
    x, _ = images()
    assert Wasserstein()(0.5 * x, x).max() < 1e-12
    black = torch.zeros_like(x)
    assert torch.equal(Wasserstein()(black, x), Wasserstein()(torch.full_like(x, 0.3), x))


def test_channels_alone_or_together():
    x, y = (torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    each = torch.stack([Wasserstein()(x[:, c : c + 1], y[:, c : c + 1]) for c in range(3)])
    assert torch.allclose(Wasserstein()(x, y), each.mean(0))
    together = Wasserstein()(x.sum(1, keepdim=True) / 3, y.sum(1, keepdim=True) / 3)
    assert torch.allclose(Wasserstein(per_channel=False)(x, y), together, rtol=1e-4)


def test_gradients_are_those_of_the_distance():
    x, y = images()
    distance = Wasserstein(regularization=0.5, iterations=800)
    x.requires_grad_(True)
    (slope,) = torch.autograd.grad(distance(x, y).sum(), x)
    directions = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for d in directions:
        d = d * (x.detach() > 0)  # where a pixel has no mass there is only one side
        ahead, behind = (distance((x + s * d).detach(), y) for s in (1e-6, -1e-6))
        assert torch.allclose((slope * d).sum((1, 2, 3)), (ahead - behind) / 2e-6, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("rate", [0.01, 5.0, 17.0, 19.0, 300.0])
def test_sums_of_exponentials_at_any_range(rate):
    h = 30 * torch.randn(2, 4, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h[0, 0] = -torch.inf
    h[1, 1, 5:] = -torch.inf
    places = torch.arange(40, dtype=torch.float64)
    truth = torch.logsumexp(h.unsqueeze(-2) - rate * (places - places.unsqueeze(1)).abs(), -1)
    found = _spread(h, rate)
    assert torch.equal(found.isfinite(), truth.isfinite()) and (found[0, 0] == -torch.inf).all()
    assert torch.allclose(found[found.isfinite()], truth[truth.isfinite()], rtol=1e-12, atol=1e-9)


def test_large_images_beyond_the_range_of_exponents():
    x, y = torch.zeros(1, 1, 3, 90), torch.zeros(1, 1, 3, 90)
    x[..., 1, 2] = y[..., 1, 85] = 1
    assert Wasserstein()(x, y).item() == pytest.approx(83, rel=1e-4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="regularization: takes pixels > 0"):
        Wasserstein(regularization=0.0)
    with pytest.raises(ValueError, match="iterations: takes a whole number"):
        Wasserstein(iterations=0)
