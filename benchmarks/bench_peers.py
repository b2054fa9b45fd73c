"""Multimodal VAEs of the `multivae` package on the same PolyMNIST tuples, judged as our Composers are.

    python benchmarks/bench_peers.py --seconds 450 --judge runs/polymnist/judge --codecs runs/polymnist/codecs

multivae wants torchvision, which nothing here uses of it: the packages go into a folder of their own (build/peers) beside a stand-in for
torchvision, and a child process trains one model there and hands back pictures as arrays. Every model gets the same CPU seconds, the same
principal components in front and the same hidden widths as our autoencoders. Latent diffusion with per-modality times (MLD) is a preset of
ours, `polyscore train sbm-joint --guidance.strength 0`, on our autoencoders; `--mld` measures it beside the others. What a model of one
seed made is kept: a longer list of seeds trains the new ones only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

PACKAGES = ("multivae==1.0.3", "pythae==0.1.2", "pandas", "nltk", "torchmetrics", "lightning-utilities", "imageio")
STAND_IN = {
    "__init__.py": "from . import datasets, models, transforms, utils\n",
    "utils.py": "def make_grid(*a, **k):\n    raise NotImplementedError\n\n\nsave_image = make_grid\n",
    "transforms.py": "class ToTensor: ...\n\n\nclass Resize: ...\n\n\nclass Compose: ...\n",
    "models.py": "",
    "datasets/__init__.py": "class MNIST: ...\n\n\nclass SVHN: ...\n\n\nclass CelebA: ...\n",
    "datasets/utils.py": "def download_and_extract_archive(*a, **k):\n    raise NotImplementedError\n",
}
MODELS = ("MVAE", "MMVAE", "MoPoE", "MVTCAE", "MMVAEPlus")
COUNTS = (2, 4, 6, 8, 10)
MLD_STEPS = 50
WIDTH, LATENT, BATCH = 512, 64, 128


def environment(place: Path) -> dict[str, str]:
    """The child's variables; installs what is not there."""
    if not (place / "multivae").is_dir():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place), *PACKAGES], check=True)
    for name, text in STAND_IN.items():
        file = place / "torchvision" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    source = str(Path(__file__).resolve().parents[1] / "src")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(place), source]), "OMP_NUM_THREADS": "1"}


