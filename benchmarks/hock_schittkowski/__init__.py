"""The Hock-Schittkowski test collection as batched torch functions.

Source: W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes, Lecture Notes in Economics and
Mathematical Systems 187, Springer, 1981: formulas, standard starting points and optimal values. Where the authors'
later test programs corrected a value, or scipy's SLSQP found better digits, the module of the problem says so.

``PROBLEMS`` maps the number in the book to its problem; ``SPECIALS`` maps a name to one of a few made-up problems
with a known outcome (infeasible, unbounded, degenerate, badly scaled).
"""

from __future__ import annotations

from . import hs001_030, hs031_050, hs051_066, hs067_081, hs083_099, hs100_109, hs110_119
from .problem import BatchFunction, HSProblem
from .specials import SPECIALS, SpecialProblem

__all__ = ["PROBLEMS", "SPECIALS", "BatchFunction", "HSProblem", "SpecialProblem"]

_MODULES = (hs001_030, hs031_050, hs051_066, hs067_081, hs083_099, hs100_109, hs110_119)

PROBLEMS: dict[int, HSProblem] = {problem.number: problem for module in _MODULES for problem in module.PROBLEMS}
