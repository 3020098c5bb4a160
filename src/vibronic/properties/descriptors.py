"""Ridge regression on pair and angle distributions: the floor that a network must beat to be worth its name.

Per atom and averaged over the structure: for every pair of elements a histogram of distances, for every triple around a
centre a histogram of angles, both smeared by Gaussians and switched off smoothly at the cutoff. Fitted in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_sum
from vibronic.core.targets import target
from vibronic.properties.linear import covariance_root, ridge


class DescriptorRidge(Model):
    """Scalar targets, linear in pair and angle distributions.

    Args:
        targets: names; energy is learned per atom. ``pressure`` stands for the trace of the stress.
        units: unit of a target that Vibronic does not know.
        radial: Gaussians between 0.8 Angstrom and the cutoff.
        angular: Gaussians in the cosine of the angle; 0 leaves angles out.
        cutoff: of pairs, Angstrom.
        angle_cutoff: of both legs of an angle, Angstrom.
    """

    kind = "ridge"
    remembers = True
    fitted = ("weights",)
    weights: Tensor
    mean: Tensor
    deviation: Tensor
    intercept: Tensor
    root: Tensor
    noise: Tensor
    count: Tensor

    def __init__(
        self,
        targets: Sequence[str] = ("energy", "pressure"),
        units: dict[str, str] | None = None,
        radial: int = 24,
        angular: int = 8,
        cutoff: float = 6.0,
        angle_cutoff: float = 4.2,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(config, [target(t, (units or {}).get(t, "1")) for t in targets], cutoff)
        refused = [t.name for t in self.targets if not t.is_number]
        if refused:
            raise VibronicError(f"ridge learns one number per structure, not {', '.join(refused)}; use painn for those")
        if radial < 2 or angular < 0 or angular == 1:
            raise VibronicError("ridge needs at least 2 radial Gaussians, and 0 or at least 2 angular ones")
        if min(cutoff, angle_cutoff) <= 0:
            raise VibronicError("ridge needs a positive cutoff, of pairs and of angles")
        self.radial, self.angular, self.angle_cutoff = radial, angular, min(angle_cutoff, cutoff)
        for name in ("weights", "mean", "deviation", "intercept", "root", "noise"):
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("count", torch.tensor(1.0, dtype=torch.float64))

    def features(self, batch: Batch) -> Tensor:
        """(B, features) averages over the atoms of each structure; double precision."""
        kinds = len(self.elements)
        species = torch.searchsorted(self.elements, batch.numbers)
        size = batch.n_structures
        vectors = batch.edge_vectors().double()
        distance = vectors.norm(dim=-1)
        i, j = batch.edge_index
        centres = torch.linspace(0.8, self.cutoff, self.radial, dtype=torch.float64, device=distance.device)
        basis = batch.weigh(gaussians(distance, centres) * switch(distance, self.cutoff)[:, None])
        a, b = species[i], species[j]
        pair = torch.minimum(a, b) * kinds + torch.maximum(a, b)
        columns = [_histogram(basis, batch.edge_structure * kinds**2 + pair, size, kinds**2)]
        if self.angular:
            near = torch.nonzero(distance < self.angle_cutoff).squeeze(1)
            first, second = _pairs_of_edges(i[near])
            first, second = near[first], near[second]
            cosine = (vectors[first] * vectors[second]).sum(-1) / (distance[first] * distance[second])
            centres = torch.linspace(-1, 1, self.angular, dtype=torch.float64, device=distance.device)
            fade = batch.weigh(switch(distance, self.angle_cutoff))
            basis = gaussians(cosine, centres) * (fade[first] * fade[second])[:, None]
            b, c = species[j[first]], species[j[second]]
            triple = (species[i[first]] * kinds + torch.minimum(b, c)) * kinds + torch.maximum(b, c)
            columns.append(_histogram(basis, batch.edge_structure[first] * kinds**3 + triple, size, kinds**3))
        counts = scatter_sum(torch.nn.functional.one_hot(species, kinds).double(), batch.index, size)
        return torch.cat([*columns, counts], dim=1) / batch.n_atoms[:, None]

    def survey(self, batch: Batch) -> Tensor:
        """(features,) how far features scatter over structures like those to come: a few labelled ones do not tell, and what is nearly
        constant in them becomes enormous elsewhere when it is divided by that."""
        self.elements = torch.unique(batch.numbers)
        return self.features(batch).std(0, correction=0)

    def prepare(self, batch: Batch) -> None:
        """Closed-form fit; the penalty of each target is chosen by generalised cross-validation."""
        super().prepare(batch)
        x = self.features(batch)
        labels = [batch.labels[t.name] / (batch.n_atoms if t.extensive else 1) for t in self.targets]
        y = torch.stack(labels, dim=1).double()
        self.count = torch.tensor(float(len(x)), dtype=torch.float64)
        self.mean, self.deviation = x.mean(0), x.std(0, correction=0) if self.surveyed is None else self.surveyed
        self.deviation = torch.where(self.deviation > 1e-8, self.deviation, torch.inf)  # constant features say nothing
        self.intercept = y.mean(0)
        x = (x - self.mean) / self.deviation
        fits = [ridge(x, column, free=1) for column in (y - self.intercept).unbind(1)]
        self.weights = torch.stack([fit.coefficients for fit in fits], dim=1)
        self.root = torch.stack([covariance_root(x, fit) for fit in fits])
        self.noise = torch.tensor([fit.noise for fit in fits], dtype=x.dtype)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions (B,) of each target, in its unit."""
        return self._predictions(batch, self._scaled(batch))

    def _predictions(self, batch: Batch, x: Tensor) -> dict[str, Tensor]:
        y = x @ self.weights + self.intercept
        return {t.name: v * batch.n_atoms if t.extensive else v for t, v in zip(self.targets, y.unbind(1), strict=True)}

    def _scaled(self, batch: Batch) -> Tensor:
        if not len(self.weights):
            raise VibronicError("this ridge model has not been fitted")
        return (self.features(batch) - self.mean) / self.deviation

    def posterior(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Predictions and deviations (B, features + 1) of the Bayesian regression whose mean they are; the last column is the intercept's."""
        x = self._scaled(batch)
        found = {}
        for t, root, noise in zip(self.targets, self.root, self.noise, strict=True):
            mean = (noise / self.count**0.5).expand(len(x), 1)
            rows = torch.cat([x @ root, mean], dim=1)
            found[t.name] = rows * batch.n_atoms[:, None] if t.extensive else rows
        return self._predictions(batch, x), found

    @property
    def misfit(self) -> dict[str, float]:
        """Target -> scatter of a label about the fit; energies per atom."""
        return {t.name: float(s) for t, s in zip(self.targets, self.noise, strict=True)}

    @property
    def size(self) -> int:
        """Coefficients and intercepts; what else is stored scales the features and tells how uncertain they are."""
        return self.weights.numel() + self.intercept.numel()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean absolute error over the targets, for comparison only: the fit needs no steps."""
        predicted = self(batch)
        figures = {f"mae_{t.name}": (predicted[t.name] - batch.labels[t.name]).abs().mean() for t in self.targets}
        return {"loss": torch.stack(list(figures.values())).mean(), **figures}


def gaussians(x: Tensor, centres: Tensor) -> Tensor:
    """(n, centres) Gaussians as wide as their spacing."""
    width = centres[1] - centres[0]
    return torch.exp(-0.5 * ((x[:, None] - centres) / width) ** 2)


def switch(distance: Tensor, cutoff: float) -> Tensor:
    """Cosine that falls from 1 at zero to 0 at the cutoff."""
    return 0.5 * (1 + torch.cos(torch.pi * (distance / cutoff).clamp(max=1.0)))


def _histogram(basis: Tensor, cell: Tensor, rows: int, columns: int) -> Tensor:
    """Sum basis rows by ``cell`` (row * columns + column) into (rows, columns * basis)."""
    return scatter_sum(basis, cell, rows * columns).reshape(rows, -1)


def _pairs_of_edges(centre: Tensor) -> tuple[Tensor, Tensor]:
    """All unordered pairs of edges with the same centre; ``centre`` is sorted."""
    counts = torch.unique_consecutive(centre, return_counts=True)[1]
    start = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(centre), device=centre.device) - torch.repeat_interleave(start, counts)
    # edge e is paired with the ``rank`` edges before it
    second = torch.repeat_interleave(torch.arange(len(centre), device=centre.device), rank)
    begin = torch.repeat_interleave(torch.cumsum(rank, 0) - rank, rank)
    offset = torch.arange(len(second), device=centre.device) - begin
    return second - rank[second] + offset, second
