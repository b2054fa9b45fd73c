"""The command line: options, configuration files, exit codes, one line an error."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
import yaml

from polyscore import cli
from polyscore.composer import Composer
from polyscore.denoisers import Independent
from polyscore.errors import PolyscoreError
from polyscore.guided import Guided
from polyscore.media import read_image, read_metadata
from polyscore.networks.mlp import JointDenoiser
from polyscore.networks.ratio import RatioMLP
from polyscore.ratios.discriminator import ConditionGuidedRatio, Discriminator
from polyscore.sampling import sample
from polyscore.usage import one_line

COMMANDS = ("demo", "sample", "train", "evaluate", "inspect", "data")


def read_values(file):
    return json.loads(file.read_text())["values"]


def failed(found, *words):
    """Exit code 2, nothing on standard output, one line with these words on standard error."""
    code, out, err = found
    assert (code, out) == (2, ""), (code, out, err)
    assert err.startswith("polyscore: error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert "Traceback" not in err and len(err) < 500, err
    for word in words:
        assert word in err, err


def test_help_and_version(run_cli):
    code, out, _ = run_cli("--help")
    assert code == 0 and all(name in out for name in COMMANDS)
    assert run_cli("--version")[:2] == (0, "polyscore 0.1.0\n")
    for name in COMMANDS:
        assert run_cli(name, "--help")[0] == 0


def test_sample_writes_a_file_a_modality(run_cli, tiny_model, tmp_path):
    code, out, _ = run_cli("sample", "--model", tiny_model, "--n", 2, "--seed", 5, "--steps", 3, "--out", tmp_path)
    assert (code, out) == (0, f"4 files in {tmp_path}\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000_image.png", "0000_speech.wav", "0001_image.png", "0001_speech.wav"]
    found = read_metadata(tmp_path / "0001_speech.wav")
    assert found["index"] == 1 and found["modality"] == "speech"
    assert found["run"]["seed"] == 5 and found["run"]["options"] == {"steps": 3, "guidance": 1.0}


def test_given_files(run_cli, tiny_model, tmp_path, seven, three):
    for given, made in ((f"image={seven}", "speech.wav"), (f"speech={three}", "image.png")):
        assert run_cli("sample", "--model", tiny_model, "--n", 1, "--given", given, "--out", tmp_path / made)[0] == 0
        assert [p.name for p in (tmp_path / made).iterdir()] == [f"0000_{made}"]
    both = run_cli("sample", "--model", tiny_model, "--given", f"image={seven}", f"speech={three}", "--out", tmp_path / "none")
    failed(both, "all modalities", "nothing is left to generate")
    assert not (tmp_path / "none").exists()


def test_from_repeats_a_result(run_cli, tiny_model, tmp_path, seven):
    run_cli("sample", "--model", tiny_model, "--n", 3, "--batch_size", 2, "--seed", 9, "--out", tmp_path / "joint")
    run_cli("sample", "--model", tiny_model, "--n", 2, "--given", f"image={seven}", "--guidance", 2, "--out", tmp_path / "given")
    for number, source in enumerate(["joint/0001_image.png", "joint/0002_speech.wav", "given/0000_speech.wav"]):
        again, before = tmp_path / f"again{number}", (tmp_path / source).parent
        assert run_cli("sample", "--from", tmp_path / source, "--out", again)[0] == 0
        assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in before.iterdir()}
    assert run_cli("sample", f"--from={tmp_path / 'joint/0000_image.png'}", "--out", tmp_path / "last")[0] == 0
    assert read_image(tmp_path / "last/0002_image.png").equal(read_image(tmp_path / "joint/0002_image.png"))


def test_correctors_by_name(run_cli, tiny_model, tmp_path):
    """--corrector costs an evaluation a step, is kept with the result, and a wrong one ends in one line."""
    options = ["--model", tiny_model, "--n", 1, "--steps", 3, "--grid", "score_sde", "--solver", "euler_maruyama_even"]
    assert run_cli("sample", *options, "--corrector", "snr:0.2", "--out", tmp_path / "a")[0] == 0
    assert run_cli("sample", *options, "--corrector", "none", "--out", tmp_path / "b")[0] == 0
    a, b = (tmp_path / name / "0000_image.png" for name in "ab")
    assert read_metadata(a)["run"]["options"]["corrector"] == "snr:0.2" and not read_image(a).equal(read_image(b))
    assert run_cli("sample", "--from", a, "--out", tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / a.name).read_bytes() == a.read_bytes()
    failed(run_cli("sample", *options, "--corrector", "best"), "corrector 'best': expected one of none, langevin")


def test_config_files_and_overrides(run_cli, tiny_model, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({"model": str(tiny_model), "n": 1, "steps": 2, "seed": 3, "out": str(tmp_path / "a")}))
    assert run_cli("sample", "--config", config)[0] == 0
    assert run_cli("sample", "--config", config, "--seed", 4, "--out", tmp_path / "b")[0] == 0
    a, b = (read_metadata(tmp_path / name / "0000_image.png")["run"] for name in "ab")
    assert (a["seed"], b["seed"], a["options"]["steps"], b["options"]["steps"]) == (3, 4, 2, 2)


def test_every_field_can_be_printed_and_read_back(run_cli, tmp_path):
    for number, command in enumerate((["sample"], ["train", "digits-joint"], ["evaluate", "digits"], ["inspect"], ["demo"])):
        code, out, _ = run_cli(*command, "--print_config")
        assert code == 0
        config = tmp_path / f"{number}.yaml"
        config.write_text(out)
        assert run_cli(*command, "--config", config, "--print_config")[:2] == (0, out)
        assert run_cli("--config", _nested(config, command), *command, "--print_config")[:2] == (0, out)
    fields = yaml.safe_load(run_cli("train", "digits-joint", "--training.steps", 7, "--network.width", 9, "--print_config")[1])
    assert fields["training"]["steps"] == 7 and fields["network"]["width"] == 9 and fields["objective"]["joint"] == 0.5


def test_only_the_command_that_is_asked_for_gets_a_parser():
    """Whatever is not the name of a command leaves all of them, so that messages and help list them."""
    commands = {"a": print, "b": {"_help": "both", "c": len, "d": max}}
    assert cli._named(commands, ["a", "b"]) == {"a": print}
    assert cli._named(commands, ["b", "d", "--x"]) == {"b": {"_help": "both", "d": max}}
    assert cli._named(commands, ["b", "_help"]) == cli._named(commands, ["b"]) == {"b": commands["b"]}
    for arguments in ([], ["--help"], ["--config", "a.yaml", "a"], ["c"], ["_help"]):
        assert cli._named(commands, arguments) == commands
    for arguments in (["inspect", "--help"], ["data", "prepare", "--help"], ["data", "prepare", "--colour", "red"]):
        assert _said(arguments, cli._named) == _said(arguments, lambda found, _: found)


def _said(arguments, named):
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as error:
        patch.setattr(cli, "_named", named)
        return cli.main(arguments), out.getvalue(), error.getvalue()


def _nested(config, command):
    """The same fields as one file for the whole program."""
    content = yaml.safe_load(config.read_text())
    for name in reversed(command):
        content = {name: content}
    config.write_text(yaml.safe_dump(content))
    return config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["expected a command", "sample"]),
        (["draw"], ["unknown command 'draw'", "'sample'"]),
        (["sample", "--n", "many"], ["--n: expected int, found many", "polyscore sample --help"]),
        (["sample", "--n"], ["--n: expected a value"]),
        (["sample", "--colour", "red"], ["unknown option --colour"]),
        (["sample", "seven.png"], ["expected an option", "'seven.png'"]),
        (["sample", "--given", "seven.png"], ["--given: expected dict, found seven.png"]),
        (["sample", "--given"], ["--given: expected a value"]),
        (["sample", "--solver", "best"], ["--solver: expected one of dpmpp, dpmpp3m,", "found best"]),
        (["sample", "--steps", "2.5"], ["--steps: expected int, found 2.5"]),
        (["sample", "--config", "/nowhere.yaml"], ["/nowhere.yaml: expected a configuration file"]),
        (["train"], ["expected a command: digits-"]),
        (["train", "digits-judge"], ["expected --modality"]),
        (["train", "digits-joint", "--training.steps", "0"], ["steps: expected 1 or more, found 0"]),
        (["train", "digits-joint", "--training.lr", "fast"], ["--training.lr: expected float, found fast"]),
        (["data", "prepare", "--source", "x"], ["expected --out and --modalities"]),
        (["train", "digits-image-codec", "--latent", "0", "--data", "/nowhere"], ["expected"]),
        (["data", "prepare", "--source", "x", "--out", "y", "--modalities", '{"a": {"kind": "image", "shape": 4}}'], ["shape", "found 4"]),
        (["data", "prepare", "--source", "x", "--out", "y", "--modalities", "{}"], ["at least one modality"]),
        (["inspect", "some/thing.json"], ["some/thing.json: expected a folder"]),
        (["inspect", "nowhere"], ["nowhere: expected a folder with composer.json"]),
        (["sample", "--model", "nowhere"], ["nowhere: expected a folder with composer.json"]),
    ],
)
def test_wrong_options_end_in_one_line(run_cli, arguments, words):
    failed(run_cli(*arguments), *words)


@pytest.mark.parametrize("content", ["n: [1", "n: many", "colour: red", "- 1", "\x00"])
def test_wrong_configuration_files_end_in_one_line(run_cli, tmp_path, content):
    (tmp_path / "wrong.yaml").write_text(content)
    failed(run_cli("sample", "--config", tmp_path / "wrong.yaml"))


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PolyscoreError("two\nlines"), 2, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/full"), 2, "/full: No space left on device"),
        (MemoryError(), 2, "memory"),
    ],
)
def test_exit_codes(run_cli, monkeypatch, error, code, words):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("polyscore.report.describe.describe", fail)
    found = run_cli("inspect")
    assert found[0] == code and found[1] == ""
    assert words in found[2] and found[2].count("\n") == 1


def test_messages_of_the_parser():
    assert one_line("Parser key \"n\":\n  Expected a <class 'int'>. Got value: x") == "--n: expected int, found x"
    assert one_line('expected "subcommand" to be one of {a,b}, but it was not provided.') == "expected a command: a, b"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["--given", "a=x y=z", "--given", "b=2", "--seed", "1"], ["--given.a=x y=z", "--given.b=2", "--seed", "1"]),
        (["--given", "a=1", "b=2", "--n=3"], ["--given.a=1", "--given.b=2", "--n=3"]),
        (["--given", '{"a": "x=y"}', "--from", "r.png"], ["--given", '{"a": "x=y"}', "--repeat", "r.png"]),
    ],
)
def test_rewriting(written, read):
    assert cli._rewrite(["sample", *written]) == ["sample", *read]
    assert cli._rewrite(["inspect", "x.png"]) == ["inspect", "--path", "x.png"]


def test_token_solvers_and_correctors_by_name(run_cli, tmp_path):
    """On the shipped words: both are stored with the run, change the result, and wrong ones end in one line."""
    command = ["sample", "--model", "words", "--n", 2, "--steps", 4, "--given", "image=" + str(_blank(tmp_path))]
    found = {}
    for name, more in (
        ("plain", []),
        ("sure", ["--token_solver", "confidence:0.9"]),
        ("gibbs", ["--corrector", "gibbs:2:rounds=2"]),
    ):
        assert run_cli(*command, *more, "--out", tmp_path / name)[0] == 0
        found[name] = read_metadata(tmp_path / name / "0000_word.json")["run"]["options"]
        assert run_cli("sample", "--from", tmp_path / name / "0001_word.json", "--out", tmp_path / f"{name}2")[0] == 0
        assert (tmp_path / name / "0000_word.json").read_bytes() == (tmp_path / f"{name}2" / "0000_word.json").read_bytes()
    assert found["sure"]["token_solver"] == "confidence:0.9" and found["gibbs"]["corrector"] == "gibbs:2:rounds=2"
    failed(run_cli(*command, "--corrector", "gibs", "--out", tmp_path / "x"), "corrector 'gibs'", "langevin, snr, gibbs")
    failed(run_cli(*command, "--token_solver", "best", "--out", tmp_path / "x"), "token solver 'best'", "maskgit")


def _blank(folder):
    from polyscore.media import write_image

    return write_image(folder / "digit.png", torch.nn.functional.pad(torch.ones(1, 16, 4), (12, 12, 6, 6)))


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """Folder of two untrained experts, x and y, guided by an untrained ratio that knows one time for both."""
    small = {"width": 16, "depth": 1, "hidden": 16, "embed": 16}
    torch.manual_seed(0)
    base = Independent(JointDenoiser({"x": (1,)}, **small), JointDenoiser({"y": (1,)}, **small))
    network = RatioMLP({"x": (1,), "y": (1,)}, **small)
    torch.nn.init.normal_(network.head.weight)
    defaults = {"steps": 4, "conditioning": "noised"}
    return Composer({}, Guided(base, Discriminator(network, base.paths)), defaults).save(tmp_path_factory.mktemp("joined") / "model")


def test_a_joined_model_is_guided_as_asked(run_cli, joined, tmp_path):
    """Scale, window and period from the command line are those of `Guided`, are kept with the files, and change no default."""
    options = ["--scale", "x=3", "y=0.5", "--window", "[0.0, 0.6]", "--every", 2]
    assert run_cli("sample", "--model", joined, "--n", 2, *options, "--out", tmp_path / "a") == (0, f"4 files in {tmp_path / 'a'}\n", "")
    run = read_metadata(tmp_path / "a/0001_x.json")["run"]
    changes = {"scale": {"x": 3.0, "y": 0.5}, "window": [0.0, 0.6], "every": 2}
    assert run["options"] == {"steps": 4, "conditioning": "noised"} | changes
    guided = Composer.load(joined).denoiser
    expected = sample(Guided(guided.denoiser, guided.ratio, changes["scale"], (0.0, 0.6), 2), 2, steps=4)
    assert read_values(tmp_path / "a/0001_x.json") == pytest.approx(expected["x"][1].tolist(), abs=1e-5)
    assert abs(float(expected["x"][1] - sample(guided, 2, steps=4)["x"][1])) > 1e-3
    assert run_cli("sample", "--from", tmp_path / "a/0000_y.json", "--out", tmp_path / "b")[0] == 0
    assert (tmp_path / "b/0001_x.json").read_bytes() == (tmp_path / "a/0001_x.json").read_bytes()
    assert guided.changed({"y": 0}).scale == {"x": 1.0, "y": 0.0} and guided.changed(2.0).scale == {"x": 2.0, "y": 2.0}
    run_cli("sample", "--model", joined, "--scale", 0, "--n", 1, "--out", tmp_path / "c")
    assert read_values(tmp_path / "c/0000_x.json") == pytest.approx(sample(guided.denoiser, 1, steps=4)["x"][0].tolist(), abs=1e-5)


def test_the_correction_is_guided_by_a_label(run_cli, joined, tiny_model, tmp_path):
    """As the authors' code does: the ratio told the label, over the ratio told none."""
    small = {"width": 16, "depth": 1, "hidden": 16, "embed": 16, "classes": 3}
    torch.manual_seed(1)
    base, network = JointDenoiser({"x": (1,), "y": (1,)}, **small), RatioMLP({"x": (1,), "y": (1,)}, **small)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.5)
    ratio = Discriminator(network, base.paths)
    model = Composer({}, Guided(base, ratio), {"steps": 4}).save(tmp_path / "model")
    assert run_cli("sample", "--model", model, "--n", 2, "--label", 1, "--correction", 2, "--out", tmp_path / "a")[0] == 0
    label = torch.tensor([1, 1])
    expected = sample(Guided(base, ConditionGuidedRatio(ratio, 2.0, -1)), 2, condition=label, steps=4)
    assert read_values(tmp_path / "a/0001_x.json") == pytest.approx(expected["x"][1].tolist(), abs=1e-5)
    assert abs(float(expected["x"][1] - sample(Guided(base, ratio), 2, condition=label, steps=4)["x"][1])) > 1e-3
    out = ["--correction", 2, "--out", tmp_path / "none"]
    failed(run_cli("sample", "--model", model, *out), "correction 2.0: expected a label or a prompt")
    failed(run_cli("sample", "--model", tiny_model, *out), "correction 2.0")


