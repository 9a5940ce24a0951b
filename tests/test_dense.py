"""Minimal perturbations of dense predictions: every pixel a constraint, of which a fraction must hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from constropt.problems.attacks import alma, alma_prox, ddn
from constropt.solution import Status, best_of

IGNORED = 255


def pixelwise(rows: int = 3, side: int = 16, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A 1x1 convolution: every pixel is a linear classifier of its own. With inputs, labels and exact linf distances.

    The distances, ``(rows, side, side)``, are those to the nearest other class, of every pixel on its own.
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Conv2d(3, 4, 1)
    model.weight.data = torch.randn(4, 3, 1, 1, generator=generator)
    assert model.bias is not None
    model.bias.data = 0.1 * torch.randn(4, generator=generator)
    x = 0.35 + 0.3 * torch.rand(rows, 3, side, side, generator=generator)
    with torch.no_grad():
        logits = model(x)
    labels = logits.argmax(1)
    weight = model.weight.data[:, :, 0, 0]
    norms = (weight[labels].unsqueeze(3) - weight).abs().sum(-1)  # (rows, side, side, 4)
    gaps = logits.amax(1).unsqueeze(3) - logits.permute(0, 2, 3, 1)
    distances = torch.where(norms > 0, gaps / norms, torch.inf).amin(3)
    return model, x, labels, distances


def exact(distances: Tensor, nu: float = 0.99, counted: Tensor | None = None) -> Tensor:
    """The minimal linf norm that moves the fraction ``nu`` of the counted pixels: a quantile of their distances."""
    rows = []
    for index, row in enumerate(distances):
        row = (row if counted is None else row[counted[index]]).flatten().sort().values
        rows.append(row[_needed(len(row), nu) - 1])
    return torch.stack(rows)


def _needed(count: int, nu: float) -> int:
    return next(k for k in range(1, count + 1) if k >= nu * count - 1e-6)


def test_alma_prox_is_close_to_the_exact_quantile():
    model, x, labels, distances = pixelwise()
    solution = alma_prox(model, x, labels, steps=300)
    assert bool(solution.feasible.all())
    ratio = solution.objective / exact(distances)
    assert ratio.min() > 1 - 1e-3 and ratio.max() < 1.1
    with torch.no_grad():
        moved = (model(solution.x).argmax(1) != labels).flatten(1).float().mean(1)
    assert bool((moved >= 0.99).all())
    assert bool((solution.backwards == 300).all()) and bool((solution.forwards == 302).all())


def test_void_pixels_and_masks_have_no_influence():
    model, x, labels, distances = pixelwise()
    void = torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) < 0.3
    marked = torch.where(void, IGNORED, labels)
    by_label = alma_prox(model, x, marked, steps=60)
    by_mask = alma_prox(model, x, labels, mask=~void, steps=60)
    assert torch.equal(by_label.x, by_mask.x)

    def altered(t: Tensor) -> Tensor:
        return torch.where(void[: len(t), None], 100.0 * model(t) - 3, model(t))

    assert torch.equal(alma_prox(altered, x, marked, steps=60).x, by_label.x)
    full = alma_prox(model, x, marked, steps=300)
    assert (full.objective / exact(distances, counted=~void)).max() < 1.1


def test_rows_do_not_depend_on_their_batch_and_a_nan_row_is_lost_alone():
    model, x, labels, _ = pixelwise()
    labels[1, :9] = IGNORED  # rows with different numbers of counted pixels
    together = alma_prox(model, x, labels, steps=40)
    alone = alma_prox(model, x[1:2], labels[1:2], steps=40)
    torch.testing.assert_close(alone.x, together.x[1:2], rtol=1e-4, atol=1e-6)
    mark = torch.zeros_like(x)
    mark[0] = torch.nan
    broken = alma_prox(lambda t: model(t + mark), x, labels, steps=40)
    assert broken.status[0] == Status.DIVERGED and not bool(broken.feasible[0])
    torch.testing.assert_close(broken.x[1:], together.x[1:])


def test_targets_may_agree_with_labels_here_and_there():
    model, x, labels, _ = pixelwise()
    agree = torch.rand(labels.shape, generator=torch.Generator().manual_seed(4)) < 0.2
    targets = torch.where(agree, labels, (labels + 1) % 4)
    solution = alma_prox(model, x, labels, targets=targets, steps=300, bounds=(-3.0, 4.0))
    assert bool(solution.feasible.all())
    with torch.no_grad():
        reached = (model(solution.x).argmax(1) == targets).flatten(1).float().mean(1)
    assert bool((reached >= 0.99).all())


@pytest.mark.parametrize("nu", [0.5, 0.9, 1.0])
def test_nu_is_the_fraction_that_is_moved(nu):
    model, x, labels, distances = pixelwise(rows=2)
    solution = alma_prox(model, x, labels, nu=nu, steps=300)
    assert bool(solution.feasible.all())
    assert (solution.objective / exact(distances, nu)).max() < 1.15


def test_the_logits_scale_does_not_matter():
    model, x, labels, _ = pixelwise(rows=2)
    base = alma_prox(model, x, labels, steps=100)
    for scale in (1e-3, 1e3):
        scaled = alma_prox(lambda t, s=scale: s * model(t), x, labels, steps=100)
        torch.testing.assert_close(scaled.objective, base.objective, rtol=0.02, atol=0)


BAD = {
    "empty mask": ({"mask": torch.zeros(2, 4, 4, dtype=torch.bool)}, "mask: no pixel counts in rows \\[0, 1\\]"),
    "mask of another shape": ({"mask": torch.ones(2, 4, dtype=torch.bool)}, "mask: takes booleans"),
    "mask of integers": ({"mask": torch.ones(2, 4, 4, dtype=torch.int64)}, "mask: takes booleans"),
    "only void": ({"labels": torch.full((2, 4, 4), IGNORED)}, "mask: no pixel counts"),
    "labels of another size": ({"labels": torch.zeros(2, 3, 4, dtype=torch.int64)}, "labels: takes int64"),
    "float labels": ({"labels": torch.zeros(2, 4, 4)}, "labels: takes int64"),
    "negative labels": ({"labels": torch.full((2, 4, 4), -1)}, "labels: takes class indices >= 0"),
    "target is the label": ({"targets": torch.zeros(2, 4, 4, dtype=torch.int64)}, "targets: equal the labels at every"),
    "one target per row": ({"targets": torch.ones(2, dtype=torch.int64)}, "targets: takes int64"),
    "inputs outside the box": ({"bounds": (0.6, 1.0)}, "inputs: must lie within bounds"),
    "no fraction": ({"nu": 0.0}, "fraction"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_model_call(case):
    changes, message = BAD[case]

    def model(x: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    arguments = {"inputs": torch.full((2, 3, 4, 4), 0.5), "labels": torch.zeros(2, 4, 4, dtype=torch.int64)} | changes
    with pytest.raises((ValueError, TypeError), match=message):
        alma_prox(model, **arguments)


def test_labels_beyond_the_classes_and_low_resolution_logits_are_named():
    x, labels = torch.full((2, 3, 4, 4), 0.5), torch.full((2, 4, 4), 11)
    model = nn.Conv2d(3, 5, 1)
    with pytest.raises(ValueError, match="class 11 .*5 classes; give void pixels the ignore_index"):
        alma_prox(model, x, labels, steps=2)
    assert alma_prox(model, x, labels * 0, steps=2).x.shape == x.shape
    with pytest.raises(ValueError, match="got float32 of shape \\(2, 5, 2, 2\\); wrap it in .*DenseLogits"):
        alma_prox(lambda t: model(t)[..., ::2, ::2], x, labels * 0, steps=2)
    with pytest.raises(ValueError, match="mask: is for dense labels"):
        alma_prox(lambda t: t.flatten(1), x, labels[:, 0, 0] * 0, mask=torch.ones(2, dtype=torch.bool), steps=2)


def test_best_of_takes_the_better_rows_and_adds_the_passes():
    model, x, labels, _ = pixelwise(rows=2)
    short, long = (alma_prox(model, x, labels, steps=steps) for steps in (2, 200))
    assert not bool(short.feasible.any()) and bool(long.feasible.all())
    best = best_of(short, long)
    assert torch.equal(best.x, long.x) and torch.equal(best_of(long, short).x, long.x)
    assert best.backwards.tolist() == [202, 202] and best.forwards.tolist() == [206, 206]
    assert torch.equal(best.first_feasible, long.first_feasible)


def exact_l2(model: nn.Module, x: Tensor, labels: Tensor, counted: Tensor, nu: float = 0.99) -> Tensor:
    """The minimal l2 norm that moves the fraction ``nu`` of the counted pixels: their nearest boundaries, cheapest
    first.
    """
    with torch.no_grad():
        logits = model(x)
    weight = model.weight.data[:, :, 0, 0]  # pyright: ignore
    norms = (weight[labels].unsqueeze(3) - weight).square().sum(-1)
    gaps = logits.amax(1).unsqueeze(3) - logits.permute(0, 2, 3, 1)
    squares = torch.where(norms > 0, gaps.square() / norms, torch.inf).amin(3)
    rows = []
    for index, row in enumerate(squares):
        row = row[counted[index]].sort().values
        rows.append(row[: _needed(len(row), nu)].sum().sqrt())
    return torch.stack(rows)


@pytest.mark.parametrize(("recipe", "worst"), [(alma, 1.5), (ddn, 2.5)])
def test_l2_recipes_take_dense_labels_with_a_mask(recipe, worst):
    model, x, labels, _ = pixelwise()
    counted = torch.zeros_like(labels, dtype=torch.bool)
    counted[:, 4:] = True
    labels[:, 4, :8] = IGNORED
    solution = recipe(model, x, labels, mask=counted, steps=300)
    counted &= labels != IGNORED
    assert bool(solution.feasible.all())
    # neither balances thousands of constraints as alma_prox does: DDN goes on pushing what is fooled already
    ratio = solution.objective / exact_l2(model, x, torch.where(counted, labels, 0), counted)
    assert ratio.min() > 0.99 and ratio.max() < worst
    with torch.no_grad():
        moved = (model(solution.x).argmax(1) != labels) & counted
    assert bool((moved.flatten(1).sum(1) >= 0.99 * counted.flatten(1).sum(1)).all())
    # what does not count costs nothing
    assert not (solution.x - x)[:, :, :4].any()
