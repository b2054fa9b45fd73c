"""A tiny run for the tests, also as a script: `python training_tiny.py OUT RESULT [field=value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from polyscore.checkpoint import save_tensors
from polyscore.errors import PolyscoreError
from polyscore.processes import this_process
from polyscore.training import Samples, TrainConfig, by_level, fit

TINY = {"steps": 60, "batch_size": 9, "warmup": 5, "lr": 3e-3, "weight_decay": 0.01, "ema": 0.9, "checkpoint_every": 10, "log_every": 7}


class Net(nn.Module):
    """Predicts the noise in 6 numbers; the buffer counts calls; `idle` is never used, `frozen` never trained."""

    def __init__(self, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.body = nn.Sequential(nn.Linear(7, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, 6))
            self.idle = nn.Linear(2, 2)
            self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z, t):
        if self.training:
            self.calls += 1
        return self.frozen * self.body(torch.cat([z, t[:, None]], 1))


def denoising(net, batch, draw):
    x = batch["x"]
    t, noise = draw.stratified().to(x), draw.normal(6).to(x)
    losses = (net((1 - t[:, None]) * x + t[:, None] * noise, t) - noise).square().mean(1)
    return {"loss": losses.mean(), **by_level(losses, t, 2)}


def samples(n: int = 50, dtype: torch.dtype = torch.float32) -> Samples:
    return Samples({"x": torch.randn(n, 6, generator=torch.Generator().manual_seed(1)).to(dtype)})


def run(out, *, net=None, loss=denoising, data=None, resume=True, average=True, facts=None, **fields):
    config = TrainConfig(**{**TINY, **fields})
    return fit(net or Net(), data or samples(), loss, config, out=out, resume=resume, average=average, facts=facts)


def main() -> None:
    torch.set_num_threads(1)
    out, result, *fields = sys.argv[1:]
    values = {key: float(v) if "." in v else int(v) for key, v in (f.split("=") for f in fields)}
    try:
        found = run(out, net=Net(dropout=0.0).double(), data=samples(dtype=torch.float64), **values)
    except PolyscoreError as error:
        sys.exit(f"error: {error}")
    rank = this_process().process_index
    save_tensors(found.module.state_dict(), Path(result).with_name(f"{Path(result).name}-{rank}.safetensors"))


if __name__ == "__main__":
    main()
