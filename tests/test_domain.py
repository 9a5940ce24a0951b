"""Domains: the laws of projections, independent solvers of the same problem, planted mistakes, bad arguments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from constropt import Box, Domain, L1Ball, L2Ball, LinfBall, Reals, Simplex
from constropt.prox import project_l1, project_l2, project_linf, project_simplex
from constropt.testing import LawViolation, check_domain

BALLS = (L1Ball, L2Ball, LinfBall)
SHAPE = (3, 4)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def domains(dtype: torch.dtype) -> dict[str, Domain]:
    """Every kind of set for points of SHAPE, with tensors of the given dtype."""
    center, radius = rand(*SHAPE).to(dtype), torch.tensor([0.5, 1.0, 2.0], dtype=dtype)
    lower, upper = -rand(*SHAPE, seed=1).to(dtype), rand(*SHAPE, seed=2).to(dtype)
    found: dict[str, Domain] = {
        "reals": Reals(),
        "unit box": Box(),
        "half-line": Box(0.0, float("inf")),
        "box of tensors": Box(lower, upper),
        "box of one tensor": Box(lower[0], 1.5),
        "box that is a point in some entries": Box(lower, torch.where(upper > 0.5, upper, lower)),
        "simplex": Simplex(),
        "simplex of total 3": Simplex(3.0),
    }
    for ball in BALLS:
        found |= {
            f"{ball.__name__}": ball(),
            f"{ball.__name__} of radius 0": ball(0.0),
            f"{ball.__name__}, rows with own centers and radii": ball(radius, center),
            f"{ball.__name__} in a box": ball(1.2, 0.3, Box(0.0, 1.0)),
            f"{ball.__name__} in a box, all of tensors": ball(
                radius, torch.zeros(SHAPE, dtype=dtype), Box(lower, upper)
            ),
            f"{ball.__name__} around images": ball(radius / 4, center, Box(0.0, 1.0)),
            f"{ball.__name__} that just holds the box": ball(2.0, 0.0, Box(-1.0, 1.0)),
        }
    return found


@pytest.mark.parametrize("name", domains(torch.float64))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_laws_hold(name, dtype):
    check_domain(domains(dtype)[name], SHAPE, dtype=dtype, max_examples=10)


@pytest.mark.parametrize("domain", [L1Ball(1.0, 0.5, Box(0.0, 1.0)), L2Ball(1.0), Simplex(), LinfBall(0.1, 0.5, Box())])
def test_the_laws_hold_for_images(domain):
    check_domain(domain, (2, 3, 5, 5), dtype=torch.float32, max_examples=5)


def test_sides_of_another_dtype_do_not_change_that_of_x():
    box, center = Box(rand(3), 1.0 + rand(3)), rand(2, 3)
    for domain in (box, L2Ball(1.0, center), L1Ball(torch.ones(2, dtype=torch.float64), center, Box(0.0, 1.0))):
        assert domain.project(torch.randn(2, 3)).dtype == torch.float32


@pytest.mark.parametrize("domain", [Box(), L1Ball(), L2Ball(1.0, 0.0, Box(-1.0, 1.0)), LinfBall(), Simplex()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_projects_to_its_own_precision(domain, dtype):
    x = 3 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    projected = domain.project(x.to(dtype))
    assert projected.dtype == dtype
    assert torch.allclose(projected.float(), domain.project(x.to(dtype).float()), atol=0.05)


# ------------------------------------------------------------------------------------------------ independent solutions


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ball", [L1Ball, L2Ball])
def test_ball_in_a_box_against_slsqp(ball, seed):
    generator = np.random.default_rng(seed)
    d, radius = generator.normal(size=5) * 2, 0.3 + generator.random()
    lower, upper = -generator.random(5), generator.random(5)
    if ball is L2Ball:
        variables, to_p = np.zeros(5), np.eye(5)
        limit = {"type": "ineq", "fun": lambda p: radius**2 - p @ p, "jac": lambda p: -2 * p}
        sides = list(zip(lower, upper))
    else:  # p = u - v with u, v >= 0 and sum(u + v) <= radius
        variables, to_p = np.zeros(10), np.hstack([np.eye(5), -np.eye(5)])
        limit = {"type": "ineq", "fun": lambda w: radius - w.sum(), "jac": lambda w: -np.ones(10)}
        sides = [(0, side) for side in (*upper, *-lower)]
    found = minimize(
        lambda w: ((to_p @ w - d) ** 2).sum() / 2,
        variables,
        jac=lambda w: to_p.T @ (to_p @ w - d),
        bounds=sides,
        constraints=[limit],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    domain = ball(radius, 0.0, Box(torch.tensor(lower), torch.tensor(upper)))
    projected = domain.project(torch.tensor(d)[None])[0]
    reference = to_p @ found.x
    assert torch.allclose(projected, torch.tensor(reference), atol=1e-6)
    # SLSQP ends up to 1e-9 outside of the ball: what it gains there does not count
    reference *= min(1.0, radius / np.linalg.norm(reference, 2 if ball is L2Ball else 1))
    assert ((projected - torch.tensor(d)).square().sum()).item() <= ((reference - d) ** 2).sum() + 1e-9


@pytest.mark.parametrize("ball", [L1Ball, L2Ball])
def test_ball_in_a_box_against_a_fine_search_of_its_multiplier(ball):
    """The Lagrangian's minimiser is separable: clip(soft(d, mu)) or clip(d / (1 + mu)); mu by a bisection in numpy."""
    generator = np.random.default_rng(3)
    d, lower, upper = 3 * generator.normal(size=(40, 30)), -generator.random((40, 30)), generator.random((40, 30))
    radius = 0.2 + 3 * generator.random(40)
    box = Box(torch.tensor(lower), torch.tensor(upper))
    projected = ball(torch.tensor(radius), 0.0, box).project(torch.tensor(d)).numpy()
    for row in range(40):

        def at(mu: float, row: int = row) -> np.ndarray:
            moved = np.sign(d[row]) * np.maximum(np.abs(d[row]) - mu, 0) if ball is L1Ball else d[row] / (1 + mu)
            return np.clip(moved, lower[row], upper[row])

        def size(p: np.ndarray) -> float:
            return np.abs(p).sum() if ball is L1Ball else np.linalg.norm(p)

        low, high = 0.0, 1e3
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if size(at(middle)) > radius[row] else (low, middle)
        expected = at(0.0) if size(at(0.0)) <= radius[row] else at(high)
        assert np.allclose(projected[row], expected, atol=1e-9)


