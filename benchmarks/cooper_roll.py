"""One step of training under n constraints: Cooper's ``roll()`` beside the same mathematics by this library.

    python benchmarks/cooper_roll.py [--constraints 1 1000 1000000] [--repeats 300]

The problem: minimise ``|x - t|^2 / 2`` over n numbers subject to ``x <= c``, entry by entry. A step is one evaluation,
one gradient step in x on the PHR augmented Lagrangian, and the exact update of n multipliers, ``mu <- max(0, mu + rho
y)``. All ways take the same steps (checked before they are timed: x and mu agree), with the same ``torch.optim.SGD``
for x:

- Cooper: its AugmentedLagrangian formulation, dense multipliers and one penalty coefficient, dual SGD of rate rho,
  by the two of its optimizers that evaluate once per step;
- functions: ``AugmentedLagrangian.term`` in the loss, ``AugmentedLagrangian.update`` after the step;
- ConstrainedLoss: ``criterion(...)``, ``observe``, ``step(check=False)``, made for one dual pass per epoch;
- our formulation: the same penalty in Cooper's hands, by ``constropt.cooper``.

Every repetition runs each way once, in turn, on one thread; printed is the median processor time (other programs on the
machine do not count), and the median over repetitions of the ratio to ours in the same repetition. Only ours keeps what
is not finite out of the multipliers, has a rho per entry, and remembers which entries were met.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import cooper
import torch
from torch import Tensor

from constropt import AugmentedLagrangian, ConstantRho, MultiplierUpdate
from constropt.cooper import formulation
from constropt.training import ConstrainedLoss, on_average

RATE, RHO, START = 0.1, 0.5, 1.0
LAGRANGIAN = AugmentedLagrangian("PHR", MultiplierUpdate(minimum=0.0), ConstantRho(), mu=START, rho=RHO)

Way = tuple[Callable[[], object], Callable[[], tuple[Tensor, Tensor]]]  # a step, and where x and mu are


def data(n: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    t, c = torch.randn(n, generator=generator), torch.randn(n, generator=generator)
    return torch.zeros(n, requires_grad=True), t, c


class Capped(cooper.ConstrainedMinimizationProblem):
    def __init__(self, x: Tensor, t: Tensor, c: Tensor, form: type[cooper.formulations.Formulation]) -> None:
        super().__init__()
        self.x, self.t, self.c = x, t, c
        self.cap = cooper.Constraint(
            cooper.ConstraintType.INEQUALITY,
            form,
            cooper.multipliers.DenseMultiplier(init=torch.full((len(x),), START)),
            cooper.penalty_coefficients.DensePenaltyCoefficient(torch.tensor(RHO)),
        )

    def compute_cmp_state(self) -> cooper.CMPState:
        loss = (self.x - self.t).square().sum() / 2
        return cooper.CMPState(loss, {self.cap: cooper.ConstraintState(self.x - self.c)})


def by_cooper(n: int, optimizer: type, form: type[cooper.formulations.Formulation], dual_rate: float) -> Way:
    x, t, c = data(n)
    problem = Capped(x, t, c, form)
    dual = torch.optim.SGD(problem.dual_parameters(), lr=dual_rate, maximize=True)
    roll = optimizer(problem, torch.optim.SGD([x], lr=RATE), dual).roll
    return roll, lambda: (x.detach(), problem.cap.multiplier.weight.detach())


def by_functions(n: int) -> Way:
    x, t, c = data(n)
    primal = torch.optim.SGD([x], lr=RATE)
    duals = LAGRANGIAN.init(c)

    def step() -> None:
        nonlocal duals
        primal.zero_grad()
        y = x - c
        ((x - t).square().sum() / 2 + LAGRANGIAN.term(y, duals).sum()).backward()
        primal.step()
        duals = LAGRANGIAN.update(y, duals)

    return step, lambda: (x.detach(), duals.mu)


def by_loss(n: int) -> Way:
    x, t, c = data(n)
    primal = torch.optim.SGD([x], lr=RATE)
    cap = on_average(lambda output, _: (output - c).unsqueeze(0), shape=(n,), name="cap")
    criterion = ConstrainedLoss(lambda output, _: (output - t).square().sum() / 2, [cap], lagrangian=LAGRANGIAN)

    def step() -> None:
        primal.zero_grad()
        criterion(x).backward()
        criterion.observe(x)
        primal.step()
        criterion.step(check=False)

    return step, lambda: (x.detach(), criterion.multipliers)


def ways(n: int) -> dict[str, Way]:
    together, dual_first = cooper.optim.SimultaneousOptimizer, cooper.optim.AlternatingDualPrimalOptimizer
    theirs = cooper.formulations.AugmentedLagrangian
    return {
        "functions": by_functions(n),
        "ConstrainedLoss": by_loss(n),
        "Cooper, simultaneous": by_cooper(n, together, theirs, RHO),
        "Cooper, dual first": by_cooper(n, dual_first, theirs, RHO),
        "our formulation, simultaneous": by_cooper(n, together, formulation("PHR"), 1.0),
    }


def check(candidates: dict[str, Way], steps: int = 5) -> None:
    """All take the same steps; but the one that steps with the new multipliers, which ends there."""
    results = {}
    for name, (step, read) in candidates.items():
        for _ in range(steps):
            step()
        results[name] = read()
    for name, (x, mu) in results.items():
        if name != "Cooper, dual first":
            assert torch.allclose(x, results["functions"][0], atol=1e-5), name
            assert torch.allclose(mu, results["functions"][1], atol=1e-5), name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constraints", type=int, nargs="*", default=[1, 1_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=300, help="a third of it above 1e5 constraints")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, cooper {cooper.__version__}, one thread\n")
    print("| constraints | way | time | time / functions | time / ConstrainedLoss |\n|---|---|---|---|---|")
    for n in arguments.constraints:
        candidates = ways(n)
        check(candidates)
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(arguments.repeats if n <= 100_000 else arguments.repeats // 3):
            for name, (step, _) in candidates.items():
                start = time.process_time()
                step()
                times[name].append(time.process_time() - start)
        for name, own in times.items():
            median = statistics.median(own)
            shown = f"{median * 1e3:.2f} ms" if median > 1e-3 else f"{median * 1e6:.0f} us"
            ratios = [
                f"{statistics.median(a / b for a, b in zip(own, times[ours])):.2f}"
                for ours in ("functions", "ConstrainedLoss")
            ]
            print(f"| {n:g} | {name} | {shown} | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
