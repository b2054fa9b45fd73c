"""The token codec of small pictures: 28 x 28 <-> 7 x 7 tokens of 64."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import save_module
from polyscore.codecs.vq import VQ, codebook_use
from polyscore.data.fashion import Pictures, load_pictures
from polyscore.training import Samples, TrainConfig, fit
from polyscore.training.vq import VQObjective

__all__ = ["CODEC_TRAINING", "codec_quality", "train_token_codec"]

CODEC_TRAINING = TrainConfig(steps=1500, batch_size=64, lr=2e-3, ema=0.0, log_every=250)


@torch.no_grad()
def codec_quality(codec: VQ, x: Tensor) -> dict[str, float]:
    """PSNR in dB (of the mean square error over all pictures), share of codes used and their perplexity."""
    tokens = torch.cat([codec.encode(part) for part in x.split(500)])
    square = sum(float((codec.decode(z) - part).square().sum()) for z, part in zip(tokens.split(500), x.split(500), strict=True))
    return {"psnr": -10 * math.log10(square / x.numel()), **codebook_use(tokens, codec.vocabulary)}


def train_token_codec(
    out: str = "runs/cdcd-codec",
    data: str | None = None,
    codes: int = 64,
    size: int = 16,
    width: int = 32,
    config: TrainConfig = CODEC_TRAINING,
    progress: bool = True,
    dataset: Pictures = "mnist",
) -> VQ:
    """Train the codec on MNIST or Fashion-MNIST and save it as `out`/tokens.json and .safetensors with its quality on the test split.

    Raises:
        DataError: the pictures are not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    codec = VQ((1, 28, 28), codes, size, width)
    settings: dict[str, Any] = {"codes": codes, "size": size, "width": width}
    x = load_pictures(dataset, "train", data).x
    fit(
        codec,
        Samples({"image": x}),
        VQObjective("image"),
        config,
        out=Path(out) / "run",
        progress=progress,
        average=False,
        facts=settings,
    )
    quality = codec_quality(codec.eval(), load_pictures(dataset, "test", data).x)
    meta = {"dataset": f"{dataset}, train split", **settings, "training": asdict(config), "test": quality}
    save_module(codec, Path(out) / "tokens", meta=meta)
    return codec
