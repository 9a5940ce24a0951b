"""Cooper's optimizers (nuPI, extragradient, ...) with our penalties and problems; `import constropt` loads none of it.

:func:`formulation` turns a penalty into a Cooper formulation, :func:`cmp` a :class:`~constropt.ConstrainedProblem` and
:func:`cmp_from_loss` a :class:`~constropt.training.ConstrainedLoss` into a Cooper problem.
"""

from constropt.cooper.formulations import MaskedState, PenaltyFormulation, ShapedMultiplier, formulation
from constropt.cooper.problems import LossCMP, ProblemCMP, cmp, cmp_from_loss

__all__ = [
    "LossCMP", "MaskedState", "PenaltyFormulation", "ProblemCMP", "ShapedMultiplier", "cmp", "cmp_from_loss",
    "formulation",
]  # fmt: skip
