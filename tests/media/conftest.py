"""Real digits, when POLYSCORE_DATA names a folder that has them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def mnist_test() -> np.ndarray:
    file = Path(os.environ.get("POLYSCORE_DATA", "absent")) / "digits" / "mnist.npz"
    if not file.exists():
        pytest.skip("needs POLYSCORE_DATA with digits/mnist.npz")
    with np.load(file) as data:
        return data["test_images"][:100]
