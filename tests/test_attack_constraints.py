"""Constraints by choice: confidence, cross-entropy levels, top-k, multi-label, regression, detection-style scores."""

from __future__ import annotations

import pytest
import torch
from linear import classifier
from torch import Tensor, nn

from constropt import Constraint, Status, solve
from constropt.problems.attacks import ALMA, MinimalPerturbation
from constropt.problems.attacks.aim import Aim
from constropt.problems.attacks.constraints import below_largest, dlr, logit_difference, targeted_dlr
from constropt.problems.attacks.goals import Goal, as_constraint, cross_entropy_level, logit_margin, outside_top
from constropt.problems.attacks.scores import ScorePerturbation, labels_flipped, regression_error, scores_below
from constropt.solvers.linearized.linearized_projection import LinearizedProjection

LOGITS = torch.tensor([[3.0, 1.0, 2.0, -5.0], [0.0, 4.0, 2.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])


def aim_of(labels: Tensor = LABELS, targets: Tensor | None = None) -> Aim:
    return Aim.of(torch.zeros(len(labels), 2), labels, targets, None, 255)


def linear(rows: int = 6, d: int = 32):
    weight, bias, x = classifier(0, d=d, rows=rows)
    weight, bias, x = weight.double(), bias.double(), x.double()
    return weight, bias, x, lambda t: t @ weight.T + bias


# -------------------------------------------------------------------------------------------------------------- goals


def test_goals_have_their_closed_forms():
    aim, small = aim_of(), 1e-3
    assert torch.allclose(logit_margin(2.5).value(LOGITS, aim), torch.tensor([3.5, 4.5]).double(), atol=small)
    assert torch.allclose(logit_margin().value(LOGITS, aim), logit_difference(LOGITS, LABELS), atol=small)
    targets = torch.tensor([1, 2])
    reach = aim_of(targets=targets)
    assert torch.allclose(logit_margin(1.0).value(LOGITS, reach), torch.tensor([3.0, 3.0]).double(), atol=small)
    entropy = -torch.log_softmax(LOGITS, 1)
    assert torch.allclose(cross_entropy_level(0.7).value(LOGITS, aim), 0.7 - entropy[[0, 1], LABELS])
    assert torch.allclose(cross_entropy_level(0.7).value(LOGITS, reach), entropy[[0, 1], targets] - 0.7)
    assert torch.equal(outside_top(1).value(LOGITS, aim), dlr(LOGITS, LABELS))
    assert torch.allclose(outside_top(2).value(LOGITS, aim), torch.tensor([2 / 5, 3 / 3.5]).double(), atol=small)
    # with targets: the target among the k largest
    assert (outside_top(2).value(LOGITS, aim_of(targets=torch.tensor([2, 2]))) < 0).all()
    assert (outside_top(1).value(LOGITS, aim_of(targets=torch.tensor([2, 2]))) > 0).all()
    assert (outside_top(2).value(LOGITS, aim_of(targets=torch.tensor([1, 3]))) > 0).all()


def test_two_and_three_classes_have_fallbacks():
    three, two = LOGITS[:1, :3], LOGITS[:1, :2]
    label, target = torch.tensor([0]), torch.tensor([1])
    assert dlr(two, label).isfinite().all() and torch.allclose(dlr(two, label), torch.tensor([2.0]).double(), atol=1e-3)
    assert torch.allclose(targeted_dlr(two, target), torch.tensor([2.0]).double(), atol=1e-3)
    assert torch.allclose(targeted_dlr(three, target), torch.tensor([2.0 / 2.0]).double(), atol=1e-3)
    assert torch.allclose(below_largest(two, label, 1), torch.tensor([2.0]).double(), atol=1e-3)
    assert (logit_margin(1.0).value(two, aim_of(label)) > 2.9).all()
    with pytest.raises(ValueError, match="k: takes less than the number of classes, 2"):
        below_largest(two, label, 2)


def test_ties_meet_no_constraint():
    tied = torch.zeros(1, 4)
    aim = aim_of(torch.tensor([0]))
    for goal in (logit_margin(), outside_top(1), outside_top(3)):
        for logits in (tied, tied + 1.0, torch.tensor([[1.0, 1.0, 0.0, 1.0]])):
            assert (goal.value(logits, aim) > 0).all(), goal.name


def test_dense_predictions_take_goals_too():
    logits = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(5, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    aim = Aim.of(torch.zeros(2, 3, 3, 4), labels, None, None, 255)
    for goal in (logit_margin(0.5), cross_entropy_level(1.0), outside_top(2)):
        constraint = as_constraint(goal, aim)
        value = constraint.value(torch.zeros(2, 3, 3, 4), logits)
        assert value.shape == (2, 3, 4) and constraint.fraction == 0.99 and constraint.alternatives is None
        pixel = Aim.of(torch.zeros(2, 2), labels[:, 1, 2], None, None, 255)
        assert torch.allclose(goal.value(logits[:, :, 1, 2], pixel), value[:, 1, 2])
    assert logit_margin().value(logits[:, :2], Aim.of(torch.zeros(2, 3, 3, 4), labels % 2, None, None, 255)).dim() == 3


@pytest.mark.parametrize("confidence", [0.0, 3.0])
def test_confidence_on_a_linear_model(confidence):
    weight, bias, x, model = linear(d=256)
    labels = model(x).argmax(1)
    problem = MinimalPerturbation(
        model, x, labels, distance="l2", constraint=logit_margin(confidence), bounds=(-9.0, 9.0)
    )
    solution = solve(problem, LinearizedProjection(p=2.0), x, steps=40)
    logits = model(solution.x)
    assert solution.feasible.all() and (logit_difference(logits, labels) <= -confidence).all()
    start = model(x)
    own = weight[labels][:, None] - weight
    gaps = (start.gather(1, labels[:, None]) - start + confidence) / own.norm(dim=2).clamp_min(1e-12)
    exact = gaps.scatter(1, labels[:, None], torch.inf).amin(1)
    assert (solution.objective / exact).max() < 1.01 and (solution.objective / exact).min() > 0.999


@pytest.mark.parametrize("solver", [ALMA(), LinearizedProjection(p=2.0), None], ids=["alma", "cuts", "default"])
@pytest.mark.parametrize("goal", [cross_entropy_level(3.0), outside_top(3), logit_margin(1.0)], ids=lambda g: g.name)
def test_solvers_reach_goals(solver, goal):
    _, _, x, model = linear()
    labels = model(x).argmax(1)
    problem = MinimalPerturbation(model, x, labels, distance="l2", constraint=goal)
    solution = solve(problem, solver, x, steps=100)
    assert solution.feasible.all()
    logits = model(solution.x)
    if goal.name.startswith("top"):
        assert not (logits.topk(3, dim=1).indices == labels[:, None]).any()
    if goal.name.startswith("cross"):
        assert (torch.nn.functional.cross_entropy(logits, labels, reduction="none") >= 3.0 - 1e-5).all()
    best = solve(MinimalPerturbation(model, x, labels, distance="l2"), LinearizedProjection(p=2.0), x, steps=100)
    assert (solution.objective > best.objective).all()  # each asks for more than misclassification


def test_a_callable_is_a_goal():
    _, _, x, model = linear()
    labels = model(x).argmax(1)

    def drop(logits: Tensor, aim: Aim) -> Tensor:
        return logits.gather(1, aim.labels[:, None])[:, 0] - 1.0

    problem = MinimalPerturbation(model, x, labels, constraint=drop)
    assert problem.constraints[0].name == "drop"
    solution = solve(problem, ALMA(), x, steps=80)
    assert solution.feasible.all() and (model(solution.x).gather(1, labels[:, None]) <= 1.0).all()
    with pytest.raises(TypeError, match="constraint: takes a Goal.*got str"):
        MinimalPerturbation(model, x, labels, constraint="top-5")
    wrong = MinimalPerturbation(model, x, labels, constraint=Goal("logits", lambda z, aim: z))
    with pytest.raises(
        ValueError, match=r"constraint: must return one value per label, \(6,\), got float64 of shape \(6, 10\)"
    ):
        wrong.evaluate(x)
    for make, message in (
        (lambda: logit_margin(-1.0), "confidence: takes"),
        (lambda: cross_entropy_level(0.0), "level: takes"),
        (lambda: outside_top(0), "k: takes a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# ------------------------------------------------------------------------------------------------------------- scores


def test_labels_are_flipped_and_kept():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 12, generator=generator, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(5, 12, generator=generator, dtype=torch.float64)
    model = lambda t: (t - 0.5) @ weight.T  # noqa: E731
    labels = (model(x) > 0).long()
    flips = torch.zeros(5, 4, dtype=torch.bool)
    flips[:, 1] = True
    flips[2, 3] = True
    for keep in (False, True):
        problem = ScorePerturbation(model, x, labels_flipped(labels, flips, keep=keep), distance="l2")
        solution = solve(problem, None, x, steps=300)
        predicted = (model(solution.x) > 0).long()
        assert solution.feasible.all() and torch.equal(predicted[flips], 1 - labels[flips])
        if keep:
            assert torch.equal(predicted[~flips], labels[~flips])
    single = solve(ScorePerturbation(model, x, labels_flipped(labels, flips)), LinearizedProjection(p=2.0), x, steps=60)
    exact = model(x)[:, 1].abs() / weight[1].norm()
    only = torch.tensor([0, 1, 3, 4])
    assert single.feasible.all() and (single.objective / exact)[only].max() < 1.01
    assert (single.objective / exact).min() > 0.99


@pytest.mark.parametrize("direction", ["any", "up", "down"])
def test_regression_errors_on_a_linear_model(direction):
    weight = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.full((3, 8), 0.5, dtype=torch.float64)
    model = lambda t: t @ weight  # noqa: E731
    least = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    constraint = regression_error(model(x), least, direction=direction)  # predictions are exact at the start
    solution = solve(ScorePerturbation(model, x, constraint), LinearizedProjection(p=2.0), x, steps=30)
    error = model(solution.x) - model(x)
    assert solution.feasible.all() and (error.abs() >= least - 1e-12).all()
    assert torch.allclose(solution.objective, least / weight.norm(), rtol=1e-2)
    if direction != "any":
        assert (error > 0).all() if direction == "up" else (error < 0).all()
    other = solve(ScorePerturbation(model, x, constraint), ALMA(), x, steps=80)
    assert other.feasible.all()


def test_regression_of_several_outputs_needs_one():
    references = torch.zeros(2, 3, dtype=torch.float64)
    output = torch.tensor([[0.1, -0.6, 0.2], [0.1, 0.2, 0.3]], dtype=torch.float64)
    constraint = regression_error(references, 0.5)
    assert torch.allclose(constraint.value(output, output), torch.tensor([-0.1, 0.2], dtype=torch.float64))
    assert constraint.alternatives is not None and constraint.alternatives(output, output).shape == (2, 6)
    with pytest.raises(ValueError, match="model: must return one value per reference"):
        constraint.value(output, output[:, :2])


def test_detections_are_suppressed():
    """Boxes (batch, 3, 5), scores last: the ones over the object must fall below the threshold."""
    weight = torch.randn(3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.full((2, 10), 0.5, dtype=torch.float64)

    def detector(t: Tensor) -> dict[str, Tensor]:
        scores = torch.sigmoid((t - 0.5) @ weight.T + 1.0)
        return {"boxes": torch.zeros(len(t), 3, 4, dtype=t.dtype), "scores": scores}

    over = torch.tensor([[True, True, False], [False, True, True]])
    take = lambda out: torch.where(over, out["scores"], 0.0)  # noqa: E731
    solution = solve(ScorePerturbation(detector, x, scores_below(take, 0.5)), None, x, steps=300)
    assert solution.feasible.all() and (take(detector(solution.x)) <= 0.5 + 1e-6).all()
    linearised = solve(ScorePerturbation(detector, x, scores_below(take, 0.5)), LinearizedProjection(), x, steps=60)
    assert linearised.feasible.all() and (linearised.objective / solution.objective < 1.1).all()


def test_the_model_runs_in_evaluation_mode_and_is_left_as_found():
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.9), nn.Linear(8, 1)).train()
    x = torch.rand(3, 4)
    problem = ScorePerturbation(net, x, lambda z: z[:, 0] - 100.0)
    assert torch.equal(problem.evaluate(x).values[0], problem.evaluate(x).values[0]) and net[1].training
    assert isinstance(problem.constraints[0], Constraint)


def test_a_nan_row_is_lost_alone():
    weight = torch.randn(8, generator=torch.Generator().manual_seed(0))
    x = torch.full((3, 8), 0.5)
    model = lambda t: (t * weight).sum(1) * torch.tensor([1.0, torch.nan, 1.0])  # noqa: E731
    constraint = regression_error((x * weight).sum(1), 0.1)
    solution = solve(ScorePerturbation(model, x, constraint), LinearizedProjection(p=2.0), x, steps=20)
    assert solution.feasible.tolist() == [True, False, True] and solution.x.isfinite().all()
    assert solution.status[1] == Status.DIVERGED


FLIPS = torch.tensor([[True, False]])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: labels_flipped(torch.tensor([[1, 0]]), FLIPS.long()), "flips: takes booleans"),
        (lambda: labels_flipped(torch.tensor([[2, 0]]), FLIPS), "labels: takes 0 and 1"),
        (lambda: labels_flipped(torch.tensor([[1, 0, 1]]), FLIPS), "labels: takes 0 and 1"),
        (lambda: labels_flipped(torch.tensor([[1, 0]]), ~FLIPS & FLIPS), r"flips: mark no label in rows \[0\]"),
        (lambda: regression_error(torch.tensor([1]), 0.5), "references: takes a floating"),
        (lambda: regression_error(torch.tensor([torch.nan]), 0.5), "references: takes finite"),
        (lambda: regression_error(torch.ones(2), 0.0), "least: takes errors > 0"),
        (lambda: regression_error(torch.ones(2), torch.ones(3)), "least: takes a number or one per row"),
        (lambda: regression_error(torch.ones(2), 1.0, direction="left"), "direction: takes"),
        (lambda: scores_below("scores", 0.5), "scores: takes a callable"),
        (lambda: scores_below(lambda z: z, torch.inf), "threshold: takes a finite"),
        (lambda: ScorePerturbation(lambda x: x, torch.rand(2, 3), 5.0), "constraint: takes a Constraint"),
        (lambda: ScorePerturbation(lambda x: x, 2 + torch.rand(2, 3), lambda z: z), "inputs: must lie within"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
