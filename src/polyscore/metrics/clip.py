"""CLIPScore, for who has the weights of a CLIP model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polyscore.errors import DataError, PolyscoreError

__all__ = ["clip_score"]

INSTALL = "pip install 'polyscore[pipelines]'"


@torch.no_grad()
def clip_score(
    images: Tensor, captions: Sequence[str], model: str | os.PathLike[str] = "openai/clip-vit-base-patch32", batch_size: int = 32
) -> Tensor:
    """2.5 max(cos(image, caption), 0) of each pair, (N,), by CLIP embeddings (Hessel et al. 2021; CDCD and others print 100 times it).

    Args:
        images: (N, 1 or 3, H, W) in [0, 1]. captions: N texts. model: folder or hub id of a CLIP model with its processor.

    Raises:
        DataError: as many captions as images are expected. PolyscoreError: transformers is not installed, or the weights are not there.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) != len(captions) or not len(images):
        raise DataError(f"CLIPScore: expected N images (N, 1 or 3, H, W) and N captions, found {tuple(images.shape)} and {len(captions)}")
    network, processor = _load(model)
    pixels = images.expand(-1, 3, -1, -1).clamp(0, 1).mul(255).round().byte()
    found = []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        batch = processor(text=list(captions[rows]), images=list(pixels[rows]), return_tensors="pt", padding=True, truncation=True)
        out = network(**batch)
        found.append(2.5 * torch.cosine_similarity(out.image_embeds, out.text_embeds).clamp(min=0))
    return torch.cat(found)


def _load(model: str | os.PathLike[str]) -> tuple[Any, Any]:
    try:
        from transformers import CLIPModel, CLIPProcessor
    except ImportError as error:
        raise PolyscoreError(f"CLIPScore needs transformers: {INSTALL}") from error
    try:
        network: Any = CLIPModel.from_pretrained(model, use_safetensors=True)
        return network.eval(), CLIPProcessor.from_pretrained(model, use_fast=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PolyscoreError(
            f"{model}: expected the folder or hub id of a CLIP model with safetensors and a processor ({reason})"
        ) from error
