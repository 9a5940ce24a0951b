"""Run recipes over data sets: verified per-sample results, counts of model passes, tables, figures, files."""

from constropt.checks import MissingExtra
from constropt.lab.attacks.columns import round_to_8_bits
from constropt.lab.attacks.outputs import write_evaluation
from constropt.lab.attacks.plots import plot_curve, plot_grid
from constropt.lab.attacks.report import (
    CONVENTIONS,
    AttackReport,
    read_results,
    results_table,
    write_adversarial,
    write_results,
    write_summary,
)
from constropt.lab.attacks.run import evaluate
from constropt.lab.attacks.sharded import AttackEvaluation, RunSettings, run_evaluation
from constropt.lab.attacks.signs import Sign
from constropt.lab.attacks.table_runs import reproduce, write_reproduction
from constropt.lab.attacks.targets import choose_targets
from constropt.lab.data.load import KINDS, load_data
from constropt.lab.data.readers import LabelledData
from constropt.lab.models.weights import load_model, save_weights
from constropt.lab.runs.specs import RecipeSpec, parse_recipe
from constropt.problems.references import load_recipe, load_reference, recipe_entries
from constropt.weights import load_weights

__all__ = [
    "CONVENTIONS", "KINDS", "AttackEvaluation", "AttackReport", "LabelledData", "MissingExtra", "RecipeSpec",
    "RunSettings", "Sign", "choose_targets", "evaluate", "load_data", "load_model", "load_recipe", "load_reference",
    "load_weights", "parse_recipe", "plot_curve", "plot_grid", "read_results", "recipe_entries", "reproduce",
    "results_table", "round_to_8_bits", "run_evaluation", "save_weights", "write_adversarial", "write_evaluation",
    "write_reproduction", "write_results", "write_summary",
]  # fmt: skip
