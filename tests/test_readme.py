"""The Python of the README and of the guide runs as it stands there, top to bottom, in one namespace per page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def solved(found: dict) -> bool:
    return bool(found["solution"].x.isfinite().all() and found["solution"].feasible.all())


# the number of blocks of a page, and what must hold after the last
PAGES = {
    "README.md": (4, lambda found: solved(found) and (found["criterion"].multipliers > 1e-6).any()),
    "docs/extending.md": (3, solved),
    "docs/attacks.md": (2, solved),
    "docs/evaluating.md": (1, lambda found: len(found["found"].rows) >= 2),
    "docs/training.md": (7, lambda found: found["criterion"].levels.isfinite()),
    "docs/cooper.md": (3, lambda found: found["rate"] < 0.1),
    "docs/calibration.md": (1, lambda found: found["after"] < found["before"] < 1),
    "docs/metric_learning.md": (1, lambda found: found["found"][1] > found["raw"][1] + 0.1),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_runs(page, monkeypatch, tmp_path):
    from constropt.penalties import base

    monkeypatch.chdir(tmp_path)  # what it writes stays there

    monkeypatch.setattr(base, "_registry", dict(base._registry))  # what it registers is gone afterwards
    count, holds = PAGES[page]
    assert len(blocks(page)) == count
    namespace: dict[str, object] = {"__name__": page}
    for number, block in enumerate(blocks(page), 1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)
    assert holds(namespace)


@pytest.mark.parametrize("page", sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_the_table_of_solvers_is_that_of_their_declarations():
    script = ROOT / "docs" / "solver_features.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)
