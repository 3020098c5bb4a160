"""Pages that explain a model: which bonds move its predictions, and which vibrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.explain.attribution import Attribution
from vibronic.explain.differences import Differences, agreement
from vibronic.explain.fidelity import Fidelity
from vibronic.explain.summary import Leading, Share
from vibronic.explain.vibrations import Response, Thermal, by_set
from vibronic.report import plots
from vibronic.report.crystal import Bond
from vibronic.report.explain_plots import fidelity_curve, mode_contributions
from vibronic.report.html import Report

REACH = 1.3
"""Pairs up to this multiple of the sum of their covalent radii are drawn as bonds; an attribution goes on to the cutoff."""
POINTS = 4000
"""Bonds in a figure."""
SWING = 0.45
"""Angstrom; of the atom that moves most in an animation."""
ANIMATED = 3
LISTED = 12
"""Sets of degenerate modes in the table."""


def drawn_bonds(atoms: Atoms, found: Attribution) -> tuple[list[Bond], float]:
    """The short bonds for the viewer, weighted by |attribution| relative to the largest one drawn, and that one."""
    from ase.data import covalent_radii

    radii = covalent_radii[atoms.numbers]
    keep = np.flatnonzero(found.length < REACH * (radii[found.i] + radii[found.j]))
    top = float(np.abs(found.value[keep]).max(initial=0.0))
    scale = top or 1.0
    shifts = [(int(a), int(b), int(c)) for a, b, c in found.shift[keep]]
    bonds: list[Bond] = [
        (int(found.i[k]), int(found.j[k]), shift, float(abs(found.value[k]) / scale)) for k, shift in zip(keep, shifts)
    ]
    return bonds, top


def why(
    path: Path,
    title: str,
    frames: Sequence[Atoms],
    means: Sequence[Attribution],
    table: Sequence[Share],
    answer: Leading,
    fidelity: Fidelity | None,
    target: tuple[str, str],
    record: Mapping[str, Any],
) -> None:
    """The page of ``vibronic explain``.

    Args:
        frames, means: structures and their attributions, averaged over models.
        table, answer: from :mod:`vibronic.explain.summary`.
        fidelity: None where it was not asked for.
        target: name and unit.
    """
    name, unit = target
    page = Report(f"Which bonds move the {name}?", title)
    page.section("Is it one kind of bond?")
    page.text(f"**{_sentence(answer.sentence())}**")
    page.text(
        "Every bond is faded in from nothing to whole; its attribution is the integral of the prediction's derivative along the way "
        "(integrated gradients). Attributions explain the model: read its score first. They start from atoms without bonds, which "
        "no model was trained on."
    )
    columns = ["bond", "number", f"mean |attribution| ({unit})", "share of all (%)", "share of bonds (%)"]
    page.table(
        columns,
        [_row(r, r.kind) for r in table if r.low is None],
        "By kind of bond, all pairs within the cutoff; half widths of 95 % intervals over models behind ±.",
    )
    rows = [
        {"bond": str(kind), "length": d, "weight": abs(v)}
        for a in means
        for kind, d, v in zip(a.kinds, a.length, a.value, strict=True)
    ]
    top = max(row["weight"] for row in rows) or 1.0
    shown = [{**row, "weight": row["weight"] / top} for row in rows[:: max(1, -(-len(rows) // POINTS))]]
    page.figure(
        plots.attribution_by_bond(shown),
        f"Absolute attribution by kind and by length; 1 stands for {top:.3g} {unit}"
        + (f". {len(shown)} of {len(rows)} bonds are shown." if len(shown) < len(rows) else "."),
    )
    page.table(
        ["bond", "length (Å)", *columns[1:]],
        [[r.kind, *_row(r, f"{r.low:.1f}–{r.high:.1f}")] for r in table if r.low is not None],
        "The same by length: compare kinds at equal length, since there are more long bonds than short ones.",
    )
    if fidelity is not None:
        told = fidelity.foretold
        page.section("Does the explanation hold up?")
        page.text("\n".join(f"- {_sentence(s)}" for s in fidelity.sentences()))
        page.figure(
            fidelity_curve(asdict(fidelity)),
            f"Mean over {fidelity.structures} structures and {fidelity.models} models. A faithful attribution lies above random bonds "
            "on the left and below them on the right. Random bonds have equal numbers in every 0.25 Å of length. What models that know "
            "nothing name should matter no more than random bonds of their lengths; an untrained Hamiltonian is drawn from a prior that knows "
            "something.",
        )
        page.table(
            ["bonds", "ratio to random", "95 % interval", "random draws beaten (%)"],
            [
                [
                    what,
                    f"{c.ratio:.2f}",
                    "" if c.interval is None else f"{c.interval[0]:.2f}–{c.interval[1]:.2f}",
                    f"{100 * c.beaten:.0f}",
                ]
                for what, c in (
                    ("removed: largest |attribution|", fidelity.removed),
                    ("kept alone: largest |attribution|", fidelity.kept),
                    ("removed: named by untrained models", fidelity.untrained),
                    ("removed from the untrained models that name them", fidelity.itself),
                )
            ],
            "Mean change of the prediction over that for random bonds of equal number and lengths. The last row tells of the method "
            "alone."
            + (
                f" Over random bonds, changes correlate with sums of attributions by {told:.2f}."
                if told is not None
                else ""
            ),
        )
    page.section("Bonds")
    bonds, largest = drawn_bonds(frames[0], means[0])
    page.crystal(
        frames[0],
        f"The first structure. Bonds up to {REACH} times the sum of covalent radii, coloured by |attribution|; 1 stands for "
        f"{largest:.3g} {unit}.",
        bonds,
    )
    page.provenance(record)
    page.write(path)


def vibrations(
    path: Path,
    title: str,
    response: Response,
    reference: Atoms,
    ways: np.ndarray,
    thermal: Thermal,
    checked: Differences | None,
    engine: str | None,
    findings: Sequence[str],
    record: Mapping[str, Any],
) -> None:
    """The page of ``vibronic vibrations``.

    Args:
        response, thermal: averaged over models.
        reference: the supercell.
        ways: (3N, M) displacements for Q = 1, from :func:`vibronic.explain.vibrations.directions`.
        checked, engine: None where no label was computed.
        findings: plain sentences.
    """
    r, unit = response, response.unit
    page = Report(f"Which vibrations move the {r.target}?", title)
    page.section("The answer")
    page.text("\n".join(f"- {_sentence(f)}" for f in findings))
    if np.isnan(r.sigma).any():
        page.note(
            f"{int(np.isnan(r.sigma).sum())} modes are imaginary or without restoring force: they have no harmonic amplitude, so their "
            "share is unknown, not zero, and sums leave them out."
        )
    if thermal.n:
        sets = by_set(r, thermal)
        page.figure(
            mode_contributions(sets, unit, r.target),
            f"What the modes of each frequency add to the thermal mean at {r.temperature:g} K, ½ ⟨d²P/dQ²⟩ σ² with standard errors (above), and "
            "by how much they make it fluctuate (below). Degenerate modes are taken together: one by one their values are arbitrary.",
        )
        page.table(
            ["modes", "number", "THz", f"shift ({unit})", f"standard error ({unit})", f"deviation ({unit})"],
            [[_range(s.modes), len(s.modes), s.frequency, s.shift, s.shift_error, s.deviation] for s in sets[:LISTED]],
            f"The sets of degenerate modes that shift the {r.target} most; the largest fluctuations may be of others (see the figure).",
        )
    page.text(
        "Q is the mass-weighted normal coordinate, σ its thermal amplitude. The second derivatives ⟨d²P/dQ²⟩ are averages over "
        f"{thermal.n} thermal configurations in pairs +u, −u, from first derivatives by automatic differentiation and integration by parts. "
        + (
            f"At the symmetric positions themselves the {r.target} has a kink, and no second derivatives."
            if np.isnan(r.total)
            else f"Second derivatives at the symmetric positions themselves are in the CSV; their shares sum to {r.total:+.4g} "
            f"{unit}. Where that is far from the thermal sum the model bends more sharply there than anywhere else."
        )
    )
    if checked is not None:
        page.section("Checked against labels")
        for order, name, of in (("first", "dP/dQ", "Å √amu"), ("second", "d²P/dQ²", "Å² amu")):
            labels, mine = getattr(checked, f"label_{order}"), getattr(checked, order)
            found = agreement(labels, mine)
            page.figure(
                plots.parity({f"{len(labels)} modes": (labels, mine)}, f"{unit}/({of})", name),
                f"{name} along the strongest modes at one configuration: the model by automatic differentiation against central "
                f"differences of labels by {engine}. MAE {found['mae']:.3g} {unit}/({of}).",
            )
    page.section("The strongest modes")
    for m in _one_per_set(r, thermal)[:ANIMATED]:
        alike = int((r.sets == r.sets[m]).sum())
        way = ways[:, m].reshape(-1, 3)
        size = np.linalg.norm(way, axis=1).max()
        real = f"; the largest displacement of one σ is {r.sigma[m] * size:.3f} Å" if np.isfinite(r.sigma[m]) else ""
        page.crystal(
            reference,
            f"Mode {m}, {r.frequencies[m]:.2f} THz{f', one of {alike} that are degenerate' if alike > 1 else ''}. Enlarged: the atom that moves most swings by {SWING} Å{real}.",
            motion=way * (SWING / size),
        )
    page.provenance(record)
    page.write(path)


def _range(modes: np.ndarray) -> str:
    """Degenerate modes follow one another."""
    return f"{modes[0]}" if len(modes) == 1 else f"{modes[0]}–{modes[-1]}"


def _one_per_set(response: Response, thermal: Thermal) -> list[int]:
    """The strongest mode of every degenerate set, strongest first."""
    seen: dict[int, int] = {}
    for m in thermal.strongest:
        seen.setdefault(int(response.sets[m]), int(m))
    return list(seen.values())


def _row(row: Share, first: str) -> list[Any]:
    def with_half(value: float, half: float | None, digits: int) -> str:
        return f"{value:.{digits}g}" + ("" if half is None else f" ± {half:.2g}")

    share = with_half(100 * row.share, None if row.share_half is None else 100 * row.share_half, 3)
    return [first, row.number, with_half(row.mean, row.mean_half, 3), share, f"{100 * row.of_bonds:.3g}"]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."
