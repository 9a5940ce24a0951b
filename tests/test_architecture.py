"""The direction of imports, and what no file may do: read from the sources, so that nothing has to be run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "constropt"
FILES = sorted(PACKAGE.rglob("*.py"))

# A part may import parts of its own or a lower layer. A new part has to be placed here, on purpose.
LAYERS = [
    {"domain", "penalties", "prox", "masking", "modes", "checks", "precision", "near_names"},
    {"problem", "duals", "splitting"},
    {"solution", "lagrangian"},
    {"steps"},
    {"solvers", "solve"},
    {"training", "cooper", "evaluation"},
    {"cli"},
    {"__main__"},
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
MAX_LINES = 400


def name_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def part_of(name: str) -> str:
    """The second component: ``constropt.solvers.base`` belongs to ``solvers``; the root package to ``""``."""
    return name.partition(".")[2].partition(".")[0]


def is_typing_only(node: ast.AST) -> bool:
    test = getattr(node, "test", None)
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(test) if test is not None else False


def imports_of(path: Path, *, at_import_time: bool = False) -> set[str]:
    """The constropt modules that a file imports, those of functions included unless ``at_import_time``."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_import_time and (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_typing_only(node)
        ):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name_of(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                kept = package[: len(package) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in MODULES else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return {name for name in found if name == "constropt" or name.startswith("constropt.")}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def forbidden_imports(name: str, imports: set[str]) -> list[str]:
    """What the module ``name`` may not import, each with the reason."""
    own = part_of(name)
    wrong = []
    for other in sorted(imports):
        part = part_of(other)
        if own == "problems":
            bad = part in ("cli", "__main__")
        elif part == "problems":
            bad = True
        elif own == "testing":
            bad = part in ("cli", "__main__")
        elif part == "testing":
            bad = own != "testing"
        elif part == "":  # the root package imports almost everything: reaching back to it is a cycle
            bad = own not in ("", "cli", "__main__")
        elif own == "":
            bad = RANK[part] > RANK["training"]
        else:
            bad = RANK[part] > RANK[own]
        if bad:
            wrong.append(f"{name} imports {other}")
    return wrong


def test_every_part_has_a_layer():
    parts = {part_of(name) for name in MODULES} - {"", "problems", "testing"}
    assert parts <= RANK.keys(), f"place {sorted(parts - RANK.keys())} in LAYERS"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_point_down(path):
    assert forbidden_imports(name_of(path), imports_of(path)) == []


def test_the_rule_catches_what_it_should():
    assert forbidden_imports("constropt.domain", {"constropt.duals"})
    assert forbidden_imports("constropt.lab.attacks.run", {"constropt.problems.attacks"})
    assert forbidden_imports("constropt.lab.cli", {"constropt.lab.models.small"})
    assert forbidden_imports("constropt.solvers.base", {"constropt"})
    assert forbidden_imports("constropt.testing.laws", {"constropt.problems"})
    assert not forbidden_imports("constropt.problems.attacks.level_sets", {"constropt", "constropt.solvers.base"})
    assert not forbidden_imports("constropt.solution", {"constropt.problem", "constropt.domain"})


def test_no_import_cycles():
    graph = {name: imports_of(path, at_import_time=True) & MODULES.keys() - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph[name]):
                # a submodule that imports its own package's __init__ is caught here as well: that is a cycle
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_problems_are_in_sight_at_the_top():
    link = ROOT / "problems"
    assert link.is_symlink() and link.resolve() == PACKAGE / "problems"
    assert not link.readlink().is_absolute()


FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def unsafe(source: str) -> list[str]:
    """Lines of ``source`` that could execute code from data."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]}
        else:
            names = set()
        if names & FORBIDDEN_MODULES:
            wrong.append(f"line {node.lineno}: imports {names & FORBIDDEN_MODULES}")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in FORBIDDEN_CALLS:
            wrong.append(f"line {node.lineno}: calls {called}")
        if called == "torch.load" and keywords.get("weights_only") != "True":
            wrong.append(f"line {node.lineno}: torch.load without weights_only=True")
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            wrong.append(f"line {node.lineno}: {called} without allow_pickle=False")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_file_executes_data(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


def test_unsafe_code_is_recognised():
    for source in ("import pickle", "eval('1')", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)"):
        assert unsafe(source), source
    assert not unsafe("torch.load(f, weights_only=True)\nmodel.eval()\nnp.load(f, allow_pickle=False)")


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split it by subject"
