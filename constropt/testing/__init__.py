"""Law suites that search for a counterexample with hypothesis (``pip install 'constropt[test]'``)."""

from .declaration import check_declaration
from .domain import Counterexample, check_domain
from .penalties import LawViolation, check_penalty
from .prox import check_prox
from .solver import KnownProblem, check_solver, known_problems

__all__ = [
    "Counterexample",
    "KnownProblem",
    "LawViolation",
    "check_declaration",
    "check_domain",
    "check_penalty",
    "check_prox",
    "check_solver",
    "known_problems",
]
