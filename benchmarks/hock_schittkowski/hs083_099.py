"""Problems 83 to 99 of W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (1981).

The book leaves the numbers 82 and 94 empty. Problem 87 is left out: its objective has jumps. The optimum of problem 85
is recomputed (the book: -1.90513375, the authors' later test program: -1.9051553).
"""

from __future__ import annotations

from math import cos, pi, sin

import torch
from torch import Tensor

from .problem import BatchFunction, HSProblem, nonnegative, scalar

_A84 = (
    (-24345, -8720288.849, 150512.5253, -156.6950325, 476470.3222, 729482.8271),
    (0, -145421.402, 2931.1506, -40.427932, 5106.192, 15711.36),
    (0, -155011.1084, 4360.53352, 12.9492344, 10236.884, 13176.786),
    (0, -326669.5104, 7390.68412, -27.8986976, 16643.076, 30988.146),
)
_LOWER85 = (17.505, 11.275, 214.228, 7.458, 0.961, 1.612, 0.146, 107.99, 922.693, 926.832)
_LOWER85 += (18.766, 1072.163, 8961.448, 0.063, 71084.33, 2802713)
_UPPER85 = (1053.6667, 35.03, 665.585, 584.463, 265.916, 7.046, 0.222, 273.366, 1286.105, 1444.046)
_UPPER85 += (537.141, 3247.039, 26844.086, 0.386, 140000, 12146108)
E86 = torch.tensor([-15, -27, -36, -18, -12], dtype=torch.float64)
D86 = torch.tensor([4, 8, 10, 6, 2], dtype=torch.float64)
B86 = torch.tensor([-40, -2, -0.25, -4, -4, -1, -40, -60, 5, 1], dtype=torch.float64)
C86 = torch.tensor(
    [[30, -20, -10, 32, -10], [-20, 39, -6, -31, 32], [-10, -6, 10, -6, -10], [32, -31, -6, 39, -20]]
    + [[-10, 32, -10, -20, 30]],
    dtype=torch.float64,
)
A86 = torch.tensor(
    [[-16, 2, 0, 1, 0], [0, -2, 0, 0.4, 2], [-3.5, 0, 2, 0, 0], [0, -2, 0, -4, -1], [0, -9, -2, 1, -2.8]]
    + [[2, 0, -4, 0, 0], [-1, -1, -1, -1, -1], [-1, -2, -3, -2, -1], [1, 2, 3, 4, 5], [1, 1, 1, 1, 1]],
    dtype=torch.float64,
)


def _form84(x: Tensor, row: int) -> Tensor:
    x1, x2, x3, x4, x5 = x.unbind(1)
    c, a1, a2, a3, a4, a5 = _A84[row]
    return c + x1 * (a1 + a2 * x2 + a3 * x3 + a4 * x4 + a5 * x5)


