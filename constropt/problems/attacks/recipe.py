"""A recipe: a published method on the problem that it was published for, called as a function. One declaration each.

    ddn = MinimalRecipe("ddn", DDN, distance="l2", steps=100, without=("distance",), reference="Alg. 3.1; ...")
    ddn(model, inputs, labels, steps=100, gamma=0.1)

What a call means is written here once for all: :class:`MinimalRecipe` and :class:`BudgetedRecipe`. The arguments are
checked before the first model call, and what a recipe does not take is refused by name, never ignored.
"""

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor

from constropt.checks import require_whole
from constropt.modes import normal_mode
from constropt.near_names import near_names
from constropt.problems.attacks.aim import IGNORE_INDEX
from constropt.problems.attacks.declared import MaximalLoss, MinimalPerturbation
from constropt.problems.attacks.goals import Loss
from constropt.problems.attacks.method import AttackMethod, BudgetedMethod
from constropt.problems.distances import Distance, DistanceLike, UnsupportedDistance
from constropt.problems.model_calls import Model
from constropt.solution import Solution
from constropt.solvers.base import Callback, Method
from constropt.solving import solve

M = TypeVar("M", bound=AttackMethod)

Bounds = tuple[float, float]

SEARCHES = 13

# The arguments of a call beside the hyper-parameters, in their order, with their defaults; None: the recipe says.
COMMON: dict[str, Any] = dict.fromkeys(("eps", "targets", "mask", "nu", "distance", "loss", "steps"))
COMMON |= {"searches": SEARCHES, "ignore_index": IGNORE_INDEX, "bounds": (0.0, 1.0), "callback": None}
DENSE = ("mask", "nu", "ignore_index")


@dataclass(frozen=True, eq=False)
class Recipe(Generic[M]):
    """The declaration of a recipe, which is called like a function of its name.

    ``method``: its class, with the published hyper-parameters as defaults, all of which are options of the recipe;
    ``distance`` and ``steps``: their defaults (None: the method chooses the steps); ``without``: the common arguments
    that it does not take, beside those for dense predictions where the method is not dense; ``targeted``: whether
    ``targets`` are "optional" or "required"; ``reference``: the equation or paper.
    """

    name: str
    method: type[M]
    distance: str = "l2"
    steps: int | None = 100
    without: tuple[str, ...] = ()
    targeted: Literal["optional", "required"] = "optional"
    reference: str = ""

    family: ClassVar[tuple[str, ...]] = ()
    notes: ClassVar[str] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", self.name)
        object.__setattr__(self, "__qualname__", self.name)
        object.__setattr__(self, "__module__", self.method.__module__)
        object.__setattr__(self, "__doc__", f"{inspect.getdoc(self.method)}\n\n{self.notes}")
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in _GIVEN]
        for name, default in self.options.items():
            default = inspect.Parameter.empty if name == "targets" and self.targeted == "required" else default
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        object.__setattr__(self, "__signature__", inspect.Signature(parameters, return_annotation=Solution))

    def __call__(self, model: Model, inputs: Tensor, labels: Tensor, **options: Any) -> Solution:
        """The recipe on these inputs."""
        raise NotImplementedError  # abstract

    def __repr__(self) -> str:
        return f"<recipe {self.name}{inspect.signature(self)}>"

    @property
    def kind(self) -> Literal["minimal", "budgeted"]:
        """Whether a radius of the distance can be given, as ``eps``."""
        return "budgeted" if self.method.budgeted else "minimal"

    @property
    def distances(self) -> tuple[str, ...] | None:
        """The names of the distances that the method takes; None: any with a gradient, a callable too."""
        return self.method.distances

    @property
    def options(self) -> Mapping[str, Any]:
        """All that the recipe takes by name, with the defaults."""
        own = {"distance": self.distance, "steps": self.steps} | self._defaults()
        dropped = {*self.without, *(() if self.method.dense else DENSE)}
        common = (name for name in COMMON if name in self.family and name not in dropped)
        return {name: own.get(name, COMMON[name]) for name in common} | dict(self.hyper)

    @property
    def hyper(self) -> Mapping[str, Any]:
        """The hyper-parameters and their defaults."""
        assert is_dataclass(self.method)
        return {entry.name: None if entry.default is MISSING else entry.default for entry in fields(self.method)}

    def takes(self, option: str) -> bool:
        """Whether it is an option of the recipe."""
        return option in self.options

    def refusal(self, distance: DistanceLike) -> str | None:
        """Why the method does not take the distance, in words; None if it does."""
        try:
            self.method.measured(distance)
        except UnsupportedDistance as error:
            return str(error)
        return None

    def _defaults(self) -> dict[str, Any]:
        return {}

    def _checked(self, hyper: dict[str, Any], common: dict[str, Any]) -> M:
        """The method of these hyper-parameters; ``TypeError`` for what the recipe does not take."""
        given = [name for name, value in common.items() if name not in DENSE[2:] or value != IGNORE_INDEX]
        for name in (*(name for name in given if common[name] is not None), *hyper):
            if name not in self.options:
                near = near_names(name, self.options, "; did you mean {}?")
                takes = f"beside {', '.join(_GIVEN)} it takes {', '.join(self.options)}"
                raise TypeError(f"{self.name}: takes no {name}{near}; {takes}")
        if self.targeted == "required" and common["targets"] is None:
            cure = "give the classes to be reached; dag attacks without any"
            raise ValueError(f"targets: {self.name} is a targeted attack, {cure}")
        return self.method(**hyper)

    def _measured(self, distance: DistanceLike | None) -> Distance:
        return self.method.measured(self.distance if distance is None else distance)

    def _solved(
        self,
        problem: MinimalPerturbation | MaximalLoss,
        method: M,
        solver: Method,
        steps: int | None,
        callback: Callback | None,
    ) -> Solution:
        """The problem solved in the steps asked for, else declared, else chosen by the method."""
        steps = self.steps if steps is None else steps
        steps = method.default_steps(problem) if steps is None else steps
        with normal_mode():
            return solve(problem, solver, problem.inputs, steps=steps, callback=callback)


