"""The laws of the house, checked on the whole source: light imports, no network, types, docstrings, small files."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import shlex
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import polyscore

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "polyscore"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = ["polyscore", *sorted(m.name for m in pkgutil.walk_packages(polyscore.__path__, "polyscore.") if not m.name.endswith("__main__"))]
OPTIONAL = ("gradio", "multivae", "onnxruntime", "pocketsphinx", "tensorboard", "torchmetrics", "torchvision", "transformers", "wandb")
HEAVY = {"accelerate", "av", "diffusers", "librosa", "matplotlib", "numba", "sklearn", "soundfile", "transformers"}
MAY_BE_HEAVY = ("polyscore.adapters", "polyscore.cli", "polyscore.recipes", "polyscore.studio")
FORBIDDEN = ("cloudpickle", "dill", "joblib", "pickle", "shelve", "torchvision")

BLOCKED = f"""
import importlib, socket, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ImportError(name + " is blocked")

def refuse(*args, **kwargs):
    raise OSError("the network is blocked")

class Socket(socket.socket):
    connect = connect_ex = bind = sendto = refuse

sys.meta_path.insert(0, Blocked())
socket.socket = Socket
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def name_of(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def test_every_module_imports_without_network_and_optional_packages() -> None:
    done = run(BLOCKED + "for name in sys.argv[1:]:\n    importlib.import_module(name)\nprint(len(sys.argv) - 1)", *MODULES)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) == len(MODULES)


def test_the_block_blocks() -> None:
    for statement in (
        "import transformers",
        "import torchvision.io",
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socket().connect(('127.0.0.1', 9))",
    ):
        assert "is blocked" in run(BLOCKED + statement).stderr


def test_importing_polyscore_is_light() -> None:
    """Less than half a second beyond torch."""
    code = "import torch, time\nstart = time.perf_counter()\nimport polyscore\nprint(time.perf_counter() - start)"
    times = [float(run(code).stdout) for _ in range(3)]
    assert statistics.median(times) < 0.5, times


def test_heavy_packages_wait_until_they_are_needed() -> None:
    """No module imports them at its top, except the ones whose work they are."""
    modules = [name for name in MODULES if not name.startswith(MAY_BE_HEAVY)]
    done = run("import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\nprint(*sys.modules)", *modules)
    assert done.returncode == 0, done.stderr[-2000:]
    assert HEAVY & set(done.stdout.split()) == set()


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def test_no_pickles_no_torchvision_no_foreign_weights() -> None:
    calls = ("torch.load(", "torch.save(", "allow_pickle=True", "exec(")
    found = [f"{name_of(file)}: import {name}" for file in FILES for name in imports(file) if name.partition(".")[0] in FORBIDDEN]
    found += [f"{name_of(file)}: {call}" for file in FILES for call in calls if call in file.read_text(encoding="utf-8")]
    assert found == []


def functions(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Every function and its number of lines, without its docstring."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = node.body[0] if ast.get_docstring(node) else None
            yield node.name, lines(node) - (lines(text) if text else 0)


def lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_and_functions_stay_small() -> None:
    sizes = {name_of(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {name: n for name, n in sizes.items() if n >= 500} == {}
    long = {f"{name_of(file)}: {name}": n for file in FILES for name, n in functions(tree(file)) if n > 60}
    assert long == {}


def public(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Public classes, functions and methods. Overrides of dunder methods, overloads and property setters need no own docstring."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from public(node.body, owner)
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if any(ast.unparse(d).endswith(("overload", ".setter")) for d in node.decorator_list):
            continue
        yield owner + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public(node.body, f"{owner}{node.name}.")


def untyped(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    a = node.args
    values = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(v for v in (a.vararg, a.kwarg) if v)]
    missing = [v.arg for v in values if v.annotation is None and v.arg not in ("self", "cls")]
    return missing + ([] if node.returns is not None else ["return"])


def problems(file: Path) -> Iterator[str]:
    module = tree(file)
    if module.body and not ast.get_docstring(module):
        yield "the module has no docstring"
    for name, node in public(module.body):
        if not ast.get_docstring(node):
            yield f"{name} has no docstring"
        if not isinstance(node, ast.ClassDef) and untyped(node):
            yield f"{name} has no types for {untyped(node)}"


def test_the_public_surface_is_typed_and_documented() -> None:
    assert [f"{name_of(file)}: {problem}" for file in FILES for problem in problems(file)] == []


def test_nothing_is_left_open() -> None:
    words = ("TODO", "FIXME", "NotImplementedError", f"{ROOT}/")
    assert [f"{name_of(file)}: {word}" for file in FILES for word in words if word in file.read_text(encoding="utf-8")] == []


def test_everything_in_all_exists() -> None:
    for name in MODULES:
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", [])
        assert [f"{name}.{n}" for n in exported if not hasattr(module, n)] == []
        assert len(exported) == len(set(exported)), name


def test_dependencies_are_pinned_and_declared_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = project["dependencies"] + [d for group in project["optional-dependencies"].values() for d in group]
    names = {d.split(">")[0].split("[")[0].strip().lower().replace("_", "-") for d in wanted}
    assert names <= pinned
    assert "torchvision" not in pinned


def test_version_is_said_once() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == polyscore.__version__
    assert f"[{polyscore.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def commands() -> list[str]:
    """The commands in the fenced blocks of README and docs that start with polyscore, with continued lines joined."""
    found = []
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        fenced = re.findall(r"^```(\w*)\n(.*?)^```$", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        blocks = [text for language, text in fenced if language in ("", "sh", "bash", "shell", "console")]
        lines_ = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        lines_ = [re.sub(r"^accelerate launch .*? -m polyscore ", "polyscore ", line) for line in lines_]
        found += [line for line in lines_ if line.startswith("polyscore ")]
    return sorted(set(found))


@pytest.mark.skipif(not (SOURCE / "cli.py").exists(), reason="needs the command line")
@pytest.mark.parametrize("command", commands())
def test_documented_commands_parse(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --print_config a command is parsed and checked, but not run, beside the configuration of docs/use.md."""
    (written,) = re.findall(r"^```yaml\n# mine\.yaml\n(.*?)^```$", (ROOT / "docs" / "use.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(written)
    monkeypatch.chdir(tmp_path)
    cli = importlib.import_module("polyscore.cli")
    arguments = shlex.split(re.split(r"\s[|>&]", command)[0], comments=True)[1:]
    try:
        code = cli.main(arguments if arguments == ["--version"] else [*arguments, "--print_config"])
    except SystemExit as done:
        code = done.code
    assert code in (0, None), capsys.readouterr().err


def test_make_knows_its_targets() -> None:
    for target in ("venv", "demo", "test", "lint", "bench", "clean"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
