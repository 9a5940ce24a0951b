"""The worst case over recipes, who found it, and the standard evaluation at a budget."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from constropt.problems.attacks import bim, ddn, fgsm, fmn, minimal, pgd
from constropt.problems.attacks.ensembles import WorstCase, standard, worst_case
from constropt.solution import Solution


@pytest.fixture
def small():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5)).eval()
    inputs = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(model=net, inputs=inputs, labels=net(inputs).argmax(1))


def test_the_nearest_of_all_recipes_wins(small):
    recipes = {"few": partial(fmn, steps=10), "cuts": partial(minimal, steps=10), "steps": partial(bim, steps=5)}
    found = worst_case(small.model, small.inputs, small.labels, recipes=recipes, distance="linf")
    single = [recipe(small.model, small.inputs, small.labels, distance="linf") for recipe in recipes.values()]
    distances = torch.stack([torch.where(s.feasible, s.objective, torch.inf) for s in single])
    assert isinstance(found, WorstCase) and found.feasible.all()
    assert torch.equal(found.objective, distances.amin(0)) and torch.equal(found.winner, distances.argmin(0))
    assert found.winners() == [list(recipes)[k] for k in found.winner.tolist()]
    for row, k in enumerate(found.winner.tolist()):
        assert torch.equal(found.x[row], single[k].x[row])
    spent = sum(s.forwards for s in single)
    assert torch.equal(found.forwards, spent + 4)  # the inputs, and one measurement a recipe
    assert torch.equal(found.backwards, sum(s.backwards for s in single))


def test_arguments_reach_the_recipes_that_take_them(small):
    seen: dict[str, dict[str, object]] = {}

    def spy(name: str, result=None):
        def recipe(model, inputs, labels, *, steps=7, **options):
            seen[name] = {"steps": steps, **options}
            return minimal(model, inputs, labels, steps=4, distance="l1")

        return recipe

    def bare(model, inputs, labels):
        seen["bare"] = {}
        return minimal(model, inputs, labels, steps=4, distance="l1")

    targets = (small.labels + 1) % 5
    recipes = {"all": spy("all"), "set": partial(spy("set"), steps=3)}
    worst_case(small.model, small.inputs, small.labels, targets=targets, recipes=recipes, distance="l1", steps=9)
    assert seen["all"]["steps"] == 9 and seen["set"]["steps"] == 3 and seen["all"]["distance"] == "l1"
    assert torch.equal(seen["all"]["targets"], targets) and seen["all"]["bounds"] == (0.0, 1.0)
    worst_case(small.model, small.inputs, small.labels, recipes=[bare, spy("again")], distance="l1")
    assert seen["bare"] == {} and seen["again"]["steps"] == 7 and "targets" not in seen["again"]
    with pytest.raises(ValueError, match="recipes: 'bare' takes no targets"):
        worst_case(small.model, small.inputs, small.labels, targets=targets, recipes=[bare])
    with pytest.raises(ValueError, match="recipes: 'bare' takes no bounds"):
        worst_case(small.model, small.inputs, small.labels, recipes=[bare], bounds=(-1.0, 1.0))


def test_a_budget_compacts_rows_and_limits_distances(small):
    sizes: list[int] = []

    def counting(recipe):
        def attack(model, inputs, labels, *, eps=None, distance="linf", **options):
            sizes.append(len(inputs))
            assert eps is None or not isinstance(eps, Tensor) or eps.shape == (len(inputs),)
            return recipe(model, inputs, labels, distance=distance, **({} if recipe is fmn else {"eps": eps}))

        return attack

    eps = torch.linspace(0.01, 0.2, 8)
    recipes = [counting(fgsm), counting(pgd), counting(fmn)]
    found = worst_case(small.model, small.inputs, small.labels, recipes=recipes, distance="linf", eps=eps)
    first = fgsm(small.model, small.inputs, small.labels, eps=eps)
    assert sizes[0] == 8 and sizes[1] == int((~first.feasible).sum())
    assert torch.equal(found.winner == 0, first.feasible)
    assert (found.objective[found.feasible] <= eps[found.feasible] * (1 + 1e-4)).all()
    assert not found.feasible.all() and (found.winner[~found.feasible] == -1).all()
    near = fmn(small.model, small.inputs, small.labels)
    missed = near.feasible & (near.objective <= eps) & ~found.feasible
    assert not missed.any()


def test_false_claims_do_not_count(small):
    def liar(model, inputs, labels, **options) -> Solution:
        honest = minimal(model, inputs, labels, steps=2)
        return Solution(**{**vars(honest), "x": inputs.clone(), "feasible": torch.ones(len(inputs), dtype=torch.bool)})

    def wild(model, inputs, labels, **options) -> Solution:
        honest = minimal(model, inputs, labels, steps=2)
        x = inputs + 100.0
        x[0] = torch.nan
        return Solution(**{**vars(honest), "x": x})

    found = worst_case(small.model, small.inputs, small.labels, recipes=[liar, wild], distance="linf")
    assert found.x.isfinite().all() and (found.x >= 0).all() and (found.x <= 1).all()
    assert torch.equal(small.model(found.x).argmax(1) != small.labels, found.feasible)
    assert not found.feasible[0] and (found.winner != 0).all()
    with pytest.raises(TypeError, match="recipes: 'nothing' must return a Solution"):
        worst_case(small.model, small.inputs, small.labels, recipes={"nothing": lambda *a, **k: None})


def test_misclassified_inputs_are_left_alone(small):
    labels = small.labels.clone()
    labels[:4] = (labels[:4] + 1) % 5
    found = worst_case(small.model, small.inputs, labels, recipes=[partial(ddn, steps=5)], distance="l2")
    assert found.feasible[:4].all() and (found.objective[:4] == 0).all() and found.winners()[:4] == [None] * 4
    assert (found.forwards[:4] == 1).all() and (found.forwards[4:] > 5).all()
    everything = worst_case(small.model, small.inputs, (small.labels + 1) % 5, recipes=[ddn])
    assert everything.feasible.all() and (everything.backwards == 0).all() and everything.recipes == ("ddn",)


@pytest.mark.parametrize("distance", ["l0", "l1", "l2", "linf"])
def test_defaults_by_norm(distance, small):
    found = worst_case(small.model, small.inputs[:3], small.labels[:3], distance=distance, steps=12)
    assert found.feasible.all() and found.recipes
    assert torch.equal(small.model(found.x).argmax(1) != small.labels[:3], found.feasible)


def test_names_come_from_the_command_line_and_are_numbered(small):
    recipes = ["ddn", partial(ddn, steps=3), "constropt.problems.attacks:fmn"]
    found = worst_case(small.model, small.inputs, small.labels, recipes=recipes, distance="l2", steps=6)
    assert found.recipes == ("ddn", "ddn #2", "constropt.problems.attacks:fmn")
    bad = {
        "a name alone": ("fmn", ValueError, "recipes: takes a list"),
        "nothing": ([], ValueError, "recipes: takes a list"),
        "unknown": (["alna"], ValueError, "unknown name 'alna'; near names: .*alma"),
        "no function": ([3], TypeError, "recipes: takes functions or names, got int"),
        "no default": (None, ValueError, "recipes: none are known for distance"),
    }
    for recipes, error, message in bad.values():
        with pytest.raises(error, match=message):
            worst_case(
                lambda x: 1 / 0,
                small.inputs,
                small.labels,
                recipes=recipes,
                distance=lambda x, y: (x - y).flatten(1).abs().sum(1),
            )


# ----------------------------------------------------------------------------------------------------------- standard


@pytest.mark.parametrize("distance, eps", [("linf", 0.08), ("l2", 0.4), ("l1", 2.0)])
def test_standard_fools_what_can_be_fooled(distance, eps, small):
    small.model.train()
    state = torch.get_rng_state()
    found = standard(small.model, small.inputs, small.labels, eps=eps, distance=distance, steps=15, queries=30)
    assert small.model.training and torch.equal(torch.get_rng_state(), state)
    small.model.eval()
    assert found.recipes == ("apgd ce", *(f"apgd targeted dlr {k}" for k in range(1, 5)), "fab targeted", "square")
    assert torch.equal(small.model(found.x).argmax(1) != small.labels, found.feasible)
    assert (found.objective <= eps * (1 + 1e-4)).logical_or(~found.feasible).all()
    near = minimal(small.model, small.inputs, small.labels, distance=distance, steps=200)
    assert found.feasible[near.objective <= 0.98 * eps].all()
    # the recipes that follow do not see what is fooled already
    easy = found.winner == 0
    assert easy.any() and found.forwards[easy].max() < found.forwards[~easy].min()


def test_rows_of_a_standard_evaluation_are_independent():
    weight = torch.randn(4, 48, generator=torch.Generator().manual_seed(0))
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    model = lambda t: (t.flatten(1)[:, None] * weight).sum(2)  # noqa: E731
    labels = model(x).argmax(1)
    attack = partial(standard, model, eps=0.03, steps=8, queries=10)
    together, alone = attack(x, labels), attack(x[3:4], labels[3:4])
    assert torch.equal(together.x[3], alone.x[0]) and torch.equal(together.winner[3:4], alone.winner)
    assert torch.equal(together.forwards[3:4], alone.forwards)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps: takes a whole number"),
        ({"queries": 0}, "queries: takes a whole number"),
        ({"target_classes": 0}, "target_classes: takes a whole number"),
        ({"eps": -1.0}, "eps: takes finite radii"),
        ({"distance": "l0"}, "distance: takes one of"),
        ({"labels": torch.zeros(2, 4, 4, dtype=torch.long)}, "labels: standard evaluates classifiers"),
    ],
)
def test_bad_input_is_refused_before_the_first_model_call(changes, message):
    def model(x: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    good = {"inputs": torch.rand(2, 1, 4, 4), "labels": torch.zeros(2, dtype=torch.long), "eps": 0.1}
    with pytest.raises(ValueError, match=message):
        standard(model, **{**good, **changes})
