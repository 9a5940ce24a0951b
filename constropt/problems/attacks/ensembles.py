"""Recipes by name, and several on the same samples: the worst case, and an evaluation in the manner of AutoAttack."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from constropt.checks import require_whole
from constropt.problem import ConstrainedProblem
from constropt.problems.attacks.augmented_lagrangian import alma, alma_prox, pdgd, pdpgd
from constropt.problems.attacks.balls import apgd, bim, fgsm, mi_fgsm, pgd, square
from constropt.problems.attacks.declared import MinimalPerturbation, radius_of
from constropt.problems.attacks.goals import misclassified
from constropt.problems.attacks.greedy import asma, dag, jsma
from constropt.problems.attacks.level_sets import ddn, fmn, sigma_zero
from constropt.problems.attacks.linearized import brendel_bethge, deepfool, fab, minimal, superdeepfool, trust_region
from constropt.problems.attacks.method import BudgetedMethod, budgeted_problem, solution_at
from constropt.problems.attacks.penalized import cw, ead, lbfgs_attack, str_attack
from constropt.problems.attacks.perceptual import lpa, perc_al
from constropt.problems.attacks.recipe import BudgetedRecipe, Recipe
from constropt.problems.attacks.transport import wasserstein
from constropt.problems.distances import DistanceLike, as_distance
from constropt.problems.model_calls import Model
from constropt.problems.references import load_recipe
from constropt.solution import Solution, best_of
from constropt.solvers.base import Callback, Loop, Method

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


def _opened(attack: Attack) -> tuple[Attack, set[str]]:
    """What partials are of, and the options that they set."""
    if not isinstance(attack, partial):
        return attack, set()
    inner, options = _opened(attack.func)
    return inner, options | set(attack.keywords)


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


RecipeLike = str | Attack

# What runs where no recipes are named: the minimal attacks of a distance, of different families.
DEFAULTS: dict[str, tuple[Attack, ...]] = {
    "l0": (sigma_zero,),
    "l1": (minimal, fmn, alma, fab),
    "l2": (minimal, ddn, alma, fmn, fab),
    "linf": (minimal, fmn, fab),
}

# What counts is the class; recipes go beyond a tie by margins of their own.
FOOLED = misclassified(0.0)


@dataclass(frozen=True, eq=False)
class WorstCase(Solution):
    """A :class:`Solution` that knows where each row is from.

    ``winner``: the index in ``recipes``, the names, of what fooled the row best; -1 where nothing has, or had to, the
    input being misclassified already. ``forwards`` and ``backwards`` are those of all recipes together.
    """

    winner: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    recipes: tuple[str, ...] = ()

    def winners(self) -> list[str | None]:
        """The name of each row's recipe, None where there is none."""
        return [None if index < 0 else self.recipes[index] for index in self.winner.tolist()]


