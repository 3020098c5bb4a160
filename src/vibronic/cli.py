"""The command line: each verb is a function of ``vibronic.verbs``, its signature its options and its YAML keys."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vibronic.core.errors import VibronicError, VibronicWarning


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; exit status 0 when done, 2 for a mistake told in one sentence, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.formatwarning = _one_line_warning
    try:
        return _run(arguments)
    except VibronicError as error:
        print(f"vibronic: {error}", file=sys.stderr)
        return 2
    except NotImplementedError as error:  # how ASE says that a calculator has no such property
        print(f"vibronic: {str(error).rstrip('.')}; choose another --engine", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vibronic: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except MemoryError:
        print("vibronic: out of memory; use fewer or smaller structures, or a smaller batch", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that went away
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"vibronic: {error.strerror or error}{where}; the same command goes on once that is mended", file=sys.stderr
        )
        return 2


_usual_warning = warnings.formatwarning


def _one_line_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if category is VibronicWarning:
        return f"vibronic: {message}\n"
    return _usual_warning(message, category, filename, lineno, line)


def _run(arguments: list[str]) -> int:
    from argparse import ArgumentError

    from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

    from vibronic import __version__, verbs

    set_parsing_settings(docstring_parse_attribute_docstrings=False)
    functions = {f.__name__: f for f in verbs.VERBS}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(functions))
        return 0
    if arguments[0] == "--version":
        print(f"vibronic {__version__}")
        return 0
    name, *rest = arguments
    if name not in functions:
        near = difflib.get_close_matches(name, functions, n=1)
        raise VibronicError(
            f"there is no verb '{name}'; " + (f"did you mean '{near[0]}'?" if near else "see 'vibronic --help'")
        )
    function = functions[name]
    parser = ArgumentParser(
        prog=f"vibronic {name}",
        description=_explanation(function),
        exit_on_error=False,
        formatter_class=_formatter(),
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with the same keys as the options")
    parser.add_function_arguments(function, as_positional=True, as_group=False)
    for action in parser._actions:
        if not action.option_strings:
            action.metavar = action.dest  # its YAML key; the choices stand beside it
    if kind := next((word for word in rest if word in verbs.KINDS.get(name, ())), None):
        _narrow(parser, kind, verbs.KINDS[name])
    try:
        settings = parser.instantiate(parser.parse_args(_spell(rest, function)))
    except (ArgumentError, TypeError, OSError) as error:
        raise VibronicError(_one_line(str(error), function)) from error
    except SystemExit as stop:  # --help has been printed
        return int(stop.code or 0)
    settings = {k: v for k, v in vars(settings).items() if k in inspect.signature(function).parameters}
    function(**settings)
    return 0


def _overview(functions: dict[str, Callable[..., Any]]) -> str:
    lines = ["usage: vibronic VERB ...", "", "Physics-informed learning for molecules and crystals.", ""]
    lines += [f"  {name:10s} {(f.__doc__ or '').splitlines()[0]}" for name, f in functions.items()]
    lines += ["", "'vibronic VERB --help' explains a verb. New here? 'vibronic demo'."]
    return "\n".join(lines)


def _explanation(function: Callable[..., Any]) -> str:
    """The docstring up to its Args."""
    return re.split(r"\n\s*(?:Args|Returns|Raises):", inspect.getdoc(function) or "")[0]


def _narrow(parser: argparse.ArgumentParser, kind: str, kinds: dict[str, set[str]]) -> None:
    """Leave in the help what one kind of a verb takes, and what is said of it."""
    others = [other for other in kinds if other != kind]
    of_another = re.compile(rf"(vibronic \w+ )?({'|'.join(map(re.escape, others))})\b")
    lines = (parser.description or "").splitlines()
    parser.description = "\n".join(line for line in lines if not of_another.match(line.strip()))
    foreign = set().union(*kinds.values()) - kinds[kind]
    for action in parser._actions:
        if action.dest in foreign:
            action.help = argparse.SUPPRESS
        elif action.help:
            spoken_of, said = kind, []
            for part in re.split(r";\s+", action.help.rstrip(".")):
                named, colon, rest = part.partition(": ")
                spoken_of = named if colon and named in kinds else spoken_of
                if spoken_of == kind:
                    said.append(rest if named == kind else part)
            action.help = "; ".join(said) + "."


def _formatter() -> type:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        """Keeps the paragraphs and examples of a docstring."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "\n".join(indent + line for line in text.splitlines())

    return Formatter