def test_the_projection_on_ball_and_box_is_not_the_composition():
    d = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    box = Box(-1.0, 1.0)
    composed = box.project(L1Ball(1.5).project(d))
    exact = L1Ball(1.5, 0.0, box).project(d)
    assert composed.tolist() == [[1.0, 0.0]]
    assert exact.tolist()[0] == pytest.approx([1.0, 0.5], abs=1e-15)


def test_simplex_against_a_vertex_search():
    """<x - P(x), z> is largest over the simplex at z = P(x): a linear programme decides, not our own formulas."""
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    projected = Simplex(2.0).project(x)
    for row, p in zip(x.numpy(), projected.numpy()):
        best = linprog(-(row - p), A_eq=np.ones((1, 6)), b_eq=[2.0], bounds=(0, None))
        assert (row - p) @ p == pytest.approx(-best.fun, abs=1e-9)


def test_simplex_keeps_its_digits_far_from_the_origin():
    x = 1e5 + torch.arange(6, dtype=torch.float32).view(1, 6) / 8
    assert Simplex().project(x).sum().item() == pytest.approx(1.0, abs=1e-6)
    assert torch.allclose(Simplex().project(x), Simplex().project(x - 1e5), atol=1e-6)


def test_contained_points_stay_bit_for_bit():
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(2))
    for domain in (L1Ball(9.0, 0.1), L2Ball(5.0, 0.7), LinfBall(1.0, 0.3, Box(0.0, 1.0)), Box(), Reals()):
        assert torch.equal(domain.project(x), x)


def test_contains():
    x = torch.tensor([[0.5, 0.5], [1.5, 0.0]])
    assert Box().contains(x).tolist() == [True, False]
    assert Box().contains(x, tolerance=0.5).tolist() == [True, True]
    assert L1Ball(1.0).contains(x).tolist() == [True, False]
    assert Simplex().contains(x, tolerance=1e-6).tolist() == [True, False]


def test_bounds_are_given_by_boxes_only():
    x = torch.zeros(2, 3)
    lower, upper = Box(torch.tensor([0.0, -1.0, 0.0]), 2.0).bounds(x)
    assert lower.tolist() == [[0.0, -1.0, 0.0]] * 2 and upper.tolist() == [[2.0] * 3] * 2
    assert all(side.isinf().all() and side.shape == x.shape for side in Reals().bounds(x))
    assert L2Ball().bounds(x) is None and Simplex().bounds(x) is None


# ----------------------------------------------------------------------------------------------------- planted mistakes


