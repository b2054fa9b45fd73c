"""The networks of the faces experiment: an expert on hair masks and one on skin masks, trained on different faces; a sketch, an attribute
expert; one network for both masks; a parser and a judge of hair colour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs.base import Codec
from polyscore.data.faces import PACKED, PARTS, Faces, load_face_parts
from polyscore.data.sketch import canny
from polyscore.metrics.judges import Judge
from polyscore.networks.conv import ConvEncoder, ResBlock
from polyscore.networks.patches import UNKNOWN, PatchDenoiser
from polyscore.recipes.product.train import ConditionObjective
from polyscore.spec import register
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.classifier import ClassifierObjective

__all__ = ["EXPERT_TRAINING", "JUDGE_TRAINING", "NAMES", "Centred", "FaceParts", "Parser", "conditions", "load_face_experts", "train_faces"]

SIZE = 32
HALF = 400
NAMES = ("hair", "skin", "both", "sketch", "attributes")
COLOURS = PACKED[-4:]
EXPERT_TRAINING = TrainConfig(steps=800, batch_size=32, lr=4e-3, ema=0.96, log_every=50, checkpoint_every=200)
JUDGE_TRAINING = TrainConfig(steps=400, batch_size=32, lr=2e-3, ema=0.99, log_every=100, checkpoint_every=400)


@register
class Centred(Codec):
    """Pictures in [0, 1] as states of about unit variance: z = (x - 0.45) / 0.28."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        self.data_shape = self.latent_shape = (3, size, size)

    def encode(self, x: Tensor) -> Tensor:
        """Data to state."""
        return (x - 0.45) / 0.28

    def decode(self, z: Tensor) -> Tensor:
        """State to data."""
        return z * 0.28 + 0.45


