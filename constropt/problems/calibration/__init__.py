"""Calibrated classifiers: losses, metrics (over batches: ``streaming``, with torchmetrics), scaling, diagrams."""

from constropt.problems.calibration.diagrams import multiplier_curves, reliability_diagram
from constropt.problems.calibration.entrywise import ECP, FLSD, FocalLoss, LabelSmoothing
from constropt.problems.calibration.margin import CALS, CALSHR, MbLS, logit_distance
from constropt.problems.calibration.metrics import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    mean_iou,
    negative_log_likelihood,
)
from constropt.problems.calibration.pairwise import CPC, MMCE
from constropt.problems.calibration.samples import calibration_under_noise, gaussian_noise, held_out, long_tailed
from constropt.problems.calibration.scaling import TemperatureScaling, VectorScaling

__all__ = [
    "CALS", "CALSHR", "CPC", "ECP", "FLSD", "FocalLoss", "LabelSmoothing", "MMCE", "MbLS", "TemperatureScaling",
    "VectorScaling", "accuracy", "adaptive_calibration_error", "brier_score", "calibration_under_noise",
    "classwise_calibration_error", "expected_calibration_error", "gaussian_noise", "held_out", "logit_distance",
    "long_tailed", "mean_iou", "multiplier_curves", "negative_log_likelihood", "reliability_diagram",
]  # fmt: skip
