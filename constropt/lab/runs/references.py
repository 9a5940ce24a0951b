"""Names that the user typed, as objects: see :mod:`constropt.problems.references`."""

from constropt.problems.references import GROUP, load_recipe, load_reference, recipe_entries

__all__ = ["GROUP", "load_recipe", "load_reference", "recipe_entries"]
