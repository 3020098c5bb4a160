"""A field in space for the 3Dmol viewer: a small cube file in text, and the isosurfaces to draw of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import Bohr

from vibronic.core.errors import VibronicError

POINTS = 110_000
"""Of a field in a page: half a megabyte to one."""


@dataclass(frozen=True)
class Volume:
    """Isosurfaces of values on a regular grid.

    Attributes:
        origin: (3,) Angstrom.
        steps: (3, 3) Angstrom, rows.
        values: (nx, ny, nz).
        surfaces: (value, colour, label) of each isosurface; one that the values do not reach is not drawn.
        opacity: of the surfaces, 0 to 1.
    """

    origin: np.ndarray
    steps: np.ndarray
    values: np.ndarray
    surfaces: Sequence[tuple[float, str, str]]
    opacity: float = 0.85

    def scene(self) -> dict[str, Any]:
        """``cube`` (text) and ``surfaces``, in plain JSON values.

        Raises:
            VibronicError: there are more than ``POINTS`` values, or some that are not finite.
        """
        if self.values.size > POINTS:
            raise VibronicError(
                f"a page holds fields of up to {POINTS} points, not {self.values.size}; take a wider grid"
            )
        if not np.isfinite(self.values).all():
            raise VibronicError("the field cannot be drawn: some values are not finite")
        rows = [" ".join(f"{x:.6f}" for x in row) for row in np.vstack([self.origin, self.steps]) / Bohr]
        head = ["", "", f"1 {rows[0]}", *(f"{n} {row}" for n, row in zip(self.values.shape, rows[1:], strict=True))]
        # The viewer reads where the atoms of a cube file are, and we draw ours; one that it does not draw will do.
        numbers = " ".join(f"{v:.2e}" if abs(v) > 1e-6 else "0" for v in self.values.ravel())
        low, high = float(self.values.min()), float(self.values.max())
        return {
            "cube": "\n".join([*head, "1 0 0 0 0", numbers, ""]),
            "surfaces": [
                {"isoval": value, "color": color, "opacity": self.opacity, "label": label}
                for value, color, label in self.surfaces
                if low < value < high
            ],
        }
