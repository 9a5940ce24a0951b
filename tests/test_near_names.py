"""The hint that an error message gives at an unknown name."""

from __future__ import annotations

import pytest

from constropt.near_names import near_names

KNOWN = {"alma": 1, "alma_prox": 2, "asma": 3, "Linear": 4, "linear": 5, "BiLinear": 6}


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("alam", {}, "; near names: alma"),
        ("alam", {"cutoff": 0.5}, "; near names: alma, asma"),
        ("alam", {"cutoff": 0.5, "count": 1}, "; near names: alma"),
        ("ASMA", {"count": 2}, "; near names: asma, alma"),  # the letter case is no difference
        ("LINEAR", {"count": 2}, "; near names: Linear, linear"),
        ("{0}", {}, ""),
        ("", {}, ""),
        ("alma", {"form": "did you mean {}? ", "count": 1}, "did you mean alma? "),
        ("zz", {"form": "did you mean {}? "}, ""),
    ],
)
def test_hints(name, options, hint):
    assert near_names(name, KNOWN, **options) == hint


def test_nothing_is_known():
    assert near_names("alma", []) == ""