def _inequalities83(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5 = x.unbind(1)
    v1 = 85.334407 + 0.0056858 * x2 * x5 + 0.0006262 * x1 * x4 - 0.0022053 * x3 * x5
    v2 = 80.51249 + 0.0071317 * x2 * x5 + 0.0029955 * x1 * x2 + 0.0021813 * x3**2 - 90
    v3 = 9.300961 + 0.0047026 * x3 * x5 + 0.0012547 * x1 * x3 + 0.0019085 * x3 * x4 - 20
    return torch.stack([-v1, -v2, -v3, v1 - 92, v2 - 20, v3 - 5], 1)


def _inequalities84(x: Tensor) -> Tensor:
    v1, v2, v3 = (_form84(x, row) for row in (1, 2, 3))
    return torch.stack([-v1, -v2, -v3, v1 - 294000, v2 - 294000, v3 - 277200], 1)


def _states85(x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The quantities (y1, ..., y17) and (c12, c15, c16, c17)."""
    x1, x2, x3, x4, x5 = x.unbind(1)
    y1 = x2 + x3 + 41.6
    y2 = 12.5 / (0.024 * x4 - 4.62) + 12
    c2 = 0.0003535 * x1**2 + 0.5311 * x1 + 0.08705 * y2 * x1
    c3 = 0.052 * x1 + 78 + 0.002377 * y2 * x1
    y3 = c2 / c3
    y4 = 19 * y3
    c4 = 0.04782 * (x1 - y3) + 0.1956 * (x1 - y3) ** 2 / x2 + 0.6376 * y4 + 1.594 * y3
    y5 = (x1 - y3 - y4) * (0.95 - c4 / (100 * x2))
    y6 = x1 - y5 - y4 - y3
    c8 = 0.995 * (y5 + y4)
    y7 = c8 / y1
    y8 = c8 / 3798
    y9 = 96.82 / (y7 - 0.0663 * y7 / y8 - 0.3153) + 0.321 * y1
    y10 = 1.29 * y5 + 1.258 * y4 + 2.29 * y3 + 1.71 * y6
    y11 = 1.71 * x1 - 0.452 * y4 + 0.58 * y3
    c12 = 0.995 * y10 + 1998
    y12 = 12.3 / 752.3 * x1 + 1.74125 * y2 * x1 / c12
    y13 = c12 - 1.75 * y2
    c17 = y9 + x5
    y14 = 3623 + 64.4 * x2 + 58.4 * x3 + 146312 / c17
    y15 = y13 / (0.995 * y10 + 60.8 * x2 + 48 * x4 - 0.1121 * y14 - 5095)
    y16 = 148000 - 331000 * y15 + 40 * y13 - 61 * y15 * y13
    y17 = 14130000 - 1328 * y10 - 531 * y11 + (2324 * y10 - 28740000 * y2) / c12
    y = (y1, y2, y3, y4, y5, y6, y7, y8, y9, y10, y11, y12, y13, y14, y15, y16, y17)
    return y, (c12, y13 / y15 - y13 / 0.52, 1.104 - 0.72 * y15, c17)


def _objective85(x: Tensor) -> Tensor:
    (_, y2, _, _, y5, _, _, _, _, _, _, y12, y13, y14, _, y16, y17), (c12, c15, c16, _) = _states85(x)
    linear = -5.843e-7 * y17 + 1.17e-4 * y14 + 2.358e-5 * y13 + 1.502e-6 * y16 + 0.0321 * y12 + 0.004324 * y5
    return linear + 1e-4 * c15 / c16 + 37.48 * y2 / c12 + 0.1365


def _inequalities85(x: Tensor) -> Tensor:
    _, x2, x3, _, _ = x.unbind(1)
    y, (c12, _, _, c17) = _states85(x)
    box = torch.stack(y[1:], 1)
    rest = [1.5 * x2 - x3, y[0] - 213.1, 405.23 - y[0], y[3] - 0.28 / 0.72 * y[4], 21 - 3496 * y[1] / c12]
    rest.append(62212 / c17 - 110.6 - y[0])
    return torch.cat([box.new_tensor(_LOWER85) - box, box - box.new_tensor(_UPPER85), -torch.stack(rest, 1)], 1)


def _objective86(x: Tensor) -> Tensor:
    e, c, d = (table.to(x.device, x.dtype) for table in (E86, C86, D86))
    return x @ e + ((x @ c) * x).sum(1) + x**3 @ d


def _inequalities86(x: Tensor) -> Tensor:
    return B86.to(x.device, x.dtype) - x @ A86.to(x.device, x.dtype).T


def _roots88() -> list[float]:
    """The first 30 positive roots of mu tan(mu) = 1, by bisection of mu sin(mu) - cos(mu)."""
    roots = []
    for i in range(30):
        low, high = i * pi, (i + 0.5) * pi
        for _ in range(200):
            middle = (low + high) / 2
            if (middle * sin(middle) - cos(middle)) * (-1) ** i < 0:
                low = middle
            else:
                high = middle
        roots.append((low + high) / 2)
    return roots


_MU88 = torch.tensor(_roots88(), dtype=torch.float64)


def _inequality88(x: Tensor) -> Tensor:
    """Deviation of a temperature profile heated and cooled in turns, less the 1e-4 allowed (problems 88 to 92)."""
    n = x.shape[1]
    mu = _MU88.to(x.device, x.dtype)
    sine, cosine = torch.sin(mu), torch.cos(mu)
    a = 2 * sine / (mu + sine * cosine)
    k = (sine / mu - cosine) / mu**2
    times = (x**2).flip(1).cumsum(1).flip(1)
    decay = torch.exp(-(mu**2) * times.unsqueeze(2))
    signs = x.new_tensor([(-1.0) ** i * (1 if i == 0 else 2) for i in range(n)]).unsqueeze(1)
    rho = -((decay * signs).sum(1) + (-1.0) ** n) / mu**2
    deviation = (mu**2 * a * rho * (mu * sine * rho - 2 * k)).sum(1) + 2 / 15
    return (deviation - 1e-4).unsqueeze(1)


def _inequalities95(b1: float, b2: float, b3: float, b4: float) -> BatchFunction:
    def formula(x1: Tensor, x2: Tensor, x3: Tensor, x4: Tensor, x5: Tensor, x6: Tensor) -> tuple[Tensor, ...]:
        g1 = 17.1 * x1 + 38.2 * x2 + 204.2 * x3 + 212.3 * x4 + 623.4 * x5 + 1495.5 * x6 - 169 * x1 * x3
        g1 = g1 - 3580 * x3 * x5 - 3810 * x4 * x5 - 18500 * x4 * x6 - 24300 * x5 * x6
        g2 = 17.9 * x1 + 36.8 * x2 + 113.9 * x3 + 169.7 * x4 + 337.8 * x5 + 1385.2 * x6 - 139 * x1 * x3
        g2 = g2 - 2450 * x4 * x5 - 16600 * x4 * x6 - 17200 * x5 * x6
        g3 = -273 * x2 - 70 * x4 - 819 * x5 + 26000 * x4 * x5
        g4 = 159.9 * x1 - 311 * x2 + 587 * x4 + 391 * x5 + 2198 * x6 - 14000 * x1 * x6
        return g1 - b1, g2 - b2, g3 - b3, g4 - b4

    return nonnegative(formula)


def _states99(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The final range velocity r8, height q8 and vertical velocity s8 of a thrust programme."""
    a = (50, 50, 75, 75, 75, 100, 100)
    t = (0, 25, 50, 100, 150, 200, 290, 380)
    r = q = s = torch.zeros_like(x[:, 0])
    for i, angle in enumerate(x.unbind(1)):
        step = t[i + 1] - t[i]
        lift = a[i] * torch.sin(angle) - 32
        q = 0.5 * lift * step**2 + step * s + q
        s = lift * step + s
        r = a[i] * torch.cos(angle) * step + r
    return r, q, s


def _objective99(x: Tensor) -> Tensor:
    return -(_states99(x)[0] ** 2)


def _equalities99(x: Tensor) -> Tensor:
    _, q, s = _states99(x)
    return torch.stack([q - 1e5, s - 1e3], 1)


PROBLEMS: tuple[HSProblem, ...] = (
    HSProblem(
        83,
        (78, 33, 27, 27, 27),
        -30665.53867,
        scalar(lambda x1, x2, x3, x4, x5: 5.3578547 * x3**2 + 0.8356891 * x1 * x5 + 37.293239 * x1 - 40792.141),
        _inequalities83,
        lower=(78, 33, 27, 27, 27),
        upper=(102, 45, 45, 45, 45),
    ),
    HSProblem(
        84,
        (2.52, 2, 37.5, 9.25, 6.8),
        -5280335.133,
        lambda x: -_form84(x, 0),
        _inequalities84,
        lower=(0, 1.2, 20, 9, 6.5),
        upper=(1000, 2.4, 60, 9.3, 7),
    ),
    HSProblem(
        85,
        (900, 80, 115, 267, 27),
        -1.905155259,
        _objective85,
        _inequalities85,
        lower=(704.4148, 68.6, 0, 193, 25),
        upper=(906.3855, 288.88, 134.75, 287.0966, 84.1988),
    ),
    HSProblem(86, (0, 0, 0, 0, 1), -32.34867897, _objective86, _inequalities86, lower=(0,) * 5),
    *(
        HSProblem(
            86 + n,
            (0.5, -0.5, 0.5, -0.5, 0.5, -0.5)[:n],
            1.36265681,
            lambda x: (x**2).sum(1),
            _inequality88,
            lower=(0.1, *(-10,) * (n - 1)),
            upper=(10,) * n,
        )
        for n in range(2, 7)
    ),
    HSProblem(
        93,
        (5.54, 4.4, 12.02, 11.82, 0.702, 0.852),
        135.075961,
        scalar(
            lambda x1, x2, x3, x4, x5, x6: (
                x1 * x4 * (x1 + x2 + x3) * (0.0204 + 0.0607 * x5**2)
                + x2 * x3 * (x1 + 1.57 * x2 + x4) * (0.0187 + 0.0437 * x6**2)
            )
        ),
        nonnegative(
            lambda x1, x2, x3, x4, x5, x6: (
                0.001 * x1 * x2 * x3 * x4 * x5 * x6 - 2.07,
                (1 - 0.00062 * x1 * x4 * x5**2 * (x1 + x2 + x3)) - 0.00058 * x2 * x3 * x6**2 * (x1 + 1.57 * x2 + x4),
            )
        ),
        lower=(0,) * 6,
    ),
    *(
        HSProblem(
            number,
            (0,) * 6,
            optimum,
            scalar(lambda x1, x2, x3, x4, x5, x6: 4.3 * x1 + 31.8 * x2 + 63.3 * x3 + 15.8 * x4 + 68.5 * x5 + 4.7 * x6),
            _inequalities95(*b),
            lower=(0,) * 6,
            upper=(0.31, 0.046, 0.068, 0.042, 0.028, 0.0134),
        )
        for number, optimum, b in (
            (95, 0.015619514, (4.97, -1.88, -29.08, -78.02)),
            (96, 0.015619514, (4.97, -1.88, -69.08, -118.02)),
            (97, 3.1358091, (32.97, 25.12, -29.08, -78.02)),
            (98, 3.1358091, (32.97, 25.12, -124.08, -173.02)),
        )
    ),
    HSProblem(99, (0.5,) * 7, -831079891.5, _objective99, equalities=_equalities99, lower=(0,) * 7, upper=(1.58,) * 7),
)