@register
class Parser(nn.Module):
    """(B, 3, S, S) -> logits (B, parts, S, S): other, skin, hair. Features of pictures: the mean over the picture before the last layer."""

    def __init__(self, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        wide = 2 * width
        self.stem, self.down = nn.Conv2d(3, width, 3, padding=1), nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, wide, 3, padding=1))
        self.body = nn.Sequential(*[ResBlock(wide) for _ in range(blocks)])
        self.up = nn.Sequential(nn.Conv2d(wide, 16 * 8, 1), nn.PixelShuffle(4))
        self.head = nn.Sequential(nn.Conv2d(width + 8, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, len(PARTS), 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel."""
        found: Tensor = self.head(torch.cat([functional.silu(self.stem(x)), self.up(self.body(self.down(x)))], 1))
        return found

    def features(self, x: Tensor) -> Tensor:
        """(B, 2 width): what a Frechet distance can be taken of."""
        return functional.silu(self.body(self.down(x))).mean((2, 3))


@dataclass(frozen=True)
class ParserObjective:
    """Cross-entropy of every pixel's part, on pictures with a little noise (generated ones have some)."""

    noise: float = 0.03

    def __call__(self, module: Parser, batch: dict[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss and the share of right pixels."""
        x = batch["image"] + self.noise * draw.uniform()[:, None, None, None] * draw.normal(*batch["image"].shape[1:])
        logits = module(x)
        return {
            "loss": functional.cross_entropy(logits, batch["parts"]),
            "accuracy": (logits.argmax(1) == batch["parts"]).float().mean(),
        }


@dataclass(frozen=True)
class FaceParts:
    """Pictures, skin and hair masks, sketches, attributes and label maps whose rows belong together."""

    faces: Faces
    parts: Tensor
    sketches: Tensor

    @classmethod
    def load(cls, split: str, data: str | None = None, mirrored: bool = False) -> FaceParts:
        """A split; `mirrored` puts every face's mirror image right after it.

        Raises:
            DataError: the faces are not there.
        """
        fine, kinds = load_face_parts(split, 2 * SIZE, data)
        parts = functional.avg_pool2d(functional.one_hot(kinds, len(PARTS)).permute(0, 3, 1, 2).float(), 2).argmax(1)
        masks = torch.stack([(parts == part).float() for part in (1, 2)], 1)
        faces = Faces(functional.avg_pool2d(fine.image, 2), masks, fine.attributes, fine.names)
        sketches = functional.avg_pool2d(canny(fine.image, 0.04, 0.08), 2)
        if not mirrored:
            return cls(faces, parts, sketches)
        images, masks, sketches, parts = (torch.stack([x, x.flip(-1)], 1).flatten(0, 1) for x in (faces.image, faces.mask, sketches, parts))
        return cls(Faces(images, masks, faces.attributes.repeat_interleave(2, 0), faces.names), parts, sketches)

    def rows(self, part: slice) -> FaceParts:
        """Some of them."""
        f = self.faces
        return FaceParts(Faces(f.image[part], f.mask[part], f.attributes[part], f.names), self.parts[part], self.sketches[part])

    @property
    def colours(self) -> Tensor:
        """Number of the hair's colour, or -1."""
        share, number = self.faces.attributes[:, -len(COLOURS) :].max(1)
        return torch.where(share > 0, number, -1)


def conditions(name: str, parts: FaceParts) -> Tensor:
    """What an expert is told of faces: "skin", "hair", "sketch": (N, 1, S, S); "both": (N, 2, S, S); "attributes": (N, K)."""
    masks = parts.faces.mask
    if name == "sketch":
        return parts.sketches
    if name == "attributes":
        return parts.faces.attributes
    return {"skin": masks[:, :1], "hair": masks[:, 1:], "both": masks}[name]


def train_faces(
    out: str = "runs/product-faces",
    data: str | None = None,
    seed: int = 0,
    names: tuple[str, ...] = NAMES,
    experts: TrainConfig = EXPERT_TRAINING,
    judge: TrainConfig = JUDGE_TRAINING,
    progress: bool = True,
) -> Path:
    """Train the experts of one seed and save them in `out`/SEED; parser and judge, in `out`, serve all seeds. What is there is kept.

    "hair" and "sketch" see the first half of the 800 train faces, "skin" and "attributes" the second; "both" sees all, each face with
    one of its two masks: hair in the first half, skin in the second.

    Raises:
        DataError: the faces are not there. PolyscoreError: unknown names, or as `polyscore.training.fit`.
    """
    folder, train = Path(out), FaceParts.load("train", data, mirrored=True)
    if not (folder / "parser.json").exists():
        torch.manual_seed(judge.seed)
        samples = Samples({"image": train.faces.image, "parts": train.parts})
        _fit_and_save(Parser(), samples, ParserObjective(), judge, folder / "parser", progress)
    if not (folder / "colour.json").exists():
        torch.manual_seed(judge.seed)
        seen = train.colours >= 0
        network = Judge(ConvEncoder((3, SIZE, SIZE), 48, (24, 48), dropout=0.1, pool=True), 48, len(COLOURS), dropout=0.2)
        samples = Samples({"image": train.faces.image[seen], "label": train.colours[seen]})
        _fit_and_save(network, samples, ClassifierObjective("image"), judge, folder / "colour", progress)
    for name in names:
        if not (folder / str(seed) / f"{name}.json").exists():
            config = replace(experts, seed=seed)
            torch.manual_seed(seed)
            samples = Samples(_told(name, train))
            expert = PatchDenoiser(
                (3, SIZE, SIZE),
                space="faces-centred",
                width=48,
                blocks=3,
                maps={"both": 2, "attributes": 0}.get(name, 1),
                context=len(PACKED) if name == "attributes" else 0,
            )
            _fit_and_save(expert, samples, ConditionObjective(entry="condition", dropout=0.15), config, folder / str(seed) / name, progress)
    return folder / str(seed)


def _told(name: str, train: FaceParts) -> dict[str, Tensor]:
    """An expert's pictures and conditions."""
    first, second = train.rows(slice(0, 2 * HALF)), train.rows(slice(2 * HALF, None))
    codec = Centred()
    if name != "both":
        half = first if name in ("hair", "sketch") else second
        return {"image": codec.encode(half.faces.image), "condition": conditions(name, half)}
    masks = train.faces.mask.clone()
    masks[: 2 * HALF, 0], masks[2 * HALF :, 1] = UNKNOWN, UNKNOWN
    return {"image": codec.encode(train.faces.image), "condition": masks}


def _fit_and_save(module: nn.Module, samples: Samples, objective: object, config: TrainConfig, place: Path, progress: bool) -> None:
    fit(module, samples, objective, config, out=place.parent / f"run-{place.name}", progress=progress)  # type: ignore[arg-type]
    save_module(module, place, meta={"dataset": "faces, train split"})


def load_face_experts(folder: Path, seed: int, names: tuple[str, ...] = NAMES) -> tuple[Parser, Judge, dict[str, PatchDenoiser]]:
    """Parser, judge of hair colour, and the experts of one seed.

    Raises:
        CheckpointError: they are not there, or damaged.
    """
    experts = {name: load_module(folder / str(seed) / name, PatchDenoiser) for name in names}
    return load_module(folder / "parser", Parser), load_module(folder / "colour", Judge), experts