_GIVEN = ("model", "inputs", "labels")


class MinimalRecipe(Recipe[AttackMethod]):
    """A recipe for :class:`MinimalPerturbation`, or one like it."""

    family: ClassVar[tuple[str, ...]] = tuple(name for name in COMMON if name not in ("eps", "loss", "searches"))
    notes: ClassVar[str] = (
        "The other arguments are those of MinimalPerturbation. ``Solution.objective`` is the distance of each row, if\n"
        "nothing else is said; ``Solution.feasible``: whether it fools the model. ``callback(step, point, proposal)``\n"
        "is called once a step. Raises what MinimalPerturbation raises, and ``ValueError``/``TypeError`` for values\n"
        "out of range and a distance that the method does not take, all before the first model call."
    )

    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        nu: float | None = None,
        distance: DistanceLike | None = None,
        steps: int | None = None,
        ignore_index: int = IGNORE_INDEX,
        bounds: Bounds = (0.0, 1.0),
        callback: Callback | None = None,
        **hyper: Any,
    ) -> Solution:
        aim = {"targets": targets, "mask": mask, "nu": nu, "ignore_index": ignore_index, "bounds": bounds}
        method = self._checked(hyper, aim | {"distance": distance, "steps": steps})
        problem = MinimalPerturbation(model, inputs, labels, distance=self._measured(distance), **aim)
        return self._solved(problem, method, method, steps, callback)


@dataclass(frozen=True, eq=False, repr=False)
class BudgetedRecipe(Recipe[BudgetedMethod]):
    """A recipe for :class:`MaximalLoss` at ``eps=`` or the smallest radius; ``losses``: without and with targets."""

    distance: str = "linf"
    losses: tuple[str, str] = ("ce", "ce")

    family: ClassVar[tuple[str, ...]] = tuple(COMMON)
    notes: ClassVar[str] = (
        "The other arguments are those of MaximalLoss. ``eps=None`` searches the smallest radius that succeeds, row\n"
        "by row, by ``searches`` bisections that are each a full attack; ``Solution.objective`` is then the distance,\n"
        "otherwise the opposite of the loss. ``callback(step, point, proposal)`` is called once a step. Raises what\n"
        "MaximalLoss raises, and ``ValueError``/``TypeError`` for values out of range, all before the first model call."
    )

    def _defaults(self) -> dict[str, Any]:
        return {"loss": self.losses[0] if len(set(self.losses)) == 1 else None}

    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        labels: Tensor,
        *,
        eps: float | Tensor | None = None,
        targets: Tensor | None = None,
        mask: Tensor | None = None,
        nu: float | None = None,
        distance: DistanceLike | None = None,
        loss: str | Loss | None = None,
        steps: int | None = None,
        searches: int | None = None,
        ignore_index: int = IGNORE_INDEX,
        bounds: Bounds = (0.0, 1.0),
        callback: Callback | None = None,
        **hyper: Any,
    ) -> Solution:
        aim = {"targets": targets, "mask": mask, "nu": nu, "ignore_index": ignore_index, "bounds": bounds}
        method = self._checked(hyper, aim | {"distance": distance, "steps": steps, "searches": searches})
        searches = SEARCHES if searches is None else searches
        require_whole(searches=searches)
        loss = self.losses[targets is not None] if loss is None else loss
        radius, distance = 0.0 if eps is None else eps, self._measured(distance)
        problem = MaximalLoss(model, inputs, labels, eps=radius, distance=distance, loss=loss, **aim)
        return self._solved(problem, method, method.smallest(searches) if eps is None else method, steps, callback)
