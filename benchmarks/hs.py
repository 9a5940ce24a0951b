"""The default solver on the Hock-Schittkowski collection, scipy's SLSQP and trust-constr beside it.

    python benchmarks/hs.py [--no-scipy] [--out FILE] [--steps N]

Prints Markdown: a table of all problems, summary lines, problems with another outcome than a plain solution (expected
and reported status), and whether a row's iterates depend on the batch that it is in. One default setting everywhere,
standard starts, float64. A problem counts as solved when the objective is within 1e-5 max(1, |f*|) of the best known
value and no constraint is violated by more than 1e-6. A gradient evaluation of scipy's solvers gives them the whole
Jacobian; one of ours is a single vector-Jacobian product.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from hock_schittkowski import PROBLEMS, SPECIALS, HSProblem, SpecialProblem
from scipy_reference import ScipyResult, run_scipy
from torch import Tensor

from constropt import Box, ConstrainedProblem, Reals, Solution, Status, equality, inequality, solve

Method = Literal["SLSQP", "trust-constr"]
EXPECTED = {
    "converged": Status.CONVERGED,
    "akkt": Status.APPROXIMATE,
    "infeasible": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
}


def declare(
    problem: HSProblem | SpecialProblem, dtype: torch.dtype = torch.float64
) -> tuple[ConstrainedProblem[Any], Tensor]:
    """A problem of the collection as a ``ConstrainedProblem``, and its standard start ``(1, n)``."""
    constraints = []
    if (h := problem.inequalities) is not None:
        constraints.append(inequality(lambda x, _: h(x), name="inequalities"))
    if (e := problem.equalities) is not None:
        constraints.append(equality(lambda x, _: e(x), name="equalities"))
    lower, upper = (
        side if side is None else torch.tensor(side, dtype=dtype) for side in (problem.lower, problem.upper)
    )
    domain = Reals()
    if lower is not None or upper is not None:
        domain = Box(-torch.inf if lower is None else lower, torch.inf if upper is None else upper)
    declared = ConstrainedProblem(objective=lambda x, _: problem.objective(x), constraints=constraints, domain=domain)
    return declared, torch.tensor([problem.x0], dtype=dtype)


def run(problem: HSProblem | SpecialProblem, steps: int = 3000, **options: Any) -> Solution:
    """The default solver from the standard start."""
    declared, x0 = declare(problem)
    return solve(declared, None, x0, steps=steps, **options)


@dataclass(frozen=True)
class Outcome:
    """One solver on one problem: ``error`` is ``(f - f*) / max(1, |f*|)``."""

    claimed: bool
    label: str
    error: float
    violation: float
    evaluations: int

    @classmethod
    def ours(cls, solution: Solution, optimum: float) -> Outcome:
        status = Status(int(solution.status))
        error = (float(solution.objective) - optimum) / max(1.0, abs(optimum))
        label = status.name.lower().replace("_", " ")
        return cls(status is Status.CONVERGED, label, error, float(solution.violation), int(solution.backwards))

    @classmethod
    def scipy(cls, result: ScipyResult, optimum: float) -> Outcome:
        error = (result.f - optimum) / max(1.0, abs(optimum))
        return cls(result.success, str(result.status), error, result.violation, result.gradient_evaluations)

    @property
    def solved(self) -> bool:
        return abs(self.error) <= 1e-5 and self.violation <= 1e-6

    @property
    def cells(self) -> str:
        mark = "" if self.solved else " (!)"
        return f"{self.label}{mark} | {self.error:.1e} | {self.violation:.0e} | {self.evaluations}"


def counts(problem: HSProblem) -> tuple[int, int, int]:
    """Variables, inequalities and equalities."""
    x = torch.tensor([problem.x0], dtype=torch.float64)
    functions = (problem.inequalities, problem.equalities)
    return (x.shape[1], *(0 if f is None else f(x).shape[1] for f in functions))  # type: ignore[return-value]


def collection(steps: int, methods: tuple[Method, ...]) -> list[str]:
    """The table of all problems and its summary."""
    names = ["ours", *methods]
    outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in names}
    seconds = 0.0
    lines = [
        "| HS | n | m_ineq | m_eq | "
        + " | ".join(f"{name} | f error | violation | gradients" for name in names)
        + " |",
        "|---" * (4 + 4 * len(names)) + "|",
    ]
    for number, problem in sorted(PROBLEMS.items()):
        start = time.perf_counter()
        outcomes["ours"][number] = Outcome.ours(run(problem, steps), problem.optimum)
        seconds += time.perf_counter() - start
        for method in methods:
            outcomes[method][number] = Outcome.scipy(run_scipy(problem, method), problem.optimum)
        cells = " | ".join(outcomes[name][number].cells for name in names)
        lines.append("| " + " | ".join(map(str, (number, *counts(problem)))) + f" | {cells} |")
    lines.append("")
    for name in names:
        found = outcomes[name]
        solved = [number for number, outcome in found.items() if outcome.solved]
        claims = [number for number, outcome in found.items() if outcome.claimed and not outcome.solved]
        evaluations = [outcome.evaluations for outcome in found.values()]
        lines.append(
            f"- {name}: {len(solved)} of {len(found)} solved; gradient evaluations: median "
            f"{statistics.median(evaluations):g}, mean {statistics.mean(evaluations):.0f}; success claimed at another "
            f"value: {claims or 'none'}; unsolved: {sorted(set(found) - set(solved)) or 'none'}"
        )
    lines.append(f"- ours: {seconds:.0f} s in all")
    return lines


def specials(methods: tuple[Method, ...]) -> list[str]:
    """Expected and reported status of the problems that are not plain."""
    lines = [
        "| special | expected | ours | gradients | " + " | ".join(f"{m} claims success" for m in methods) + " |",
        "|---" * (4 + max(1, len(methods))) + "|",
    ]
    right = 0
    for name, problem in SPECIALS.items():
        solution = run(problem, 1000)
        status = Status(int(solution.status))
        right += status is EXPECTED[problem.expected]
        claims = []
        for method in methods:
            result = run_scipy(problem, method)
            claims.append(f"{result.success} (f {result.f:.3g}, violation {result.violation:.0e})")
        label = status.name.lower().replace("_", " ")
        lines.append(f"| {name} | {problem.expected} | {label} | {int(solution.backwards)} | {' | '.join(claims)} |")
    return [*lines, "", f"- {right} of {len(SPECIALS)} statuses as expected"]


def batch_independence(numbers: tuple[int, ...] = (11, 26, 43, 71, 76, 100), ticks: int = 60) -> list[str]:
    """The largest difference between a row's iterates alone and as one of 64 and of 1,024 rows with other starts."""
    lines = ["| HS | batch 64 | batch 1,024 |", "|---|---|---|"]
    for number in numbers:
        differences = [iterate_difference(PROBLEMS[number], batch, ticks) for batch in (64, 1024)]
        lines.append(f"| {number} | {differences[0]:.1e} | {differences[1]:.1e} |")
    return lines


