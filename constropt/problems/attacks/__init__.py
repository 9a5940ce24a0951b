"""Adversarial attacks as problems and recipes: ``attack(model, inputs, labels, *, targets=None, ...) -> Solution``."""

from constropt.problems.attacks.alma import ALMA, alma
from constropt.problems.attacks.alma_prox import alma_prox
from constropt.problems.attacks.asma import asma
from constropt.problems.attacks.constraints import dlr, logit_difference, targeted_dlr
from constropt.problems.attacks.dag import dag
from constropt.problems.attacks.ddn import ddn
from constropt.problems.attacks.fgsm import bim, fgsm, mi_fgsm
from constropt.problems.attacks.fmn import fmn
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.attacks.minimal import minimal
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.attacks.pdpgd import pdgd, pdpgd
from constropt.problems.attacks.pgd import pgd

__all__ = [
    "ALMA",
    "MaximalLoss",
    "MinimalPerturbation",
    "alma",
    "alma_prox",
    "asma",
    "bim",
    "dag",
    "ddn",
    "dlr",
    "fgsm",
    "fmn",
    "logit_difference",
    "mi_fgsm",
    "minimal",
    "pdgd",
    "pdpgd",
    "pgd",
    "targeted_dlr",
]