def worst_case(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    recipes: Sequence[RecipeLike] | Mapping[str, RecipeLike] | None = None,
    distance: DistanceLike = "l2",
    eps: float | Tensor | None = None,
    steps: int | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    callback: Callback | None = None,
) -> WorstCase:
    """For every row the best of several ``recipes``: the adversarial input that is nearest in ``distance``.

    ``recipes``, some minimal attacks of the norm by default: functions ``(model, inputs, labels, *, ...) -> Solution``,
    or names as on the command line, of entry points or ``"module:function"``; a mapping names them. Options of their
    own come by ``functools.partial``; each gets those arguments given here that it takes and its partial does not set.

    With ``eps``, a number or ``(batch,)``, a row counts as fooled only within that distance, budgeted recipes get it as
    theirs, and each sees only the rows that the ones before have not fooled: the robust accuracy at a budget. Results
    are measured anew, by one forward pass each: a claim that does not hold is not counted. Raises what
    :class:`MinimalPerturbation` raises, ``ValueError`` for no recipes, an unknown name and targets or bounds that a
    recipe does not take, ``TypeError`` for what is no recipe or returns no solution.

    >>> x, labels = torch.tensor([[0.75, 0.5]]), torch.tensor([0])
    >>> found = worst_case(lambda x: x, x, labels, recipes=[partial(minimal, steps=5), fmn], distance="linf")
    >>> round(found.objective.item(), 3), found.recipes
    (0.125, ('minimal', 'fmn'))
    """
    measure = as_distance(distance)
    problem = MinimalPerturbation(
        model, inputs, labels, distance=measure, targets=targets, constraint=FOOLED, bounds=bounds
    )
    radius = None if eps is None else radius_of(eps, problem.inputs)
    if recipes is None:
        if measure.name not in DEFAULTS:
            raise ValueError(f"recipes: none are known for distance={measure.name!r}; name some, such as ['alma']")
        recipes = DEFAULTS[measure.name]
    attacks = _named(recipes)
    given = {"targets": targets, "distance": distance, "steps": steps, "callback": callback}
    given = {name: value for name, value in given.items() if value is not None} | {"bounds": bounds}
    for name, attack in attacks.items():
        for argument, wanted in (("targets", targets is not None), ("bounds", tuple(bounds) != (0.0, 1.0))):
            if wanted and not takes(attack, argument):
                raise ValueError(f"recipes: {name!r} takes no {argument}; leave it out")

    best = solution_at(problem, problem.inputs)
    winner = torch.full_like(best.first_feasible, -1)
    for index, (name, attack) in enumerate(attacks.items()):
        # what is misclassified as it is, or fooled within the budget, needs no further attack
        open_rows = ~best.feasible if radius is not None else ~best.feasible | (best.objective > 0)
        rows = open_rows.nonzero().flatten()
        if not len(rows):
            break
        options = given if targets is None else given | {"targets": targets[rows]}
        if radius is not None:
            options = options | {"eps": eps if not isinstance(eps, Tensor) or eps.dim() == 0 else eps[rows]}
        options = {key: value for key, value in options.items() if _wants(attack, key)}
        found = attack(model, problem.inputs[rows], problem.labels[rows], **options)
        if not isinstance(found, Solution) or found.x.shape != problem.inputs[rows].shape:
            raise TypeError(f"recipes: {name!r} must return a Solution with one x per input, got {found!r:.80}")
        aims = None if targets is None else targets[rows]
        part = replace(problem, inputs=problem.inputs[rows], labels=problem.labels[rows], targets=aims)
        before, best = best, best_of(best, _spread(_measured(found, part, radius, rows), best, rows))
        new = best.feasible & (~before.feasible | (best.objective < before.objective))
        winner = torch.where(new, index, winner)
    values = {entry.name: getattr(best, entry.name) for entry in fields(Solution)}
    return WorstCase(**values, winner=winner, recipes=tuple(attacks))


def _measured(found: Solution, part: MinimalPerturbation, radius: Tensor | None, rows: Tensor) -> Solution:
    """The solution measured by the common problem of its rows; beyond the radius it is none."""
    point = part.evaluate(part.domain.project(found.x.detach().to(part.inputs)), grad=False)
    objective, violation = point.total(), point.violation()
    if radius is not None:
        lower, upper = part.domain.bounds(part.inputs[:1]) or (part.inputs, part.inputs)
        # as much as the sum of input and perturbation may have rounded
        slack = 1e-4 * radius[rows] + torch.finfo(objective.dtype).eps * float((upper - lower).amax())
        violation = torch.where(objective <= radius[rows] + slack, violation, torch.inf)
    return replace(
        found,
        x=point.x.detach(),
        objective=objective,
        feasible=violation <= 0,
        violation=violation,
        multipliers=tuple(map(torch.zeros_like, point.values)),
        forwards=found.forwards + 1,
    )


def _spread(part: Solution, whole: Solution, rows: Tensor) -> Solution:
    """A solution of some rows as one of all, in which the others never win and have spent nothing."""
    empty = {"feasible": False, "violation": torch.inf, "forwards": 0, "backwards": 0, "first_feasible": -1}

    def placed(name: str) -> Tensor:
        values, others = getattr(part, name), getattr(whole, name)
        base = torch.full_like(others, empty[name]) if name in empty else others.clone()
        return base.index_copy(0, rows, values.to(base))

    names = ("x", "objective", "status", *empty)
    return replace(whole, **{name: placed(name) for name in names})


