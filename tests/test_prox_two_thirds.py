"""The operator of sum |.|^(2/3) against a search of its objective, its threshold, and PDPGD at l0, which uses it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from constropt.problems.attacks import pdpgd
from constropt.prox import NormAround, two_thirds


def objective(p: Tensor, x: Tensor, step: Tensor, s: Tensor) -> Tensor:
    return s * (p - x).square() / 2 + step * p.abs().pow(2 / 3)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(-3, 3), strength=st.floats(-3, 3), boxed=st.booleans())
def test_nothing_on_a_fine_grid_is_less(seed, scale, strength, boxed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.rand(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    x = 10**scale * (2 * draw(4, 6) - 1)
    step, s = 10**strength * draw(4), draw(4, 6) + 0.05
    low, high = (-draw(4, 6) * 10**scale, draw(4, 6) * 10**scale) if boxed else (-x.abs(), x.abs())
    p = two_thirds(x, step, metric=s, **({"lower": low, "upper": high} if boxed else {}))
    assert bool(((p >= low) & (p <= high)).all())
    shares = torch.cat([torch.linspace(0, 1, 4001, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    grid = low[..., None] + (high - low)[..., None] * shares
    grid[..., -1] = 0
    found = objective(p, x, step[:, None], s)
    best = objective(grid, x[..., None], step[:, None, None], s[..., None]).amin(-1)
    assert bool((found <= best * (1 + 1e-12)).all())


def test_the_threshold_and_what_is_left_there():
    # at |x| = 2 (2 step / 3)^(3/4) zero and x / 2 cost the same
    threshold = 2 * (2 / 3) ** 0.75
    x = torch.tensor([[threshold * (1 - 1e-9), threshold * (1 + 1e-9), -1e3, 0.0]], dtype=torch.float64)
    p = two_thirds(x, 1.0)[0]
    torch.testing.assert_close(p[:2], torch.tensor([0.0, threshold / 2], dtype=torch.float64), rtol=1e-7, atol=0)
    torch.testing.assert_close(p[2] + 2 / 3 * p[2].abs() ** (-1 / 3) * p[2].sign(), x[0, 2])
    assert p[3] == 0 and torch.equal(two_thirds(x, 0.0), x)


def test_numbers_at_the_ends_of_float32_and_rows_with_a_nan():
    x = torch.tensor([[1e-30, -1e30, 0.0], [1.0, float("nan"), 2.0], [1.0, -4.0, 9.0]])
    p = two_thirds(x, torch.tensor([0.0, 1.0, 1.0]))
    torch.testing.assert_close(p[0], x[0])
    assert bool(p[1].isnan().all()) and torch.equal(p[2], two_thirds(x[2:], 1.0)[0])
    assert two_thirds(x[2:].half(), 1.0).dtype == torch.float16


def test_a_relaxed_norm_has_its_own_value_and_the_operator_of_the_other():
    x = torch.tensor([[0.9, 0.2, 0.5]])
    term = NormAround("l0", torch.full((1, 3), 0.5), 0.0, 1.0, relaxed="two-thirds")
    assert term(x).item() == 2
    torch.testing.assert_close(term.prox(x, 0.1), 0.5 + two_thirds(x - 0.5, 0.1, lower=-0.5, upper=0.5))
    assert torch.equal(term.prox(x, 0.1), NormAround("two-thirds", term.center, 0.0, 1.0).prox(x, 0.1))
    with pytest.raises(ValueError, match="relaxed: takes one of"):
        NormAround("l0", term.center, 0.0, 1.0, relaxed="l3")


def test_pdpgd_at_l0_moves_the_entries_that_count():
    """One entry has weight enough alone; the others together, too, but they are nine."""
    weight = torch.zeros(2, 10)
    weight[0, 0], weight[0, 1:] = 4.0, 1.0
    x = torch.full((3, 10), 0.8)
    bias = torch.tensor([0.0, 8.5])
    solution = pdpgd(lambda t: t @ weight.T + bias, x, torch.zeros(3, dtype=torch.int64), distance="l0", steps=200)
    assert solution.feasible.all() and bool((solution.objective <= 2).all())
    assert torch.equal(solution.objective, (solution.x != x).sum(1).float())
    with pytest.raises(ValueError, match="distance"):
        pdpgd(lambda t: t @ weight.T, x, torch.zeros(3, dtype=torch.int64), distance="ssim")
