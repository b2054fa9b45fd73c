"""`polyscore train codec` and `polyscore train joint`: from prepared data of one's own to a Composer."""

from __future__ import annotations

from collections.abc import Callable

from polyscore.errors import PolyscoreError
from polyscore.recipes.latents import ENCODER_TRAINING, Mixture, Network
from polyscore.recipes.own.build import CodecKind, UserLikelihood
from polyscore.recipes.own.codec import CODEC_TRAINING, train_own_codec, use_pretrained
from polyscore.recipes.own.joint import JOINT_TRAINING, OBJECTIVE, train_own_joint
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig
from polyscore.training.joint import JointObjective

__all__ = ["TRAIN"]

NETWORK, MIXTURE = Network(), Mixture()


def codec(
    data: str,
    modality: str,
    out: str = "runs/own/codecs",
    kind: CodecKind = "vae",
    likelihood: UserLikelihood | None = None,
    latent: int | None = None,
    beta: float | None = None,
    scale: float | None = None,
    noise: float = 0.01,
    pretrained: str | None = None,
    copy: bool = False,
    training: TrainConfig = CODEC_TRAINING,
) -> None:
    """Train the autoencoder of one modality of your data, alone, on the samples that have it; or fit the statistics of a pretrained one.

    Args:
        data: folder that `polyscore data prepare` wrote.
        modality: its name there.
        out: folder for MODALITY.json and MODALITY.safetensors; the other files in it stay as they are.
        kind: variational, or deterministic with noise on the latent.
        likelihood: of the data: bernoulli for masks and attributes in [0, 1], categorical for one-hot, gaussian or laplace for any;
            default laplace for sounds, gaussian for the rest.
        latent: dimensions; default 20, 48 for sounds, at most the numbers of a sample.
        beta: weight of the KL term (default 1), or of the norm of a rae's latent (default 1e-5).
        scale: of gaussian and laplace: how far a copy may be off; default 0.2, for sounds 1.
        noise: on a rae's latent, standard deviation.
        pretrained: folder or hub id of a diffusers autoencoder of pictures; nothing is trained then.
        copy: store the pretrained weights, too, and not only their name and fingerprint.
        training: steps, batch, learning rate and the like.
    """
    if pretrained is not None:
        with progress("encoding") as bar:
            use_pretrained(data, modality, pretrained, out, copy, bar)
    elif copy:
        raise PolyscoreError("copy: expected a pretrained autoencoder (--pretrained), found none")
    else:
        train_own_codec(data, modality, out, kind, likelihood, latent, beta, scale, noise, training)
    say(f"saved {out}/{modality}")


def joint(
    data: str,
    codecs: str = "runs/own/codecs",
    out: str = "runs/own/joint",
    modalities: tuple[str, ...] | None = None,
    closed: bool = False,
    contrastive: int = 0,
    guidance: float = 1.0,
    network: Network = NETWORK,
    mixture: Mixture = MIXTURE,
    objective: JointObjective = OBJECTIVE,
    training: TrainConfig = JOINT_TRAINING,
    encoders: TrainConfig = ENCODER_TRAINING,
) -> None:
    """Train the joint score over the latents of your autoencoders, with whatever is missing in your data; save the Composer.

    Args:
        data: folder that `polyscore data prepare` wrote.
        codecs: folder of its autoencoders (`polyscore train codec`); tokens need none.
        out: folder of the Composer.
        modalities: some of the data's; default all.
        closed: fit mixtures of Gaussians in groups that contrastive encoders find, instead of training a network.
        contrastive: size of the contrastive embedding of what is observed ("-T"); 0 for none.
        guidance: strength of subset guidance that `sample` takes by default.
        network: sizes; heads > 0 for a transformer.
        mixture: sizes of the closed form.
        objective: how times are drawn.
        training: steps, batch, learning rate, seed and the like.
        encoders: the same of the contrastive encoders.
    """
    train_own_joint(data, codecs, out, modalities, closed, contrastive, guidance, network, mixture, objective, training, encoders)
    say(f"saved {out}; try: polyscore sample --model {out}")


TRAIN: dict[str, Callable[..., None]] = {"codec": codec, "joint": joint}
