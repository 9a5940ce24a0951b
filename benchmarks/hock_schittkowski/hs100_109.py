"""Problems 100 to 109 of W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (1981).

The optima of problems 101 to 103 and 106 are those of the authors' later test program; that of problem 105 is
recomputed (the book: 1138.416240).
"""

from __future__ import annotations

from math import cos, inf, sin

import torch
from torch import Tensor

from .problem import BatchFunction, HSProblem, nonnegative, scalar

# Observed values of problem 105 and how many of the 235 observations took each of them.
_Y105 = torch.tensor([95, *range(105, 225, 5), 230, 235, 240, 245, 260], dtype=torch.float64)
_N105 = torch.tensor(
    [1, 1, 4, 4, 15, 15, 15, 13, 21, 12, 17, 4, 20, 8, 17, 8, 6, 6, 7, 4, 3, 3, 8, 1, 6, 5, 1, 7, 1, 2],
    dtype=torch.float64,
)


def _objective100(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5, x6, x7 = x.unbind(1)
    f = (x1 - 10) ** 2 + 5 * (x2 - 12) ** 2 + x3**4 + 3 * (x4 - 11) ** 2 + 10 * x5**6
    return f + 7 * x6**2 + x7**4 - 4 * x6 * x7 - 10 * x6 - 8 * x7


def _objective101(a: float) -> BatchFunction:
    def function(x: Tensor) -> Tensor:
        x1, x2, x3, x4, x5, x6, x7 = x.unbind(1)
        f = 10 * x1 * x4**2 * x7**a / (x2 * x6**3) + 15 * x3 * x4 / (x1 * x2**2 * x5 * x7**0.5)
        return f + 20 * x2 * x6 / (x1**2 * x4 * x5**2) + 25 * x1**2 * x2**2 * x5**0.5 * x7 / (x3 * x6**2)

    return function


def _inequalities101(a: float) -> BatchFunction:
    objective = _objective101(a)

    def function(x: Tensor) -> Tensor:
        x1, x2, x3, x4, x5, x6, x7 = x.unbind(1)
        g1 = 0.5 * x1**0.5 * x7 / (x3 * x6**2) + 0.7 * x1**3 * x2 * x6 * x7**0.5 / x3**2
        g1 = g1 + 0.2 * x3 * x6 ** (2 / 3) * x7**0.25 / (x2 * x4**0.5)
        g2 = 1.3 * x2 * x6 / (x1**0.5 * x3 * x5) + 0.8 * x3 * x6**2 / (x4 * x5)
        g2 = g2 + 3.1 * x2**0.5 * x6 ** (1 / 3) / (x1 * x4**2 * x5)
        g3 = 2 * x1 * x5 * x7 ** (1 / 3) / (x3**1.5 * x6) + 0.1 * x2 * x5 / (x3**0.5 * x6 * x7**0.5)
        g3 = g3 + x2 * x3**0.5 * x5 / x1 + 0.65 * x3 * x5 * x7 / (x2**2 * x6)
        g4 = 0.2 * x2 * x5**0.5 * x7 ** (1 / 3) / (x1**2 * x4) + 0.5 * x4 * x7**0.5 / x3**2
        g4 = g4 + 0.3 * x1**0.5 * x2**2 * x3 * x4 ** (1 / 3) * x7**0.25 / x5 ** (2 / 3)
        g4 = g4 + 0.4 * x3 * x5 * x7**0.75 / (x1**3 * x2**2)
        f = objective(x)
        return torch.stack([g1 - 1, g2 - 1, g3 - 1, g4 - 1, 100 - f, f - 3000], 1)

    return function


def _objective104(x: Tensor) -> Tensor:
    x1, x2, _, _, _, _, x7, x8 = x.unbind(1)
    return 0.4 * x1**0.67 * x7**-0.67 + 0.4 * x2**0.67 * x8**-0.67 + 10 - x1 - x2


def _inequalities104(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5, x6, x7, x8 = x.unbind(1)
    f = _objective104(x)
    return torch.stack(
        [
            0.0588 * x5 * x7 + 0.1 * x1 - 1,
            0.0588 * x6 * x8 + 0.1 * x1 + 0.1 * x2 - 1,
            4 * x3 / x5 + 2 * x3**-0.71 / x5 + 0.0588 * x3**-1.3 * x7 - 1,
            4 * x4 / x6 + 2 * x4**-0.71 / x6 + 0.0588 * x4**-1.3 * x8 - 1,
            1 - f,
            f - 4.2,
        ],
        1,
    )


def _objective105(x: Tensor) -> Tensor:
    y, n = _Y105.to(x.device, x.dtype), _N105.to(x.device, x.dtype)
    x1, x2, x3, x4, x5, x6, x7, x8 = x.unsqueeze(2).unbind(1)
    a = x1 / x6 * torch.exp(-((y - x3) ** 2) / (2 * x6**2))
    b = x2 / x7 * torch.exp(-((y - x4) ** 2) / (2 * x7**2))
    c = (1 - x1 - x2) / x8 * torch.exp(-((y - x5) ** 2) / (2 * x8**2))
    return -(n * torch.log((a + b + c) / (2 * torch.pi) ** 0.5)).sum(1)


def _equalities107(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5, x6, x7, x8, x9 = x.unbind(1)
    c, d = 48.4 / 50.176 * sin(0.25), 48.4 / 50.176 * cos(0.25)
    y1, y2, y3, y4 = torch.sin(x8), torch.cos(x8), torch.sin(x9), torch.cos(x9)
    y5, y6 = torch.sin(x8 - x9), torch.cos(x8 - x9)
    return torch.stack(
        [
            0.4 - x1 + 2 * c * x5**2 - x5 * x6 * (d * y1 + c * y2) - x5 * x7 * (d * y3 + c * y4),
            0.4 - x2 + 2 * c * x6**2 + x5 * x6 * (d * y1 - c * y2) + x6 * x7 * (d * y5 - c * y6),
            0.8 + 2 * c * x7**2 + x5 * x7 * (d * y3 - c * y4) - x6 * x7 * (d * y5 + c * y6),
            0.2 - x3 + 2 * d * x5**2 + x5 * x6 * (c * y1 - d * y2) + x5 * x7 * (c * y3 - d * y4),
            0.2 - x4 + 2 * d * x6**2 - x5 * x6 * (c * y1 + d * y2) - x6 * x7 * (c * y5 + d * y6),
            2 * d * x7**2 - 0.337 - x5 * x7 * (c * y3 + d * y4) + x6 * x7 * (c * y5 - d * y6),
        ],
        1,
    )


def _inequalities109(x: Tensor) -> Tensor:
    x1, x2, x3, x4, _, _, _, x8, x9 = x.unbind(1)
    return torch.stack([x3 - x4 - 0.55, x4 - x3 - 0.55, x1**2 + x8**2 - 2.25e6, x2**2 + x9**2 - 2.25e6], 1)


def _equalities109(x: Tensor) -> Tensor:
    x1, x2, x3, x4, x5, x6, x7, x8, x9 = x.unbind(1)
    a, b, c = 50.176, sin(0.25), cos(0.25)
    s, k = torch.sin, torch.cos
    return torch.stack(
        [
            (x5 * x6 * s(-x3 - 0.25) + x5 * x7 * s(-x4 - 0.25) + 2 * b * x5**2) / a + 400 - x1,
            (x5 * x6 * s(x3 - 0.25) + x6 * x7 * s(x3 - x4 - 0.25) + 2 * b * x6**2) / a + 400 - x2,
            (x5 * x7 * s(x4 - 0.25) + x6 * x7 * s(x4 - x3 - 0.25) + 2 * b * x7**2) / a + 881.779,
            x8 + (x5 * x6 * k(-x3 - 0.25) + x5 * x7 * k(-x4 - 0.25) - 2 * c * x5**2) / a + 0.7533e-3 * x5**2 - 200,
            x9 + (x5 * x6 * k(x3 - 0.25) + x6 * x7 * k(x3 - x4 - 0.25) - 2 * c * x6**2) / a + 0.7533e-3 * x6**2 - 200,
            (x5 * x7 * k(x4 - 0.25) + x6 * x7 * k(x4 - x3 - 0.25) - 2 * c * x7**2) / a + 0.7533e-3 * x7**2 - 22.938,
        ],
        1,
    )


PROBLEMS: tuple[HSProblem, ...] = (
    HSProblem(
        100,
        (1, 2, 0, 4, 0, 1, 1),
        680.6300573,
        _objective100,
        nonnegative(
            lambda x1, x2, x3, x4, x5, x6, x7: (
                127 - 2 * x1**2 - 3 * x2**4 - x3 - 4 * x4**2 - 5 * x5,
                282 - 7 * x1 - 3 * x2 - 10 * x3**2 - x4 + x5,
                196 - 23 * x1 - x2**2 - 6 * x6**2 + 8 * x7,
                -4 * x1**2 - x2**2 + 3 * x1 * x2 - 2 * x3**2 - 5 * x6 + 11 * x7,
            )
        ),
    ),
    *(
        HSProblem(
            number,
            (6,) * 7,
            optimum,
            _objective101(a),
            _inequalities101(a),
            lower=(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01),
            upper=(10,) * 7,
        )
        for number, a, optimum in ((101, -0.25, 1809.764766), (102, 0.125, 911.8805713), (103, 0.5, 543.6679584))
    ),
    HSProblem(
        104,
        (6, 3, 0.4, 0.2, 6, 6, 1, 0.5),
        3.9511634396,
        _objective104,
        _inequalities104,
        lower=(0.1,) * 8,
        upper=(10,) * 8,
    ),
    HSProblem(
        105,
        (0.1, 0.2, 100, 125, 175, 11.2, 13.2, 15.8),
        1138.410664,
        _objective105,
        nonnegative(lambda x1, x2, x3, x4, x5, x6, x7, x8: (1 - x1 - x2,)),
        lower=(0.001, 0.001, 100, 130, 170, 5, 5, 5),
        upper=(0.499, 0.499, 180, 210, 240, 25, 25, 25),
    ),
    HSProblem(
        106,
        (5000, 5000, 5000, 200, 350, 150, 225, 425),
        7049.24802,
        scalar(lambda x1, x2, x3, x4, x5, x6, x7, x8: x1 + x2 + x3),
        nonnegative(
            lambda x1, x2, x3, x4, x5, x6, x7, x8: (
                1 - 0.0025 * (x4 + x6),
                1 - 0.0025 * (x5 + x7 - x4),
                1 - 0.01 * (x8 - x5),
                x1 * x6 - 833.33252 * x4 - 100 * x1 + 83333.333,
                x2 * x7 - 1250 * x5 - x2 * x4 + 1250 * x4,
                x3 * x8 - 1250000 - x3 * x5 + 2500 * x5,
            )
        ),
        lower=(100, 1000, 1000, 10, 10, 10, 10, 10),
        upper=(10000, 10000, 10000, 1000, 1000, 1000, 1000, 1000),
    ),
    HSProblem(
        107,
        (0.8, 0.8, 0.2, 0.2, 1.0454, 1.0454, 1.0454, 0, 0),
        5055.011803,
        scalar(lambda x1, x2, x3, x4, x5, x6, x7, x8, x9: 3000 * x1 + 1000 * x1**3 + 2000 * x2 + 666.66666667 * x2**3),
        equalities=_equalities107,
        lower=(0, 0, -inf, -inf, 0.90909, 0.90909, 0.90909, -inf, -inf),
        upper=(inf, inf, inf, inf, 1.0909, 1.0909, 1.0909, inf, inf),
    ),
    HSProblem(
        108,
        (1,) * 9,
        -0.8660254038,
        scalar(
            lambda x1, x2, x3, x4, x5, x6, x7, x8, x9: (
                -0.5 * (x1 * x4 - x2 * x3 + x3 * x9 - x5 * x9 + x5 * x8 - x6 * x7)
            )
        ),
        nonnegative(
            lambda x1, x2, x3, x4, x5, x6, x7, x8, x9: (
                1 - x3**2 - x4**2,
                1 - x9**2,
                1 - x5**2 - x6**2,
                1 - x1**2 - (x2 - x9) ** 2,
                1 - (x1 - x5) ** 2 - (x2 - x6) ** 2,
                1 - (x1 - x7) ** 2 - (x2 - x8) ** 2,
                1 - (x3 - x5) ** 2 - (x4 - x6) ** 2,
                1 - (x3 - x7) ** 2 - (x4 - x8) ** 2,
                1 - x7**2 - (x8 - x9) ** 2,
                x1 * x4 - x2 * x3,
                x3 * x9,
                -x5 * x9,
                x5 * x8 - x6 * x7,
            )
        ),
        lower=(*(-inf,) * 8, 0),
    ),
    HSProblem(
        109,
        (0, 0, 0, 0, 250, 250, 200, 0, 0),
        5362.06928,
        scalar(lambda x1, x2, *_: 3 * x1 + 1e-6 * x1**3 + 0.522074e-6 * x2**3 + 2 * x2),
        _inequalities109,
        _equalities109,
        lower=(0, 0, -0.55, -0.55, 196, 196, 196, -400, -400),
        upper=(inf, inf, 0.55, 0.55, 252, 252, 252, 800, 800),
    ),
)
