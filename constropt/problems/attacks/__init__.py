"""Adversarial attacks as declared problems and recipes: ``attack(model, inputs, labels, *, targets=None, ...) -> Solution``."""

from constropt.problems.attacks.alma import ALMA, alma
from constropt.problems.attacks.alma_prox import alma_prox
from constropt.problems.attacks.constraints import dlr, logit_difference, targeted_dlr
from constropt.problems.attacks.ddn import ddn
from constropt.problems.attacks.minimal import minimal
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation

__all__ = [
    "ALMA",
    "MinimalPerturbation",
    "alma",
    "alma_prox",
    "ddn",
    "dlr",
    "logit_difference",
    "minimal",
    "targeted_dlr",
]
