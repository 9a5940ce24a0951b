"""What every installed recipe has in common: its name, and the form of its call."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

from constropt.problems import attacks

ENTRY = re.compile(r'^(\w+) = "constropt\.problems\.attacks:(\w+)"$', re.MULTILINE)
RECIPES = dict(ENTRY.findall((Path(__file__).parents[1] / "pyproject.toml").read_text()))
DENSE_ONLY = {"asma"}
UNTARGETED = {"standard"}  # it asks whether rows are robust


def test_every_attack_that_is_exported_is_a_recipe():
    functions = {name for name in attacks.__all__ if callable(vars(attacks)[name]) and "labels" in _parameters(name)}
    assert {"alma", "minimal", "fab", "worst_case"} <= functions
    helpers = {"dlr", "logit_difference", "labels_flipped"}
    assert {name for name in functions - helpers if name.islower()} == set(RECIPES)
    assert all(name == target for name, target in RECIPES.items())


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(attacks, name)).parameters)


@pytest.mark.parametrize("name", RECIPES)
def test_the_call_has_one_form(name):
    parameters = _parameters(name)
    assert list(parameters)[:3] == ["model", "inputs", "labels"]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[3:])
    assert "bounds" in parameters and ("targets" in parameters) != (name in UNTARGETED)
    if name not in UNTARGETED:
        assert (parameters["targets"].default is None) != (name in DENSE_ONLY)
    assert "Parameters" not in (inspect.getdoc(getattr(attacks, name)) or "Parameters")


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - DENSE_ONLY - UNTARGETED))
def test_a_target_that_is_the_label_is_named_before_the_model_is_called(name):
    def model(x):
        raise AssertionError("called")

    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    needs = {"lpa": {"distance": "l2"}, "worst_case": {"recipes": ["fgsm"]}}
    with pytest.raises(ValueError, match="targets: must differ from labels"):
        getattr(attacks, name)(model, x, labels, targets=labels, **needs.get(name, {}))
