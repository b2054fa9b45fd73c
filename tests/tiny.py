"""A tiny, untrained digits Composer, made of the recipe's own classes, and small files of data sets."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn

from polyscore.codecs import VAE, Chain, LogMel
from polyscore.composer import Composer
from polyscore.networks.conv import ConvDecoder, ConvEncoder
from polyscore.networks.mlp import JointDenoiser
from polyscore.recipes.digits.joint import MEDIA

IMAGE = (1, 28, 28)


def tiny_composer() -> Composer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = VAE(IMAGE, 4, ConvEncoder(IMAGE, 8, (8, 8)), ConvDecoder(IMAGE, 4, (8, 8)), "sigmoid")
        front = LogMel(n_fft=384, floor=0.1, mean=-1.3, std=1.4, iterations=2)
        encoder, decoder = ConvEncoder(front.latent_shape, 12, (8, 8), patch=4), ConvDecoder(front.latent_shape, 6, (8, 8), patch=4)
        denoiser = JointDenoiser({"image": (4,), "speech": (6,)}, width=16, depth=1, hidden=16, embed=16)
        for module in denoiser.modules():  # an untrained head is zero: nothing would depend on anything
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.2)
        speech = Chain([front, VAE(front.latent_shape, 6, encoder, decoder)])
    meta = {"recipe": "digits", "dataset": "none: not trained"}
    return Composer({"image": image.eval(), "speech": speech.eval()}, denoiser.eval(), {"steps": 4, "guidance": 1.0}, MEDIA, meta)


def write_idx(path: Path, array: np.ndarray) -> None:
    """An array of bytes in MNIST's file format, gzipped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def stand_in_digits(folder: Path, recordings: int = 12, pictures: int = 4) -> Path:
    """Tiny recordings and a few pictures, in the files' own format; recordings 5 and on are of the train split."""
    (folder / "digits").mkdir()
    draw = np.random.default_rng(0)
    lengths = draw.integers(500, 12000, size=recordings)
    np.savez(
        folder / "digits" / "fsdd.npz",
        audio=draw.integers(-3000, 3000, size=lengths.sum()).astype(np.int16),
        offsets=np.concatenate([[0], lengths.cumsum()]),
        labels=(np.arange(recordings) % 10).astype(np.uint8),
        index=np.arange(recordings).astype(np.uint8),
    )
    images = draw.integers(0, 256, size=(pictures, 28, 28)).astype(np.uint8)
    labels = (np.arange(pictures) % 10).astype(np.uint8)
    np.savez(folder / "digits" / "mnist.npz", train_images=images, train_labels=labels, test_images=images[:2], test_labels=labels[:2])
    return folder
