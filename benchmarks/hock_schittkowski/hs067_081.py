"""Problems 67 to 81 of W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (1981).

Problem 67 defines two of its quantities by fixed-point iterations, which the book stops at a tolerance; here the fixed
points are exact, so that the functions are smooth. Its optimum is recomputed (the book, with its
tolerance: -1162.03651).
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from .problem import BatchFunction, HSProblem, equal, nonnegative, scalar

_LOWER67 = (0, 0, 85, 90, 3, 0.01, 145)
_UPPER67 = (5000, 2000, 93, 95, 12, 4, 162)
_Y70 = torch.tensor(
    [0.00189, 0.1038, 0.268, 0.506, 0.577, 0.604, 0.725, 0.898, 0.947, 0.845]
    + [0.702, 0.528, 0.385, 0.257, 0.159, 0.0869, 0.0453, 0.01509, 0.00189],
    dtype=torch.float64,
)
_C70 = torch.tensor([0.1, *range(1, 19)], dtype=torch.float64)


def _states67(x: Tensor) -> tuple[Tensor, ...]:
    """The quantities y2, ..., y8 of the alkylation process: the book's two fixed points, each from its quadratic."""
    x1, x2, x3 = x.unbind(1)
    b = 1 / 1.22 - 0.13167
    c = 1.12 + (x2 / x1 - 1) / 1.22
    y6 = 2 * c / (b + torch.sqrt(b**2 + 4 * 0.006667 * c))
    y2 = 0.01 * x1 * (112 + 13.167 * y6 - 0.6667 * y6**2)
    y3 = 1.22 * y2 - x1
    s = 86.35 + 1.098 * y6 - 0.038 * y6**2
    b = y2 * (35.82 + 0.222 * 133 - 0.666 * (s - 0.325 * 89)) + 1000 * x3
    c = 98000 * x3
    y4 = 2 * c / (b + torch.sqrt(b**2 - 4 * 0.666 * 0.325 * y2 * c))
    y5 = s + 0.325 * (y4 - 89)
    y8 = 3 * y5 - 133
    y7 = 35.82 - 0.222 * y8
    return y2, y3, y4, y5, y6, y7, y8


def _objective67(x: Tensor) -> Tensor:
    x1, x2, x3 = x.unbind(1)
    y2, y3, _, y5, *_ = _states67(x)
    return -(0.063 * y2 * y5 - 5.04 * x1 - 3.36 * y3 - 0.035 * x2 - 10 * x3)


def _inequalities67(x: Tensor) -> Tensor:
    y = torch.stack(_states67(x), 1)
    return torch.cat([y.new_tensor(_LOWER67) - y, y - y.new_tensor(_UPPER67)], 1)


def _objective68(a: float, b: float, n: float) -> BatchFunction:
    def formula(x1: Tensor, x2: Tensor, x3: Tensor, x4: Tensor) -> Tensor:
        e = torch.exp(x1) - 1
        return (a * n - x4 * (b * e - x3) / (e + x4)) / x1

    return scalar(formula)


def _equalities68(n: float) -> BatchFunction:
    def formula(x1: Tensor, x2: Tensor, x3: Tensor, x4: Tensor) -> tuple[Tensor, ...]:
        cdf = torch.special.ndtr
        return x3 - 2 * cdf(-x2), x4 - cdf(-x2 + sqrt(n)) - cdf(-x2 - sqrt(n))

    return equal(formula)


def _objective70(x: Tensor) -> Tensor:
    c, observed = _C70.to(x.device, x.dtype), _Y70.to(x.device, x.dtype)
    x1, x2, x3, x4 = x.unsqueeze(2).unbind(1)
    b = x3 + (1 - x3) * x4
    first = 12 * x2 / (12 * x2 + 1) * x3 * b**x2 * torch.sqrt(x2 / 6.2832)
    first = first * (c / 7.658) ** (x2 - 1) * torch.exp(x2 - b * c * x2 / 7.658)
    second = 12 * x1 / (12 * x1 + 1) * (1 - x3) * (b / x4) ** x1 * torch.sqrt(x1 / 6.2832)
    second = second * (c / 7.658) ** (x1 - 1) * torch.exp(x1 - b * c * x1 / (7.658 * x4))
    return ((first + second - observed) ** 2).sum(1)