@dataclasses.dataclass(frozen=True)
class Planted(Domain):
    """A ball of radius 1 whose projection carries one mistake."""

    mistake: str

    def project(self, x: Tensor) -> Tensor:
        if self.mistake == "half way":
            return (x + L2Ball().project(x)) / 2
        if self.mistake == "not nearest":
            return x / x.abs().sum(1, keepdim=True).clamp_min(1)  # along the ray, onto the l1 ball
        if self.mistake == "shrinks":
            return 0.9 * L2Ball().project(x)
        if self.mistake == "to the sphere":
            return x / x.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1)
        if self.mistake == "one norm for the batch":
            return x / x.norm().clamp_min(1.0)
        if self.mistake == "casts":
            return L2Ball().project(x).to(torch.float16)
        if self.mistake == "flattens":
            return L2Ball().project(x).flatten()
        if self.mistake == "in place":
            return x.copy_(L2Ball().project(x))
        if self.mistake == "hard threshold":  # a projection, but on a set that is not convex
            return torch.where(x.abs() > 0.5, x, 0.0)
        if self.mistake == "loses rows to NaN":
            return L2Ball().project(torch.where(x.isnan().any(), torch.zeros_like(x), x))
        raise AssertionError(self.mistake)


@pytest.mark.parametrize(
    ("mistake", "law"),  # None: whichever of its symptoms shows first
    [
        ("half way", "feasibility"),
        ("not nearest", "optimality"),
        ("shrinks", "idempotence"),
        ("to the sphere", "points of the set stay"),
        ("one norm for the batch", None),
        ("casts", "form"),
        ("flattens", "form"),
        ("in place", "form"),
        ("hard threshold", "points of the set stay"),
        ("loses rows to NaN", "independence of rows"),
    ],
)
def test_planted_mistakes_are_found(mistake, law):
    def outside_the_ball(p: Tensor) -> Tensor:
        return (p.flatten(1).norm(dim=1) - 1).clamp_min(0)

    judge = None if mistake == "hard threshold" else outside_the_ball
    with pytest.raises(LawViolation, match=law):
        check_domain(Planted(mistake), violation=judge)


def test_composing_ball_and_box_is_found():
    class Composed(Domain):
        def project(self, x: Tensor) -> Tensor:
            return Box(-0.5, 0.5).project(L1Ball(1.0).project(x))

    with pytest.raises(LawViolation, match="optimality"):
        check_domain(Composed())


def test_a_box_that_is_missed_by_rounding_is_found():
    class Loose(Box):
        def project(self, x: Tensor) -> Tensor:
            return super().project(x) * (1 + 1e-15)

    with pytest.raises(LawViolation, match="not met exactly"):
        check_domain(Loose(0.1, 0.7))


# -------------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Box(1.0, 0.0), "lower must not exceed upper"),
        (lambda: Box(float("nan"), 1.0), "lower must not exceed upper"),
        (lambda: Box(torch.tensor([0.0, 2.0]), 1.0), "lower must not exceed upper"),
        (lambda: L1Ball(-1.0), "L1Ball: radius must be >= 0"),
        (lambda: L2Ball(torch.tensor([1.0, -1.0])), "L2Ball: radius must be >= 0"),
        (lambda: LinfBall(float("nan")), "LinfBall: radius must be >= 0"),
        (lambda: L2Ball(1.0, 2.0, Box(0.0, 1.0)), "center must lie in the box"),
        (lambda: L1Ball(1.0, torch.tensor([[0.5, -0.1]]), Box(0.0, 1.0)), "center must lie in the box"),
        (lambda: Simplex(0.0), "total: takes a number > 0"),
        (lambda: Simplex(float("nan")), "total: takes a number > 0"),
        (lambda: project_l1(torch.ones(1, 2), -1.0), "radius must be >= 0"),
        (lambda: project_l2(torch.ones(1, 2), -1.0), "radius must be >= 0"),
        (lambda: project_linf(torch.ones(1, 2), -1.0), "radius must be >= 0"),
        (lambda: project_simplex(torch.ones(1, 2), -1.0), "radius must be >= 0"),
        (lambda: check_domain(Box(), (3,)), "shape"),
        (lambda: check_domain(Box(), (1, 3)), "batch of at least 2"),
        (lambda: check_domain(Box(), dtype=torch.float16), "dtype"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_domain_is_asked_for():
    with pytest.raises(TypeError, match="takes a Domain, got str"):
        check_domain("box")  # type: ignore[arg-type]
