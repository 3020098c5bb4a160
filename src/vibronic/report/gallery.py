"""What the pages about generated crystals share: a gallery, how crystals and numbers are told, and how files are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import covalent_radii

from vibronic.core.errors import VibronicError
from vibronic.report.html import Report

GALLERY = 12
"""Crystals on a page; each takes one of the 16 WebGL contexts that browsers allow."""

ESTIMATE = (
    "Values of crystals are **the model's own estimates**: what the same network says of what they would settle into. No calculation and no independent "
    "model stands behind them; a network can be wrong about what it makes in the same way as it was wrong in making it, and with guidance above 1 it has chosen "
    "the names of atoms by these very estimates."
)


@contextmanager
def sound(place: Path) -> Iterator[None]:
    """Missing pieces of files are told in a sentence."""
    try:
        yield
    except VibronicError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise VibronicError(f"{place} is damaged or of another version ({error}); make it again") from error


def content(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where there is none."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise VibronicError(f"{path} cannot be read ({error.strerror})") from error


def gallery(page: Report, crystals: Sequence[Atoms], units: Mapping[str, str], came: str = "not relaxed") -> None:
    """The first valid and new crystals of every request in turn; ``came`` says what was done to them."""
    page.section("Gallery")
    new = [a for a in crystals if a.info["valid"] and a.info.get("unique") and a.info.get("novel")]
    shown = new or [a for a in crystals if a.info["valid"]]
    if not shown:
        page.note("None of the crystals is valid; there is nothing to show. A longer training may help.")
        return
    if not new:
        page.note("None of the valid crystals is new: those below are in the training set.")
    turns: dict[int, int] = {}
    order: list[tuple[int, int, int]] = []
    for atoms in shown:
        group = int(atoms.info.get("group", 0))
        turns[group] = turns.get(group, -1) + 1
        order.append((turns[group], group, len(order)))
    chosen = sorted(sorted(order)[:GALLERY], key=lambda place: place[1:])
    page.text(
        f"{len(chosen)} of {len(shown)} {'valid, unique and new' if new else 'valid'} crystals: the first ones drawn"
        f"{' for each request' if len(turns) > 1 else ''}, {came} and not picked by eye. Drag to turn, "
        "click and scroll to zoom, double-click to reset."
    )
    page.gallery((_placed(shown[k]), _caption(shown[k], units)) for _, _, k in chosen)


def _placed(atoms: Atoms) -> Atoms:
    """With the largest atom at the corners of the cell, where most people draw it; generated crystals have any origin."""
    moved = atoms.copy()
    moved.positions -= moved.positions[covalent_radii[atoms.numbers].argmax()]
    moved.wrap(eps=1e-3)
    return moved


def _caption(atoms: Atoms, units: Mapping[str, str]) -> str:
    said = [f"**{atoms.get_chemical_formula('metal', empirical=True)}**, {group_name(atoms)}"]
    info = atoms.info
    for name in dict.fromkeys(k.rpartition("_")[0] for k in info if k.endswith(("_asked", "_estimate"))):
        known = {"asked": info.get(f"{name}_asked"), "estimated": info.get(f"{name}_estimate")}
        amounts = ", ".join(f"{what} {told(value)}" for what, value in known.items() if value is not None)
        said.append(f"{name} {amounts} {units.get(name, '').removeprefix('1')}".rstrip())
    return "; ".join(said)


def group_name(atoms: Atoms) -> str:
    """Symbol and number of the space group that a file gives."""
    from ase.spacegroup import Spacegroup

    number = int(atoms.info.get("spacegroup", 0))
    return f"{Spacegroup(number).symbol.replace(' ', '')} ({number})" if number else "space group unknown"


def with_units(name: str, units: Mapping[str, str]) -> str:
    """A property with its unit, where it has one."""
    return f"{name} ({units[name]})" if units.get(name, "1") != "1" else name


def is_number(value: Any) -> bool:
    """Whether a file gave a finite number, not a bound in words or nothing."""
    return isinstance(value, int | float) and math.isfinite(value)


def told(value: Any) -> str:
    """A number in three digits, anything else as it is."""
    return f"{value:.3g}".replace("-", "−") if is_number(value) else str(value)
