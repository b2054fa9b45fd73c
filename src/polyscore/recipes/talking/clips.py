"""Talking digits as latents: the shipped codecs of pictures and words inside codecs of clips, and pairs composed from real items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_tensors, save_tensors
from polyscore.codecs.base import Codec
from polyscore.codecs.clips import SoundClip, VideoClip, timing_of_sound, timing_of_video
from polyscore.composer import WEIGHTS
from polyscore.data.digits import load_mnist
from polyscore.data.talking import FIRST, LAST, Domain, digits_of, draw_rows, load_speech
from polyscore.recipes.digits.joint import latents_of_images, latents_of_speech
from polyscore.training import draw_latents

__all__ = ["DOMAINS", "MODALITIES", "Bank", "clip_codecs", "compose", "load_bank"]

MODALITIES = ("video", "sound")
DOMAINS = {"IND": Domain(), "OOD": Domain((4, 5), (0.7, 1.0))}
"""The base models know four voices and the lighter handwriting; OOD pairs have the two other voices and the bolder handwriting."""
PICTURES, COPIES = 20000, 4
"""Pictures of a domain that are encoded at most, and copies of each recording, slightly changed but for the first."""


@dataclass(frozen=True)
class Bank:
    """Posteriors of the train items of a domain: means and deviations (N, 2, latent) with labels (N,)."""

    pictures: Tensor
    digits: Tensor
    words: Tensor
    spoken: Tensor


def clip_codecs() -> dict[str, Codec]:
    """Codec of each modality: those of the shipped `digits`, which never saw a clip, with the timing beside them."""
    image, speech = (load_module(WEIGHTS / "digits" / name, Codec).eval() for name in ("image", "speech"))
    return {"video": VideoClip(image), "sound": SoundClip(speech)}


def load_bank(out: str | Path, name: str, data: str | None = None, most: int = PICTURES) -> Bank:
    """The bank of a domain ("IND", "OOD"), kept as `out`/bank-NAME.safetensors.

    Raises:
        DataError: MNIST or FSDD is not there.
    """
    path = Path(out) / f"bank-{name}.safetensors"
    if not path.exists():
        domain, images, speech = DOMAINS[name], load_mnist("train", data), load_speech("train", data, front=False)
        shown = digits_of(images.x, images.labels, domain).nonzero().flatten()[:most]
        heard = torch.isin(speech.speakers, torch.tensor(domain.speakers))
        image, word = (load_module(WEIGHTS / "digits" / kind, Codec).eval() for kind in ("image", "speech"))
        found = {"pictures": latents_of_images(image, images.x[shown]), "digits": images.labels[shown]}
        found |= {"words": latents_of_speech(word, speech.x[heard], COPIES), "spoken": speech.labels[heard].repeat(COPIES)}
        save_tensors(found, path)
    return Bank(**load_tensors(path))


def compose(bank: Bank, n: int, seed: int, paired: bool = True) -> dict[str, Tensor]:
    """Latents {video: (n, 24), sound: (n, 23)} of n clips: same digit and instant if paired, else drawn apart.

    A video's latent is what `VideoClip.encode` gives of the rendered clip, with noise of the posterior.
    """
    g = torch.Generator().manual_seed(seed)

    def what() -> tuple[Tensor, Tensor]:
        return torch.randint(10, (n,), generator=g), FIRST + (LAST - FIRST) * torch.rand(n, generator=g)

    labels, instants = what()
    kinds, directions = torch.randint(3, (n,), generator=g), 2 * torch.randint(2, (n,), generator=g) - 1
    picture = draw_latents(bank.pictures[draw_rows(labels, bank.digits, g)], g)
    video = torch.cat([picture, timing_of_video(instants, kinds, directions)], 1)
    labels, instants = (labels, instants) if paired else what()
    word = draw_latents(bank.words[draw_rows(labels, bank.spoken, g)], g)
    return {"video": video, "sound": torch.cat([word, timing_of_sound(instants)], 1)}
