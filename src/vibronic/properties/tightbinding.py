"""Band edges of a crystal from a tight-binding Hamiltonian whose matrix elements are fitted to labels.

A band gap is no sum over atoms: it is the distance between two eigenvalues. So the model is a Hamiltonian - s, p and d
orbitals on atoms, Slater-Koster matrix elements that fall off with distance, on-site energies shifted and split by the
neighbours and by the electrostatic potential of effective charges - and its prediction is the spectrum's edge. About a hundred numbers are fitted, all with a meaning and a
prior (atomic energies, Harrison's universal hopping), by nonlinear least squares with exact derivatives: by the
Hellmann-Feynman theorem that of an eigenvalue is the expectation value of that of the Hamiltonian.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_mean
from vibronic.core.targets import Target, target
from vibronic.properties.ewald import site_potentials
from vibronic.properties.hamiltonian import Layout, Terms, band_energies, derivatives, heights, layout, terms

WEIGHTS = {"vbm": 1.0, "cbm": 1.0, "band_gap": 2.0}
"""Of the residuals of a fit: absolute levels follow the average potential of the cell too, which no hopping explains."""
LEVEL_WEIGHT = 0.3
"""Of the residual of an eigenvalue beyond the edges."""
Wanted = list[tuple[float, list[tuple[int, float]], float]]
"""Weight, combination of bands (index, coefficient) and label of every residual of one structure."""


class TightBinding(Model):
    """Band gap, valence-band maximum and conduction-band minimum as eigenvalues of a fitted Hamiltonian.

    Band edges are those on a Gamma-centred mesh: of ``mesh`` points in every structure of the training set; elsewhere as dense, along each
    reciprocal vector, as it is there on average, so more in smaller cells and fewer in larger ones.

    Args:
        targets: any of band_gap, vbm, cbm.
        units: of targets; these are in eV.
        cutoff: of matrix elements, Angstrom.
        mesh: k points of the labels along each reciprocal vector.
        penalty: weight of the prior; 1 trusts it as much as a label that is known to 1 eV.
        levels: eigenvalues on either side of the gap to learn from as well, where structures carry ``eigenvalues``.
        iterations: most evaluations of a fit.
    """

    kind = "tight-binding"
    remembers = True
    fitted = ("values",)
    values: Tensor
    root: Tensor
    noise: Tensor
    extent: Tensor
    zero: Tensor

    def __init__(
        self,
        targets: Sequence[str] = ("band_gap", "vbm"),
        units: dict[str, str] | None = None,
        cutoff: float = 5.5,
        mesh: Sequence[int] = (1, 1, 1),
        penalty: float = 0.1,
        levels: int = 0,
        iterations: int = 25,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(config, [target(t) for t in targets], cutoff)
        if wrong := [t.name for t in self.targets if t.name not in WEIGHTS]:
            raise VibronicError(f"tight-binding gives {', '.join(WEIGHTS)}, not {', '.join(wrong)}; use painn or ridge")
        if len(mesh) != 3 or min(mesh) < 1 or cutoff <= 0 or penalty <= 0 or levels < 0 or iterations < 1:
            raise VibronicError(
                "tight-binding needs a positive cutoff and penalty, a mesh of three whole numbers and an iteration at least"
            )
        if levels and ("vbm" not in targets or max(mesh) > 1):
            raise VibronicError("tight-binding learns from eigenvalues of one k point, with 'vbm' among the targets")
        self.mesh, self.penalty, self.levels, self.iterations = tuple(mesh), penalty, levels, iterations
        for name in ("values", "root", "noise", "zero"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))
        self.register_buffer("extent", torch.zeros(3, dtype=torch.float64))

    @property
    def labels(self) -> list[Target]:
        """Its targets, and the spectrum where it learns from that."""
        return [*self.targets, *([target("eigenvalues")] if self.levels else [])]

    @property
    def misfit(self) -> dict[str, float]:
        """Target -> scatter of a label about the fit, eV."""
        return {t.name: float(self.noise) / WEIGHTS[t.name] for t in self.targets}

    @property
    def size(self) -> int:
        """On-site energies, amplitudes and exponents; what else is stored is their covariance."""
        return len(self.values)

    @property
    def layout(self) -> Layout:
        """What is fitted, once the elements are known."""
        return layout(tuple(self.elements.tolist()))

    def prepare(self, batch: Batch) -> None:
        """Fit: nonlinear least squares of band edges, held to the prior by the penalty (scipy's trust-region method).

        Raises:
            VibronicError: an element that has no valence shells here, or levels to learn from that do not exist.
        """
        from scipy.optimize import least_squares

        super().prepare(batch)
        kinds = torch.searchsorted(self.elements, batch.numbers)
        # Potentials count from their means over the training set, so that they do not compete with the on-site energies.
        sites = site_potentials(batch.to(dtype=torch.float64), self.elements, self.cutoff)
        self.zero = scatter_mean(sites, kinds, len(self.elements))
        self.extent = (heights(batch.cell.double()) * torch.tensor(self.mesh)).mean(dim=0)
        terms = self._terms(batch, self.mesh)
        wanted = [self._wanted(batch, s, t) for s, t in enumerate(terms)]
        first, scale = self.layout.prior()
        if "vbm" in batch.labels:  # the labels put zero where they like
            guess = [float(band_energies(t, torch.as_tensor(first))[t.valence]) for t in terms]
            first[: len(self.layout.shells)] += float(batch.labels["vbm"].mean()) - np.mean(guess)
        known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

        def system(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Residuals and their derivatives: the fit asks for both, and one diagonalisation gives both."""
            if z.tobytes() not in known:
                known.clear()
                rows = [self._residuals(t, first + scale * z, w) for t, w in zip(terms, wanted, strict=True)]
                residual = np.concatenate([r for r, _ in rows] + [self.penalty * z])
                slope = np.vstack([j * scale for _, j in rows] + [self.penalty * np.eye(len(z))])
                known[z.tobytes()] = residual, slope
            return known[z.tobytes()]

        fit = least_squares(
            lambda z: system(z)[0], np.zeros(len(first)), lambda z: system(z)[1], max_nfev=self.iterations
        )
        residual, slope = system(fit.x)
        n = len(residual) - len(first)
        u, s, vh = np.linalg.svd(slope, full_matrices=False)
        # Parameters that labels determine do not count as evidence of the noise.
        noise = np.sqrt(np.square(residual[:n]).sum() / max(n - np.square(u[:n]).sum(), 1.0))
        self.values = torch.as_tensor(first + scale * fit.x)
        # The symmetric root of the covariance: singular vectors may have either sign.
        self.root = torch.as_tensor(scale[:, None] * (vh.T / s) @ vh * noise)
        self.noise = torch.as_tensor(noise)

    def _terms(self, batch: Batch, mesh: Sequence[int] | None = None) -> list[Terms]:
        found = terms(batch, self.layout, self.cutoff, self.extent.tolist(), self.zero, mesh)
        metals = any(t.valence == t.conduction and len(t.points) > 1 for t in found)
        if metals and any(x.name != "band_gap" for x in self.targets):
            raise VibronicError(
                "a crystal with an odd number of electrons is a metal, and tight-binding does not look for its Fermi level over "
                "several k points; of such it takes band_gap alone"
            )
        return found

    def _wanted(self, batch: Batch, s: int, t: Terms) -> Wanted:
        v, c = t.valence, t.conduction
        bands = {"vbm": [(v, 1.0)], "cbm": [(c, 1.0)], "band_gap": [(c, 1.0), (v, -1.0)]}
        rows = [(WEIGHTS[x.name], bands[x.name], float(batch.labels[x.name][s])) for x in self.targets]
        if self.levels:
            spectrum = batch.labels["eigenvalues"][s]
            top = int((spectrum < batch.labels["vbm"][s] + 1e-6).sum()) - 1
            most = min(top, len(spectrum) - top - 2, v, t.size - c - 1)
            if self.levels > most:
                raise VibronicError(
                    f"{self.levels} levels on either side of the gap: the labels and the orbitals have {most}"
                )
            for k in range(1, self.levels + 1):
                rows.append((LEVEL_WEIGHT, [(v - k, 1.0)], float(spectrum[top - k])))
                rows.append((LEVEL_WEIGHT, [(c + k, 1.0)], float(spectrum[top + 1 + k])))
        return rows

    def _residuals(self, t: Terms, parameters: np.ndarray, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
        """Weighted residuals (n,) of one structure and their derivatives (n, P)."""
        energies, slopes = derivatives(t, torch.as_tensor(parameters), {k for _, bands, _ in wanted for k, _ in bands})
        rows = []
        for weight, bands, label in wanted:
            value = sum(c * energies[k] for k, c in bands)
            slope = sum(c * slopes[k] for k, c in bands)
            if len(bands) > 1 and label <= 0 and value < 0:  # of a metal, whose bands may overlap as they like
                value, slope = 0.0, np.zeros_like(parameters)
            rows.append((weight * (value - label), weight * slope))
        return np.array([r for r, _ in rows]), np.array([j for _, j in rows])

    def forget(self, generator: torch.Generator) -> None:
        """A Hamiltonian drawn from the prior: that of no crystal, but a possible one."""
        first, scale = (torch.as_tensor(x) for x in self.layout.prior())
        self.values = first + scale * torch.randn(len(first), generator=generator, dtype=first.dtype)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions (B,) of each target, eV, in double precision."""
        self._check_fitted()
        edges = []
        for t in self._terms(batch):
            bands = band_energies(t, self.values)
            edges.append(torch.stack([bands[t.valence], bands[t.conduction]]))
        return self._of_edges(torch.stack(edges))

    def _of_edges(self, edges: Tensor) -> dict[str, Tensor]:
        """Targets from band edges (B, 2)."""
        vbm, cbm = edges.unbind(1)
        # The bands of a metal overlap; its gap is zero, as the engines have it.
        found = {"vbm": vbm, "cbm": cbm, "band_gap": (cbm - vbm).clamp(min=0.0)}
        return {t.name: found[t.name] for t in self.targets}

    def posterior(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Predictions and deviations (B, P), eV, in Laplace's approximation: slopes by the parameters times the root of their covariance."""
        self._check_fitted()
        edges, rows = [], []
        for t in self._terms(batch):
            energies, slopes = derivatives(t, self.values, {t.valence, t.conduction})
            edges.append([energies[t.valence], energies[t.conduction]])
            rows.append(torch.as_tensor(np.stack([slopes[t.valence], slopes[t.conduction]])) @ self.root)
        vbm, cbm = torch.stack(rows).unbind(1)
        found = {"vbm": vbm, "cbm": cbm, "band_gap": cbm - vbm}
        return self._of_edges(torch.tensor(edges, dtype=torch.float64)), {t.name: found[t.name] for t in self.targets}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean absolute error over the targets, for comparison only: the fit needs no steps."""
        predicted = self(batch)
        figures = {f"mae_{t.name}": (predicted[t.name] - batch.labels[t.name]).abs().mean() for t in self.targets}
        return {"loss": torch.stack(list(figures.values())).mean(), **figures}

    def _check_fitted(self) -> None:
        if not len(self.values):
            raise VibronicError("this tight-binding model has not been fitted")
