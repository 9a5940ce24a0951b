"""Constrained training in a loop of one's own: a loss module, constraints on outputs, dual steps on held-out data."""

from constropt.training.constraints import DualState, TrainingConstraint, on_average, samplewise
from constropt.training.loss import TRAINING, ConstrainedLoss, DualRule

__all__ = [
    "TRAINING", "ConstrainedLoss", "DualRule", "DualState", "TrainingConstraint", "on_average", "samplewise",
]  # fmt: skip