def test_one_modality_given_to_a_joined_model(run_cli, joined, tmp_path):
    (tmp_path / "x.json").write_text('{"values": [0.5]}')
    arguments = ["sample", "--model", joined, "--given", f"x={tmp_path / 'x.json'}", "--n", 2]
    assert run_cli(*arguments, "--out", tmp_path / "y")[0] == 0
    assert sorted(p.name for p in (tmp_path / "y").iterdir()) == ["0000_y.json", "0001_y.json"]
    failed(run_cli(*arguments, "--conditioning", "time", "--out", tmp_path / "z"), "trained with one time for all modalities")


def test_guidance_that_a_model_cannot_have(run_cli, joined, tiny_model, tmp_path):
    out = ["--out", tmp_path / "none"]
    failed(run_cli("sample", "--model", joined, "--guidance", 1, *out), "guidance 1", "guided by a ratio, whose strength is its scale")
    failed(run_cli("sample", "--model", joined, "--scale", "z=1", *out), "scale for modality 'z'", "['x', 'y']")
    failed(run_cli("sample", "--model", joined, "--window", "[0.9, 0.1]", *out), "window: expected two times", "found [0.9, 0.1]")
    failed(run_cli("sample", "--model", joined, "--every", 0, *out), "every: expected a whole number of at least 1")
    for option, value in (("scale", 2), ("every", 2)):
        failed(run_cli("sample", "--model", tiny_model, f"--{option}", value, *out), f"{option} 2", "expected a model guided by a ratio")
    apart = Composer({}, Composer.load(joined).denoiser.denoiser).save(tmp_path / "apart")
    failed(run_cli("sample", "--model", apart, "--guidance", 2, *out), "guidance 2", "modalities that are independent")
    failed(run_cli("sample", "--model", apart, "--window", "[0.0, 0.5]", *out), "or guidance to act in it, found Independent")
    assert run_cli("sample", "--model", tiny_model, "--window", "[0.0, 0.5]", "--steps", 2, "--n", 1, "--out", tmp_path / "some")[0] == 0
