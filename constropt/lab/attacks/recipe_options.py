"""What a recipe takes: declared by the recipe itself, or read from the signature of a function of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

from constropt.near_names import near_names

_GIVEN = 3  # the first parameters of a recipe are model, inputs and labels


@runtime_checkable
class Declared(Protocol):
    """A recipe that says itself which options it takes, with their defaults, and why it does not take a distance."""

    @property
    def options(self) -> Mapping[str, Any]: ...
    def takes(self, option: str) -> bool: ...
    def refusal(self, distance: str) -> str | None: ...


def takes(recipe: Callable[..., Any], option: str, *, by_name: bool = False) -> bool:
    """Whether ``recipe`` has a parameter of that name or, unless ``by_name``, takes any.

    >>> takes(lambda model, inputs, labels, *, steps=100: None, "distance")
    False
    """
    declared, _ = _declared(recipe)
    if declared is not None:
        return declared.takes(option)
    named, anything = _parameters(recipe)
    return option in named or (anything and not by_name)


def options_of(recipe: Callable[..., Any]) -> dict[str, Any]:
    """The options of ``recipe`` with their defaults, ``inspect.Parameter.empty`` for those without.

    >>> options_of(lambda model, inputs, labels, *, steps=100: None)
    {'steps': 100}
    """
    declared, fixed = _declared(recipe)
    if declared is not None:
        return {**declared.options, **fixed}
    return dict(list(_parameters(recipe)[0].items())[_GIVEN:])


def setting(recipe: Callable[..., Any], options: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """What ``recipe`` will use for ``name``: that of the ``options``, else its own default, else ``otherwise``."""
    value = options.get(name, options_of(recipe).get(name, otherwise))
    return otherwise if value is inspect.Parameter.empty else value


def check_options(recipe: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
    """``ValueError`` for an option that ``recipe`` does not take, naming the near ones and all that it takes."""
    if not callable(recipe):
        raise TypeError(f"recipe: takes a function, got {type(recipe).__name__}")
    for option in options:
        if not takes(recipe, option):
            named = options_of(recipe)
            hint = near_names(option, named, "did you mean {}? ")
            raise ValueError(f"recipe {name!r}: no option {option!r}; {hint}it takes {', '.join(named) or 'none'}")


def refusal(recipe: Callable[..., Any], distance: str) -> str | None:
    """Why ``recipe`` does not take ``distance``, as far as it says so without being run; ``None`` if it may."""
    declared, _ = _declared(recipe)
    return None if declared is None else declared.refusal(distance)


def _declared(recipe: Callable[..., Any]) -> tuple[Declared | None, Mapping[str, Any]]:
    """The recipe as one that declares itself, or ``None``, and what a ``functools.partial`` of it holds fast."""
    inner, fixed = (recipe.func, recipe.keywords) if isinstance(recipe, partial) else (recipe, {})
    return (inner if isinstance(inner, Declared) else None), fixed


def _parameters(recipe: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Names and defaults of what the recipe takes, and whether it takes any other name (or does not say)."""
    try:
        parameters = inspect.signature(recipe).parameters.values()
    except (TypeError, ValueError):
        return {}, True
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {p.name: p.default for p in parameters if p.kind not in variadic}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)
