"""Adversarial attacks as problems and recipes: ``attack(model, inputs, labels, *, targets=None, ...) -> Solution``."""

from constropt.problems.attacks.alma import ALMA, alma
from constropt.problems.attacks.alma_prox import alma_prox
from constropt.problems.attacks.apgd import apgd
from constropt.problems.attacks.asma import asma
from constropt.problems.attacks.brendel_bethge import brendel_bethge
from constropt.problems.attacks.constraints import dlr, logit_difference, targeted_dlr
from constropt.problems.attacks.cw import cw
from constropt.problems.attacks.dag import dag
from constropt.problems.attacks.ddn import ddn
from constropt.problems.attacks.deepfool import deepfool
from constropt.problems.attacks.ead import ead
from constropt.problems.attacks.fab import fab
from constropt.problems.attacks.fgsm import bim, fgsm, mi_fgsm
from constropt.problems.attacks.fmn import fmn
from constropt.problems.attacks.goals import Goal, cross_entropy_level, logit_margin, outside_top
from constropt.problems.attacks.jsma import jsma
from constropt.problems.attacks.lbfgs_attack import lbfgs_attack
from constropt.problems.attacks.lpa import lpa
from constropt.problems.attacks.maximal_loss import MaximalLoss
from constropt.problems.attacks.minimal import minimal
from constropt.problems.attacks.minimal_perturbation import MinimalPerturbation
from constropt.problems.attacks.pdpgd import pdgd, pdpgd
from constropt.problems.attacks.perc_al import perc_al
from constropt.problems.attacks.pgd import pgd
from constropt.problems.attacks.score_perturbation import (
    ScorePerturbation,
    labels_flipped,
    regression_error,
    scores_below,
)
from constropt.problems.attacks.sigma_zero import sigma_zero
from constropt.problems.attacks.square import square
from constropt.problems.attacks.standard import standard
from constropt.problems.attacks.str_attack import str_attack
from constropt.problems.attacks.superdeepfool import superdeepfool
from constropt.problems.attacks.trust_region import trust_region
from constropt.problems.attacks.wasserstein import wasserstein
from constropt.problems.attacks.worst_case import WorstCase, worst_case

__all__ = [
    "ALMA",
    "Goal",
    "MaximalLoss",
    "MinimalPerturbation",
    "ScorePerturbation",
    "WorstCase",
    "alma",
    "alma_prox",
    "apgd",
    "asma",
    "bim",
    "brendel_bethge",
    "cross_entropy_level",
    "cw",
    "dag",
    "ddn",
    "deepfool",
    "dlr",
    "ead",
    "fab",
    "fgsm",
    "fmn",
    "jsma",
    "labels_flipped",
    "lbfgs_attack",
    "logit_difference",
    "logit_margin",
    "lpa",
    "mi_fgsm",
    "minimal",
    "outside_top",
    "pdgd",
    "pdpgd",
    "perc_al",
    "pgd",
    "regression_error",
    "scores_below",
    "sigma_zero",
    "square",
    "standard",
    "str_attack",
    "superdeepfool",
    "targeted_dlr",
    "trust_region",
    "wasserstein",
    "worst_case",
]
