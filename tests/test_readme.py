"""The Python of the README and of the guide runs as it stands there, top to bottom, in one namespace per page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


PAGES = {"README.md": 3, "docs/extending.md": 2, "docs/attacks.md": 1, "docs/evaluating.md": 1}


@pytest.mark.parametrize(("page", "count"), PAGES.items())
def test_the_code_runs(page, count, monkeypatch, tmp_path):
    from constropt.penalties import base

    monkeypatch.chdir(tmp_path)  # what it writes stays there

    monkeypatch.setattr(base, "_registry", dict(base._registry))  # what it registers is gone afterwards
    assert len(blocks(page)) == count
    namespace: dict[str, object] = {"__name__": page}
    for number, block in enumerate(blocks(page), 1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)
    if page == "docs/evaluating.md":
        assert len(namespace["found"].rows) >= 2
        return
    solution = namespace["solution"]
    assert solution.x.isfinite().all() and solution.feasible.all()


@pytest.mark.parametrize("page", sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []
