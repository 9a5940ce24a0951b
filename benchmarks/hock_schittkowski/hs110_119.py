"""Problems 110 to 119 of W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (1981).

The book leaves the number 115 empty. The optimum of problem 112 is that of problem 111, of which it is a
transformation (the book's own value, -47.707579, was not the minimum). The optimum of problem 116 is recomputed
(the book: 97.588409).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .hs083_099 import A86, B86, C86, D86, E86
from .problem import HSProblem, scalar

_C111 = torch.tensor(
    [-6.089, -17.164, -34.054, -5.914, -24.721, -14.986, -24.1, -10.708, -26.662, -22.179], dtype=torch.float64
)
_PAIRS119 = (
    *((1, j) for j in (1, 4, 7, 8, 16)),
    *((2, j) for j in (2, 3, 7, 10)),
    *((3, j) for j in (3, 7, 9, 10, 14)),
    *((4, j) for j in (4, 7, 11, 15)),
    *((5, j) for j in (5, 6, 10, 12, 16)),
    *((6, j) for j in (6, 8, 15)),
    *((7, j) for j in (7, 11, 13)),
    *((8, j) for j in (8, 10, 15)),
    *((9, j) for j in (9, 12, 16)),
    *((10, 10), (10, 14), (11, 11), (11, 13), (12, 12), (12, 14)),
    *((13, 13), (13, 14), (14, 14), (15, 15), (16, 16)),
)
_A119 = torch.zeros(16, 16, dtype=torch.float64)
for _i, _j in _PAIRS119:
    _A119[_i - 1, _j - 1] = 1
_B119 = torch.tensor(
    [
        [0.22, 0.2, 0.19, 0.25, 0.15, 0.11, 0.12, 0.13, 1, 0, 0, 0, 0, 0, 0, 0],
        [-1.46, 0, -1.3, 1.82, -1.15, 0, 0.8, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        [1.29, -0.89, 0, 0, -1.16, -0.96, 0, -0.49, 0, 0, 1, 0, 0, 0, 0, 0],
        [-1.1, -1.06, 0.95, -0.54, 0, -1.78, -0.41, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, -1.43, 1.51, 0.59, -0.33, -0.43, 0, 0, 0, 0, 1, 0, 0, 0],
        [0, -1.72, -0.33, 0, 1.62, 1.24, 0.21, -0.26, 0, 0, 0, 0, 0, 1, 0, 0],
        [1.12, 0, 0, 0.31, 0, 0, 1.12, 0, -0.36, 0, 0, 0, 0, 0, 1, 0],
        [0, 0.45, 0.26, -1.1, 0.58, 0, -1.03, 0.1, 0, 0, 0, 0, 0, 0, 0, 1],
    ],
    dtype=torch.float64,
)
_C119 = torch.tensor([2.5, 1.1, -3.1, -3.5, 1.3, 2.1, 2.3, -1.5], dtype=torch.float64)


def _objective110(x: Tensor) -> Tensor:
    return (torch.log(x - 2) ** 2 + torch.log(10 - x) ** 2).sum(1) - x.prod(1) ** 0.2


def _objective111(x: Tensor) -> Tensor:
    c = _C111.to(x.device, x.dtype)
    return (torch.exp(x) * (c + x - torch.logsumexp(x, 1, keepdim=True))).sum(1)


def _objective112(x: Tensor) -> Tensor:
    c = _C111.to(x.device, x.dtype)
    return (x * (c + torch.log(x / x.sum(1, keepdim=True)))).sum(1)


def _equalities112(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5, x6, x7, x8, x9, x10 = x.unbind(1)
    return torch.stack(
        [x1 + 2 * x2 + 2 * x3 + x6 + x10 - 2, x4 + 2 * x5 + x6 + x7 - 1, x3 + x7 + x8 + 2 * x9 + x10 - 1], 1
    )


def _objective113(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5, x6, x7, x8, x9, x10 = x.unbind(1)
    f = x1**2 + x2**2 + x1 * x2 - 14 * x1 - 16 * x2 + (x3 - 10) ** 2 + 4 * (x4 - 5) ** 2 + (x5 - 3) ** 2
    return f + 2 * (x6 - 1) ** 2 + 5 * x7**2 + 7 * (x8 - 11) ** 2 + 2 * (x9 - 10) ** 2 + (x10 - 7) ** 2 + 45


def _inequalities113(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5, x6, x7, x8, x9, x10 = x.unbind(1)
    return -torch.stack(
        [
            105 - 4 * x1 - 5 * x2 + 3 * x7 - 9 * x8,
            -10 * x1 + 8 * x2 + 17 * x7 - 2 * x8,
            8 * x1 - 2 * x2 - 5 * x9 + 2 * x10 + 12,
            120 - 3 * (x1 - 2) ** 2 - 4 * (x2 - 3) ** 2 - 2 * x3**2 + 7 * x4,
            40 - 5 * x1**2 - 8 * x2 - (x3 - 6) ** 2 + 2 * x4,
            30 - 0.5 * (x1 - 8) ** 2 - 2 * (x2 - 4) ** 2 - 3 * x5**2 + x6,
            -(x1**2) - 2 * (x2 - 2) ** 2 + 2 * x1 * x2 - 14 * x5 + 6 * x6,
            3 * x1 - 6 * x2 - 12 * (x9 - 8) ** 2 + 7 * x10,
        ],
        1,
    )


def _inequalities114(x: Tensor) -> Tensor:
    x1, _, _, x4, _, x6, x7, x8, x9, x10 = x.unbind(1)
    a, b = 0.99, 0.9
    g1 = 35.82 - 0.222 * x10 - b * x9
    g2 = -133 + 3 * x7 - a * x10
    g5 = 1.12 * x1 + 0.13167 * x1 * x8 - 0.00667 * x1 * x8**2 - a * x4
    g6 = 57.425 + 1.098 * x8 - 0.038 * x8**2 + 0.325 * x6 - a * x7
    g3, g4 = -g1 + x9 * (1 / b - b), -g2 + (1 / a - a) * x10
    g7, g8 = -g5 + (1 / a - a) * x4, -g6 + (1 / a - a) * x7
    return -torch.stack([g1, g2, g3, g4, g5, g6, g7, g8], 1)


def _inequalities116(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13 = x.unbind(1)
    a, b, c, d, e, f = 0.002, 1.262626, 1.231059, 0.03475, 0.975, 0.00975
    return -torch.stack(
        [
            x3 - x2,
            x2 - x1,
            1 - a * x7 + a * x8,
            x11 + x12 + x13 - 50,
            250 - x11 - x12 - x13,
            x13 - b * x10 + c * x3 * x10,
            x5 - d * x2 - e * x2 * x5 + f * x2**2,
            x6 - d * x3 - e * x3 * x6 + f * x3**2,
            x4 - d * x1 - e * x1 * x4 + f * x1**2,
            x12 - b * x9 + c * x2 * x9,
            x11 - b * x8 + c * x1 * x8,
            x5 * x7 - x1 * x8 - x4 * x7 + x4 * x8,
            1 - a * (x2 * x9 + x5 * x8 - x1 * x8 - x6 * x9) - x5 - x6,
            x2 * x9 - x3 * x10 - x6 * x9 - 500 * x2 + 500 * x6 + x2 * x10,
            x2 - 0.9 - a * (x2 * x10 - x3 * x10),
        ],
        1,
    )


def _objective117(x: Tensor) -> Tensor:
    b, c, d = (table.to(x.device, x.dtype) for table in (B86, C86, D86))
    y, z = x[:, :10], x[:, 10:]
    return ((z @ c) * z).sum(1) + 2 * (z**3 @ d) - y @ b


def _inequalities117(x: Tensor) -> Tensor:
    a, c, d, e = (table.to(x.device, x.dtype) for table in (A86, C86, D86, E86))
    y, z = x[:, :10], x[:, 10:]
    return y @ a - 2 * (z @ c) - 3 * d * z**2 - e


def _objective118(x: Tensor) -> Tensor:
    z = x.unflatten(1, (5, 3))
    return (z * z.new_tensor([2.3, 1.7, 2.2]) + z**2 * z.new_tensor([1e-4, 1e-4, 1.5e-4])).sum((1, 2))


def _inequalities118(x: Tensor) -> Tensor:
    z = x.unflatten(1, (5, 3))
    growth = z.diff(dim=1)
    above = (growth - growth.new_tensor([6, 7, 6])).flatten(1)
    demand = z.new_tensor([60, 50, 70, 85, 100]) - z.sum(2)
    return torch.cat([(-7 - growth).flatten(1), above, demand], 1)


def _objective119(x: Tensor) -> Tensor:
    y = x**2 + x + 1
    return ((y @ _A119.to(x.device, x.dtype)) * y).sum(1)


def _equalities119(x: Tensor) -> Tensor:
    return x @ _B119.to(x.device, x.dtype).T - _C119.to(x.device, x.dtype)


def _equalities114(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5, x6, _, x8, x9, _ = x.unbind(1)
    ratio = 98000 * x3 / (x4 * x9 + 1000 * x3)
    return torch.stack([1.22 * x4 - x1 - x5, ratio - x6, (x2 + x5) / x1 - x8], 1)


PROBLEMS: tuple[HSProblem, ...] = (
    HSProblem(110, (9,) * 10, -45.77846971, _objective110, lower=(2.001,) * 10, upper=(9.999,) * 10),
    HSProblem(
        111,
        (-2.3,) * 10,
        -47.76109086,
        _objective111,
        equalities=lambda x: _equalities112(torch.exp(x)),
        lower=(-100,) * 10,
        upper=(100,) * 10,
    ),
    HSProblem(112, (0.1,) * 10, -47.76109086, _objective112, equalities=_equalities112, lower=(1e-6,) * 10),
    HSProblem(113, (2, 3, 5, 5, 1, 2, 7, 3, 6, 10), 24.3062091, _objective113, _inequalities113),
    HSProblem(
        114,
        (1745, 12000, 110, 3048, 1974, 89.2, 92.8, 8, 3.6, 145),
        -1768.80696,
        scalar(
            lambda x1, x2, x3, x4, x5, x6, x7, x8, x9, x10: (
                5.04 * x1 + 0.035 * x2 + 10 * x3 + 3.36 * x5 - 0.063 * x4 * x7
            )
        ),
        _inequalities114,
        _equalities114,
        lower=(1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 85, 90, 3, 1.2, 145),
        upper=(2000, 16000, 120, 5000, 2000, 93, 95, 12, 4, 162),
    ),
    HSProblem(
        116,
        (0.5, 0.8, 0.9, 0.1, 0.14, 0.5, 489, 80, 650, 450, 150, 150, 150),
        97.58750956,
        lambda x: x[:, 10:].sum(1),
        _inequalities116,
        lower=(0.1, 0.1, 0.1, 0.0001, 0.1, 0.1, 0.1, 0.1, 500, 0.1, 1, 0.0001, 0.0001),
        upper=(1, 1, 1, 0.1, 0.9, 0.9, 1000, 1000, 1000, 500, 150, 150, 150),
    ),
    HSProblem(117, (*(0.001,) * 6, 60, *(0.001,) * 8), 32.34867897, _objective117, _inequalities117, lower=(0,) * 15),
    HSProblem(
        118,
        (20, 55, 15, 20, 60, 20, 20, 60, 20, 20, 60, 20, 20, 60, 20),
        664.8204500,
        _objective118,
        _inequalities118,
        lower=(8, 43, 3, *(0,) * 12),
        upper=(21, 57, 16, *(90, 120, 60) * 4),
    ),
    HSProblem(119, (10,) * 16, 244.899698, _objective119, equalities=_equalities119, lower=(0,) * 16, upper=(5,) * 16),
)
