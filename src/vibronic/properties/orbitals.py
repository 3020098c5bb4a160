"""Slater-Koster matrix elements of s, p and d orbitals, and what an element brings to a tight-binding model.

A block between two shells is a sum over sigma, pi and delta of an amplitude and a fixed function of the bond direction
(Slater and Koster, Phys. Rev. 94, 1498, 1954), written here with the five traceless symmetric matrices that are the d
orbitals, so that there is no table of direction cosines.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from vibronic.core.errors import VibronicError

HARRISON = {
    (0, 0, 0): -1.32,
    (0, 1, 0): 1.42,
    (1, 1, 0): 2.22,
    (1, 1, 1): -0.63,
    (0, 2, 0): -3.16,
    (1, 2, 0): -2.95,
    (1, 2, 1): 1.36,
    (2, 2, 0): -16.2,
    (2, 2, 1): 8.75,
    (2, 2, 2): 0.0,
}
"""(l, l', m) -> eta of Harrison's universal matrix elements eta hbar^2 / (m d^2) (Electronic Structure and the Properties of
Solids, 1980); those with d orbitals carry (r_d / d)^(3/2) for each d shell besides. Where a fit begins."""

HBAR2_M = 7.6199682
"""hbar^2 / m, eV Angstrom^2."""
D_RADIUS = 0.9
"""Angstrom; Harrison's r_d lies between 0.7 and 1.5 for the transition metals."""
HARTREE = 27.211386
EMPTY = 4.0
"""eV; how far above its s shell an atom's empty p or d shell is first taken to be."""


def harrison(l: int, k: int, m: int, distance: float) -> float:
    """Harrison's matrix element between shells ``l <= k`` at ``distance`` (Angstrom), eV."""
    shells = (l == 2) + (k == 2)
    return HARRISON[l, k, m] * HBAR2_M / distance**2 * (D_RADIUS / distance) ** (1.5 * shells)


@cache
def shells(number: int) -> dict[int, float]:
    """The valence shells of an element: l -> first guess of their energy, eV (LDA atom, NIST, as pymatgen has them).

    s for hydrogen and helium, s and p for the main groups, s, p and d for groups 3 to 12.

    Raises:
        VibronicError: an element with f electrons, or one whose atom is not tabulated.
    """
    from pymatgen.core import Element

    element = Element.from_Z(number)
    levels = element.data.get("Atomic orbitals") or {}
    if element.is_lanthanoid or element.is_actinoid or not levels:
        raise VibronicError(
            f"tight-binding has no f shells: {element.symbol} cannot be described; use another model, such as painn"
        )
    row = element.row
    energy = {l: levels.get(f"{row - (l == 2)}{'spd'[l]}") for l in range(3)}
    wanted = [0] if number <= 2 else [0, 1, 2] if 3 <= element.group <= 12 else [0, 1]
    base = energy[0] if energy[0] is not None else max(levels.values())
    return {l: HARTREE * e if (e := energy[l]) is not None else HARTREE * base + EMPTY for l in wanted}


def electrons(number: int) -> int:
    """Electrons in the shells of :func:`shells`: the group's number, without a closed d shell to the right of zinc."""
    from pymatgen.core import Element

    group = Element.from_Z(number).group
    return 2 if number == 2 else group - 10 if group > 12 else group


def _d_orbitals() -> Tensor:
    """(5, 3, 3) orthonormal traceless symmetric matrices: xy, yz, xz, x2-y2, z2."""
    e = torch.zeros(5, 3, 3, dtype=torch.float64)
    half = math.sqrt(0.5)
    for k, (a, b) in enumerate(((0, 1), (1, 2), (0, 2))):
        e[k, a, b] = e[k, b, a] = half
    e[3] = torch.diag(torch.tensor([half, -half, 0.0], dtype=torch.float64))
    e[4] = torch.diag(torch.tensor([-1.0, -1.0, 2.0], dtype=torch.float64)) / math.sqrt(6)
    return e


_D = _d_orbitals()


def slater_koster(unit: Tensor) -> dict[tuple[int, int, int], Tensor]:
    """(l, l', m) -> (E, 2l+1, 2l'+1) for ``l <= l'``: what an amplitude of one eV contributes to the block between a shell l and
    a shell l' in the direction ``unit`` (E, 3) from it. For ``l > l'``: transposed, at the reversed direction."""
    d = _D.to(unit)
    one = unit.new_ones(len(unit), 1, 1)
    n = unit[:, :, None]
    en = torch.einsum("mab,eb->ema", d, unit)
    q = math.sqrt(1.5) * (en * unit[:, None, :]).sum(-1)[:, :, None]  # (E, 5, 1)
    across = math.sqrt(2) * (en - (en * unit[:, None, :]).sum(-1, keepdim=True) * unit[:, None, :])  # (E, 5, 3)
    along = n @ n.transpose(1, 2)
    qq, ww = q @ q.transpose(1, 2), across @ across.transpose(1, 2)
    return {
        (0, 0, 0): one,
        (0, 1, 0): n.transpose(1, 2),
        (1, 1, 0): along,
        (1, 1, 1): torch.eye(3).to(unit) - along,
        (0, 2, 0): q.transpose(1, 2),
        (1, 2, 0): n @ q.transpose(1, 2),
        (1, 2, 1): across.transpose(1, 2),
        (2, 2, 0): qq,
        (2, 2, 1): ww,
        (2, 2, 2): torch.eye(5).to(unit) - qq - ww,
    }
