"""Problems 1 to 30 of W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (1981)."""

from __future__ import annotations

from math import acos, cos, inf, log, pi, sqrt

import torch
from torch import Tensor

from .problem import HSProblem, equal, nonnegative, scalar

_W2 = sqrt(598 / 1200)
_X2 = 2 * _W2 * cos(acos(0.0025 / _W2**3) / 3)
_U25 = torch.tensor([25 + (-50 * log(0.01 * i)) ** (2 / 3) for i in range(1, 100)], dtype=torch.float64)
_I25 = torch.arange(1, 100, dtype=torch.float64) / 100
_SQRT3 = sqrt(3)


def _rosenbrock(x: Tensor) -> Tensor:
    x1, x2 = x.unbind(1)
    return 100 * (x2 - x1**2) ** 2 + (1 - x1) ** 2


def _objective25(x: Tensor) -> Tensor:
    u, i = _U25.to(x.device, x.dtype), _I25.to(x.device, x.dtype)
    x1, x2, x3 = x.unsqueeze(2).unbind(1)
    return ((torch.exp(-((u - x2) ** x3) / x1) - i) ** 2).sum(1)


PROBLEMS: tuple[HSProblem, ...] = (
    HSProblem(1, (-2, 1), 0.0, _rosenbrock, lower=(-inf, -1.5)),
    HSProblem(2, (-2, 1), 100 * (1.5 - _X2**2) ** 2 + (1 - _X2) ** 2, _rosenbrock, lower=(-inf, 1.5)),
    HSProblem(3, (10, 1), 0.0, scalar(lambda x1, x2: x2 + 1e-5 * (x2 - x1) ** 2), lower=(-inf, 0)),
    HSProblem(4, (1.125, 0.125), 8 / 3, scalar(lambda x1, x2: (x1 + 1) ** 3 / 3 + x2), lower=(1, 0)),
    HSProblem(
        5,
        (0, 0),
        -sqrt(3) / 2 - pi / 3,
        scalar(lambda x1, x2: torch.sin(x1 + x2) + (x1 - x2) ** 2 - 1.5 * x1 + 2.5 * x2 + 1),
        lower=(-1.5, -3),
        upper=(4, 3),
    ),
    HSProblem(
        6, (-1.2, 1), 0.0, scalar(lambda x1, x2: (1 - x1) ** 2), equalities=equal(lambda x1, x2: (10 * (x2 - x1**2),))
    ),
    HSProblem(
        7,
        (2, 2),
        -sqrt(3),
        scalar(lambda x1, x2: torch.log(1 + x1**2) - x2),
        equalities=equal(lambda x1, x2: ((1 + x1**2) ** 2 + x2**2 - 4,)),
    ),
    HSProblem(
        8,
        (2, 1),
        -1.0,
        scalar(lambda x1, x2: 0 * x1 - 1),
        equalities=equal(lambda x1, x2: (x1**2 + x2**2 - 25, x1 * x2 - 9)),
    ),
    HSProblem(
        9,
        (0, 0),
        -0.5,
        scalar(lambda x1, x2: torch.sin(pi * x1 / 12) * torch.cos(pi * x2 / 16)),
        equalities=equal(lambda x1, x2: (4 * x1 - 3 * x2,)),
    ),
    HSProblem(
        10,
        (-10, 10),
        -1.0,
        scalar(lambda x1, x2: x1 - x2),
        nonnegative(lambda x1, x2: (-3 * x1**2 + 2 * x1 * x2 - x2**2 + 1,)),
    ),
    HSProblem(
        11,
        (4.9, 0.1),
        -8.498464223,
        scalar(lambda x1, x2: (x1 - 5) ** 2 + x2**2 - 25),
        nonnegative(lambda x1, x2: (-(x1**2) + x2,)),
    ),
    HSProblem(
        12,
        (0, 0),
        -30.0,
        scalar(lambda x1, x2: 0.5 * x1**2 + x2**2 - x1 * x2 - 7 * x1 - 7 * x2),
        nonnegative(lambda x1, x2: (25 - 4 * x1**2 - x2**2,)),
    ),
    HSProblem(
        13,
        (-2, -2),
        1.0,
        scalar(lambda x1, x2: (x1 - 2) ** 2 + x2**2),
        nonnegative(lambda x1, x2: ((1 - x1) ** 3 - x2,)),
        lower=(0, 0),
    ),
    HSProblem(
        14,
        (2, 2),
        9 - 2.875 * sqrt(7),
        scalar(lambda x1, x2: (x1 - 2) ** 2 + (x2 - 1) ** 2),
        nonnegative(lambda x1, x2: (1 - 0.25 * x1**2 - x2**2,)),
        equal(lambda x1, x2: (x1 - 2 * x2 + 1,)),
    ),
    HSProblem(15, (-2, 1), 306.5, _rosenbrock, nonnegative(lambda x1, x2: (x1 * x2 - 1, x1 + x2**2)), upper=(0.5, inf)),
    HSProblem(
        16,
        (-2, 1),
        0.25,
        _rosenbrock,
        nonnegative(lambda x1, x2: (x1 + x2**2, x1**2 + x2)),
        lower=(-0.5, -inf),
        upper=(0.5, 1),
    ),
    HSProblem(
        17,
        (-2, 1),
        1.0,
        _rosenbrock,
        nonnegative(lambda x1, x2: (x2**2 - x1, x1**2 - x2)),
        lower=(-0.5, -inf),
        upper=(0.5, 1),
    ),
    HSProblem(
        18,
        (2, 2),
        5.0,
        scalar(lambda x1, x2: 0.01 * x1**2 + x2**2),
        nonnegative(lambda x1, x2: (x1 * x2 - 25, x1**2 + x2**2 - 25)),
        lower=(2, 0),
        upper=(50, 50),
    ),
    HSProblem(
        19,
        (20.1, 5.84),
        -6961.81381,
        scalar(lambda x1, x2: (x1 - 10) ** 3 + (x2 - 20) ** 3),
        nonnegative(lambda x1, x2: ((x1 - 5) ** 2 + (x2 - 5) ** 2 - 100, 82.81 - (x1 - 6) ** 2 - (x2 - 5) ** 2)),
        lower=(13, 0),
        upper=(100, 100),
    ),
    HSProblem(
        20,
        (-2, 1),
        81.5 - 25 * sqrt(3),
        _rosenbrock,
        nonnegative(lambda x1, x2: (x1 + x2**2, x1**2 + x2, x1**2 + x2**2 - 1)),
        lower=(-0.5, -inf),
        upper=(0.5, inf),
    ),
    HSProblem(
        21,
        (-1, -1),
        -99.96,
        scalar(lambda x1, x2: 0.01 * x1**2 + x2**2 - 100),
        nonnegative(lambda x1, x2: (10 * x1 - x2 - 10,)),
        lower=(2, -50),
        upper=(50, 50),
    ),
    HSProblem(
        22,
        (2, 2),
        1.0,
        scalar(lambda x1, x2: (x1 - 2) ** 2 + (x2 - 1) ** 2),
        nonnegative(lambda x1, x2: (2 - x1 - x2, x2 - x1**2)),
    ),
    HSProblem(
        23,
        (3, 1),
        2.0,
        scalar(lambda x1, x2: x1**2 + x2**2),
        nonnegative(lambda x1, x2: (x1 + x2 - 1, x1**2 + x2**2 - 1, 9 * x1**2 + x2**2 - 9, x1**2 - x2, x2**2 - x1)),
        lower=(-50, -50),
        upper=(50, 50),
    ),
    HSProblem(
        24,
        (1, 0.5),
        -1.0,
        scalar(lambda x1, x2: ((x1 - 3) ** 2 - 9) * x2**3 / (27 * _SQRT3)),
        nonnegative(lambda x1, x2: (x1 / _SQRT3 - x2, x1 + _SQRT3 * x2, 6 - x1 - _SQRT3 * x2)),
        lower=(0, 0),
    ),
    HSProblem(25, (100, 12.5, 3), 0.0, _objective25, lower=(0.1, 0, 0), upper=(100, 25.6, 5)),
    HSProblem(
        26,
        (-2.6, 2, 2),
        0.0,
        scalar(lambda x1, x2, x3: (x1 - x2) ** 2 + (x2 - x3) ** 4),
        equalities=equal(lambda x1, x2, x3: ((1 + x2**2) * x1 + x3**4 - 3,)),
    ),
    HSProblem(
        27,
        (2, 2, 2),
        0.04,
        scalar(lambda x1, x2, x3: 0.01 * (x1 - 1) ** 2 + (x2 - x1**2) ** 2),
        equalities=equal(lambda x1, x2, x3: (x1 + x3**2 + 1,)),
    ),
    HSProblem(
        28,
        (-4, 1, 1),
        0.0,
        scalar(lambda x1, x2, x3: (x1 + x2) ** 2 + (x2 + x3) ** 2),
        equalities=equal(lambda x1, x2, x3: (x1 + 2 * x2 + 3 * x3 - 1,)),
    ),
    HSProblem(
        29,
        (1, 1, 1),
        -16 * sqrt(2),
        scalar(lambda x1, x2, x3: -x1 * x2 * x3),
        nonnegative(lambda x1, x2, x3: (48 - x1**2 - 2 * x2**2 - 4 * x3**2,)),
    ),
    HSProblem(
        30,
        (1, 1, 1),
        1.0,
        scalar(lambda x1, x2, x3: x1**2 + x2**2 + x3**2),
        nonnegative(lambda x1, x2, x3: (x1**2 + x2**2 - 1,)),
        lower=(1, -10, -10),
        upper=(10, 10, 10),
    ),
)
