"""`polyscore data`: download a file by address and SHA-256, prepare a folder or table of files, write data sets as such folders."""

from __future__ import annotations

from typing import Any, Literal

from polyscore.data.download import download as fetch
from polyscore.data.folder import prepare_folder
from polyscore.data.loader import read_manifest
from polyscore.terminal import progress, say

__all__ = ["DATA"]


def download(url: str, out: str, sha256: str, attempts: int = 5) -> None:
    """Fetch a file; goes on where an earlier try stopped, and keeps it only if its SHA-256 is right.

    Args:
        url: http://, https:// or file:// address.
        out: file to write. sha256: of the whole file.
        attempts: failures before giving up.
    """
    say(f"{fetch(url, out, sha256, attempts=attempts)}: {sha256[:12]}... is right")


def prepare(source: str, out: str, modalities: dict[str, dict[str, Any]], shard_size: int = 1024, strict: bool = False) -> None:
    """Turn a folder (one subfolder a modality, files matched by stem) or a CSV/JSONL table into shards for training.

    Args:
        source: folder or table; docs/data.md shows the layouts.
        out: folder to write.
        modalities: kind, shape and reading options of each, as in docs/data.md.
        shard_size: samples a file.
        strict: stop at the first file that cannot be used, instead of counting it as missing.
    """
    with progress("preparing") as bar:
        data = prepare_folder(source, out, modalities, shard_size=shard_size, strict=strict, progress=bar)
    errors = len(read_manifest(out)["errors"])
    say(f"{len(data)} samples in {out}" + (f"; {errors} files could not be used (listed in manifest.json)" if errors else ""))


def polymnist(
    out: str,
    modalities: int = 5,
    split: Literal["train", "test"] = "test",
    n: int = 1000,
    backgrounds: str | None = None,
    data: str | None = None,
    seed: int = 0,
) -> None:
    """Build PolyMNIST tuples as PNG files in the layout that `prepare` reads: OUT/m0, OUT/m1, ... and OUT/labels.csv.

    Args:
        out: folder to write.
        modalities: 2 to 10.
        split: of MNIST.
        n: the first n tuples.
        backgrounds: folder of pictures; procedural textures stand in for missing ones.
        data: folder with digits/mnist.npz; default $POLYSCORE_DATA.
        seed: the same seed gives the same data.
    """
    from polyscore.data.polymnist import load_polymnist, write_files

    built = load_polymnist(split, modalities, backgrounds, data, seed)
    with progress("building") as bar:
        count = write_files(built, out, n, bar)
    say(f"{count} tuples of {modalities} pictures in {out}")


def digits(out: str, split: Literal["train", "test"] = "train", limit: int | None = None, seed: int = 0, data: str | None = None) -> None:
    """Digits three ways, in the manner of MHD, in the layout that `prepare` reads: OUT/image, OUT/sound, OUT/attributes, OUT/labels.csv.

    Args:
        out: folder to write.
        split: of MNIST and FSDD.
        limit: the first ones only.
        seed: of which spoken digit goes with which picture.
        data: folder with digits/mnist.npz and digits/fsdd.npz; default $POLYSCORE_DATA.
    """
    from polyscore.data.mhd import load_digit_triples, write_digit_triples

    with progress("writing") as bar:
        count = write_digit_triples(load_digit_triples(split, data, seed, limit), out, bar)
    say(f"{count} digits in {out}")


def faces(
    out: str,
    celebamask: str | None = None,
    size: int = 64,
    split: Literal["train", "val", "test"] | None = None,
    limit: int | None = None,
    data: str | None = None,
) -> None:
    """Faces as pictures, masks and attributes in the layout that `prepare` reads: OUT/image, OUT/mask, OUT/attributes.

    Args:
        out: folder to write.
        celebamask: CelebAMask-HQ as it is distributed; by default the packed thousand faces.
        size: side of the pictures.
        split: CelebA's own, or train and test of the packed thousand; by default all.
        limit: the first ones only.
        data: folder with the packed faces/; default $POLYSCORE_DATA.
    """
    from polyscore.data.faces import CelebAMask, load_faces, write_faces

    with progress("writing") as bar:
        if celebamask is None:
            found = load_faces(split, size, data, limit)
            count = write_faces([found], out, len(found), bar)
        else:
            source = CelebAMask(celebamask, size)
            numbers = source.numbers(split, limit)
            count = write_faces(source.blocks(numbers), out, len(numbers), bar)
    say(f"{count} faces in {out}")


def openmoji(source: str, out: str, size: int = 32, words: int = 100, n: int | None = None, partial: bool = False) -> None:
    """OpenMoji as colour pictures, line drawings and tags in the layout that `prepare` reads: OUT/image, OUT/drawing, OUT/tags.

    Args:
        source: an unpacked copy with data/openmoji.json, color and black.
        out: folder to write.
        size: side of the pictures.
        words: the most frequent tags that make the vector.
        n: the first n emoji.
        partial: also emoji that lack one of the two pictures.
    """
    from polyscore.data.openmoji import load_openmoji, write_openmoji

    with progress("rasterising") as bar:
        count = write_openmoji(load_openmoji(source, size, words, n, partial), out, bar)
    say(f"{count} emoji in {out}")


DATA = {"digits": digits, "download": download, "faces": faces, "openmoji": openmoji, "polymnist": polymnist, "prepare": prepare}
