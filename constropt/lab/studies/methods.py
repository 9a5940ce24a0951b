"""Methods by name: a title, what builds the loss, and the arguments that are found for it by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from constropt.lab.runs.factories import known, module_of
from constropt.lab.runs.references import load_reference
from constropt.lab.runs.specs import RecipeSpec, parse_recipe


@dataclass(frozen=True)
class Method:
    """``title`` as it stands in tables, and what builds the loss from the keywords that it takes."""

    title: str
    make: Callable[..., nn.Module]


def parse_method(text: str, methods: Mapping[str, Method], what: str) -> RecipeSpec:
    """A method and options in ``NAME`` or ``NAME[KEY=VALUE,...]``; the name is one of ``methods``, or
    ``module:factory`` of one's own. Raises ``ValueError`` for others, listing near names.
    """
    spec = parse_recipe(text)
    if ":" not in spec.reference:
        known(what, spec.reference, methods)
    return spec


def title_of(method: str, methods: Mapping[str, Method]) -> str:
    """The name of a method in a table, its options beside it.

    >>> title_of("ls[alpha=0.1]", {"ls": Method("LS", nn.Identity)})
    'LS [alpha=0.1]'
    """
    spec = parse_recipe(method)
    label = spec.label
    name = label.partition("[")[0]
    title = methods[spec.reference].title if spec.reference in methods else name
    return title + label[len(name) :].replace("[", " [", 1)


def build(spec: RecipeSpec, methods: Mapping[str, Method], available: Mapping[str, Any], *, what: str) -> nn.Module:
    """The loss of ``spec``, which gets those of ``available`` that it takes; ``ValueError`` if it is no module."""
    make = methods[spec.reference].make if spec.reference in methods else load_reference(spec.reference, what=what)
    return module_of(make, available, spec, what=what)
