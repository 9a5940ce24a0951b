"""All recipes by name, and what any function that is called like one takes."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from constropt.problems.attacks.augmented_lagrangian import alma, alma_prox, pdgd, pdpgd
from constropt.problems.attacks.balls import apgd, bim, fgsm, mi_fgsm, pgd, square
from constropt.problems.attacks.greedy import asma, dag, jsma
from constropt.problems.attacks.level_sets import ddn, fmn, sigma_zero
from constropt.problems.attacks.linearized import brendel_bethge, deepfool, fab, minimal, superdeepfool, trust_region
from constropt.problems.attacks.penalized import cw, ead, lbfgs_attack, str_attack
from constropt.problems.attacks.perceptual import lpa, perc_al
from constropt.problems.attacks.recipe import Recipe
from constropt.problems.attacks.transport import wasserstein
from constropt.problems.references import load_recipe
from constropt.solution import Solution

_ALL: tuple[Recipe[Any], ...] = (
    alma, alma_prox, apgd, asma, bim, brendel_bethge, cw, dag, ddn, deepfool, ead, fab, fgsm, fmn, jsma, lbfgs_attack,
    lpa, mi_fgsm, minimal, pdgd, pdpgd, perc_al, pgd, sigma_zero, square, str_attack, superdeepfool, trust_region,
    wasserstein,
)  # fmt: skip

RECIPES: dict[str, Recipe[Any]] = {recipe.name: recipe for recipe in _ALL}

Attack = Callable[..., Solution]


def recipe_named(name: str) -> Attack:
    """The recipe of that name, of an installed entry point of that name, or what ``"module:function"`` names.

    Raises as :func:`~constropt.problems.references.load_recipe`.

    >>> recipe_named("ddn").takes("gamma")
    True
    """
    return RECIPES[name] if name in RECIPES else load_recipe(name)


def declaration_of(attack: Attack) -> Recipe[Any] | None:
    """The declaration behind a recipe or partials of it; None for a function of another kind."""
    if isinstance(attack, partial):
        return declaration_of(attack.func)
    return attack if isinstance(attack, Recipe) else None


def takes(attack: Attack, option: str) -> bool:
    """Whether a recipe, or any function like one, has a parameter of that name or takes any.

    >>> takes(lambda model, inputs, labels, *, steps=100: None, "distance")
    False
    """
    try:
        parameters = inspect.signature(attack).parameters
    except (TypeError, ValueError):
        return True
    return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