def _objective74(x: Tensor) -> Tensor:
    x1, x2, _, _ = x.unbind(1)
    return 3 * x1 + 1e-6 * x1**3 + 2 * x2 + 2e-6 / 3 * x2**3


def _equalities74(x: Tensor) -> Tensor:
    x1, x2, x3, x4 = x.unbind(1)
    sin = torch.sin
    return torch.stack(
        [
            1000 * sin(-x3 - 0.25) + 1000 * sin(-x4 - 0.25) + 894.8 - x1,
            1000 * sin(x3 - 0.25) + 1000 * sin(x3 - x4 - 0.25) + 894.8 - x2,
            1000 * sin(x4 - 0.25) + 1000 * sin(x4 - x3 - 0.25) + 1294.8,
        ],
        1,
    )


_equalities78 = equal(
    lambda x1, x2, x3, x4, x5: (x1**2 + x2**2 + x3**2 + x4**2 + x5**2 - 10, x2 * x3 - 5 * x4 * x5, x1**3 + x2**3 + 1)
)

PROBLEMS: tuple[HSProblem, ...] = (
    HSProblem(
        67,
        (1745, 12000, 110),
        -1162.02697954,
        _objective67,
        _inequalities67,
        lower=(1e-5, 1e-5, 1e-5),
        upper=(2000, 16000, 120),
    ),
    HSProblem(
        68,
        (1, 1, 1, 1),
        -0.920425026,
        _objective68(0.0001, 1, 24),
        equalities=_equalities68(24),
        lower=(0.0001, 0, 0, 0),
        upper=(100, 100, 2, 2),
    ),
    HSProblem(
        69,
        (1, 1, 1, 1),
        -956.71288,
        _objective68(0.1, 1000, 4),
        equalities=_equalities68(4),
        lower=(0.0001, 0, 0, 0),
        upper=(100, 100, 2, 2),
    ),
    HSProblem(
        70,
        (2, 4, 0.04, 2),
        0.007498464,
        _objective70,
        nonnegative(lambda x1, x2, x3, x4: (x3 + (1 - x3) * x4,)),
        lower=(1e-5, 1e-5, 1e-5, 1e-5),
        upper=(100, 100, 1, 100),
    ),
    HSProblem(
        71,
        (1, 5, 5, 1),
        17.0140173,
        scalar(lambda x1, x2, x3, x4: x1 * x4 * (x1 + x2 + x3) + x3),
        nonnegative(lambda x1, x2, x3, x4: (x1 * x2 * x3 * x4 - 25,)),
        equal(lambda x1, x2, x3, x4: (x1**2 + x2**2 + x3**2 + x4**2 - 40,)),
        lower=(1, 1, 1, 1),
        upper=(5, 5, 5, 5),
    ),
    HSProblem(
        72,
        (1, 1, 1, 1),
        727.67937,
        scalar(lambda x1, x2, x3, x4: 1 + x1 + x2 + x3 + x4),
        nonnegative(
            lambda x1, x2, x3, x4: (
                0.0401 - 4 / x1 - 2.25 / x2 - 1 / x3 - 0.25 / x4,
                0.010085 - 0.16 / x1 - 0.36 / x2 - 0.64 / x3 - 0.64 / x4,
            )
        ),
        lower=(0.001, 0.001, 0.001, 0.001),
        upper=(4e5, 3e5, 2e5, 1e5),
    ),
    HSProblem(
        73,
        (1, 1, 1, 1),
        29.89437816,
        scalar(lambda x1, x2, x3, x4: 24.55 * x1 + 26.75 * x2 + 39 * x3 + 40.5 * x4),
        nonnegative(
            lambda x1, x2, x3, x4: (
                2.3 * x1 + 5.6 * x2 + 11.1 * x3 + 1.3 * x4 - 5,
                (12 * x1 + 11.9 * x2 + 41.8 * x3 + 52.1 * x4 - 21)
                - 1.645 * torch.sqrt(0.28 * x1**2 + 0.19 * x2**2 + 20.5 * x3**2 + 0.62 * x4**2),
            )
        ),
        equal(lambda x1, x2, x3, x4: (x1 + x2 + x3 + x4 - 1,)),
        lower=(0, 0, 0, 0),
    ),
    *(
        HSProblem(
            number,
            (0, 0, 0, 0),
            optimum,
            _objective74,
            nonnegative(lambda x1, x2, x3, x4, a=a: (x4 - x3 + a, x3 - x4 + a)),
            _equalities74,
            lower=(0, 0, -a, -a),
            upper=(1200, 1200, a, a),
        )
        for number, a, optimum in ((74, 0.55, 5126.4981), (75, 0.48, 5174.4129))
    ),
    HSProblem(
        76,
        (0.5, 0.5, 0.5, 0.5),
        -4.681818181,
        scalar(
            lambda x1, x2, x3, x4: (
                (x1**2 + 0.5 * x2**2 + x3**2 + 0.5 * x4**2 - x1 * x3 + x3 * x4) + (x3 - x1 - 3 * x2 - x4)
            )
        ),
        nonnegative(
            lambda x1, x2, x3, x4: (5 - x1 - 2 * x2 - x3 - x4, 4 - 3 * x1 - x2 - 2 * x3 + x4, x2 + 4 * x3 - 1.5)
        ),
        lower=(0, 0, 0, 0),
    ),
    HSProblem(
        77,
        (2, 2, 2, 2, 2),
        0.24150513,
        scalar(
            lambda x1, x2, x3, x4, x5: (x1 - 1) ** 2 + (x1 - x2) ** 2 + (x3 - 1) ** 2 + (x4 - 1) ** 4 + (x5 - 1) ** 6
        ),
        equalities=equal(
            lambda x1, x2, x3, x4, x5: (x1**2 * x4 + torch.sin(x4 - x5) - 2 * sqrt(2), x2 + x3**4 * x4**2 - 8 - sqrt(2))
        ),
    ),
    HSProblem(
        78,
        (-2, 1.5, 2, -1, -1),
        -2.91970041,
        scalar(lambda x1, x2, x3, x4, x5: x1 * x2 * x3 * x4 * x5),
        equalities=_equalities78,
    ),
    HSProblem(
        79,
        (2, 2, 2, 2, 2),
        0.0787768209,
        scalar(
            lambda x1, x2, x3, x4, x5: (x1 - 1) ** 2 + (x1 - x2) ** 2 + (x2 - x3) ** 2 + (x3 - x4) ** 4 + (x4 - x5) ** 4
        ),
        equalities=equal(
            lambda x1, x2, x3, x4, x5: (
                x1 + x2**2 + x3**3 - 2 - 3 * sqrt(2),
                x2 - x3**2 + x4 + 2 - 2 * sqrt(2),
                x1 * x5 - 2,
            )
        ),
    ),
    HSProblem(
        80,
        (-2, 2, 2, -1, -1),
        0.0539498478,
        scalar(lambda x1, x2, x3, x4, x5: torch.exp(x1 * x2 * x3 * x4 * x5)),
        equalities=_equalities78,
        lower=(-2.3, -2.3, -3.2, -3.2, -3.2),
        upper=(2.3, 2.3, 3.2, 3.2, 3.2),
    ),
    HSProblem(
        81,
        (-2, 2, 2, -1, -1),
        0.0539498478,
        scalar(lambda x1, x2, x3, x4, x5: torch.exp(x1 * x2 * x3 * x4 * x5) - 0.5 * (x1**3 + x2**3 + 1) ** 2),
        equalities=_equalities78,
        lower=(-2.3, -2.3, -3.2, -3.2, -3.2),
        upper=(2.3, 2.3, 3.2, 3.2, 3.2),
    ),
)