def _named(recipes: Sequence[RecipeLike] | Mapping[str, RecipeLike]) -> dict[str, Attack]:
    """The recipes by name, numbered where a name comes again."""
    if isinstance(recipes, str) or not isinstance(recipes, Sequence | Mapping) or not recipes:
        raise ValueError(f"recipes: takes a list of functions or names, at least one, got {recipes!r:.80}")
    pairs = recipes.items() if isinstance(recipes, Mapping) else [(_name(recipe), recipe) for recipe in recipes]
    found: dict[str, Attack] = {}
    for name, recipe in pairs:
        attack = recipe_named(recipe) if isinstance(recipe, str) else recipe
        if not callable(attack):
            raise TypeError(f"recipes: takes functions or names, got {type(attack).__name__} for {name!r}")
        count = sum(other.partition(" #")[0] == name for other in found)
        found[name if not count else f"{name} #{count + 1}"] = attack
    return found


def _name(recipe: RecipeLike) -> str:
    if isinstance(recipe, str):
        return recipe
    inner, _ = _opened(recipe)
    return str(getattr(inner, "__name__", type(inner).__name__))


def _wants(attack: Attack, option: str) -> bool:
    """Whether the attack takes what is given under that name here: ``eps`` is a radius of the distance."""
    inner, options = _opened(attack)
    own = option == "eps" and isinstance(inner, Recipe) and inner.kind == "minimal"
    return takes(attack, option) and option not in options and not own


@dataclass(frozen=True)
class Standard(BudgetedMethod):
    """Which rows are fooled within ``eps``: APGD on cross-entropy, APGD on the targeted DLR, FAB-T, Square Attack.

    In this order, each only on the rows that are still robust, the targeted ones one class at a time, towards the
    ``target_classes`` likeliest others (fewer where there are fewer). The first three make ``steps`` steps a run, the
    last, black-box, ``queries``. ``distance`` is "linf", "l2" or "l1". ``1 - feasible.mean()`` is the robust accuracy
    where all inputs were classified rightly; ``Solution.objective`` is the distance, ``WorstCase.winner`` says what
    fooled a row first. The smaller the model's share of robust rows, the fewer passes are made.

    Raises what :class:`MaximalLoss` raises, and ``ValueError`` for counts below 1.

    >>> x, labels = torch.tensor([[0.75, 0.5], [0.9, 0.1]]), torch.tensor([0, 0])
    >>> found = standard(lambda x: x, x, labels, eps=0.2, steps=5, queries=5)
    >>> found.feasible.tolist(), found.winners()
    ([True, False], ['apgd ce', None])
    """

    queries: int = 5000
    target_classes: int = 9
    seed: int = 0

    dense: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_whole(queries=self.queries, target_classes=self.target_classes)

    def smallest(self, searches: int) -> Method:
        raise ValueError("eps: standard takes the radius, a number or one per row; minimal finds the smallest")

    def run(self, problem: ConstrainedProblem[Any], x0: Tensor, loop: Loop) -> WorstCase:
        within, steps, seed = budgeted_problem(problem, self), loop.steps, self.seed
        if within.aim.dense:
            raise ValueError("labels: standard evaluates classifiers, (batch,); use worst_case for dense predictions")
        with torch.no_grad():
            count = min(self.target_classes, within.forward(within.inputs).shape[1] - 1)
        recipes: dict[str, Attack] = {"apgd ce": partial(apgd, loss="ce", steps=steps, seed=seed)}
        for rank in range(count):
            targeted = partial(apgd, loss="targeted dlr", target_classes=(rank,), steps=steps, seed=seed)
            recipes[f"apgd targeted dlr {rank + 1}"] = targeted
        recipes["fab targeted"] = partial(fab, by_class=True, restarts=count, steps=steps, seed=seed)
        recipes["square"] = partial(square, steps=self.queries, seed=seed)
        found = worst_case(
            within.model,
            within.inputs,
            within.labels,
            recipes=recipes,
            distance=within.measure,
            eps=within.radius,
            bounds=within.bounds,
            callback=loop.callback,
        )
        return replace(found, forwards=found.forwards + 1)


class StandardRecipe(BudgetedRecipe):
    """The recipe of :class:`Standard`, which says what fooled each row."""

    def __call__(self, model: Model, inputs: Tensor, labels: Tensor, **options: Any) -> WorstCase:
        found = super().__call__(model, inputs, labels, **options)
        assert isinstance(found, WorstCase)
        return found


_WITHOUT = ("targets", "mask", "nu", "loss", "searches", "ignore_index")
standard = StandardRecipe("standard", Standard, without=_WITHOUT, reference="after AutoAttack; Croce & Hein, ICML 2020")