def iterate_difference(problem: HSProblem, batch: int, ticks: int) -> float:
    """Largest difference, tick for tick, of the first row's points alone and in a batch of perturbed starts."""
    declared, x0 = declare(problem)
    noise = torch.randn(batch, x0.shape[1], dtype=x0.dtype, generator=torch.Generator().manual_seed(0))
    noise[0] = 0
    recorded: list[list[Tensor]] = []
    for rows in (x0, x0 + 0.1 * noise):
        iterates: list[Tensor] = []
        solve(
            declared,
            None,
            rows,
            steps=ticks,
            callback=lambda _, point, __, into=iterates: into.append(point.x[0].detach()),
        )
        recorded.append(iterates)
    return max(float((a - b).abs().max()) for a, b in zip(*recorded))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-scipy", action="store_true", help="leave scipy's solvers out")
    parser.add_argument("--out", type=Path, help="write the Markdown there too")
    parser.add_argument("--steps", type=int, default=3000, help="gradient evaluations allowed a problem")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    methods: tuple[Method, ...] = () if arguments.no_scipy else get_args(Method)
    lines = ["# Hock-Schittkowski collection", "", *collection(arguments.steps, methods), ""]
    lines += ["## Special problems", "", *specials(methods), ""]
    lines += ["## One row alone and in a batch: largest difference of its iterates", "", *batch_independence()]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
