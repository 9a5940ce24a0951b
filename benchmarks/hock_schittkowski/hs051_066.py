"""Problems 51 to 66 of W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (1981).

Problem 54 has the objective of the authors' later test program, with which the book's solution agrees. The optima of
problems 58 and 59 are recomputed (the book: 3.19033354957 and -7.804226324), as the book's points are slightly off.
Problem 55 has one redundant equality: the others leave a segment, at whose end (0, 4/3, 5/3, 1, 2/3, 1/3) the
minimum is.
"""

from __future__ import annotations

from math import asin, exp, inf, sqrt

import torch
from torch import Tensor

from .problem import HSProblem, equal, nonnegative, scalar

_COUNTS57 = (2, 4, 4, 3, 3, 2, 3, 3, 3, 3, 2, 3, 2, 1, 2, 2, 1, 1)
_A57 = torch.tensor([8.0 + 2 * k for k, count in enumerate(_COUNTS57) for _ in range(count)], dtype=torch.float64)
_B57 = torch.tensor(
    [49, 49, 48, 47, 48, 47, 46, 46, 45, 43, 45, 43, 43, 44, 43, 43, 46, 45, 42, 42, 43, 41]
    + [41, 40, 42, 40, 40, 41, 40, 41, 41, 40, 40, 40, 38, 41, 40, 40, 41, 38, 40, 40, 39, 39],
    dtype=torch.float64,
).div(100)
_Z56 = asin(sqrt(1 / 4.2))


def _objective57(x: Tensor) -> Tensor:
    a, b = _A57.to(x.device, x.dtype), _B57.to(x.device, x.dtype)
    x1, x2 = x.unsqueeze(2).unbind(1)
    return ((b - x1 - (0.49 - x1) * torch.exp(-x2 * (a - 8))) ** 2).sum(1)


def _objective54(x: Tensor) -> Tensor:
    v1, v2, v3, v4, v5, v6 = (x - x.new_tensor([1e4, 1, 2e6, 10, 1e-3, 1e8])).unbind(1)
    q = (v1**2 / 6.4e7 + v1 * v2 / 2e4 + v2**2) / 0.96 + v3**2 / 4.9e13
    return -torch.exp(-0.5 * (q + v4**2 / 2.5e3 + v5**2 / 2.5e-3 + v6**2 / 2.5e17))


def _objective59(x: Tensor) -> Tensor:
    x1, x2 = x.unbind(1)
    p = -75.196 + 3.8112 * x1 - 0.12694 * x1**2 + 2.0567e-3 * x1**3 - 1.0345e-5 * x1**4 + 28.106 / (x2 + 1)
    p = p + x2 * (6.8306 - 0.030234 * x1 + 1.28134e-3 * x1**2 - 3.5256e-5 * x1**3 + 2.266e-7 * x1**4)
    p = p + x2**2 * (-0.25645 - 3.4054e-4 * x1 + 5.2375e-6 * x1**2 + 6.3e-8 * x1**3)
    p = p + x2**3 * (3.4604e-3 + 1.6638e-6 * x1 - 7e-10 * x1**3) - 1.3514e-5 * x2**4
    return p + 2.8673 * torch.exp(5e-4 * x1 * x2)