def _spell(arguments: list[str], function: Callable[..., Any]) -> list[str]:
    """What people type, in jsonargparse's spelling: ``--supercell 2 2 2``, ``--relax`` alone, ``-n 5``, dashes."""
    hints = typing.get_type_hints(function)
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if arguments and not arguments[0].startswith("-") and first is not None and first.default is not first.empty:
        arguments = [f"--{first.name}", *arguments]  # an optional argument may be given by its place too
    spelled: list[str] = []
    k = 0
    while k < len(arguments):
        token = arguments[k]
        k += 1
        if short := re.fullmatch(r"-n(=|$|(?=\d))(.*)", token):
            token = f"--n={short[2]}" if short[2] else "--n"
        if not token.startswith("--"):
            spelled.append(token)
            continue
        option, equals, value = token.partition("=")
        option = "--" + option[2:].replace("-", "_")
        hint = hints.get(option[2:])
        values = [value] if equals else []
        if not equals:
            while k < len(arguments) and (not arguments[k].startswith("-") or re.fullmatch(r"-[\d.].*", arguments[k])):
                values.append(arguments[k])
                k += 1
                if not _is_list(hint):
                    break
        if values == [""] and _is_path(hint):
            raise VibronicError(f"{token.partition('=')[0]} is empty; give it a path, or leave it out")
        if _is_list(hint) and not (len(values) == 1 and values[0].startswith("[")):
            items = ",".join(v for value in values for v in value.split(","))
            if not items.strip(" ,"):
                raise VibronicError(f"{token.partition('=')[0]} is empty; give it values, or leave it out")
            several = any(typing.get_origin(part) is list for part in _parts(hint))
            before = next((k for k, one in enumerate(spelled) if one.startswith(f"{option}=[")), None)
            if before is None or not several:
                spelled.append(f"{option}=[{items}]")
            else:  # given twice, where the parser would keep the last
                spelled[before] = f"{spelled[before][:-1]},{items}]"
        elif hint is bool and values and (equals or values[0].lower() in ("true", "false")):
            spelled.append(f"{option}={values[0].lower()}")
        elif hint is bool:
            spelled.append(f"{option}=true")
            spelled.extend(values)  # what follows a switch is a positional argument
        else:
            spelled.append(f"{option}={values[0]}" if values else option)
    return spelled


def _is_list(hint: Any) -> bool:
    return any(typing.get_origin(p) in (list, tuple) for p in _parts(hint))


def _is_path(hint: Any) -> bool:
    return Path in _parts(hint)


def _parts(hint: Any) -> tuple[Any, ...]:
    """The type itself, or those of an optional one."""
    return typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)


def _one_line(message: str, function: Callable[..., Any]) -> str:
    """jsonargparse's message as one sentence."""
    text = " ".join(message.replace("Parser key", "option").split()).rstrip(".")
    if text.startswith("Unexpected config"):
        text = "the file of --config must hold lines like 'key: value'"
    text = re.sub(r"Expected an? (.*?)\.? Got value: (.*)", r"expected \1, got '\2'", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    union = r"Does not validate against any of the Union subtypes Subtypes: \[(.*?), NoneType\].* Given value: (.*)"
    text = re.sub(union, r"expected \1, got '\2'", text)
    unknown = re.match(r"(?:unrecognized arguments: --|Option ')(\w+)", text)
    near = difflib.get_close_matches(unknown[1], inspect.signature(function).parameters, n=1) if unknown else []
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{text} ({hint}see 'vibronic {function.__name__} --help')"


if __name__ == "__main__":
    sys.exit(main())
