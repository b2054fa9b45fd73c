"""Autoencoders of faces, masks and attributes trained apart, the joint score plain and "-T", energies ("-C"), a classifier to attack."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from polyscore.checkpoint import save_module
from polyscore.codecs import PCA, VAE, Chain, Codec
from polyscore.composer import Composer
from polyscore.data.faces import Faces, load_faces
from polyscore.networks.dense import DenseDecoder, DenseEncoder
from polyscore.networks.mlp import JointDenoiser
from polyscore.ratios.contrastive import Contextual, ContrastiveEncoder
from polyscore.ratios.energy import PairEnergy
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.codec import VAEObjective
from polyscore.training.contrastive import ContrastiveObjective, Groups
from polyscore.training.energy import EnergyObjective, Strangers
from polyscore.training.joint import JointObjective

__all__ = ["FACES_TRAINING", "FacesSize", "classifier_loss", "front_of", "train_faces"]

FACES_TRAINING = TrainConfig(steps=1500, batch_size=128, lr=1e-3, ema=0.995, weight_decay=0.01, log_every=250)
OBJECTIVE = JointObjective(joint=0.2, absent=0.0, apart=0.0, even=True)


@dataclass(frozen=True)
class FacesSize:
    """Sizes: side of the pictures; latents of image, mask and attributes; width of the joint network; of the contrastive embedding."""

    side: int = 32
    image: int = 24
    mask: int = 12
    attributes: int = 8
    width: int = 256
    embedding: int = 16


def train_faces(
    out: str | os.PathLike[str] = "runs/faces",
    data: str | None = None,
    size: FacesSize | None = None,
    config: TrainConfig = FACES_TRAINING,
    progress: bool = True,
) -> dict[str, Composer]:
    """Train all parts, and save OUT/plain and OUT/told (Composers), OUT/energy and OUT/classifier.

    Raises:
        DataError: the faces are not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    size, place = size or FacesSize(), Path(out)
    faces = load_faces("train", size.side, data)
    common = {"progress": progress, "facts": asdict(size)}
    codecs = _codecs(faces, size, place, config, progress)
    with torch.no_grad():
        latents = {name: torch.stack(codecs[name].posterior(x), 1) for name, x in faces.modalities().items()}
    shapes = {name: codec.latent_shape for name, codec in codecs.items()}
    encoder = ContrastiveEncoder(shapes, size.embedding, 128, dropout=0.3)
    short = replace(config, steps=max(1, config.steps // 4), batch_size=4)
    fit(encoder, Groups(latents, 64), ContrastiveObjective(), short, out=place / "run-encoder", **common)  # type: ignore[arg-type]
    made = {}
    for title in ("plain", "told"):
        told = title == "told"
        net = JointDenoiser(
            shapes, width=size.width, depth=3, hidden=size.width, embed=96, dropout=0.1, context=size.embedding if told else 0
        )
        expert = Contextual(net, encoder.eval()) if told else net
        fit(expert, Samples(latents), OBJECTIVE, config, out=place / f"run-{title}", **common)  # type: ignore[arg-type]
        media = {"image": {"kind": "image"}, "mask": {"kind": "image"}, "attributes": {"kind": "vector"}}
        meta = {"recipe": "faces", "size": asdict(size), "training": asdict(config), "attributes": list(faces.names)}
        made[title] = Composer(codecs, expert.eval(), {"steps": 20}, media, meta)
        made[title].save(place / title)
    energy = PairEnergy(shapes, next(iter(expert.paths.values())), width=96)
    fit(energy, Strangers(latents), EnergyObjective(), config, out=place / "run-energy", **common)  # type: ignore[arg-type]
    save_module(energy.eval(), place / "energy", meta={"training": asdict(config)})
    _classifier(faces, front_of(codecs["image"]), place, config, progress)
    return made


def front_of(codec: Codec) -> PCA:
    """The principal components in front of a codec."""
    front = codec.stages[0] if isinstance(codec, Chain) else None
    assert isinstance(front, PCA)
    return front


def _codecs(faces: Faces, size: FacesSize, out: Path, config: TrainConfig, progress: bool) -> dict[str, Codec]:
    found: dict[str, Codec] = {}
    for name, components, latent, scale in (("image", 128, size.image, 0.1), ("mask", 64, size.mask, 0.2)):
        x = faces.modalities()[name]
        count = min(components, len(x) - 1)
        front = PCA(x.shape[1:], count, power=0.0, limits=(0.0, 1.0)).fit(x)
        vae = VAE((count,), latent, DenseEncoder((count,), 2 * latent, (256, 256), 0.1), DenseDecoder((count,), latent, (256, 256), 0.1))
        _fit_vae(
            vae,
            front.encode(x),
            VAEObjective("x", 1.0, "gaussian", scale=scale / float(front.scale[0])),
            out / f"run-{name}",
            config,
            progress,
        )
        found[name] = Chain([front, vae])
    x, latent = faces.attributes, size.attributes
    count = x.shape[1]
    vae = VAE((count,), latent, DenseEncoder((count,), 2 * latent, (64, 64)), DenseDecoder((count,), latent, (64, 64)), "sigmoid")
    _fit_vae(vae, x, VAEObjective("x", 0.3, "bernoulli"), out / "run-attributes", config, progress)
    return found | {"attributes": vae}


def _fit_vae(vae: VAE, x: Tensor, objective: VAEObjective, run: Path, config: TrainConfig, progress: bool) -> None:
    fit(vae, Samples({"x": x}), objective, config, out=run, progress=progress)
    with torch.no_grad():
        vae.eval().fit_statistics(*vae.posterior(x))


def classifier_loss(module: nn.Module, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
    """Binary cross-entropy of the attributes from components of the picture."""
    return {"loss": nn.functional.binary_cross_entropy_with_logits(module(batch["x"]), batch["label"])}


def _classifier(faces: Faces, front: PCA, out: Path, config: TrainConfig, progress: bool) -> None:
    """The supervised classifier that the attack is made for."""
    net = DenseEncoder(front.latent_shape, faces.attributes.shape[1], (256, 256), dropout=0.3)
    pairs = Samples({"x": front.encode(faces.image), "label": faces.attributes})
    short = replace(config, steps=max(1, config.steps // 4))
    fit(net, pairs, classifier_loss, short, out=out / "run-classifier", progress=progress)
    save_module(net, out / "classifier", meta={"training": asdict(short)})
