"""From a name that the user typed to the Python object: recipes by entry point, anything else as ``module:name``."""

import importlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from constropt.near_names import near_names

GROUP = "constropt.recipes"


def load_reference(reference: str, *, what: str = "reference") -> Any:
    """The object that ``"module:name"`` (or ``"module:name.attribute"``) names; imports that module and nothing else.

    Modules of the current directory are found too, after all installed ones. Raises ``ValueError``, which begins with
    ``what``, when the text has another form, the module cannot be imported or the name is not in it.

    >>> load_reference("math:sqrt")(4)
    2.0
    """
    module_name, colon, path = reference.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise ValueError(f"{what}: takes 'module:name', got {reference!r}")
    if not any(entry in sys.path for entry in ("", os.getcwd())):
        sys.path.append(os.getcwd())  # last, so that a local file never shadows an installed module
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{what}: cannot import {module_name!r} for {reference!r} ({error})") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ValueError(f"{what}: {module_name!r} has no {path!r}{near_names(name, dir(found))}")
        found = getattr(found, name)
    return found


def recipe_entries() -> dict[str, EntryPoint]:
    """The installed recipes by name, from the entry points of the group ``constropt.recipes``, sorted."""
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    return dict(sorted(entries.items()))


def load_recipe(name: str) -> Callable[..., Any]:
    """The recipe of that entry point name, or the function that ``"module:function"`` names; else ``ValueError``."""
    if ":" in name:
        recipe = load_reference(name, what="recipe")
    else:
        entries = recipe_entries()
        if name not in entries:
            hint = near_names(name, entries, cutoff=0.5)
            known = ", ".join(entries) or "none (is constropt installed?)"
            raise ValueError(f"recipe: unknown name {name!r}{hint}; known are {known}, or give 'module:function'")
        recipe = load_reference(entries[name].value, what=f"recipe {name!r}")
    if not callable(recipe):
        raise ValueError(f"recipe: {name!r} is a {type(recipe).__name__}, not a function")
    return recipe