def codes_of(data: Any, fronts: dict[str, Any], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The components of all modalities, in float32."""
    from polyscore.recipes.polymnist.codecs import pictures

    return {name: fronts[name].encode(pictures(data, name, rows)) for name in data.names}


def build(kind: str, names: list[str], size: int, scales: dict[str, float]) -> Any:
    """A model of multivae with dense encoders and decoders on the components, normal likelihoods and beta 1."""
    import multivae.models as zoo
    from multivae.models.nn.default_architectures import BaseDecoder, BaseEncoder
    from pythae.models.base.base_utils import ModelOutput
    from torch import nn

    def layers(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(a, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, b))

    plus = kind == "MMVAEPlus"
    shared = LATENT // 2 if plus else LATENT

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.latent_dim, self.style_dim, self.body = shared, LATENT - shared, layers(size, 2 * LATENT)

        def forward(self, x: torch.Tensor) -> Any:
            mean, log_variance = self.body(x).chunk(2, -1)
            log_variance = log_variance.clamp(-12, 4)
            found = ModelOutput(embedding=mean[:, :shared], log_covariance=log_variance[:, :shared])
            return found | {"style_embedding": mean[:, shared:], "style_log_covariance": log_variance[:, shared:]} if plus else found

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.latent_dim, self.body = LATENT, layers(LATENT, size)

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z))

    more: dict[str, Any] = {"K": 1, "prior_and_posterior_dist": "normal"} if kind.startswith("MMVAE") else {}
    more |= {"modalities_specific_dim": LATENT - shared, "loss": "iwae_looser"} if plus else {}
    config = getattr(zoo, f"{kind}Config")(
        n_modalities=len(names), latent_dim=shared, input_dims=dict.fromkeys(names, (size,)), beta=1.0,
        decoders_dist=dict.fromkeys(names, "normal"), decoder_dist_params={n: {"scale": scales[n]} for n in names}, **more)  # fmt: skip
    return getattr(zoo, kind)(config, {n: Encoder() for n in names}, {n: Decoder() for n in names})


def sampling_seconds(kind: str, size: int, n: int = 256) -> dict[str, float]:
    """Seconds for n joint samples, decoded to codes, against the number of modalities; the fastest of five, nothing is trained."""
    found = {}
    for count in COUNTS:
        names = [f"m{i}" for i in range(count)]
        model = build(kind, names, size, dict.fromkeys(names, 1.0)).eval()
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            with torch.no_grad():
                model.decode(model.generate_from_prior(n))
            taken.append(time.perf_counter() - began)
        found[f"seconds for {n} samples of {count} modalities"] = min(taken)
    return found


def child(kind: str, args: argparse.Namespace) -> None:
    """Train one model for `seconds` of CPU time, and write its pictures."""
    from multivae.data.datasets.base import MultimodalBaseDataset

    from polyscore.checkpoint import load_module
    from polyscore.codecs import Codec
    from polyscore.data.polymnist import load_polymnist
    from polyscore.recipes.polymnist.evaluate import subsets

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train, test = (load_polymnist(split, args.modalities) for split in ("train", "test"))
    names = train.names
    fronts = {n: load_module(Path(args.codecs) / n, Codec).stages[0] for n in names}
    with torch.no_grad():
        parts = [codes_of(train, fronts, rows) for rows in torch.arange(len(train)).split(2000)]
    codes = {n: torch.cat([p[n] for p in parts]) for n in names}
    size = codes[names[0]].shape[1]
    model = build(kind, names, size, {n: args.scale / float(fronts[n].scale[0]) for n in names})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    began, steps = time.process_time(), 0
    while (used := time.process_time() - began) < args.seconds:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * max(0.05, 1 - used / args.seconds)
        rows = torch.randint(len(train), (BATCH,))
        loss = model(MultimodalBaseDataset({n: codes[n][rows] for n in names})).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        steps += 1
    model.eval()
    rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(args.seed))[: args.n]
    with torch.no_grad():
        real = codes_of(test, fronts, rows)
        out = {"labels": test.labels[rows].numpy(), "steps": np.array(steps), "loss": np.array(float(loss))}

        def decode(found: Any, title: str, chosen: Sequence[str] = ()) -> None:
            made = model.decode(found)
            for n in [n for n in names if n not in chosen]:
                x = fronts[n].decode(made[n].reshape(args.n, -1))
                out[f"{title}/{n}"] = (x * 255).round().byte().numpy()

        whole = MultimodalBaseDataset(real)
        for k in (1, len(names) - 1):
            for place, chosen in enumerate(subsets(names, k)):
                decode(model.encode(whole, cond_mod=chosen), f"given {k}/{place}", chosen)
        decode(model.encode(whole, cond_mod="all", return_mean=True), "rebuilt")
        decode(model.generate_from_prior(args.n), "joint")
    out |= {f"time: {name}": np.array(value) for name, value in sampling_seconds(kind, size).items()}
    np.savez_compressed(args.out_arrays, **out)


def judged(file: Path, test: Any) -> dict[str, float]:
    """What the judge says of a child's pictures."""
    from polyscore.metrics.coherence import agreement
    from polyscore.metrics.frechet import frechet_distance
    from polyscore.metrics.judges import predict

    arrays = np.load(file)
    labels, found, seen = torch.from_numpy(arrays["labels"]), {}, {}
    for key in arrays.files:
        if "/" in key:
            title, name = key.split("/")[0], key.split("/")[-1]
            label, features = predict(test.judge, torch.from_numpy(arrays[key]).float() / 255)
            seen.setdefault(title, []).append((name, label, frechet_distance(features, test.features[name])))
    for title, rows in seen.items():
        if title != "joint":
            found[title] = float(torch.stack([(label == labels).double().mean() for _, label, _ in rows]).mean())
        found[f"{title} frechet"] = sum(d for _, _, d in rows) / len(rows)
    found["all agree"] = agreement({name: label for name, label, _ in seen["joint"]})
    times = {key.removeprefix("time: "): float(arrays[key]) for key in arrays.files if key.startswith("time: ")}
    return found | {"steps": float(arrays["steps"])} | times


def untrained(args: argparse.Namespace) -> Path | None:
    """The first file of trained judge, codecs and Composers that is not there."""
    folders = [kind.format(seed=seed) for kind in (args.ours, args.mld) if kind for seed in args.seeds.split(",")]
    codecs = [Path(args.codecs) / f"m{i}.json" for i in range(args.modalities)]
    wanted = [Path(args.judge).with_suffix(".json"), *codecs, *(Path(folder) / "composer.json" for folder in folders)]
    return next((file for file in wanted if not file.is_file()), None)


def main() -> None:
    """Train, judge and write the table."""
    from polyscore.composer import Composer
    from polyscore.recipes.polymnist.evaluate import PolyTest, evaluate_poly
    from polyscore.recipes.polymnist.tables import guided_by
    from polyscore.recipes.tables import Measured, write_table

    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seconds", type=float, default=450.0)
    parser.add_argument("--judge", default="runs/polymnist/judge")
    parser.add_argument("--codecs", default="runs/polymnist/codecs")
    parser.add_argument("--out", default="benchmarks/results/sbm-peers.json")
    parser.add_argument("--place", default="build/peers")
    parser.add_argument("--modalities", type=int, default=5)
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--ours", default="runs/polymnist/mixture-{seed}")
    parser.add_argument("--mld", default="", help="Composers of `train sbm-joint --guidance.strength 0`, such as runs/polymnist/mld-{seed}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child")
    parser.add_argument("--out_arrays", default="")
    args = parser.parse_args()
    if args.child:
        child(args.child, args)
        return
    if absent := untrained(args):
        print(f"skipped, as {absent} is not there; docs/sbm.md has the commands that train judge, codecs and Composers")
        return
    began, rows = time.perf_counter(), []
    place = Path(args.place)
    variables = environment(place)
    test = PolyTest.load(args.judge, args.modalities)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for kind in args.models.split(","):
        runs = []
        for seed in seeds:
            file = place / f"{kind}-{args.modalities}-{args.seconds:g}-{seed}.npz"
            if not file.exists():
                own = [f"--{name}={getattr(args, name)}" for name in ("seconds", "codecs", "modalities", "scale", "n")]
                call = [sys.executable, __file__, f"--child={kind}", f"--out_arrays={file}", f"--seed={seed}", *own]
                subprocess.run(call, check=True, env=variables)
            runs.append(judged(file, test))
            print(kind, seed, runs[-1], flush=True)
        collapsed = "collapsed" if min(run["given 1"] for run in runs) < 0.2 else ""
        rows += [Measured(f"{kind}: {name}", [run[name] for run in runs], None, collapsed) for name in runs[0]]
    few = (1, args.modalities - 1)
    if args.mld:
        runs = []
        for seed in seeds:
            composer = Composer.load(args.mld.format(seed=seed))
            composer.denoiser = guided_by(composer.denoiser, 0.0)
            runs.append(evaluate_poly(composer, test, args.n, seed, observed=few, steps=MLD_STEPS, leaders=None))
            print("MLD", seed, runs[-1], flush=True)
        rows += [Measured(f"MLD: {name}", [run[name] for run in runs]) for name in runs[0]]
    distances = [*(f"given {k} frechet" for k in few), "joint frechet"]
    best = {name: min(row.mean for row in rows if row.measure.endswith(f": {name}")) for name in distances}
    composers = [Composer.load(args.ours.format(seed=seed)) for seed in seeds]
    mine = [evaluate_poly(composer, test, args.n, seed, observed=few) for composer, seed in zip(composers, seeds, strict=True)]
    rows += [Measured(f"ours: {name}", [run[name] for run in mine]) for name in [*(f"given {k}" for k in few), *distances, "all agree"]]
    rows = [Measured(f"ours, {n} over the best peer's", [run[n] / best[n] for run in mine], ("<=", 0.5)) for n in distances] + rows
    protocol = {
        "command": f"python benchmarks/bench_peers.py --seconds {args.seconds:g}",
        "models": args.models,
        "packages": list(PACKAGES[:2]),
        "budget": f"{args.seconds:g} CPU seconds of training each, one thread; batch {BATCH}, latent {LATENT}, widths {WIDTH}, beta 1",
        "mld": f"{args.mld}, dpmpp, {MLD_STEPS} steps" if args.mld else "",
        "n": args.n,
        "seeds": seeds,
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_table(args.out, rows, protocol)


if __name__ == "__main__":
    main()
