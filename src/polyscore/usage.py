"""What jsonargparse says about wrong options, as one clear line."""

from __future__ import annotations

import re
import sys
from typing import NoReturn

from jsonargparse import ArgumentParser

__all__ = ["Parser", "one_line"]


class Parser(ArgumentParser):
    """A parser whose errors are one line on standard error and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what was expected and what was found."""
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "").split(" [")[0]
        sys.stderr.write(f"polyscore: error: {one_line(message)} (see `{command} --help`)\n")
        self.exit(2)


def one_line(message: str) -> str:
    """A parser's message without line breaks, parser keys as options, types as words.

    'Parser key "n": Expected a <class 'int'>. Got value: x' -> '--n: expected int, found x'.
    """
    text = " ".join(message.split())
    text = re.sub(r"^Problem with given class_path .*? Errors?: ", "", text)
    text = re.sub(r"Does not validate against any of the Union subtypes .*Given value: ", lambda found: _union(found[0]), text)
    text = re.sub(r'Parser key "([\w.\-]+)":', r"--\1:", text)
    text = re.sub(r"Expected an? (.*?)\. Got value: (\S.*)", lambda found: f"expected {_words(found[1])}, found {found[2]}", text)
    text = re.sub(r'expected "(?:[\w.\-]*\.)?subcommand" to be one of \{(.*?)\}, but it was not provided\.?', _subcommand, text)
    text = re.sub(r"the following arguments are required: (.*)", _required, text)
    text = re.sub(r"^argument (--[\w.\-]+): expected one argument", r"\1: expected a value, found none", text)
    text = re.sub(r"--config: File does not exist: '(.*)'", r"\1: expected a configuration file, found nothing there", text)
    text = re.sub(r"argument subcommand: invalid choice: (\S+) \(choose from (.*)\)", r"unknown command \1: expected one of \2", text)
    return re.sub(r"unrecognized arguments: (\S+).*", lambda found: _unknown(found[1]), text)


def _union(text: str) -> str:
    """The alternatives of a union that did not fit, without None and without repetition."""
    found = [_words(name) for name in re.findall(r"- Expected an? (.*?)(?= - |\. Got| Given value type)", text)]
    kinds = list(dict.fromkeys(name for name in found if name != "NoneType"))
    return f"expected {' or '.join(kinds) or 'another value'}, found "


def _words(kind: str) -> str:
    """The name of a type: "<class 'int'>" -> "int", "typing.Literal['a', 'b']" -> "a, b"."""
    kind = re.sub(r"<class '(?:[\w]+\.)*(\w+)'>", r"\1", kind)
    return re.sub(r"typing\.Literal\[(.*?)\]", lambda found: f"one of {found[1]}".replace("'", ""), kind).replace("typing.", "")


def _subcommand(found: re.Match[str]) -> str:
    return f"expected a command: {', '.join(found[1].replace(' ', '').split(','))}"


def _required(found: re.Match[str]) -> str:
    return f"expected {' and '.join('--' + name.split('.')[-1] for name in found[1].split(', '))}, found none"


def _unknown(argument: str) -> str:
    return f"unknown option {argument}" if argument.startswith("-") else f"expected an option (--NAME VALUE), found {argument!r}"
