"""Training: one loop (`fit`) and one module per objective.

An objective is a function `loss(module, batch, draw)` that returns a mean over the samples of the batch, and perhaps more to log.
A data source is a function `batches(draw)` that returns a step's batch. Both take their randomness from the `Draw`, which is a
pure function of (seed, step, place in the global batch); so resumed runs and runs over many processes see the same numbers.

To write a new objective, add a module here with such a function:

    from polyscore.training import Draw, Samples, TrainConfig, by_level, fit

    def denoising(network, batch, draw):
        z0 = batch["image"]
        t, noise = draw.stratified(), draw.normal(*z0.shape[1:])
        A, S = path.coefficients(t)
        losses = (network(A * z0 + S * noise, t) - noise).square().flatten(1).mean(1)
        return {"loss": losses.mean(), **by_level(losses, t)}

    result = fit(network, Samples({"image": latents}), denoising, TrainConfig(steps=2000), out="runs/image", facts={"path": "cosine"})
    save_module(result.module, "weights/image", meta=result.scalars)

Rules for an objective:
- a mean over samples; terms that compare samples (negatives) must be made of samples that belong to one row of the batch,
  for instance a second column of `draw.indices`, else the number of processes changes the result;
- all random numbers from `draw`, always in the same order, whatever the data says;
- settings that change the result go into `facts`, so that a resumed run refuses others.

Run it with many processes by `accelerate launch` or `torchrun` (see `polyscore.processes`). Training is data parallel: every
process holds the whole module. Ctrl-C and SIGTERM lose nothing, SIGKILL at most `checkpoint_every` steps; the same command resumes.
"""

from polyscore.training.config import TrainConfig
from polyscore.training.draws import Draw, Pairs, Samples, draw_latents
from polyscore.training.loop import TrainResult, fit
from polyscore.training.scalars import by_level
from polyscore.training.signals import TrainingInterruptedError

__all__ = ["Draw", "Pairs", "Samples", "TrainConfig", "TrainResult", "TrainingInterruptedError", "by_level", "draw_latents", "fit"]
