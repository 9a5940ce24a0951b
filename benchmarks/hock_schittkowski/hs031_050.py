"""Problems 31 to 50 of W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (1981)."""

from __future__ import annotations

from math import inf, log, sqrt

import torch

from .problem import HSProblem, equal, nonnegative, scalar

PROBLEMS: tuple[HSProblem, ...] = (
    HSProblem(
        31,
        (1, 1, 1),
        6.0,
        scalar(lambda x1, x2, x3: 9 * x1**2 + x2**2 + 9 * x3**2),
        nonnegative(lambda x1, x2, x3: (x1 * x2 - 1,)),
        lower=(-10, 1, -10),
        upper=(10, 10, 1),
    ),
    HSProblem(
        32,
        (0.1, 0.7, 0.2),
        1.0,
        scalar(lambda x1, x2, x3: (x1 + 3 * x2 + x3) ** 2 + 4 * (x1 - x2) ** 2),
        nonnegative(lambda x1, x2, x3: (6 * x2 + 4 * x3 - x1**3 - 3,)),
        equal(lambda x1, x2, x3: (1 - x1 - x2 - x3,)),
        lower=(0, 0, 0),
    ),
    HSProblem(
        33,
        (0, 0, 3),
        sqrt(2) - 6,
        scalar(lambda x1, x2, x3: (x1 - 1) * (x1 - 2) * (x1 - 3) + x3),
        nonnegative(lambda x1, x2, x3: (x3**2 - x2**2 - x1**2, x1**2 + x2**2 + x3**2 - 4)),
        lower=(0, 0, 0),
        upper=(inf, inf, 5),
    ),
    HSProblem(
        34,
        (0, 1.05, 2.9),
        -log(log(10)),
        scalar(lambda x1, x2, x3: -x1),
        nonnegative(lambda x1, x2, x3: (x2 - torch.exp(x1), x3 - torch.exp(x2))),
        lower=(0, 0, 0),
        upper=(100, 100, 10),
    ),
    HSProblem(
        35,
        (0.5, 0.5, 0.5),
        1 / 9,
        scalar(
            lambda x1, x2, x3: (
                9 - 8 * x1 - 6 * x2 - 4 * x3 + (2 * x1**2 + 2 * x2**2 + x3**2 + 2 * x1 * x2 + 2 * x1 * x3)
            )
        ),
        nonnegative(lambda x1, x2, x3: (3 - x1 - x2 - 2 * x3,)),
        lower=(0, 0, 0),
    ),
    HSProblem(
        36,
        (10, 10, 10),
        -3300.0,
        scalar(lambda x1, x2, x3: -x1 * x2 * x3),
        nonnegative(lambda x1, x2, x3: (72 - x1 - 2 * x2 - 2 * x3,)),
        lower=(0, 0, 0),
        upper=(20, 11, 42),
    ),
    HSProblem(
        37,
        (10, 10, 10),
        -3456.0,
        scalar(lambda x1, x2, x3: -x1 * x2 * x3),
        nonnegative(lambda x1, x2, x3: (72 - x1 - 2 * x2 - 2 * x3, x1 + 2 * x2 + 2 * x3)),
        lower=(0, 0, 0),
        upper=(42, 42, 42),
    ),
    HSProblem(
        38,
        (-3, -1, -3, -1),
        0.0,
        scalar(
            lambda x1, x2, x3, x4: (
                (100 * (x2 - x1**2) ** 2 + (1 - x1) ** 2)
                + (90 * (x4 - x3**2) ** 2 + (1 - x3) ** 2)
                + (10.1 * ((x2 - 1) ** 2 + (x4 - 1) ** 2) + 19.8 * (x2 - 1) * (x4 - 1))
            )
        ),
        lower=(-10, -10, -10, -10),
        upper=(10, 10, 10, 10),
    ),
    HSProblem(
        39,
        (2, 2, 2, 2),
        -1.0,
        scalar(lambda x1, x2, x3, x4: -x1),
        equalities=equal(lambda x1, x2, x3, x4: (x2 - x1**3 - x3**2, x1**2 - x2 - x4**2)),
    ),
    HSProblem(
        40,
        (0.8, 0.8, 0.8, 0.8),
        -0.25,
        scalar(lambda x1, x2, x3, x4: -x1 * x2 * x3 * x4),
        equalities=equal(lambda x1, x2, x3, x4: (x1**3 + x2**2 - 1, x1**2 * x4 - x3, x4**2 - x2)),
    ),
    HSProblem(
        41,
        (2, 2, 2, 2),
        52 / 27,
        scalar(lambda x1, x2, x3, x4: 2 - x1 * x2 * x3),
        equalities=equal(lambda x1, x2, x3, x4: (x1 + 2 * x2 + 2 * x3 - x4,)),
        lower=(0, 0, 0, 0),
        upper=(1, 1, 1, 2),
    ),
    HSProblem(
        42,
        (1, 1, 1, 1),
        28 - 10 * sqrt(2),
        scalar(lambda x1, x2, x3, x4: (x1 - 1) ** 2 + (x2 - 2) ** 2 + (x3 - 3) ** 2 + (x4 - 4) ** 2),
        equalities=equal(lambda x1, x2, x3, x4: (x1 - 2, x3**2 + x4**2 - 2)),
    ),
    HSProblem(
        43,
        (0, 0, 0, 0),
        -44.0,
        scalar(lambda x1, x2, x3, x4: x1**2 + x2**2 + 2 * x3**2 + x4**2 - 5 * x1 - 5 * x2 - 21 * x3 + 7 * x4),
        nonnegative(
            lambda x1, x2, x3, x4: (
                8 - x1**2 - x2**2 - x3**2 - x4**2 - x1 + x2 - x3 + x4,
                10 - x1**2 - 2 * x2**2 - x3**2 - 2 * x4**2 + x1 + x4,
                5 - 2 * x1**2 - x2**2 - x3**2 - 2 * x1 + x2 + x4,
            )
        ),
    ),
    HSProblem(
        44,
        (0, 0, 0, 0),
        -15.0,
        scalar(lambda x1, x2, x3, x4: x1 - x2 - x3 - x1 * x3 + x1 * x4 + x2 * x3 - x2 * x4),
        nonnegative(
            lambda x1, x2, x3, x4: (
                8 - x1 - 2 * x2,
                12 - 4 * x1 - x2,
                12 - 3 * x1 - 4 * x2,
                8 - 2 * x3 - x4,
                8 - x3 - 2 * x4,
                5 - x3 - x4,
            )
        ),
        lower=(0, 0, 0, 0),
    ),
    HSProblem(
        45,
        (2, 2, 2, 2, 2),
        1.0,
        scalar(lambda x1, x2, x3, x4, x5: 2 - x1 * x2 * x3 * x4 * x5 / 120),
        lower=(0, 0, 0, 0, 0),
        upper=(1, 2, 3, 4, 5),
    ),
    HSProblem(
        46,
        (sqrt(2) / 2, 1.75, 0.5, 2, 2),
        0.0,
        scalar(lambda x1, x2, x3, x4, x5: (x1 - x2) ** 2 + (x3 - 1) ** 2 + (x4 - 1) ** 4 + (x5 - 1) ** 6),
        equalities=equal(lambda x1, x2, x3, x4, x5: (x1**2 * x4 + torch.sin(x4 - x5) - 1, x2 + x3**4 * x4**2 - 2)),
    ),
    HSProblem(
        47,
        (2, sqrt(2), -1, 2 - sqrt(2), 0.5),
        0.0,
        scalar(lambda x1, x2, x3, x4, x5: (x1 - x2) ** 2 + (x2 - x3) ** 2 + (x3 - x4) ** 4 + (x4 - x5) ** 4),
        equalities=equal(lambda x1, x2, x3, x4, x5: (x1 + x2**2 + x3**3 - 3, x2 - x3**2 + x4 - 1, x1 * x5 - 1)),
    ),
    HSProblem(
        48,
        (3, 5, -3, 2, -2),
        0.0,
        scalar(lambda x1, x2, x3, x4, x5: (x1 - 1) ** 2 + (x2 - x3) ** 2 + (x4 - x5) ** 2),
        equalities=equal(lambda x1, x2, x3, x4, x5: (x1 + x2 + x3 + x4 + x5 - 5, x3 - 2 * (x4 + x5) + 3)),
    ),
    HSProblem(
        49,
        (10, 7, 2, -3, 0.8),
        0.0,
        scalar(lambda x1, x2, x3, x4, x5: (x1 - x2) ** 2 + (x3 - 1) ** 2 + (x4 - 1) ** 4 + (x5 - 1) ** 6),
        equalities=equal(lambda x1, x2, x3, x4, x5: (x1 + x2 + x3 + 4 * x4 - 7, x3 + 5 * x5 - 6)),
    ),
    HSProblem(
        50,
        (35, -31, 11, 5, -5),
        0.0,
        scalar(lambda x1, x2, x3, x4, x5: (x1 - x2) ** 2 + (x2 - x3) ** 2 + (x3 - x4) ** 4 + (x4 - x5) ** 4),
        equalities=equal(
            lambda x1, x2, x3, x4, x5: (x1 + 2 * x2 + 3 * x3 - 6, x2 + 2 * x3 + 3 * x4 - 6, x3 + 2 * x4 + 3 * x5 - 6)
        ),
    ),
)
