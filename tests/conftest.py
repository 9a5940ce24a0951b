"""Shared by all tests: one thread, so that two cores run two workers, and the optional real data."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets and small pretrained models; tests that want it skip without it."""
    folder = Path(os.environ.get("CONSTROPT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
