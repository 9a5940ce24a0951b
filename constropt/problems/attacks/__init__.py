"""Adversarial attacks as problems and recipes: ``attack(model, inputs, labels, *, targets=None, ...) -> Solution``."""

from constropt.problems.attacks.augmented_lagrangian import ALMA, PDGD, PDPGD, ALMAProx, alma, alma_prox, pdgd, pdpgd
from constropt.problems.attacks.balls import APGD, BIM, FGSM, MIFGSM, PGD, Square, apgd, bim, fgsm, mi_fgsm, pgd, square
from constropt.problems.attacks.constraints import dlr, logit_difference, targeted_dlr
from constropt.problems.attacks.declared import MaximalLoss, MinimalPerturbation
from constropt.problems.attacks.ensembles import RECIPES, Standard, WorstCase, standard, worst_case
from constropt.problems.attacks.goals import Goal, cross_entropy_level, logit_margin, outside_top
from constropt.problems.attacks.greedy import ASMA, DAG, JSMA, asma, dag, jsma
from constropt.problems.attacks.level_sets import DDN, FMN, SigmaZero, ddn, fmn, sigma_zero
from constropt.problems.attacks.linearized import (
    FAB,
    BrendelBethge,
    DeepFool,
    Minimal,
    SuperDeepFool,
    TrustRegionAttack,
    brendel_bethge,
    deepfool,
    fab,
    minimal,
    superdeepfool,
    trust_region,
)
from constropt.problems.attacks.method import SmallestRadius
from constropt.problems.attacks.penalized import CW, EAD, LBFGSAttack, StrAttack, cw, ead, lbfgs_attack, str_attack
from constropt.problems.attacks.perceptual import LPA, PerCAL, lpa, perc_al
from constropt.problems.attacks.recipe import BudgetedRecipe, MinimalRecipe, Recipe
from constropt.problems.attacks.scores import ScorePerturbation, labels_flipped, regression_error, scores_below
from constropt.problems.attacks.transport import WassersteinAttack, wasserstein

__all__ = [
    "ALMA", "APGD", "ASMA", "BIM", "CW", "DAG", "DDN", "EAD", "FAB", "FGSM", "FMN", "JSMA", "LPA", "MIFGSM", "PDGD",
    "PDPGD", "PGD", "RECIPES", "ALMAProx", "BrendelBethge", "BudgetedRecipe", "DeepFool", "Goal", "LBFGSAttack",
    "MaximalLoss", "Minimal", "MinimalPerturbation", "MinimalRecipe", "PerCAL", "Recipe", "ScorePerturbation",
    "SigmaZero", "SmallestRadius", "Standard", "Square", "StrAttack", "SuperDeepFool", "TrustRegionAttack",
    "WassersteinAttack", "WorstCase", "alma", "alma_prox", "apgd", "asma", "bim", "brendel_bethge",
    "cross_entropy_level", "cw", "dag", "ddn", "deepfool", "dlr", "ead", "fab", "fgsm", "fmn", "jsma",
    "labels_flipped", "lbfgs_attack", "logit_difference", "logit_margin", "lpa", "mi_fgsm", "minimal", "outside_top",
    "pdgd", "pdpgd", "perc_al", "pgd", "regression_error", "scores_below", "sigma_zero", "square", "standard",
    "str_attack", "superdeepfool", "targeted_dlr", "trust_region", "wasserstein", "worst_case",
]  # fmt: skip
