"""The command line. Every command is a function whose signature is its configuration (`--config FILE.yaml`, `--print_config`)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Literal

from polyscore.errors import PolyscoreError
from polyscore.processes import start_the_others
from polyscore.terminal import progress, say

__all__ = ["main"]

SolverName = Literal[
    "dpmpp", "dpmpp3m", "dpmpp3m_full", "dpmpp_sde", "ddim", "ddpm", "heun", "euler", "euler_maruyama", "euler_maruyama_even"
]
# Options written as `--given image=a.png speech=b.wav`.
_KEYED = (
    "--given",
    "--content",
    "--seen",
    "--leaders",
    "--expert",
    "--experts",
    "--strength",
    "--reliability",
    "--scale",
    "--prior",
    "--mask",
    "--missing",
    "--prompt",
    "--guidance",
    "--negative",
)


def sample(
    model: str = "digits",
    out: str = "outputs/samples",
    n: int = 4,
    given: dict[str, str] | None = None,
    seen: dict[str, str] | None = None,
    repeat: str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    steps: int | None = None,
    solver: SolverName | dict[str, SolverName] | None = None,
    token_solver: str | None = None,
    corrector: str | None = None,
    grid: Literal["uniform", "log_snr", "centred", "karras", "score_sde"] | None = None,
    guidance: float | None = None,
    scale: float | dict[str, float] | None = None,
    window: list[float] | None = None,
    every: int | None = None,
    correction: float | None = None,
    label: int | list[int] | None = None,
    prompt: str | dict[str, str] | None = None,
    leaders: dict[str, int] | None = None,
    refine: int | None = None,
    particles: int | None = None,
    population: Literal["sample", "run"] | None = None,
    diagnostics: bool = False,
    conditioning: Literal["time", "clean", "scaled", "noised", "resample"] | None = None,
) -> None:
    """Generate modalities as ordinary files, from any subset of the others.

    Args:
        model: folder of a composer, a shipped name (digits) or a hub id.
        out: folder for the results.
        n: number of samples.
        given: files of the observed modalities, as in --given image=seven.png speech=three.wav.
        seen: half of a given file that is known (left, right, top, bottom), as in --seen image=left; the rest of it is generated, too.
        repeat: a result to repeat from the metadata inside it (also written --from); the other options are then not used.
        seed: sample i depends on (seed, i) only.
        batch_size: samples at a time.
        steps: of the solver; by default the model's own.
        solver: by default the model's own; one for all modalities, or one for each as in '{"image": "dpmpp_sde", "speech": "dpmpp"}'.
        token_solver: of token modalities: ancestral, confidence, random, left or maskgit, perhaps truncated as in ancestral:0.86.
        corrector: run at every step, at the price of more evaluations: langevin, langevin:SIZE, snr, snr:RATIO, gibbs or gibbs:SITES
            (tokens), more fields by name as in gibbs:1:rounds=2; none turns the model's own off.
        grid: spacing of the times.
        guidance: strength of subset guidance, or of the label's or prompt's (0: none).
        scale: of a model that a ratio guides (`polyscore join`): one number, or one a modality as in --scale video=2 audio=1.
        window: the times in which guidance acts, as in --window "[0.0, 0.7]"; 1 is noise.
        every: steps from one gradient of the ratio to the next.
        correction: strength of the ratio's own guidance by the label or prompt, as in the authors' code; 1 is none.
        label: class of a class-conditional model, as in --label 3; several are taken in turn, as in --label '[0, 1, 2]'.
        prompt: of a model that is told in words, one for all or one a modality as in --prompt audio="a dog barks" video="a dog".
        leaders: modalities that come first where nothing is given, and their steps, as in --leaders image=10.
        refine: steps of the refiners of decoded data, where the model has some.
        particles: weighted particles a sample, which make guidance exact (docs/product.md).
        population: who shares the particles, each sample its own or the whole batch.
        diagnostics: also write OUT/diagnostics.png and .json, what the experts said at every step.
        conditioning: how observed modalities enter.
    """
    from polyscore import generate
    from polyscore.sampling.diagnostics import Recorder

    named: dict[str, Any] = {"steps": steps, "solver": solver, "grid": grid, "guidance": guidance, "conditioning": conditioning}
    named |= {"corrector": corrector, "particles": particles, "population": population, "leaders": leaders, "refine": refine}
    named |= {"token_solver": token_solver, "scale": scale, "window": window, "every": every, "correction": correction}
    named |= {"label": label, "prompt": prompt}
    options = {k: v for k, v in named.items() if v is not None}
    recorder = Recorder() if diagnostics else None
    with progress("sampling") as bar:
        if repeat is not None:
            files = generate.repeat(repeat, out, bar)
        else:
            files = generate.generate(model, out, n, given, seed, batch_size, options, bar, recorder, seen)
    if recorder is not None and recorder.steps:
        from polyscore.report.diagnostics import write_diagnostics

        write_diagnostics(recorder, out)
    say(f"{len(files)} files in {out}")


def edit(
    content: dict[str, str],
    model: str = "digits",
    out: str = "outputs/edited",
    start: float = 0.5,
    n: int = 4,
    given: dict[str, str] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    steps: int | None = None,
    solver: SolverName | dict[str, SolverName] | None = None,
    token_solver: str | None = None,
    corrector: str | None = None,
    guidance: float | None = None,
    label: int | list[int] | None = None,
    prompt: str | None = None,
) -> None:
    """Change what is there: corrupt it part of the way to noise, and sample from there.

    Args:
        content: files of the modalities to change, as in --content image=seven.png.
        model: folder of a composer, a shipped name (digits) or a hub id.
        out: folder for the results.
        start: share of the way to noise; near 0 little changes, 1 keeps nothing.
        n: number of changed versions.
        given: files of observed modalities that the change must fit, as in --given word=three; those in neither are left out.
        seed: version i depends on (seed, i) only.
        batch_size: versions at a time.
        steps: of a whole sampling, of which the last start * steps are taken; by default the model's own.
        solver: by default the model's own; one for all modalities, or one for each.
        token_solver: of token modalities, see `polyscore sample --help`.
        corrector: run at every step, see `polyscore sample --help`.
        guidance: strength of subset guidance, or of the label's or prompt's.
        label: class of a class-conditional model.
        prompt: of a model that is told in words.
    """
    from polyscore import generate

    named = {"steps": steps, "solver": solver, "token_solver": token_solver, "corrector": corrector, "guidance": guidance, "label": label}
    named["prompt"] = prompt
    options: dict[str, Any] = {k: v for k, v in named.items() if v is not None}
    with progress("editing") as bar:
        files = generate.edit(model, out, content, start, n, given, seed, batch_size, options, bar)
    say(f"{len(files)} files in {out}")


def inspect(path: str = "digits") -> None:
    """Show what a composer, a checkpoint or a result file is and how it was made.

    Args:
        path: folder, shipped name or hub id of a composer; a checkpoint's .json or .safetensors; or a file that `sample` wrote.
    """
    from polyscore.report.describe import describe

    say(describe(path))


def demo(out: str = "outputs/demo", seed: int = 0) -> None:
    """Pictures to speech, speech to pictures, both together: one self-contained page.

    Args:
        out: folder of the page, index.html.
        seed: of everything that is drawn.
    """
    from polyscore.report.demo import run_demo

    with progress("demo") as bar:
        page = run_demo(out, seed, bar)
    say(f"open {page}")


def _commands() -> dict[str, Any]:
    from polyscore.adapters.commands import compose, join
    from polyscore.data.commands import DATA
    from polyscore.recipes.commands import EVALUATE, RECIPE, TRAIN

    own = {"demo": demo, "sample": sample, "edit": edit, "compose": compose, "join": join}
    return own | {"train": TRAIN, "evaluate": EVALUATE, "recipe": RECIPE, "inspect": inspect, "data": DATA}


def _named(commands: dict[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The one command that the arguments begin with, or all of them: a parser of every option of every command takes a second."""
    name, *rest = arguments or [""]
    found = commands.get(name)
    if found is None or name == "_help":
        return commands
    if not isinstance(found, dict):
        return {name: found}
    return {name: _named(found, rest) | {k: v for k, v in found.items() if k == "_help"}}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Exit code 0: done; 2: a user's error, in one line; 130: interrupted, in one line."""
    # Before torch is loaded: threads that spin while they wait for one another make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from jsonargparse import auto_cli, set_parsing_settings

    from polyscore.usage import Parser

    if argv is None:
        start_the_others(sys.argv[1:])
    arguments = _rewrite(list(sys.argv[1:] if argv is None else argv))
    set_parsing_settings(docstring_parse_attribute_docstrings=False)
    try:
        if arguments == ["--version"]:
            import polyscore

            sys.stdout.write(f"polyscore {polyscore.__version__}\n")
            return 0
        auto_cli(
            _named(_commands(), arguments),
            args=arguments,
            as_positional=False,
            parser_class=Parser,
            prog="polyscore",
            description="Generative models trained apart, composed into one multimodal generator.",
        )
    except SystemExit as done:
        return int(done.code or 0)
    except PolyscoreError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is kept, and the same command goes on from there", 130)
    except MemoryError:
        return _fail("out of memory: expected a smaller --n, --batch_size or model", 2)
    except OSError as error:
        return _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 2)
    return 0


def _rewrite(arguments: list[str]) -> list[str]:
    """`--given a=x b=y` as `--given.a=x --given.b=y`, `--from` as `--repeat`, and `inspect PATH` as `inspect --path PATH`."""
    found: list[str] = []
    if arguments[:1] == ["inspect"] and arguments[1:] and not arguments[1].startswith("-"):
        arguments = ["inspect", "--path", *arguments[1:]]
    keyed, used = "", True
    for argument in [*arguments, "--"]:
        if argument.startswith("--"):
            if keyed and not used:
                found.append(keyed)
            keyed, used = (argument, False) if argument in _KEYED else ("", True)
            if not keyed:
                found.append("--repeat" + argument[6:] if argument.partition("=")[0] == "--from" else argument)
        elif keyed and re.match(r"\w+=", argument):
            found.append(f"{keyed}.{argument}")
            used = True
        else:
            found += [argument] if used else [keyed, argument]
            used = True
    return found[:-1]


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"polyscore: error: {' '.join(message.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
