"""What every recipe reports of its passes is what the model saw: rows through it, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from constropt.lab.attacks.counting import PassCounter, counted
from constropt.problems.attacks import RECIPES, fgsm, worst_case

# what a recipe needs beside the inputs, or at most: budgets are small
NEEDS = {
    "lpa": {"distance": "l2", "radii": 3},
    "perc_al": {"distance": "l2"},
    "wasserstein": {"eps": 0.2},
    "apgd": {"eps": 0.3, "loss": "targeted dlr", "target_classes": 2},
    "pgd": {"searches": 3, "restarts": 2},
    "fab": {"restarts": 2},
}
DENSE = ("asma",)


def network(dense: bool) -> nn.Module:
    torch.manual_seed(0)
    if dense:
        net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    else:
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5))
    return net.double().eval()


@pytest.mark.parametrize("module", [True, False], ids=["network", "function"])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_passes_are_those_that_the_model_saw(name, module):
    recipe, dense = RECIPES[name], name in DENSE
    net = network(dense)
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = net(x).argmax(1)
    if not dense:
        labels[0] = (labels[0] + 1) % 5  # a row that needs no attack
    options = dict(NEEDS.get(name, {}))
    if recipe.takes("steps"):
        options["steps"] = 40
    if recipe.takes("searches") and recipe.kind == "budgeted":
        options.setdefault("searches", 3)
    if dense:
        options["targets"] = (labels + 1) % 4
    counter = PassCounter()
    with counted(net if module else lambda t: net(t), counter) as model:
        solution = recipe(model, x, labels, **options)
    assert int(solution.forwards.sum()) == counter.forwards
    assert int(solution.backwards.sum()) == counter.backwards


def test_rows_that_are_finished_cost_a_network_nothing():
    net = network(False)
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = net(x).argmax(1)
    labels[:5] = (labels[:5] + 1) % 5
    whole = RECIPES["dag"](lambda t: net(t), x, labels)
    found = RECIPES["dag"](net, x, labels)
    torch.testing.assert_close(found.x, whole.x)
    assert found.forwards[0] < found.forwards[5] == whole.forwards[5] == whole.forwards[0]


def test_worst_case_adds_up_what_its_recipes_spend():
    net = network(False)
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counter = PassCounter()
    with counted(net, counter) as model:
        labels = net(x).argmax(1)
        before = counter.forwards
        found = worst_case(model, x, labels, recipes=["ddn", fgsm, "fmn"], steps=10)
    assert int(found.forwards.sum()) == counter.forwards - before
    assert int(found.backwards.sum()) == counter.backwards
