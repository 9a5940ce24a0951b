"""Attacks on dense predictions: exact optima of a 1x1 convolution, void pixels, and what each algorithm promises."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from linear import classifier
from torch import Tensor, nn

from constropt import Box, ConstrainedProblem, Evaluation, Status, inequality, solve
from constropt.problems.attacks import asma, bim, dag, fgsm, fmn, mi_fgsm, pdgd, pdpgd, pgd
from constropt.problems.attacks.constraints import MARGIN
from constropt.problems.attacks.greedy import mean_iou
from constropt.solvers.greedy import GreedyAccumulation
from constropt.solvers.level_sets.minimum_norm import MinimumNorm
from constropt.solvers.primal_dual import PrimalDual

VOID = 255


class Pixelwise(nn.Module):
    """A 1x1 convolution whose rounding does not depend on the batch: every pixel is a linear classifier of its own."""

    def __init__(self, classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 3, generator=generator))
        self.bias = nn.Parameter(0.1 * torch.randn(classes, generator=generator) - self.weight.detach().sum(1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        terms = x.unsqueeze(1) * self.weight.to(x)[:, :, None, None]
        return terms[:, :, 0] + terms[:, :, 1] + terms[:, :, 2] + self.bias.to(x)[:, None, None]


def scene(classes: int = 2, rows: int = 3, side: int = 8) -> tuple[Pixelwise, Tensor, Tensor]:
    """A model, inputs away from the box, and its labels; the rows have different numbers of counted pixels."""
    model = Pixelwise(classes)
    x = 0.3 + 0.4 * torch.rand(rows, 3, side, side, generator=torch.Generator().manual_seed(1))
    labels = model(x).argmax(1)
    labels[1, : side // 2] = VOID
    labels[2, 0, 0] = VOID
    return model, x, labels


def exact(model: Pixelwise, x: Tensor, labels: Tensor, nu: float = 0.99) -> Tensor:
    """The least linf norm that flips the fraction ``nu`` of the counted pixels of two classes, box permitting."""
    with torch.no_grad():
        logits, weight = model(x), model.weight
        gaps = (logits[:, 0] - logits[:, 1]).abs() + MARGIN
        distances = gaps / (weight[0] - weight[1]).abs().sum()
    rows = [row[label != VOID].sort().values for row, label in zip(distances, labels)]
    return torch.stack([row[len(row) - 1 - int((1 - nu) * len(row) + 1e-6)] for row in rows])


def asma_opposite(model, inputs: Tensor, labels: Tensor, *, targets: Tensor | None = None, **options):
    """ASMA needs targets, and here larger steps than the published ones."""
    targets = torch.where(labels == VOID, VOID, 1 - labels) if targets is None else targets
    return asma(model, inputs, labels, targets=targets, **{"tau": 0.02, "beta": 0.2, "steps": 30, **options})


MINIMAL = [
    pytest.param(partial(bim, steps=5), 1.01, id="bim"),
    pytest.param(fgsm, 1.01, id="fgsm"),
    pytest.param(partial(mi_fgsm, steps=5), 1.01, id="mi_fgsm"),
    pytest.param(partial(pgd, steps=8, loss="dlr"), 1.01, id="pgd"),
    pytest.param(partial(fmn, steps=100), 1.002, id="fmn"),
    pytest.param(partial(pdpgd, steps=200), 1.05, id="pdpgd"),
    pytest.param(dag, 1.5, id="dag"),
]
# every recipe with a few steps: enough to move, for what does not depend on how well it does
ALL = [
    pytest.param(partial(fgsm, searches=4), id="fgsm"),
    pytest.param(partial(bim, steps=3, searches=4), id="bim"),
    pytest.param(partial(mi_fgsm, steps=3, searches=4), id="mi_fgsm"),
    pytest.param(partial(pgd, steps=4, searches=4, restarts=2), id="pgd"),
    pytest.param(partial(pgd, steps=4, seed=None, eps=0.1), id="pgd within eps"),
    pytest.param(partial(fmn, steps=20), id="fmn"),
    pytest.param(partial(pdpgd, steps=20), id="pdpgd"),
    pytest.param(partial(pdgd, steps=20), id="pdgd"),
    pytest.param(partial(dag, size=0.03), id="dag"),
    pytest.param(partial(asma_opposite), id="asma"),
]


@pytest.mark.parametrize("recipe, within", MINIMAL)
@pytest.mark.parametrize("targeted", [False, True])
def test_close_to_the_exact_quantile_of_pixels(recipe, within, targeted):
    model, x, labels = scene()
    targets = torch.where(labels == VOID, VOID, 1 - labels) if targeted else None
    solution = recipe(model, x, labels, targets=targets)
    ratio = solution.objective / exact(model, x, labels)
    assert solution.feasible.all()
    assert ratio.min() > 1 - 1e-5 and ratio.max() < within
    torch.testing.assert_close(solution.objective, (solution.x - x).abs().flatten(1).amax(1))
    moved = ((model(solution.x).argmax(1) != labels) & (labels != VOID)).flatten(1).sum(1)
    assert (moved >= 0.99 * (labels != VOID).flatten(1).sum(1)).all()


@pytest.mark.parametrize("recipe", [partial(bim, steps=5), partial(fmn, steps=100), partial(pdpgd, steps=100)])
def test_the_fraction_is_a_choice(recipe):
    model, x, labels = scene()
    solution = recipe(model, x, labels, nu=0.5)
    ratio = solution.objective / exact(model, x, labels, 0.5)
    assert solution.feasible.all() and ratio.min() > 1 - 1e-5
    # how close they come is another matter: fmn and pdpgd are pulled by pixels that need not be met as well
    assert (solution.objective < exact(model, x, labels)).all()


@pytest.mark.parametrize("recipe", ALL)
def test_void_pixels_and_masks_have_no_influence(recipe):
    model, x, labels = scene()
    counted = labels != VOID
    clean = model(x).argmax(1)
    solution = recipe(model, x, labels)
    for void in (100.0, torch.nan, torch.inf):
        offset = torch.where(counted, 0.0, void)[:, None]  # added, so that a gradient of NaN there would reach x
        assert torch.equal(recipe(lambda t, offset=offset: model(t) + offset, x, labels).x, solution.x)
    assert torch.equal(recipe(model, x, clean, mask=counted).x, solution.x)
    if recipe.func is not pgd or "seed" in recipe.keywords:  # a random start moves every pixel
        assert torch.equal(solution.x.movedim(1, -1)[~counted], x.movedim(1, -1)[~counted])


@pytest.mark.parametrize("recipe", ALL)
def test_rows_do_not_depend_on_their_batch_and_a_nan_row_is_lost_alone(recipe):
    model, x, labels = scene()
    together = recipe(model, x, labels)
    for row in range(3):
        alone = recipe(model, x[row : row + 1], labels[row : row + 1])
        assert torch.equal(together.x[row], alone.x[0])
    broken = recipe(lambda t: model(t) * torch.tensor([1.0, torch.nan, 1.0]).view(-1, 1, 1, 1), x, labels)
    assert not broken.feasible[1] and broken.status[1] == Status.DIVERGED and broken.x.isfinite().all()
    assert torch.equal(broken.x[[0, 2]], together.x[[0, 2]])


@pytest.mark.parametrize("recipe", ALL)
def test_the_model_and_the_random_state_are_left_as_found(recipe):
    model, x, labels = scene()
    wrapped = nn.Sequential(model, nn.Dropout(0.5))
    wrapped.train()
    model.eval()  # a module that its owner froze stays frozen
    inputs, state = x.clone(), torch.get_rng_state()
    solution = recipe(wrapped, x, labels)
    assert wrapped.training and wrapped[1].training and not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(x, inputs) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(solution.x, recipe(model, x, labels).x)


@pytest.mark.parametrize("recipe", [partial(f, steps=17) for f in (fmn, pdpgd, pdgd, asma_opposite)])
def test_one_forward_and_one_backward_a_step(recipe):
    model, x, labels = scene()
    calls = 0

    def counting(t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model(t)

    solution = recipe(counting, x, labels)
    assert calls == 19 and (solution.forwards == 19).all() and (solution.backwards == 17).all()


@pytest.mark.parametrize("recipe", [partial(f, steps=60) for f in (fmn, pdpgd)] + [partial(bim, steps=5), dag])
def test_bounds_scale_with_the_inputs(recipe):
    model, x, labels = scene()
    model, x = model.double(), x.double()
    base = recipe(model, x, labels)
    wide = recipe(lambda t: model(t / 255), 255 * x, labels, bounds=(0.0, 255.0))
    assert torch.equal(base.feasible, wide.feasible)
    torch.testing.assert_close(wide.objective / 255, base.objective, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("recipe", ALL)
def test_several_classes_and_other_dtypes(recipe):
    model, x, labels = scene(classes=2 if recipe.func is asma_opposite else 4)
    for dtype in (torch.float64, torch.bfloat16):
        solution = recipe(model, x.to(dtype), labels)
        assert solution.x.dtype == dtype and solution.x.isfinite().all()
        wrong = (model(solution.x).argmax(1) != labels) & (labels != VOID)
        share = wrong.flatten(1).sum(1) / (labels != VOID).flatten(1).sum(1)
        assert (share[solution.feasible] >= 0.99).all()


@pytest.mark.parametrize("recipe", [fmn, pdpgd, pdgd, partial(dag, distance="l2", size=0.05)])
def test_classifiers_too(recipe):
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(5, 20, generator=generator)
    x = torch.rand(8, 20, generator=generator)
    labels = (x @ weight.T).argmax(1)
    for targets in (None, (labels + 1) % 5):
        solution = recipe(lambda t: t @ weight.T, x, labels, targets=targets)
        reached = (solution.x @ weight.T).argmax(1)
        assert torch.equal(solution.feasible, reached != labels if targets is None else reached == targets)
        assert solution.feasible.all()


@pytest.mark.parametrize("distance, p", [("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("recipe, within", [(fmn, 1.01), (pdpgd, 1.1)])
def test_other_norms_of_classifiers(recipe, within, distance, p):
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(16, generator=generator)
    x = 0.4 + 0.2 * torch.rand(6, 16, generator=generator)
    bias = 0.02 - x.mean(0) @ weight

    def model(t: Tensor) -> Tensor:
        score = t @ weight + bias
        return torch.stack([score, -score], 1)

    gap = 2 * (x @ weight + bias).abs() + MARGIN
    least = gap / (2 * torch.linalg.vector_norm(weight, ord={2: 2, 1: torch.inf}[p]))
    solution = recipe(model, x, model(x).argmax(1), distance=distance)
    ratio = (solution.objective / least)[least < 0.2]  # farther away the box is in the way of an l1 step
    assert solution.feasible.all() and len(ratio) > 2
    assert ratio.min() > 1 - 1e-4 and ratio.max() < within


def test_fmn_l1_is_not_stuck_at_the_box():
    """A few entries of a sparse step reach the box, and what the box holds back has to go to others."""
    weight, bias, x = classifier(0, rows=32)
    labels = (x @ weight.T + bias).argmax(1)
    assert fmn(lambda t: t @ weight.T + bias, x, labels, distance="l1", steps=100).feasible.all()


# ------------------------------------------------------------------------------------------------- DAG, ASMA


def test_dag_takes_steps_of_the_given_length_and_stops_at_the_first_success():
    model, x, labels = scene()
    seen: list[Tensor] = []
    solution = dag(model, x, labels, callback=lambda step, point, proposal: seen.append(point.x.detach()))
    gap = (model.weight[0] - model.weight[1]).detach()
    counted = labels != VOID
    direction = torch.where(labels == 0, -1.0, 1.0)[:, None] * gap[:, None, None] * counted[:, None]
    assert torch.allclose(seen[1], x + 0.003 * direction / gap.abs().max(), atol=1e-6)
    # pixels that are fooled drop out, so the pixel that is hardest sets the number of steps
    # a row is left out from the second step after its first success on, and the last success needs no gradient
    last = solution.first_feasible.max()
    assert torch.equal(solution.backwards, (solution.first_feasible + 2).clamp_max(last))
    assert len(seen) == int(last) + 1 < 500
    for row, first in enumerate(solution.first_feasible.tolist()):
        assert torch.equal(seen[first][row], solution.x[row])


def test_dag_in_l2_and_already_fooled_rows():
    model, x, labels = scene()
    solution = dag(model, x, labels, distance="l2", size=0.1)
    assert solution.feasible.all()
    torch.testing.assert_close(solution.objective, (solution.x - x).flatten(1).norm(dim=1))
    wrong = torch.where(labels == VOID, VOID, 1 - labels)
    nothing = dag(model, x, wrong)
    assert nothing.feasible.all() and (nothing.backwards == 0).all() and torch.equal(nothing.x, x)


def test_accumulation_beyond_the_domain_has_no_gradient():
    problem = ConstrainedProblem(
        objective=lambda x, _: x.sum(1),
        constraints=[inequality(lambda x, _: 2.0 - x.sum(1, keepdim=True))],
        domain=Box(0.0, 1.0),
    )
    seen: list[Tensor] = []
    solve(
        problem, GreedyAccumulation(size=0.5), torch.tensor([[0.75, 0.0]]), steps=4,
        callback=lambda step, point, proposal: seen.append(proposal.state),
    )  # fmt: skip
    assert torch.equal(torch.cat(seen[:3]), torch.tensor([[0.5, 0.5], [0.5, 1.0], [0.5, 1.0]]))
    with pytest.raises(ValueError, match="size: takes a step > 0"):
        GreedyAccumulation(size=0.0)


def test_asma_adapts_its_step_to_the_overlap():
    model, x, labels = scene()
    # a larger logit of one class is a smaller one of the other: ASMA raises the target's and looks at no other
    model.weight.data[1], model.bias.data[1] = -model.weight.data[0], -model.bias.data[0]
    labels = torch.where(labels == VOID, VOID, model(x).argmax(1))
    targets = torch.where(labels == VOID, VOID, 1 - labels)
    seen: list[tuple[Evaluation, Tensor]] = []
    solution = asma(
        lambda t: 10 * model(t),  # loud enough for the pull of the squared norm
        x,
        labels,
        targets=targets,
        tau=0.002,
        beta=0.02,
        steps=30,
        callback=lambda step, point, proposal: seen.append((point, proposal.state)),
    )
    counted, aims = labels != VOID, torch.where(labels == VOID, 0, targets)
    toward = 10 * model.weight.detach()[aims].movedim(-1, 1)
    delta, overlaps = torch.zeros_like(x), []
    for point, state in seen:
        missed = counted & (point.values[0] > 0)
        overlap = mean_iou(point.output.argmax(1), aims, counted, 2).view(-1, 1, 1, 1)
        inside = (x + delta >= 0) & (x + delta <= 1)
        gradient = torch.where(inside, toward * missed[:, None], 0) - 2 * delta
        delta = delta + (0.02 * overlap + 0.002) * gradient
        overlaps.append(overlap.flatten())
        assert torch.allclose(state, delta, atol=1e-5)
    assert (overlaps[0] == 0).all() and (torch.stack(overlaps).amax(0) > 0.9).all()
    assert solution.feasible.all()
    torch.testing.assert_close(solution.objective, (solution.x - x).flatten(1).norm(dim=1))


def test_mean_iou_of_counted_pixels():
    predicted, targets = torch.tensor([[0, 1, 1, 1], [2, 2, 2, 2]]), torch.tensor([[0, 0, 1, 1], [2, 2, 2, 0]])
    counted = torch.tensor([[True, True, True, True], [True, True, True, False]])
    assert mean_iou(predicted, targets, counted, 3).tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 1.0])


# ------------------------------------------------------------------------------------------------- FMN, PDPGD


def test_fmn_grows_and_shrinks_by_gamma():
    """On |x| >= 1 in one dimension the radius is everything: the first estimate is exact, the rest is gamma."""
    problem = ConstrainedProblem(
        objective=lambda x, _: x.abs().squeeze(1), constraints=[inequality(lambda x, _: 1.0 - x)]
    )
    seen: list[float] = []
    solution = solve(
        problem, MinimumNorm(size=10.0, gamma=0.1, final_gamma=0.1), torch.zeros(1, 1, dtype=torch.float64), steps=4,
        callback=lambda step, point, proposal: seen.append(proposal.x.item()),
    )  # fmt: skip
    assert seen == pytest.approx([1.0, 0.9, 0.99, 1.089])
    assert solution.objective.item() == 1.0


def test_primal_dual_starts_at_the_given_ratio_and_stays_on_the_simplex():
    model, x, labels = scene()
    shares: list[Tensor] = []
    weights: list[Tensor] = []
    solver = PrimalDual(ratio=3.0, dual_size=1.0)
    value = torch.tensor([[1.0, -1.0, 2.0], [1.0, 1.0, 5.0]])
    counted = torch.tensor([[True, True, False], [True, True, True]])
    problem = ConstrainedProblem(
        objective=lambda x, _: x.square().sum(1),
        constraints=[inequality(lambda x, _: value + 0 * x.sum(1, keepdim=True), mask=counted)],
    )
    solve(
        problem, solver, torch.zeros(2, 2), steps=30,
        callback=lambda step, point, proposal: (
            shares.append(proposal.state.shares),
            weights.append(proposal.multipliers[0]),
        ),
    )  # fmt: skip
    first, last = shares[0], shares[-1]
    # Eq. A IV-8: what is left to the objective is ratio times the constraints' part
    assert torch.allclose((1 - first.sum(1)) / first.sum(1), torch.full((2,), 3.0, dtype=torch.float64))
    # the weights of a row, of sum 1, times the derivative of softplus
    assert torch.allclose(weights[0], value.sigmoid() * counted / counted.sum(1, keepdim=True))
    assert first[0, 0] == first[0, 1] and first[0, 2] == 0 and last[0, 2] == 0
    assert last[0, 0] > 0.9 and last[0, 1] < 0.01 and torch.equal(last[1, 0], last[1, 2])
    assert (last.sum(1) <= 1).all() and (last >= 0).all()
    for wrong in ({"ratio": 0.0}, {"ema": 1.0}, {"size": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PrimalDual(**wrong)


@pytest.mark.parametrize("solver", [GreedyAccumulation(), MinimumNorm(), PrimalDual()])
def test_solvers_of_one_inequality_refuse_others(solver):
    problem = ConstrainedProblem(objective=lambda x, _: x.sum(1))
    with pytest.raises(ValueError, match="constraints: .* takes exactly one inequality"):
        solve(problem, solver, torch.zeros(1, 2), steps=1)


# ------------------------------------------------------------------------------------------------------ bad input


def _bad() -> dict[str, tuple[dict, str]]:
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    none = torch.ones(2, 4, 4, dtype=torch.bool)
    none[1] = False
    return {
        "labels of another size": ({"labels": torch.zeros(2, 4, 5, dtype=torch.long)}, r"labels: .*\(2, 4, 4\)"),
        "float labels": ({"labels": torch.zeros(2, 4, 4)}, "labels: takes int64"),
        "negative labels": ({"labels": labels - 1}, "labels: .*>= 0, got -1"),
        "nothing counts by mask": ({"mask": none}, r"mask: no pixel counts in rows \[1\]"),
        "nothing counts by label": ({"labels": labels + VOID}, r"mask: no pixel counts in rows \[0, 1\]"),
        "a mask of another type": ({"mask": none.float()}, "mask: takes booleans"),
        "a mask of another shape": ({"mask": none[:, :2]}, "mask: takes booleans"),
        "targets that are the labels": ({"targets": labels}, r"targets: equal the labels .*rows \[0, 1\]"),
        "targets of another shape": ({"targets": labels[:, :2]}, "targets: takes int64"),
        "a fraction of nothing": ({"nu": 0.0}, "fraction"),
        "inputs above the bounds": ({"inputs": torch.full((2, 3, 4, 4), 1.5)}, "inputs: must lie within"),
        "NaN inputs": ({"inputs": torch.full((2, 3, 4, 4), torch.nan)}, "inputs: .*NaN"),
        "no steps": ({"steps": 0}, "steps: takes a whole number >= 1, got 0"),
    }


@pytest.mark.parametrize("recipe", [bim, mi_fgsm, pgd, partial(pgd, eps=0.1), dag, fmn, pdpgd, pdgd, asma])
@pytest.mark.parametrize("case", list(_bad()))
def test_bad_input_is_refused_before_the_first_model_call(recipe, case):
    def model(x: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    changes, message = _bad()[case]
    good = {"inputs": torch.full((2, 3, 4, 4), 0.5), "labels": torch.zeros(2, 4, 4, dtype=torch.long)}
    if recipe is asma:
        good["targets"] = torch.ones_like(good["labels"])
    with pytest.raises((ValueError, TypeError), match=message):
        recipe(model, **{**good, **changes})


def test_wrong_options_are_named():
    x, labels = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 4, 4, dtype=torch.long)
    for recipe, name in ((dag, "l1"), (fmn, "ssim"), (pdpgd, "ssim")):
        with pytest.raises(ValueError, match=f"distance: takes one of .*got '{name}'"):
            recipe(Pixelwise(), x, labels, distance=name)
    with pytest.raises(ValueError, match="targets: asma is a targeted attack"):
        asma(Pixelwise(), x, labels, targets=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gamma"):
        fmn(Pixelwise(), x, labels, gamma=1.0)
    for recipe in (dag, fmn, pdpgd, partial(bim, eps=0.1)):
        with pytest.raises(ValueError, match="labels: class 2 .*2 classes.*ignore_index"):
            recipe(Pixelwise(), x, labels + 2)
