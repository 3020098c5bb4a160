"""Our Quantum Deep Field: a linear field of orbitals, read where the geometry says, under a learned functional.

It keeps the idea of the published model (a linear combination of atomic orbitals, and all non-linearity in a functional of
the field) and removes its measured faults: predictions do not change with the frame, are the sum over distant fragments,
follow a smooth energy surface, and are learned in minutes, because the functional is fitted in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from vibronic.core.batch import Batch, widest
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.progress import track
from vibronic.core.scatter import scatter_mean, scatter_sum
from vibronic.core.targets import Extremum, target
from vibronic.fields.functional import KernelFunctional, solve
from vibronic.fields.local import LocalField

_STRUCTURES = 64
"""Structures whose field is held in memory at once while fitting."""

_BONDED = 1.3

_SAMPLE = 800
"""Structures that natural orbitals and principal components are found on."""


class QuantumDeepField(Model):
    """Scalars of molecules and crystals from fields of several ranges; the sum of what every atom gives, or its mean.

    An extensive target (energy) is a sum over atoms, so that distant fragments add up exactly; any other is a mean. A level
    (homo, lumo) is a mean over the atoms of one molecule; of several that no bond connects, the highest or the lowest: it
    jumps where a bond breaks (at 1.3 times the covalent radii), and is learned from single molecules. The composition is fitted first. A model refuses kinds of structures that its training had none of: elements, molecules or
    crystals, open shells, smaller ones.

    Args:
        targets: scalars of a structure.
        units: unit of a target that Vibronic does not know.
        cutoffs: of each field, Angstrom; a short one transfers best to larger molecules, a long one sees more.
        points: inducing points of the functional of each field.
        momentum: largest angular momentum of the orbitals.
        orbitals: natural orbitals of each angular momentum.
        components: invariants of the field that the functional sees.
        length: of the kernel, in units of the median distance between two atoms in the space of invariants.
        amplitude: of the functional of the shortest field before it is fitted; the noise is relative to it.
        long_amplitude: of that, what longer fields get: what depends on the near surroundings transfers.
        linear: amplitude of a linear functional of the shortest field; 0 for none.
        noise: of the labels relative to the functional; chosen on a tenth of the training set where it is None.
        reach: where the weight of neighbours starts to fall, Angstrom.
        hydrogen: weight of hydrogen's orbitals in the field.
        hydrogen_points: of the inducing points that hydrogen's number of atoms would give it, what it gets.
        hydrogen_amplitude: of the amplitudes, what hydrogen gets.
    """

    kind = "qdf"
    differentiable: ClassVar[bool] = True
    fitted = ("weights",)
    extensive: Tensor
    baseline: Tensor
    molecules: Tensor
    crystals: Tensor
    smallest: Tensor
    closed_shells: Tensor

    def __init__(
        self,
        targets: Sequence[str] = ("energy",),
        units: dict[str, str] | None = None,
        cutoffs: Sequence[float] = (5.0, 3.0),
        points: Sequence[int] = (6000, 4000),
        momentum: int = 5,
        orbitals: int = 20,
        components: int = 96,
        length: float = 1.4,
        amplitude: float = 2.0,
        long_amplitude: float = 0.35,
        linear: float = 8.0,
        noise: float | None = None,
        reach: float = 1.6,
        hydrogen: float = 0.6,
        hydrogen_points: float = 0.05,
        hydrogen_amplitude: float = 0.3,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if not cutoffs or min(cutoffs) <= 1 or len(points) != len(cutoffs):
            raise VibronicError("qdf needs as many points as cutoffs, and cutoffs above 1 Angstrom")
        if not 0 <= momentum <= 12 or (noise is not None and not 0 < noise < float("inf")):
            raise VibronicError("qdf needs a momentum from 0 to 12, and a positive noise where one is given")
        positive = (*points, orbitals, components, length, amplitude, long_amplitude, reach, hydrogen_amplitude)
        if min(positive) <= 0 or min(linear, hydrogen, hydrogen_points) < 0:
            raise VibronicError("qdf needs positive points, amplitudes, orbitals, components, length and reach")
        super().__init__(config, [target(t, (units or {}).get(t, "1")) for t in targets], max(cutoffs))
        refused = [t.name for t in self.targets if not t.is_number]
        if refused:
            raise VibronicError(f"qdf learns one number per structure, not {', '.join(refused)}")
        self.noise = noise
        self.fields = nn.ModuleList(
            LocalField(cutoff, momentum, orbitals, components, reach, hydrogen) for cutoff in cutoffs
        )
        self.functionals = nn.ModuleList(
            KernelFunctional(
                n,
                length,
                amplitude if cutoff == min(cutoffs) else amplitude * long_amplitude,
                linear if cutoff == min(cutoffs) else 0.0,
                hydrogen_points,
                hydrogen_amplitude,
            )
            for n, cutoff in zip(points, cutoffs, strict=True)
        )
        self.register_buffer("extensive", torch.tensor([t.extensive for t in self.targets]), persistent=False)
        self.register_buffer("baseline", torch.zeros(0, dtype=torch.float64))  # (elements, targets)
        self.register_buffer("molecules", torch.tensor(True))  # whether there were any in training
        self.register_buffer("crystals", torch.tensor(False))
        self.register_buffer("smallest", torch.tensor(1))  # atoms of the smallest training structure
        self.register_buffer("closed_shells", torch.tensor(True))

    @property
    def dtype(self) -> torch.dtype:
        """Geometries come as precise as the device allows: in single precision a long vector rounds a bond. The field is in
        single precision all the same, until the model is made double, and the functional sums in double.
        """
        return widest(self.fields[0].centres.device)  # type: ignore[arg-type]

    def prepare(self, batch: Batch) -> None:
        """Fit everything: natural orbitals, inducing points, baseline and weights."""
        super().prepare(batch)
        periodic = batch.cell.flatten(1).any(1)
        self.molecules, self.crystals = (~periodic).any(), periodic.any()
        self.smallest = batch.n_atoms.min()
        self.closed_shells = torch.tensor(not bool((_electrons(batch) % 2).any()))
        self._check_levels(batch)
        size = batch.n_structures
        sample = batch.select(torch.sort(torch.randperm(size)[:_SAMPLE])[0])
        columns = []
        for field, functional in self._layers():
            field.prepare(_complete(sample, batch))
            parts = track(list(_parts(batch)), f"Field within {field.cutoff:g} A")
            features = torch.cat([field(part) for part in parts])
            functional.prepare(features, batch.numbers)
            columns.append(functional.columns(features, batch.numbers, batch.index, size))
        widths = [c.shape[1] for c in columns]
        every = torch.cat(columns, dim=1)
        del columns  # gigabytes, for many points
        labels = torch.stack([batch.labels[t.name] for t in self.targets], dim=1).double()
        composition = self._composition(batch)
        found = []
        for extensive in (True, False):
            mine = torch.tensor([t.extensive == extensive for t in self.targets])
            if not mine.any():
                continue
            # A mean over atoms is a sum of columns and counts divided by their number.
            per = 1.0 if extensive else 1.0 / batch.n_atoms[:, None].double()
            baseline = torch.linalg.lstsq(composition * per, labels[:, mine], driver="gelsd").solution
            rest = labels[:, mine] - composition * per @ baseline
            found.append((mine, baseline, solve(every if extensive else every * per, rest, self.noise)))
        self.baseline = _by_target(found, 1)
        weights = _by_target(found, 2)
        for (_, functional), part in zip(self._layers(), weights.split(widths), strict=True):
            functional.learn(part)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions (B,) of each target, in its unit, and the ``novelty`` (B,) of every structure: the largest of its
        atoms' in the field of the shortest range, where bonds are seen.

        Raises:
            VibronicError: the model is not fitted, or a structure is of a kind it was not trained on.
        """
        if not len(self.baseline):
            raise VibronicError("this qdf model has not been fitted")
        self._check(batch)
        atomic = self.baseline[torch.searchsorted(self.elements, batch.numbers)]
        nearest = min(field.cutoff for field, _ in self._layers())
        for field, functional in self._layers():
            given, unlike = functional(field(batch), batch.numbers)
            atomic = atomic + given
            if field.cutoff == nearest:
                novelty = _extreme(unlike, batch.index, batch.n_structures, "highest")
        sums = scatter_sum(atomic, batch.index, batch.n_structures)
        whole = torch.where(self.extensive, sums, sums / batch.n_atoms[:, None])
        found = {t.name: value for t, value in zip(self.targets, whole.unbind(1), strict=True)}
        if not any(t.extremum for t in self.targets):
            return found | {"novelty": novelty}
        pieces, owner = molecules(batch)
        means = scatter_mean(atomic, pieces, len(owner))
        several = torch.bincount(owner) > 1
        for k, t in enumerate(self.targets):
            if t.extremum:
                found[t.name] = _extreme(means[:, k], owner, batch.n_structures, t.extremum)
            if t.name == "band_gap" and several.any():
                raise VibronicError(
                    f"{_formula(batch, torch.nonzero(several)[0, 0])} is several molecules, whose gap is between levels of "
                    "different ones; predict homo and lumo instead"
                )
        return found | {"novelty": novelty}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean absolute error over the targets, for comparison only: the fit needs no steps."""
        predicted = self(batch)
        figures = {f"mae_{t.name}": (predicted[t.name] - batch.labels[t.name]).abs().mean() for t in self.targets}
        return {"loss": torch.stack(list(figures.values())).mean(), **figures}

    def _layers(self) -> Iterator[tuple[LocalField, KernelFunctional]]:
        yield from zip(self.fields, self.functionals, strict=True)

    def _composition(self, batch: Batch) -> Tensor:
        """(B, elements) atoms of each element."""
        species = torch.searchsorted(self.elements, batch.numbers)
        ones = torch.nn.functional.one_hot(species, len(self.elements)).double()
        return scatter_sum(ones, batch.index, batch.n_structures)

    def _check(self, batch: Batch) -> None:
        periodic = batch.cell.flatten(1).any(1)
        odd = (_electrons(batch) % 2).bool() & ~periodic & self.closed_shells
        for refused, why in (
            (periodic & ~self.crystals, "is periodic, and the model was trained on molecules only"),
            (~periodic & ~self.molecules, "is a molecule, and the model was trained on crystals only"),
            (odd, "has an odd number of electrons, and the model was trained on closed shells only"),
            (batch.n_atoms < self.smallest, f"is smaller than any structure of the training ({self.smallest} atoms)"),
        ):
            if refused.any():
                raise VibronicError(f"{_formula(batch, torch.nonzero(refused)[0, 0])} {why}")

    def _check_levels(self, batch: Batch) -> None:
        """A mean over atoms is fitted, which is a level of single molecules whose bonds are all seen."""
        if not any(t.extremum for t in self.targets):
            return
        longest = 2 * _BONDED * float(covalent_radii[self.elements.cpu().numpy()].max())
        if self.cutoff < longest and bool(self.molecules):
            raise VibronicError(f"levels of molecules need a cutoff of {longest:.1f} Angstrom, to see what is bonded")
        several = torch.bincount(molecules(batch)[1]) > 1
        if several.any():
            raise VibronicError(
                f"{_formula(batch, torch.nonzero(several)[0, 0])} is several molecules; levels are learned from single ones"
            )


def _extreme(values: Tensor, owner: Tensor, size: int, which: Extremum) -> Tensor:
    """(size,) the highest or the lowest of the values that have one owner."""
    reduce = "amax" if which == "highest" else "amin"
    return values.new_zeros(size).scatter_reduce(0, owner, values, reduce, include_self=False)


def molecules(batch: Batch) -> tuple[Tensor, Tensor]:
    """Which molecule every atom (N,) belongs to, and which structure every molecule.

    Atoms are bonded when closer than 1.3 times the sum of their covalent radii (Cordero et al., Dalton Trans. 2832, 2008).
    A crystal is taken as one.
    """
    radii = torch.as_tensor(covalent_radii, device=batch.numbers.device)[batch.numbers]
    i, j = batch.edge_index
    near = batch.edge_vectors().detach().norm(dim=1) < _BONDED * (radii[i] + radii[j])
    follows = torch.arange(1, len(batch.index), device=batch.index.device)
    inside = batch.cell.flatten(1).any(1)[batch.index[follows]] & (batch.index[follows] == batch.index[follows - 1])
    chain = torch.stack([follows - 1, follows])[:, inside]  # of all atoms of a crystal
    bonds = torch.cat([batch.edge_index[:, near], chain], dim=1).cpu().numpy()
    graph = coo_array((np.ones(bonds.shape[1]), bonds), shape=2 * batch.numbers.shape)
    count, pieces = connected_components(graph, directed=False)
    pieces = torch.as_tensor(pieces, dtype=torch.long, device=batch.index.device)
    owner = batch.index.new_zeros(count).index_copy(0, pieces, batch.index)
    return pieces, owner


def _formula(batch: Batch, structure: Tensor) -> str:
    return str(Atoms(batch.numbers[batch.index == structure].cpu().numpy()).symbols)


def _electrons(batch: Batch) -> Tensor:
    """(B,) electrons of each neutral structure."""
    return scatter_sum(batch.numbers, batch.index, batch.n_structures)


def _parts(batch: Batch) -> Iterator[Batch]:
    for some in torch.arange(batch.n_structures).split(_STRUCTURES):
        yield batch.select(some)


def _complete(sample: Batch, batch: Batch) -> Batch:
    """The sample, with a structure for every element that it misses."""
    missing = set(torch.unique(batch.numbers).tolist()) - set(torch.unique(sample.numbers).tolist())
    more = {int(batch.index[torch.nonzero(batch.numbers == element)[0, 0]]) for element in missing}
    return Batch.collate([sample, batch.select(torch.tensor(sorted(more)))]) if more else sample


def _by_target(found: list[tuple[Tensor, Tensor, Tensor]], which: int) -> Tensor:
    """Columns that were solved for in groups, in the order of the targets."""
    out = found[0][which].new_zeros(len(found[0][which]), len(found[0][0]))
    for group in found:
        out[:, group[0]] = group[which]
    return out
