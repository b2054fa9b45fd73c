"""Text without captions: train an expert on embeddings of pictures, sample it with embeddings of text (Unite and Conquer, Sec. 4.1).

Any pair of encoders into one space will do (CLIP and its like): `expert_of_embeddings` takes what they say of pictures, `bridge` carries
what they say of words over to where pictures lie. The demonstration trains such a pair on MNIST and the names of the digits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import VAE
from polyscore.composer import WEIGHTS
from polyscore.data.digits import load_mnist
from polyscore.metrics.judges import Judge, accuracy
from polyscore.networks.mlp import JointDenoiser
from polyscore.product import Product, Term
from polyscore.ratios.contrastive import ContrastiveEncoder
from polyscore.recipes.product.train import ConditionObjective
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import sample
from polyscore.training import Samples, TrainConfig, fit
from polyscore.training.contrastive import ContrastiveObjective, Groups

__all__ = ["PHRASES", "UNSEEN", "bag_of_words", "bridge", "expert_of_embeddings", "product_text_table", "train_text"]

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASES = ("{}", "the digit {}", "a picture of the number {}", "{} in handwriting")
UNSEEN = "please draw me a nice {}"
WORDS = tuple(sorted({word for phrase in PHRASES for name in NAMES for word in phrase.format(name).split()}))
DIM = 32
ENCODER_TRAINING = TrainConfig(steps=600, batch_size=8, lr=1e-3, ema=0.99, log_every=100, checkpoint_every=600)
EXPERT_TRAINING = TrainConfig(steps=2000, batch_size=128, lr=2e-3, ema=0.998, log_every=250, checkpoint_every=1000)


def bag_of_words(texts: Sequence[str]) -> Tensor:
    """Which words a text has, (N, words); words that no phrase of the training has count for nothing."""
    return torch.tensor([[float(word in text.split()) for word in WORDS] for text in texts])


def bridge(text: Tensor, pictures: Tensor, sharpness: float = 20.0) -> Tensor:
    """Text embeddings (N, D) where picture embeddings lie: the mean of `pictures` under softmax(sharpness text . picture).

    Contrastive pairs keep the two kinds apart (Liang et al. 2022), and an expert knows pictures only; so a text is replaced by the pictures
    it is nearest to, without any label (as DeCap does the other way round, Li et al. 2023). Some thousand pictures are enough.
    """
    share = torch.softmax(sharpness * text @ pictures.T, 1)
    return torch.nn.functional.normalize(share @ pictures, dim=1)


def shift(text: Tensor, all_text: Tensor, pictures: Tensor) -> Tensor:
    """The cheaper way, for comparison: text - mean(all_text) + mean(pictures), of unit length."""
    return torch.nn.functional.normalize(text - all_text.mean(0) + pictures.mean(0), dim=1)


def expert_of_embeddings(
    latents: Tensor, embeddings: Tensor, out: str | Path, config: TrainConfig = EXPERT_TRAINING, name: str = "image", progress: bool = True
) -> JointDenoiser:
    """An expert on latents (N, d) given picture embeddings (N, D), saved as `out`; its null condition is a row of zeros."""
    torch.manual_seed(config.seed)
    expert = JointDenoiser({name: (latents.shape[1],)}, width=256, depth=3, hidden=384, embed=64, context=embeddings.shape[1])
    objective = ConditionObjective(entry="embedding", dropout=0.1, unknown=0.0)
    place = Path(out)
    fit(
        expert,
        Samples({name: latents, "embedding": embeddings}),
        objective,
        config,
        out=place.parent / f"run-{place.name}",
        progress=progress,
    )
    save_module(expert, place, meta={"condition": "embeddings of pictures"})
    return expert


def train_text(
    out: str = "runs/product-text", data: str | None = None, seed: int = 0, progress: bool = True, steps: int | None = None
) -> Path:
    """Train the pair of encoders on pictures and their names, then the expert on embeddings of pictures alone, in `out`/SEED.

    Raises:
        DataError: MNIST is not there.
    """
    folder, mnist = Path(out) / str(seed), load_mnist("train", data)
    latents = _latents(mnist.x)
    first, second = (replace(c, seed=seed, steps=steps or c.steps) for c in (ENCODER_TRAINING, EXPERT_TRAINING))
    phrase = torch.randint(len(PHRASES), (len(mnist),), generator=torch.Generator().manual_seed(seed))
    bags = bag_of_words([p.format(name) for p in PHRASES for name in NAMES])[phrase * len(NAMES) + mnist.labels]
    torch.manual_seed(seed)
    encoder = ContrastiveEncoder({"image": (latents.shape[1],), "text": (len(WORDS),)}, DIM)
    fit(encoder, Groups({"image": latents, "text": bags}, 32), ContrastiveObjective(), first, out=folder / "run-encoder", progress=progress)
    save_module(encoder, folder / "encoder", meta={"dataset": "MNIST and phrases"})
    with torch.no_grad():
        embeddings = encoder.eval()({"image": latents})["image"]
    expert_of_embeddings(latents, embeddings, folder / "expert", second, progress=progress)
    return folder


@torch.no_grad()
def _latents(x: Tensor) -> Tensor:
    codec = load_module(WEIGHTS / "digits" / "image", VAE)
    return torch.cat([codec.encode(part) for part in x.split(1000)])


@torch.no_grad()
def product_text_table(
    models: str,
    out: str,
    data: str | None = None,
    n: int = 500,
    seeds: Sequence[int] = (0, 1, 2),
    strength: float = 2.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """How often the judge reads the digit that was named, for embeddings of text and of test pictures; the table goes to `out`.

    Raises:
        CheckpointError: the networks are not in `models`. DataError: MNIST is not there.
    """
    started, test, train = time.perf_counter(), load_mnist("test", data), load_mnist("train", data)
    codec, judge = load_module(WEIGHTS / "digits" / "image", VAE), load_module(WEIGHTS / "judges" / "digits" / "image", Judge)
    labels = torch.arange(n) % len(NAMES)
    rows = [int((test.labels == digit).nonzero()[number // len(NAMES), 0]) for number, digit in enumerate(labels.tolist())]
    found: dict[str, list[float]] = {}
    for number, seed in enumerate(seeds):
        encoder = load_module(Path(models) / str(seed) / "encoder", ContrastiveEncoder).eval()
        expert = load_module(Path(models) / str(seed) / "expert", JointDenoiser)
        pictures = encoder({"image": _latents(train.x[:5000])})["image"]
        known = encoder({"text": bag_of_words([p.format(name) for p in PHRASES for name in NAMES])})["text"]
        told = {
            f'"{p.format("...")}"': encoder({"text": bag_of_words([p.format(name) for name in NAMES])})["text"] for p in (*PHRASES, UNSEEN)
        }
        conditions = {what: bridge(text, pictures)[labels] for what, text in told.items()}
        conditions['"...", its embedding as it is'] = told['"..."'][labels]
        conditions['"...", its embedding shifted by the means'] = shift(told['"..."'], known, pictures)[labels]
        conditions["a test picture of the digit"] = encoder({"image": _latents(test.x[rows])})["image"]
        for what, condition in conditions.items():
            denoiser = Product([Term(expert, condition, strength, name="text", null=torch.zeros(1, DIM))])
            made = codec.decode(sample(denoiser, n, steps=20, seed=seed)["image"])
            found.setdefault(what, []).append(accuracy(judge, made, labels))
        if progress is not None:
            progress(number + 1, len(seeds))
    reach = {'"..."': (">=", 0.9)}
    table = [Measured(f"digit right, told {what}", values, reach.get(what)) for what, values in found.items()]
    protocol = {
        "command": "polyscore evaluate product-text",
        "preset": f"20 steps, strength {strength:g}; encoders see phrases and pictures, the expert embeddings of pictures only",
        "split": "trained on MNIST's train split",
        "n": n,
        "seeds": list(seeds),
        "extractor": "the shipped judge of digits",
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_table(out, table, protocol)
    return table
