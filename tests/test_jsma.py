"""JSMA: the saliency map against its definition, the pairs against all pairs, the limits, and what it promises."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from constropt import ConstrainedProblem, Status, inequality, solve
from constropt.problems.attacks.greedy import jsma
from constropt.solvers.saliency import Saliency

VARIANTS = [
    pytest.param({"pairs": pairs, "logits": logits}, id=f"{'pairs' if pairs else 'single'}-{'Z' if logits else 'F'}")
    for pairs in (False, True)
    for logits in (False, True)
]


@pytest.fixture
def small():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 5))
    x = 0.5 * torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    net.eval()
    labels = net(x).argmax(1)
    return SimpleNamespace(model=net, x=x, labels=labels, targets=(labels + 1) % 5)


def slow_saliency(model: nn.Module, x: Tensor, target: int, *, logits: bool, pairs: bool) -> set[int]:
    """The entries that the definition chooses for one row, by loops."""
    x = x.clone().requires_grad_()
    z = model(x)[0]
    outputs = z if logits else z.softmax(0)
    jacobian = torch.stack([torch.autograd.grad(o, x, retain_graph=True)[0].flatten() for o in outputs])
    a, b = jacobian[target], jacobian.sum(0) - jacobian[target]
    best, chosen = 0.0, set()
    for i in range(len(a)):
        for j in range(i + 1, len(a)) if pairs else (i,):
            up, down = (float(a[i] + a[j]), float(b[i] + b[j])) if pairs else (float(a[i]), float(b[i]))
            if up > 0 and down < 0 and -up * down > best:
                best, chosen = -up * down, {i, j}
    return chosen


@pytest.mark.parametrize("options", VARIANTS)
def test_the_first_step_is_the_definitions(small, options):
    first: list[Tensor] = []
    jsma(
        small.model,
        small.x,
        small.labels,
        targets=small.targets,
        steps=1,
        callback=lambda i, point, proposal: first.append(proposal.x),
        **options,
    )
    for row in range(len(small.x)):
        moved = (first[0][row] != small.x[row]).flatten()
        expected = slow_saliency(small.model, small.x[row : row + 1], int(small.targets[row]), **options)
        assert set(moved.nonzero().flatten().tolist()) == expected
        assert bool((first[0][row].flatten()[moved] == 1).all())


@pytest.mark.parametrize("options", VARIANTS)
def test_targets_are_reached_by_few_entries(small, options):
    solution = jsma(small.model, small.x, small.labels, targets=small.targets, gamma=0.8, **options)
    assert bool(solution.feasible.any())
    reached = small.model(solution.x).argmax(1) == small.targets
    assert torch.equal(reached & solution.feasible, solution.feasible)
    changed = (solution.x != small.x).flatten(1).sum(1)
    torch.testing.assert_close(solution.objective[solution.feasible], changed[solution.feasible].float())
    assert bool((solution.x[solution.x != small.x] == 1).all())
    assert changed.max() <= 0.8 * 36


@pytest.mark.parametrize("options", VARIANTS)
def test_without_targets_the_label_is_left(small, options):
    solution = jsma(small.model, small.x, small.labels, gamma=0.8, **options)
    assert bool(solution.feasible.any())
    assert torch.equal(small.model(solution.x).argmax(1) != small.labels, solution.feasible)


def test_a_linear_model_is_solved_greedily():
    # one entry after the other, the largest weight first: 5 + 4 + 3 exceeds 10.5
    weight = torch.tensor([1.0, 5.0, 3.0, -2.0, 4.0, 0.5])
    solution = jsma(
        lambda t: torch.stack([torch.full((1,), 10.5), t @ weight], 1),
        torch.zeros(1, 6),
        torch.tensor([0]),
        targets=torch.tensor([1]),
        gamma=0.5,
    )
    assert solution.x.tolist() == [[0.0, 1.0, 1.0, 0.0, 1.0, 0.0]]
    assert solution.objective.item() == 3 and bool(solution.feasible.all())
    # a gradient for each of the three steps; then a last look
    assert solution.backwards.item() == 3


def test_steps_may_be_small_or_downwards():
    weight = torch.tensor([1.0, 5.0, 3.0, -2.0])
    x, label = torch.full((1, 4), 0.5), torch.tensor([0])

    def model(t: Tensor) -> Tensor:
        return torch.stack([13.2 - t @ weight, t @ weight], 1)

    slow = jsma(model, x, label, targets=torch.tensor([1]), theta=0.25, gamma=0.5)
    torch.testing.assert_close(slow.x, torch.tensor([[0.5, 1.0, 0.75, 0.5]]))
    down = jsma(lambda t: model(1 - t), x, label, targets=torch.tensor([1]), theta=-1.0, gamma=0.5)
    torch.testing.assert_close(down.x, torch.tensor([[0.5, 0.0, 0.0, 0.5]]))
    twice = jsma(lambda t: model(1 - t), x, label, targets=torch.tensor([1]), theta=-1.0, gamma=0.5, logits=True)
    assert torch.equal(twice.x, down.x)


@pytest.mark.parametrize("options", VARIANTS)
def test_gamma_limits_the_entries(small, options):
    for gamma in (0.03, 0.1):
        solution = jsma(small.model, small.x, small.labels, targets=small.targets, gamma=gamma, **options)
        assert (solution.x != small.x).flatten(1).sum(1).max() <= gamma * 36
        assert solution.backwards.max() <= (1 + options["logits"]) * gamma * 36 / (1 + options["pairs"])


@pytest.mark.parametrize("options", VARIANTS)
def test_rows_do_not_depend_on_each_other(small, options):
    run = partial(jsma, small.model, gamma=0.5, **options)
    together = run(small.x, small.labels, targets=small.targets)
    alone = run(small.x[2:3], small.labels[2:3], targets=small.targets[2:3])
    assert torch.equal(alone.x, together.x[2:3])


def test_pairs_are_compared_in_parts(small, monkeypatch):
    options = {"targets": small.targets, "pairs": True, "logits": True, "gamma": 0.5}
    whole = jsma(small.model, small.x, small.labels, **options)
    monkeypatch.setattr("constropt.solvers.saliency.PAIRS_AT_ONCE", 2 * 36**2)
    parts = jsma(small.model, small.x, small.labels, **options)
    assert torch.equal(whole.x, parts.x)


@pytest.mark.parametrize("options", VARIANTS)
def test_no_gradient_and_no_number(options):
    x, labels = torch.full((3, 4), 0.5), torch.zeros(3, dtype=torch.long)
    flat = torch.tensor([[2.0, 1.0]])
    still = jsma(lambda t: flat + 0 * t.sum(1, keepdim=True), x, labels, gamma=1.0, **options)
    assert torch.equal(still.x, x) and not bool(still.feasible.any())
    # rows in which nothing is salient end at once
    assert bool((still.backwards <= 2).all())
    mark = torch.tensor([[0.0], [torch.nan], [0.0]])
    weight = torch.tensor([[3.0, -1.0, 0.0, 1.0], [0.0, 9.0, 0.0, 0.0]])
    broken = jsma(lambda t: (t + mark) @ weight.T - torch.tensor([0.0, 4.0]), x, labels, gamma=1.0, **options)
    assert broken.status[1] == Status.DIVERGED and torch.equal(broken.x[1], x[1])
    assert broken.feasible.tolist() == [True, False, True]


def test_misclassified_rows_stay_and_modes_are_kept(small):
    small.model.train()
    state = torch.get_rng_state()
    labels = small.labels.clone()
    labels[0] = small.targets[0]
    solution = jsma(small.model, small.x, labels, gamma=0.5)
    assert solution.objective[0] == 0 and solution.backwards[0] <= 2  # one of a batch until it is left out
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in small.model.modules())
    assert all(parameter.grad is None for parameter in small.model.parameters())


@pytest.mark.parametrize("change", [lambda z: z + 50, lambda z: z.softmax(1)], ids=["shifted", "probabilities"])
def test_shift_and_probabilities_change_nothing(small, change):
    base = jsma(small.model, small.x, small.labels, targets=small.targets, gamma=0.5)
    other = jsma(lambda t: change(small.model(t)), small.x, small.labels, targets=small.targets, gamma=0.5)
    assert torch.equal(base.x, other.x)


def test_other_bounds_and_half_precision(small):
    moved = jsma(
        lambda t: small.model((t + 2) / 4), 4 * small.x - 2, small.labels, targets=small.targets, bounds=(-2.0, 2.0)
    )
    base = jsma(small.model, small.x, small.labels, targets=small.targets)
    torch.testing.assert_close((moved.x + 2) / 4, base.x)
    model, x = small.model.to(torch.bfloat16), small.x.to(torch.bfloat16)
    short = jsma(model, x, model(x).argmax(1), gamma=0.5, pairs=True, logits=True)
    assert short.x.dtype == torch.bfloat16 and bool(short.x.isfinite().all())


def refuse(x: Tensor) -> Tensor:
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"theta": 0.0}, "theta"),
        ({"gamma": 0.0}, "limit"),
        ({"gamma": 1.5}, "limit"),
        ({"steps": 0}, "steps"),
        ({"targets": torch.tensor([0, 0])}, "targets"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        jsma(refuse, torch.rand(2, 3), torch.tensor([0, 1]), **arguments)


def test_too_many_pairs():
    with pytest.raises(ValueError, match="pairs"):
        jsma(refuse, torch.rand(1, 20_000), torch.tensor([0]), pairs=True, logits=True)
    one = inequality(lambda x, _: 1 - x.sum(1))
    with pytest.raises(ValueError, match="constraints"):
        solve(ConstrainedProblem(objective=lambda x, _: x.sum(1)), Saliency(), torch.rand(1, 2), steps=1)
    free = ConstrainedProblem(objective=lambda x, _: x.sum(1), constraints=[one])
    assert bool(solve(free, Saliency(), torch.zeros(1, 2), steps=2).feasible.all())
