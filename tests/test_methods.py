"""Every published method alone is its recipe, problems can be changed by replace, and recipes say what they take."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from dataclasses import is_dataclass, replace
from functools import partial

import pytest
import torch

from constropt import Box, ConstrainedProblem, LinfBall, inequality, solve
from constropt.problems import attacks
from constropt.problems.attacks import RECIPES, MaximalLoss, MinimalPerturbation, ScorePerturbation, SmallestRadius
from constropt.problems.attacks.method import AttackMethod
from constropt.problems.distances import UnsupportedDistance
from constropt.problems.model_calls import ModelCall
from constropt.prox import NormAround
from constropt.solvers import Method

STEPS = {"cw": 90, "ead": 90, "str_attack": 90, "lbfgs_attack": 45, "square": 30, "alma": 60, "wasserstein": 10}
BUDGETED = {name: recipe for name, recipe in RECIPES.items() if isinstance(recipe, attacks.BudgetedRecipe)}


@pytest.fixture(scope="module")
def scene():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 36, generator=generator, dtype=torch.float64)
    inputs = torch.rand(3, 1, 6, 6, generator=generator, dtype=torch.float64)

    def model(x):
        return (3 * x.flatten(1) - 1).sin() @ weight.T

    return model, inputs, model(inputs).argmax(1)


def forbidden(x):
    raise AssertionError("called")


def chosen(name, labels):
    """The options that a recipe cannot do without here: a distance that two channels are enough for, targets."""
    options = {"distance": "l2"} if name in ("lpa", "perc_al") else {}
    return options | ({"targets": (labels + 1) % 4} if name == "asma" else {})


def same(first, second):
    for name in ("x", "objective", "feasible", "forwards", "backwards", "status"):
        assert getattr(first, name).equal(getattr(second, name)), name


@pytest.mark.parametrize("name", RECIPES)
def test_a_method_alone_gives_what_its_recipe_gives(name, scene):
    recipe, options = RECIPES[name], chosen(name, scene[2])
    steps = STEPS.get(name, 1 if name == "fgsm" else 20)
    hyper = {"tau": 0.1} if name == "asma" else {"eps": 0.4, "searches": 2} if name == "lpa" else {}
    method = recipe.method(**hyper)
    if name in BUDGETED:
        problem = MaximalLoss(*scene, eps=0.2, loss=BUDGETED[name].losses[0])
        options["eps"] = 0.2
    else:
        problem = MinimalPerturbation(*scene, **({"distance": recipe.distance} | options))
    if name != "fgsm":
        options["steps"] = steps
    same(solve(problem, method, scene[1], steps=steps), recipe(*scene, **hyper, **options))


@pytest.mark.parametrize("name", BUDGETED)
def test_a_budgeted_method_alone_finds_the_smallest_radius(name, scene):
    recipe, steps = BUDGETED[name], 1 if name == "fgsm" else 10
    problem = MaximalLoss(*scene, eps=0.0, loss=recipe.losses[0])
    options = {"searches": 3} if recipe.takes("searches") else {}
    options |= {} if name == "fgsm" else {"steps": steps}
    method = recipe.method().smallest(3)
    assert isinstance(method, SmallestRadius) == recipe.takes("searches")
    same(solve(problem, method, scene[1], steps=steps), recipe(*scene, **options))


@pytest.mark.parametrize("name", RECIPES)
def test_a_declaration_is_complete(name):
    recipe = RECIPES[name]
    assert issubclass(recipe.method, Method) and is_dataclass(recipe.method) and recipe.method in vars(attacks).values()
    assert recipe.name == vars(recipe)["__name__"] == name and recipe is getattr(attacks, name) and recipe.reference
    assert recipe.__module__.rpartition(".")[2] not in attacks.__all__
    signature = inspect.signature(recipe)
    assert {key: p.default for key, p in list(signature.parameters.items())[3:]}.keys() == dict(recipe.options).keys()
    assert all(recipe.takes(option) for option in recipe.hyper) and not recipe.takes("no such option")
    assert recipe.refusal(recipe.distance) is None and recipe.kind in ("minimal", "budgeted")
    assert list(inspect.signature(partial(recipe, bounds=(0, 2))).parameters) == list(signature.parameters)
    assert recipe.method.__doc__ and recipe.method.__doc__[:20] in pydoc.render_doc(recipe, renderer=pydoc.TextDoc())


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_does_not_take_is_refused_by_name(name, scene):
    recipe, x, labels = RECIPES[name], scene[1], scene[2]
    with pytest.raises(TypeError, match=f"{name}: takes no stepz;.* beside model, inputs, labels it takes"):
        recipe(forbidden, x, labels, stepz=3)
    others = {"mask": torch.ones(3, dtype=torch.bool), "nu": 0.9, "ignore_index": 0, "distance": "l2", "steps": 3}
    for option in others.keys() - recipe.options.keys():
        with pytest.raises(TypeError, match=f"{name}: takes no {option}"):
            recipe(forbidden, x, labels, **{option: others[option]})


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.distances])
def test_a_distance_that_does_not_fit_is_a_typed_error(name, scene):
    recipe = RECIPES[name]
    with pytest.raises(UnsupportedDistance, match="distance: takes one of"):
        recipe.method.measured("ssim")
    assert "takes one of" in (recipe.refusal("ssim") or "")
    if name not in BUDGETED:
        problem = MinimalPerturbation(forbidden, *scene[1:], distance=lambda x, y: (x - y).flatten(1).sum(1))
        with pytest.raises(UnsupportedDistance, match="distance: takes one of"):
            solve(problem, recipe.method(), scene[1], steps=3)


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"alma", "ddn"}))
def test_a_method_names_the_problem_that_it_is_for(name, scene):
    problem = ConstrainedProblem(objective=lambda x, z: x.flatten(1).sum(1), forward=forbidden)
    for other in (problem, MaximalLoss(forbidden, *scene[1:], eps=0.1)):
        if not (isinstance(other, MaximalLoss) and name in BUDGETED):
            with pytest.raises(TypeError, match="problem: .* is for a (MinimalPerturbation|MaximalLoss), got"):
                solve(other, RECIPES[name].method(), scene[1], steps=3)


@pytest.mark.parametrize("method", [attacks.ALMA(), attacks.DDN()])
def test_general_methods_take_any_problem(method):
    problem = ConstrainedProblem(
        objective=lambda x, _: (x - 0.9).square().sum(1),
        constraints=[inequality(lambda x, _: x.norm(dim=1) - 1.0, name="ball")],
        domain=Box(0.0, 1.0),
    )
    assert solve(problem, method, torch.full((2, 3), 0.5), steps=60).feasible.all()


def test_a_goal_of_the_problem_is_kept(scene):
    model, x, labels = scene
    third = MinimalPerturbation(model, x, labels, constraint=attacks.outside_top(2))
    for method in (attacks.CW(searches=3), attacks.Minimal(), attacks.BrendelBethge(starts=1 - x)):
        solution = solve(third, method, x, steps=60)
        ranks = (model(solution.x).argsort(1, descending=True) == labels[:, None]).int().argmax(1)
        assert (ranks[solution.feasible] >= 2).all()
    with pytest.raises(ValueError, match="confidence: is for the logit difference"):
        solve(third, attacks.CW(confidence=1.0), x, steps=60)


# ---------------------------------------------------------------------------------------------------- replace


def test_what_was_declared_is_made_anew(scene):
    model, x, labels = scene
    point = x + 0.1
    minimal = MinimalPerturbation(model, x, labels)
    assert replace(minimal, distance="l1").evaluate(point).objective.allclose(x.new_full((3,), 3.6))
    targets = (labels + 1) % 4
    aimed = replace(minimal, targets=targets)
    assert aimed.aim.targets is not None and aimed.constraints[0] is not minimal.constraints[0]
    again = MinimalPerturbation(model, x, labels, targets=targets)
    assert aimed.evaluate(point).values[0].equal(again.evaluate(point).values[0])
    wider = replace(minimal, bounds=(-1.0, 2.0)).domain
    assert isinstance(wider, Box) and (wider.lower, wider.upper) == (-1.0, 2.0)
    assert replace(minimal, nu=0.5).constraints[0].fraction == 0.5
    loss = MaximalLoss(model, x, labels, eps=0.1)
    ball = replace(loss, eps=0.2).domain
    assert isinstance(ball, LinfBall) and torch.as_tensor(ball.radius).eq(0.2).all()
    assert replace(loss, eps=0.2, distance="l2").measure.name == "l2"
    assert not replace(loss, loss="dlr").evaluate(x).objective.equal(loss.evaluate(x).objective)
    score = ScorePerturbation(model, x, attacks.scores_below(lambda z: z[:, 0], 0.5))
    assert replace(score, distance="linf").evaluate(point).objective.allclose(x.new_full((3,), 0.1))
    for problem in (minimal, loss, score):
        with pytest.raises(ValueError, match="inputs: must lie within"):
            replace(problem, inputs=x + 1)


def test_a_term_is_kept_as_given(scene):
    model, x, labels = scene
    extra = inequality(lambda x, z: x.flatten(1).sum(1) - 30, name="extra")
    norm = NormAround("l1", x, 0.0, 1.0)
    for problem in (
        MinimalPerturbation(model, x, labels),
        MaximalLoss(model, x, labels, eps=0.1),
        ScorePerturbation(model, x, attacks.scores_below(lambda z: z[:, 0], 0.5)),
    ):
        more = replace(problem, constraints=(*problem.constraints, extra))
        assert type(more) is type(problem) and [c.name for c in more.constraints][1:] == ["extra"]
        assert more.evaluate(x).values[0].equal(problem.evaluate(x).values[0])
        assert replace(more, bounds=(-1.0, 1.0)).constraints[1] is extra
        other = replace(problem, objective=lambda x, z: x.flatten(1).sum(1), nonsmooth=norm, independent=False)
        assert other.nonsmooth is norm and not other.independent
        kept = replace(other, bounds=(-1.0, 1.0))
        assert kept.objective is other.objective and kept.nonsmooth is norm and not kept.independent
        box = Box(0.2, 0.8)
        assert replace(replace(problem, domain=box), bounds=(-1.0, 1.0)).domain is box
        assert replace(problem, constraints=()).constraints == ()
        changed = replace(problem.constraints[0], name="changed")  # is another constraint than the problem's own
        assert replace(replace(problem, constraints=(changed,)), bounds=(-1.0, 1.0)).constraints == (changed,)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", RECIPES)
def test_the_callers_grad_mode_changes_nothing(name, mode, scene):
    model, x, labels = scene
    recipe, options = RECIPES[name], chosen(name, labels)
    options |= {} if name == "fgsm" else {"steps": 3 * 9}
    options |= {"searches": 2} if recipe.takes("searches") else {"radii": 2} if name == "lpa" else {}
    expected = recipe(model, x, labels, **options)
    with mode():
        given = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
        same(recipe(model, x.clone(), labels.clone(), **given), expected)


def test_problems_are_the_same_in_inference_mode(scene):
    model, x, labels = scene
    with torch.inference_mode():
        given = x.clone(), labels.clone()
        problem = MinimalPerturbation(model, *given, targets=(given[1] + 1) % 4)
        loss = MaximalLoss(model, *given, eps=torch.full((3,), 0.1, dtype=torch.float64))
    made = (problem.inputs, problem.labels, problem.aim.targets, loss.radius)
    assert not any(t is None or t.is_inference() for t in made)
    solution = solve(problem, attacks.DDN(), problem.inputs, steps=20)
    same(solution, solve(MinimalPerturbation(model, x, labels, targets=(labels + 1) % 4), attacks.DDN(), x, steps=20))


# ---------------------------------------------------------------------------------------------------- the model


def test_a_model_is_called_in_evaluation_mode_and_unwrapped():
    class Output:
        logits = torch.tensor([[0.25, 0.75]])

    class Net(torch.nn.Module):
        def forward(self, x):
            assert not self.training
            return Output()

    net = Net().train()
    assert ModelCall(net)(torch.zeros(1, 2)).equal(Output.logits) and net.training
    assert isinstance(ModelCall(net, unwrap=False)(torch.zeros(1, 2)), Output)
    assert ModelCall(net, logarithm=True)(torch.zeros(1, 2)).exp().allclose(Output.logits)
    seen = []
    ModelCall(net, check=lambda output, x: seen.append((output.shape, x.shape)))(torch.zeros(1, 2))
    assert seen == [((1, 2), (1, 2))]
    with pytest.raises(TypeError, match="model: takes a callable"):
        ModelCall(3)  # pyright: ignore[reportArgumentType]


def test_a_problem_takes_any_of_its_rows(scene):
    for problem in (MinimalPerturbation(*scene), MaximalLoss(*scene, eps=0.1)):
        assert problem.forward(scene[1][1:]).equal(problem.forward(scene[1])[1:])
        # a function may look at the whole batch, a network does not
        assert not problem.rowwise and replace(problem, model=torch.nn.Linear(4, 4)).rowwise


def test_importing_the_attacks_loads_nothing_of_the_lab():
    code = (
        "import sys, constropt.problems.attacks; bad = {'pyarrow', 'rich', 'typer', 'safetensors', 'matplotlib'};"
        "print([m for m in sys.modules if m.partition('.')[0] in bad or m.startswith('constropt.lab')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_method_is_exported():
    found, todo = set(), [AttackMethod]
    while todo:
        todo += (children := todo.pop().__subclasses__())
        found |= {c.__name__ for c in children if c.__module__.startswith("constropt.")}
    assert (
        found - {"BudgetedMethod", "Standard"}
        == {recipe.method.__name__ for recipe in RECIPES.values()}
        <= set(attacks.__all__)
    )