PROBLEMS: tuple[HSProblem, ...] = (
    HSProblem(
        51,
        (2.5, 0.5, 2, -1, 0.5),
        0.0,
        scalar(lambda x1, x2, x3, x4, x5: (x1 - x2) ** 2 + (x2 + x3 - 2) ** 2 + (x4 - 1) ** 2 + (x5 - 1) ** 2),
        equalities=equal(lambda x1, x2, x3, x4, x5: (x1 + 3 * x2 - 4, x3 + x4 - 2 * x5, x2 - x5)),
    ),
    HSProblem(
        52,
        (2, 2, 2, 2, 2),
        1859 / 349,
        scalar(lambda x1, x2, x3, x4, x5: (4 * x1 - x2) ** 2 + (x2 + x3 - 2) ** 2 + (x4 - 1) ** 2 + (x5 - 1) ** 2),
        equalities=equal(lambda x1, x2, x3, x4, x5: (x1 + 3 * x2, x3 + x4 - 2 * x5, x2 - x5)),
    ),
    HSProblem(
        53,
        (2, 2, 2, 2, 2),
        176 / 43,
        scalar(lambda x1, x2, x3, x4, x5: (x1 - x2) ** 2 + (x2 + x3 - 2) ** 2 + (x4 - 1) ** 2 + (x5 - 1) ** 2),
        equalities=equal(lambda x1, x2, x3, x4, x5: (x1 + 3 * x2, x3 + x4 - 2 * x5, x2 - x5)),
        lower=(-10,) * 5,
        upper=(10,) * 5,
    ),
    HSProblem(
        54,
        (6e3, 1.5, 4e6, 2, 3e-3, 5e7),
        -exp(-27 / 280),
        _objective54,
        equalities=equal(lambda x1, x2, x3, x4, x5, x6: (x1 + 4e3 * x2 - 1.76e4,)),
        lower=(0, -10, 0, 0, 0, 0),
        upper=(2e4, 10, 1e7, 20, 1, 2e8),
    ),
    HSProblem(
        55,
        (1, 2, 0, 0, 0, 2),
        19 / 3,
        scalar(lambda x1, x2, x3, x4, x5, x6: x1 + 2 * x2 + 4 * x5 + torch.exp(x1 * x4)),
        equalities=equal(
            lambda x1, x2, x3, x4, x5, x6: (
                x1 + 2 * x2 + 5 * x5 - 6,
                x1 + x2 + x3 - 3,
                x4 + x5 + x6 - 2,
                x1 + x4 - 1,
                x2 + x5 - 2,
                x3 + x6 - 2,
            )
        ),
        lower=(0,) * 6,
        upper=(1, inf, inf, 1, inf, inf),
    ),
    HSProblem(
        56,
        (1, 1, 1, _Z56, _Z56, _Z56, asin(sqrt(5 / 7.2))),
        -3.456,
        scalar(lambda x1, x2, x3, x4, x5, x6, x7: -x1 * x2 * x3),
        equalities=equal(
            lambda x1, x2, x3, x4, x5, x6, x7: (
                x1 - 4.2 * torch.sin(x4) ** 2,
                x2 - 4.2 * torch.sin(x5) ** 2,
                x3 - 4.2 * torch.sin(x6) ** 2,
                x1 + 2 * x2 + 2 * x3 - 7.2 * torch.sin(x7) ** 2,
            )
        ),
    ),
    HSProblem(
        57,
        (0.42, 5),
        0.02845966972,
        _objective57,
        nonnegative(lambda x1, x2: (0.49 * x2 - x1 * x2 - 0.09,)),
        lower=(0.4, -4),
    ),
    HSProblem(
        58,
        (-2, 1),
        3.190336744,
        scalar(lambda x1, x2: 100 * (x2 - x1**2) ** 2 + (1 - x1) ** 2),
        nonnegative(lambda x1, x2: (x2**2 - x1, x1**2 - x2, x1**2 + x2**2 - 1)),
        lower=(-2, -inf),
        upper=(0.5, inf),
    ),
    HSProblem(
        59,
        (90, 10),
        -7.804235954,
        _objective59,
        nonnegative(lambda x1, x2: (x1 * x2 - 700, x2 - x1**2 / 125, (x2 - 50) ** 2 - 5 * (x1 - 55))),
        lower=(0, 0),
        upper=(75, 65),
    ),
    HSProblem(
        60,
        (2, 2, 2),
        0.03256820025,
        scalar(lambda x1, x2, x3: (x1 - 1) ** 2 + (x1 - x2) ** 2 + (x2 - x3) ** 4),
        equalities=equal(lambda x1, x2, x3: (x1 * (1 + x2**2) + x3**4 - 4 - 3 * sqrt(2),)),
        lower=(-10, -10, -10),
        upper=(10, 10, 10),
    ),
    HSProblem(
        61,
        (0, 0, 0),
        -143.6461422,
        scalar(lambda x1, x2, x3: 4 * x1**2 + 2 * x2**2 + 2 * x3**2 - 33 * x1 + 16 * x2 - 24 * x3),
        equalities=equal(lambda x1, x2, x3: (3 * x1 - 2 * x2**2 - 7, 4 * x1 - x3**2 - 11)),
    ),
    HSProblem(
        62,
        (0.7, 0.2, 0.1),
        -26272.51448,
        scalar(
            lambda x1, x2, x3: (
                -32.174
                * (
                    255 * torch.log((x1 + x2 + x3 + 0.03) / (0.09 * x1 + x2 + x3 + 0.03))
                    + 280 * torch.log((x2 + x3 + 0.03) / (0.07 * x2 + x3 + 0.03))
                    + 290 * torch.log((x3 + 0.03) / (0.13 * x3 + 0.03))
                )
            )
        ),
        equalities=equal(lambda x1, x2, x3: (x1 + x2 + x3 - 1,)),
        lower=(0, 0, 0),
        upper=(1, 1, 1),
    ),
    HSProblem(
        63,
        (2, 2, 2),
        961.7151721,
        scalar(lambda x1, x2, x3: 1000 - x1**2 - 2 * x2**2 - x3**2 - x1 * x2 - x1 * x3),
        equalities=equal(lambda x1, x2, x3: (8 * x1 + 14 * x2 + 7 * x3 - 56, x1**2 + x2**2 + x3**2 - 25)),
        lower=(0, 0, 0),
    ),
    HSProblem(
        64,
        (1, 1, 1),
        6299.842428,
        scalar(lambda x1, x2, x3: 5 * x1 + 5e4 / x1 + 20 * x2 + 7.2e4 / x2 + 10 * x3 + 1.44e5 / x3),
        nonnegative(lambda x1, x2, x3: (1 - 4 / x1 - 32 / x2 - 120 / x3,)),
        lower=(1e-5, 1e-5, 1e-5),
    ),
    HSProblem(
        65,
        (-5, 5, 0),
        0.9535288567,
        scalar(lambda x1, x2, x3: (x1 - x2) ** 2 + (x1 + x2 - 10) ** 2 / 9 + (x3 - 5) ** 2),
        nonnegative(lambda x1, x2, x3: (48 - x1**2 - x2**2 - x3**2,)),
        lower=(-4.5, -4.5, -5),
        upper=(4.5, 4.5, 5),
    ),
    HSProblem(
        66,
        (0, 1.05, 2.9),
        0.5181632741,
        scalar(lambda x1, x2, x3: 0.2 * x3 - 0.8 * x1),
        nonnegative(lambda x1, x2, x3: (x2 - torch.exp(x1), x3 - torch.exp(x2))),
        lower=(0, 0, 0),
        upper=(100, 100, 10),
    ),
)
