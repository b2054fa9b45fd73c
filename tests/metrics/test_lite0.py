"""Features of EfficientNet-Lite0: its packages are no dependency, so mostly the message."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.metrics.lite0 import load_lite0


def test_other_names_are_refused() -> None:
    with pytest.raises(PolyscoreError, match="expected efficientnet-lite0"):
        load_lite0("inception")


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite_pytorch") is not None, reason="it is installed")
def test_what_to_install_is_said() -> None:
    with pytest.raises(PolyscoreError, match="pip install"):
        load_lite0()


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="EfficientNet-Lite0 is not installed")
def test_features_do_not_depend_on_batch_mates() -> None:
    x = torch.rand(60, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = load_lite0()
    assert features(x).shape == (60, 1280)
    torch.testing.assert_close(features(x)[55:56], features(x[55:56]), atol=1e-4, rtol=1e-3)
