"""`polyscore compose` and `polyscore join`: pipelines of diffusers as commands."""

from __future__ import annotations

from typing import Any

from polyscore.adapters.join import JOIN, SIZE
from polyscore.errors import PolyscoreError
from polyscore.networks.streams import StreamSize
from polyscore.terminal import progress, say
from polyscore.training.config import TrainConfig

__all__ = ["compose", "join"]


def compose(
    expert: dict[str, str] | None = None,
    strength: dict[str, float] | None = None,
    reliability: dict[str, float] | None = None,
    negative: str | None = None,
    n: int = 1,
    steps: int = 30,
    seed: int = 0,
    out: str = "outputs/compose",
    call: dict[str, Any] | None = None,
    prior: dict[str, float] | None = None,
    window: dict[str, list[float]] | None = None,
    mask: dict[str, str] | None = None,
    particles: int | None = None,
    diagnostics: bool = False,
    repeat: str | None = None,
) -> None:
    """Multiply diffusers pipelines that share a latent space, and sample the product.

    Args:
        expert: pipelines and prompts by name, as in --expert a=DIR_OR_HUB_ID:"a red cat" b=DIR_OR_HUB_ID:"the sea".
        strength: w of each, 5 where absent, as in --strength a=5 b=3.
        reliability: a of each, which sum to 1; by default each one's share of the strengths.
        negative: prompt of the null conditions; by default the pipelines' own.
        n: number of samples.
        steps: of the first pipeline's scheduler, which also solves.
        seed: sample i depends on (seed, i) only.
        out: folder for the results.
        call: more arguments of every pipeline, as in --call.height 512.
        prior: r of each in place of reliabilities, the weights of the pipelines' own priors, which sum to 1.
        window: the times each acts in, as in --window '{"a": [0.3, 1.0]}' (1 is noise).
        mask: pictures whose brightness multiplies the strength, as in --mask a=left.png.
        particles: K weighted particles a sample, which make the product exact at K times the cost.
        diagnostics: also write OUT/diagnostics.png and .json, what the pipelines said at every step.
        repeat: a result to repeat from the metadata inside it (also written --from); the other options but --out are then not used.
    """
    from polyscore.adapters import compose as room

    with progress("sampling") as bar:
        if repeat is not None:
            files = room.recompose(repeat, out, bar)
        elif expert:
            more: dict[str, Any] = {"prior": prior, "window": window, "mask": mask, "particles": particles, "diagnostics": diagnostics}
            files = room.compose(expert, strength, reliability, negative, n, steps, seed, out, call, bar, **more)
        else:
            raise PolyscoreError("compose: expected --expert NAME=DIR_OR_HUB_ID:PROMPT ..., found none")
    say(f"{len(files)} files in {out}")


def join(
    experts: dict[str, str] | None = None,
    data: str | None = None,
    out: str = "runs/join",
    fakes: int = 200,
    steps: int = 20,
    guidance: float | dict[str, float] = 1.0,
    negative: str | dict[str, str] | None = None,
    call: dict[str, Any] | None = None,
    scale: float | dict[str, float] = 1.0,
    captions: str | None = None,
    adversarial: float = 1.0,
    denoise: float = 1.0,
    observed: float = 0.0,
    dropout: float = 0.1,
    most: int = 8,
    seed: int = 0,
    network: StreamSize = SIZE,
    training: TrainConfig = JOIN,
    patience: int | None = 4,
) -> None:
    """Join pipelines of video, sound and pictures by a discriminator trained on a folder of clips; `polyscore sample --model OUT` follows.

    Args:
        experts: two or more pipelines and their prompts, as in --experts audio=DIR_OR_HUB_ID:"a dog barks" video=DIR_OR_HUB_ID:"a dog".
        data: folder of clips, with sound where an expert makes sound.
        out: folder for latents, fakes, training and the result; an interrupted call goes on there.
        fakes: number of samples of the pipelines apart.
        steps: of their sampling.
        guidance: of the pipelines' prompts, one for all or one each as in --guidance video=7.5 audio=2.5; 1 is off.
        negative: prompt of that guidance, one for all or one each.
        call: more arguments of each pipeline, as in --call '{"video": {"num_frames": 16}}'.
        scale: of the discriminator's guidance when sampling, one for all or one each as in --scale video=8 audio=1.
        captions: table of captions of the clips; by default captions.json, .jsonl, .csv or .txt in their folder, where there is one.
        adversarial: weight of the cross-entropy.
        denoise: weight of the denoising loss.
        observed: share of training rows with one modality given, for an exact --conditioning time; 0 stores noised as the model's default.
        dropout: share of training rows whose caption is dropped.
        most: pieces of each clip.
        seed: of everything that is drawn.
        network: of the discriminator, as in --network.fusion transformer --network.width 64.
        training: of the discriminator, as in --training.steps 500.
        patience: reviews without a lower held-out loss before training stops.
    """
    from polyscore.adapters import join as room

    if not experts or data is None:
        raise PolyscoreError("join: expected --experts audio=DIR_OR_HUB_ID video=DIR_OR_HUB_ID and --data FOLDER")
    with progress("joining") as bar:
        composer = room.join(
            experts,
            data,
            out,
            fakes,
            steps,
            guidance,
            negative,
            call,
            scale,
            denoise,
            most,
            seed,
            training,
            patience,
            bar,
            captions=captions,
            network=network,
            adversarial=adversarial,
            observed=observed,
            dropout=dropout,
        )
    say(f"joined {' and '.join(composer.modalities)} on {composer.meta['clips']} pieces of clips; polyscore sample --model {out}")
