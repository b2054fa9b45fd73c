"""Digits as pictures and as sounds: MNIST, the Free Spoken Digit Dataset (FSDD), and scikit-learn's small digits for demos.

Pictures are (N, 1, 28, 28) float32 in [0, 1]; sounds (N, 8000) float32 in [-1, 1] at 8 kHz; labels (N,) int64.
MNIST and FSDD are read from `$POLYSCORE_DATA/digits/{mnist,fsdd}.npz`; scikit-learn's digits need no file.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polyscore.errors import DataError

__all__ = [
    "RATE",
    "SAMPLES",
    "Labelled",
    "fit_clip",
    "load_fsdd",
    "load_mnist",
    "load_sklearn_digits",
    "load_small_digits",
    "pair_by_label",
]

RATE = 8000
SAMPLES = 8000
SPLITS = ("train", "test")
PEAK = 0.9


@dataclass(frozen=True)
class Labelled:
    """One modality of a labelled data set: x (N, ...), labels (N,)."""

    x: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def data_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder given, else the one in the environment variable POLYSCORE_DATA.

    Raises:
        DataError: neither is set.
    """
    chosen = folder or os.environ.get("POLYSCORE_DATA")
    if not chosen:
        raise DataError("no data folder: expected POLYSCORE_DATA to name the folder that holds digits/mnist.npz and digits/fsdd.npz")
    return Path(chosen)


def load_mnist(split: str = "train", folder: str | os.PathLike[str] | None = None) -> Labelled:
    """MNIST with its official split: 60 000 train, 10 000 test.

    Raises:
        DataError: no folder, a missing or damaged file, or an unknown split.
    """
    _check_split(split)
    arrays = _read(data_folder(folder) / "digits" / "mnist.npz", (f"{split}_images", f"{split}_labels"))
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    return Labelled(torch.from_numpy(images).unsqueeze(1).float() / 255, torch.from_numpy(labels).long())


def load_fsdd(split: str = "train", folder: str | os.PathLike[str] | None = None) -> Labelled:
    """FSDD with its official split: takes 0 to 4 of each speaker and digit are test (300), the rest train (2700).

    Every recording goes through `fit_clip`.

    Raises:
        DataError: no folder, a missing or damaged file, or an unknown split.
    """
    _check_split(split)
    names = ("audio", "offsets", "labels", "index")
    arrays = _read(data_folder(folder) / "digits" / "fsdd.npz", names)
    chosen = np.flatnonzero((arrays["index"] < 5) == (split == "test"))
    audio = torch.from_numpy(arrays["audio"].astype(np.float32) / 32768)
    starts, ends = arrays["offsets"][:-1], arrays["offsets"][1:]
    clips = torch.stack([fit_clip(audio[starts[i] : ends[i]]) for i in chosen])
    return Labelled(clips, torch.from_numpy(arrays["labels"][chosen]).long())


def load_sklearn_digits(split: str = "test") -> Labelled:
    """scikit-learn's 8x8 digits made MNIST-like: the stroke fills a 20x20 box, centred by its mass in 28x28.

    They are real handwriting from other hands than MNIST's. The last 360 of 1797 are "test", as a convention of this package.

    Raises:
        DataError: an unknown split.
    """
    small = load_small_digits(split)
    return Labelled(torch.stack([_mnist_like(image) for image in small.x]), small.labels)


def load_small_digits(split: str = "test") -> Labelled:
    """scikit-learn's digits as they are, (N, 8, 8) in [0, 1]; the split of `load_sklearn_digits`.

    Raises:
        DataError: an unknown split.
    """
    from sklearn.datasets import load_digits

    _check_split(split)
    pixels, labels = load_digits(return_X_y=True)
    part = slice(-360, None) if split == "test" else slice(None, -360)
    return Labelled(torch.from_numpy(pixels[part].reshape(-1, 8, 8) / 16).float(), torch.from_numpy(labels[part]).long())


def fit_clip(wave: Tensor, samples: int = SAMPLES, peak: float = PEAK, silence: float = 0.02) -> Tensor:
    """One recording (L,) as a clip (samples,): silence cut off both ends, centred, cut or zero-padded, peak at `peak`.

    Silence is what stays below `silence` times the largest 10 ms average level. A silent recording gives zeros.
    """
    wave = wave - wave.mean()
    level = torch.nn.functional.avg_pool1d(wave.abs()[None, None], 81, 1, 40, count_include_pad=False)[0, 0]
    loud = torch.nonzero(level > silence * level.max().clamp_min(1e-8)).flatten()
    if len(loud) == 0:
        return torch.zeros(samples)
    wave = wave[int(loud[0]) : int(loud[-1]) + 1][:samples]
    before = (samples - len(wave)) // 2
    clip = torch.nn.functional.pad(wave, (before, samples - len(wave) - before))
    return clip * (peak / clip.abs().max().clamp_min(1e-8))


def pair_by_label(first: Tensor, second: Tensor, seed: int) -> Tensor:
    """For each label in `first` (N,), the index of a random item of `second` (M,) with the same label; (N,) int64.

    Items are drawn without repetition while they last. The same seed gives the same pairs.

    Raises:
        DataError: a label of `first` that `second` doesn't have.
    """
    draw = np.random.default_rng(seed)
    partner = np.empty(len(first), dtype=np.int64)
    left, right = first.numpy(), second.numpy()
    for label in np.unique(left):
        wanted, pool = np.flatnonzero(left == label), np.flatnonzero(right == label)
        if len(pool) == 0:
            raise DataError(f"cannot pair by label: label {label} is in the first data set only")
        rounds = -(-len(wanted) // len(pool))
        partner[wanted] = np.concatenate([draw.permutation(pool) for _ in range(rounds)])[: len(wanted)]
    return torch.from_numpy(partner)


def _mnist_like(image: Tensor) -> Tensor:
    """(8, 8) -> (1, 28, 28)."""
    rows, columns = (torch.nonzero(image.amax(axis) > 0.1).flatten() for axis in (1, 0))
    box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(box.shape)
    size = [max(1, round(side * scale)) for side in box.shape]
    big = torch.nn.functional.interpolate(box[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]
    big = ((big - 0.25) / 0.5).clamp(0, 1)
    grid = torch.stack(torch.meshgrid(*(torch.arange(s, dtype=torch.float32) for s in size), indexing="ij"))
    centre = (grid * big).sum((1, 2)) / big.sum().clamp_min(1e-6)
    top, left = (max(0, min(28 - s, round(13.5 - float(c)))) for c, s in zip(centre, size, strict=True))
    canvas = torch.zeros(1, 28, 28)
    canvas[0, top : top + size[0], left : left + size[1]] = big
    return canvas


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}: expected train or test")


def _read(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path} is missing: expected an npz file with {', '.join(names)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: expected an npz file with {', '.join(names)} ({error})") from error
