"""`check_prox` passes the operators of the library and catches planted faults, each under its law."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from constropt import prox
from constropt.testing import LawViolation, check_prox

NORMS = {"linf": torch.inf, "l1": 1, "l2": 2, "l0": 0}


def norm(order):
    return lambda p: torch.linalg.vector_norm(p.flatten(1), ord=order, dim=1)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_pass(name, dtype):
    function = norm(NORMS[name])
    check = partial(check_prox, getattr(prox, name), function=function, convex=name != "l0", odd=True, symmetric=True)
    check(dtype=dtype, max_examples=20)
    check(shape=(2, 3, 100), dtype=dtype, max_examples=5)


@pytest.mark.parametrize("name", ["project_l1", "project_l2", "project_linf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projections_pass(name, dtype):
    def operator(x, step, lower=None, upper=None):
        return getattr(prox, name)(x, 2.5, lower=lower, upper=upper)

    check = partial(check_prox, operator, projection=True, odd=True, symmetric=True, takes=("lower", "upper"))
    check(dtype=dtype, max_examples=20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_simplex_passes(dtype):
    check_prox(
        lambda x, step: prox.project_simplex(x, 2.5),
        projection=True,
        symmetric=True,
        takes=(),
        dtype=dtype,
        max_examples=20,
    )


def clipped_last(x, step, *, lower=None, upper=None, **rest):
    """Right without a box; the box is met, but the prox of a sum is not the composition."""
    p = prox.linf(x, step, **{**rest, "out": None})
    p = p if lower is None else p.clamp(lower, upper)
    return p if rest.get("out") is None else rest["out"].copy_(p)


def boxless(x, step, *, lower=None, upper=None, **rest):
    return prox.l1(x, step, **rest)


def half_step(x, step, **rest):
    return prox.l1(x, step / 2, **rest)


def reflected(x, step, **rest):
    return 2 * prox.l1(x, step) - x


def metricless(x, step, *, metric=None, **rest):
    return prox.l2(x, step, **rest)


def step_of_the_batch(x, step, **rest):
    return prox.linf(x, step.max().expand_as(step), **rest)


def centred(x, step, **rest):
    return prox.l1(x - x.mean(0), step, **rest)


def trusting(x, step, *, warm=None, **rest):
    p = prox.linf(x, step, **rest)
    return p if warm is None else p.clamp(-warm.view(-1, 1), warm.view(-1, 1))


def in_place(x, step, *, out=None, **rest):
    p = prox.l1(x, step, **rest)
    x.copy_(p)
    return p if out is None else out.copy_(p)


class Workspace:
    def __init__(self):
        self.place = None

    def __call__(self, x, step, *, out=None, **rest):
        if self.place is None or self.place.dtype != x.dtype:
            self.place = torch.empty_like(x)
        return prox.l1(x, step, out=self.place if out is None else out, **rest)


def deaf(x, step, *, out=None, **rest):
    return prox.l1(x, step, **rest)


def rounded_inside(x, step, **rest):
    if x.dtype in (torch.float16, torch.bfloat16):
        return (x.sign() * (x.abs() - step.to(x.dtype).view(-1, 1)).clamp_min(0) * 1.1).to(x.dtype)
    return prox.l1(x, step, **rest)


def lopsided(x, step, **rest):
    p = prox.l1(x, step, **{**rest, "out": None}).clamp_min(0)
    return p if rest.get("out") is None else rest["out"].copy_(p)


FAULTS: list[tuple[Callable[..., Any], str, dict[str, Any]]] = [
    (clipped_last, "optimality", {"function": norm(torch.inf)}),
    (boxless, "feasibility", {}),
    (half_step, "optimality", {"function": norm(1)}),
    (reflected, "firm non-expansiveness", {"takes": ()}),
    (metricless, "scaling", {}),
    (step_of_the_batch, "optimality", {"function": norm(torch.inf)}),
    (centred, "independence of rows", {"takes": ()}),
    (trusting, "warm start", {"takes": ("lower", "upper", "metric", "warm")}),
    (in_place, "form", {}),
    (Workspace(), "ownership", {}),
    (deaf, "ownership", {}),
    (rounded_inside, "half precision", {"takes": ()}),
    (lopsided, "oddness", {"odd": True, "takes": ()}),
    (lambda x, step: prox.l1(x, step)[:, :2], "form", {"takes": ()}),
    (lambda x, step: 0.9 * x, "idempotence", {"projection": True, "takes": ()}),
    (lambda x, step: x * torch.linspace(0.5, 1, 5), "symmetry", {"symmetric": True, "takes": ()}),
]


@pytest.mark.parametrize(("operator", "law", "options"), FAULTS)
def test_faults_are_caught(operator, law, options):
    options = {"convex": law not in ("scaling", "independence of rows"), **options}
    with pytest.raises(LawViolation) as caught:
        check_prox(operator, **options)
    assert caught.value.law == law
    assert law in str(caught.value)


def test_arguments():
    for name, wrong in (("dtype", torch.float16), ("shape", (1, 3)), ("takes", ("step",))):
        options: dict[str, Any] = {name: wrong}
        with pytest.raises(ValueError, match=name):
            check_prox(prox.l1, **options)
