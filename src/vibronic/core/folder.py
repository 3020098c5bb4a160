"""The folder of a long run: bound to one plan from the start, and readable for a report once the run is finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import write_json


def content(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, None for a damaged one."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


def check_plan(out: Path, plan: Mapping[str, Any]) -> None:
    """Refuse a folder that is bound to another plan.

    Raises:
        VibronicError: it is; the first of what differs is named.
    """
    path, wanted = out / "plan.json", json.loads(json.dumps(plan))
    if not path.exists() or (found := content(path)) == wanted:
        return
    other = [k for k in wanted if not isinstance(found, dict) or found.get(k) != wanted[k]]
    said = (
        f" ({other[0]}: {found.get(other[0])} there, {wanted[other[0]]} here)"
        if other and isinstance(found, dict)
        else ""
    )
    raise VibronicError(f"{out} holds a run with another plan{said}; choose another --out or delete it")


def bind(out: Path, plan: Mapping[str, Any]) -> None:
    """Write ``plan.json``, so that the same plan goes on in this folder and no other begins.

    Raises:
        VibronicError: the folder holds another one.
    """
    check_plan(out, plan)
    write_json(out / "plan.json", json.loads(json.dumps(plan)))


def belongs(folder: Path, study: str) -> bool:
    """Whether the plan in a folder is one of this study."""
    try:
        return json.loads((Path(folder) / "plan.json").read_text())["study"] == study
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return False


@contextmanager
def finished(folder: Path, study: str) -> Iterator[dict[str, Any]]:
    """The ``results.json`` of a study; what its report needs is taken within, where a missing piece is told in a sentence.

    Raises:
        VibronicError: the study is not finished, or its results are damaged.
    """
    try:
        yield json.loads((Path(folder) / "results.json").read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VibronicError(
            f"{folder} holds no finished study; run 'vibronic study {study} --out {folder}' first"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError) as error:
        raise VibronicError(
            f"{folder}/results.json is damaged or of another version; run the study again with another --out"
        ) from error
