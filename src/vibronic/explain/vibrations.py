"""Which vibrations move a property: its derivatives along every normal mode, by automatic differentiation.

Along a mode of frequency omega and eigenvector e (of the mass-weighted force constants) atoms move by
``u = M^-1/2 e Q``; Q is in Angstrom sqrt(amu). To second order in Q the mean of a property P in thermal equilibrium is

    <P>(T) = P_0 + sum_m 1/2 (d2P/dQ_m2) sigma_m^2(T)

(Allen and Heine, J. Phys. C 9, 2305 (1976); Monserrat, J. Phys.: Condens. Matter 30, 083001 (2018)). First derivatives vanish by
symmetry for all but totally symmetric modes, so the second ones are what shifts a band gap. Those at the symmetric
positions can mislead: a network that takes norms of vectors which vanish there (PaiNN) has a cusp, and bends within 1e-4 of
them as it does nowhere else. Shares of modes are therefore taken from derivatives averaged over the thermal set. In a Gaussian
set ``<d2P/dQ2> = <Q dP/dQ> / sigma^2`` (integration by parts), and ``<dP/dQ>^2 sigma^2 + 1/2 <d2P/dQ2>^2 sigma^4`` is what one
mode alone adds to the variance of P. Such a share is ``sigma^2 d<P>/d(sigma^2)``, how far the mean follows the amplitude of the mode: of a P that goes
with Q^2 it is all that the mode adds, of one that goes with |Q|, as levels do that split, half of it. An imaginary mode has no sigma and no share: nan, never that of its modulus.

Within a set of degenerate modes eigenvectors are arbitrary; only sums of second derivatives and of squared first ones mean something.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.explain.attribution import check_scalar
from vibronic.learning.prediction import check
from vibronic.sampling.harmonic import ForceConstants, Modes, Statistics, mode_variances
from vibronic.sampling.phonons import Phonons

SAME = 0.005
"""THz; frequencies closer than this count as one set of degenerate modes."""


class Property:
    """One scalar prediction of a model as a function of the positions, in double precision.

    Raises:
        VibronicError: the model has no such scalar target, or its predictions have no two derivatives.
    """

    def __init__(self, model: Model, target: str) -> None:
        check_scalar(model, target)
        if not model.smooth:
            raise VibronicError(
                f"{model.kind} jumps where a neighbour comes within its cutoff, so it has no derivatives along vibrations; use "
                "painn or ridge"
            )
        self.target = next(t for t in model.targets if t.name == target)
        self.model = deepcopy(model).double().eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)

    def value(self, atoms: Atoms) -> float:
        """The prediction."""
        with torch.no_grad():
            return float(self._at(atoms)[0])

    def gradient(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """The prediction and its derivative (3N,) with respect to the positions, per Angstrom."""
        value, positions = self._at(atoms, differentiate=True)
        (slope,) = torch.autograd.grad(value, positions)
        return float(value.detach()), slope.flatten().numpy()

    def curvatures(self, atoms: Atoms, directions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The prediction, its gradient (3N,), and its second derivative (K,) along each column of ``directions`` (3N, K).

        A Hessian-vector product for every direction: the Hessian itself is never made.
        """
        value, positions = self._at(atoms, differentiate=True)
        (slope,) = torch.autograd.grad(value, positions, create_graph=True)
        second = np.zeros(directions.shape[1])
        for k, column in enumerate(torch.as_tensor(directions.T.copy())):
            if slope.requires_grad:  # a linear property has no second derivative
                way = column.view_as(slope)
                (bent,) = torch.autograd.grad((slope * way).sum(), positions, retain_graph=True)
                second[k] = float((bent * way).sum())
        return float(value.detach()), slope.detach().flatten().numpy(), second

    def _at(self, atoms: Atoms, differentiate: bool = False) -> tuple[Tensor, Tensor]:
        check(self.model, atoms)
        batch = Batch.from_atoms(atoms, self.model.cutoff, dtype=torch.float64)
        batch.positions.requires_grad_(differentiate)
        value = self.model(batch)[self.target.name].sum()
        if differentiate and not value.requires_grad:
            raise VibronicError(
                f"the model's {self.target.name} does not depend on where the atoms of {atoms.symbols} are"
            )
        return value, batch.positions


@dataclass(frozen=True)
class Response:
    """Derivatives of one property along the modes of a supercell, at its reference positions.

    Attributes:
        target, unit: of the property; of the whole supercell where it is extensive.
        temperature: K.
        value: of the property at the reference positions.
        frequencies: (M,) THz, imaginary ones negative.
        sigma: (M,) thermal amplitude of Q, Angstrom sqrt(amu); nan where imaginary.
        first: (M,) dP/dQ, unit/(Angstrom sqrt(amu)).
        second: (M,) d2P/dQ2, unit/(Angstrom^2 amu); nan where there is none.
    """

    target: str
    unit: str
    temperature: float
    value: float
    frequencies: np.ndarray
    sigma: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @property
    def per_sigma(self) -> np.ndarray:
        """(M,) change of the property over one thermal amplitude, to first order; nan where imaginary."""
        return self.first * self.sigma

    @property
    def shift(self) -> np.ndarray:
        """(M,) 1/2 d2P/dQ2 sigma^2 with the curvature at the reference positions; nan where imaginary."""
        return 0.5 * self.second * self.sigma**2

    @property
    def sets(self) -> np.ndarray:
        """(M,) number of the set of degenerate modes that each belongs to."""
        return degenerate(self.frequencies)

    @property
    def total(self) -> float:
        """Sum of the shifts of all modes that have an amplitude; nan where the property has a kink at the reference positions,
        such as a gap whose levels are degenerate there."""
        return float(self.shift[~np.isnan(self.sigma)].sum())


@dataclass(frozen=True)
class Thermal:
    """The same derivatives averaged over a thermal set of configurations, in which imaginary modes are at rest.

    Attributes:
        n: configurations, in pairs +u, -u; 0 where no mode has an amplitude.
        sigma: (M,) as in :class:`Response`.
        first, first_error: (M,) <dP/dQ> and its standard error over pairs.
        rms: (M,) root of <(dP/dQ)^2>.
        second, second_error: (M,) <d2P/dQ2>, as <Q dP/dQ> / sigma^2, and its standard error over pairs; nan where imaginary.
        set_error: (M,) standard error of the sum of the shifts of the set of degenerate modes that each belongs to.
        set_deviation: (M,) standard deviation of the property that the modes of that set make together; nan where imaginary.
        total, total_error: <P> - P_0 of all orders, and its standard error over pairs; nan where no mode has an amplitude.
    """

    n: int
    sigma: np.ndarray
    first: np.ndarray
    first_error: np.ndarray
    rms: np.ndarray
    second: np.ndarray
    second_error: np.ndarray
    set_error: np.ndarray
    set_deviation: np.ndarray
    total: float
    total_error: float

    @property
    def shift(self) -> np.ndarray:
        """(M,) what each mode adds to the thermal mean, 1/2 <d2P/dQ2> sigma^2; nan where imaginary."""
        return 0.5 * self.second * self.sigma**2

    @property
    def shift_error(self) -> np.ndarray:
        """(M,) standard error of :attr:`shift`."""
        return 0.5 * self.second_error * self.sigma**2

    @property
    def deviation(self) -> np.ndarray:
        """(M,) standard deviation of the property that each mode makes alone; nan where imaginary.

        Squares of standard errors are taken off the squares, which sampling alone would make positive.
        """
        slope = np.maximum(self.first**2 - self.first_error**2, 0) * self.sigma**2
        bend = np.maximum(self.second**2 - self.second_error**2, 0) * self.sigma**4 / 2
        return np.sqrt(slope + bend)

    @property
    def strongest(self) -> np.ndarray:
        """(M,) modes by :attr:`deviation`, largest first; those without amplitude come last."""
        return np.argsort(-np.nan_to_num(self.deviation, nan=-1.0), kind="stable")


@dataclass(frozen=True)
class DegenerateSet:
    """What the modes of one set of degenerate modes do together, which does not depend on how they were chosen among themselves.

    Attributes:
        modes: their indices.
        frequency: their mean, THz.
        shift, shift_error: what they add to the thermal mean, and its standard error.
        deviation: standard deviation of the property that they make.
    """

    modes: np.ndarray
    frequency: float
    shift: float
    shift_error: float
    deviation: float


def degenerate(frequencies: np.ndarray) -> np.ndarray:
    """(M,) number of the set of degenerate modes that each of ascending ``frequencies`` (THz) belongs to."""
    return np.concatenate([[0], np.cumsum(np.diff(frequencies) > SAME)])


def by_set(response: Response, thermal: Thermal) -> list[DegenerateSet]:
    """The sets of degenerate modes that have an amplitude, that with the largest shift first."""
    known = ~np.isnan(response.sigma)
    found = []
    for g in np.unique(response.sets[known]):
        mine = np.flatnonzero(known & (response.sets == g))
        found.append(
            DegenerateSet(
                mine,
                float(response.frequencies[mine].mean()),
                float(np.nansum(thermal.shift[mine])),
                float(thermal.set_error[mine[0]]),
                float(thermal.set_deviation[mine[0]]),
            )
        )
    return sorted(found, key=lambda one: -abs(one.shift))


def directions(constants: ForceConstants, modes: Modes) -> np.ndarray:
    """(3N, M) displacement in Angstrom of every atom for Q = 1 Angstrom sqrt(amu) along each mode: M^-1/2 e."""
    return modes.vectors / np.sqrt(np.repeat(constants.supercell.get_masses(), 3))[:, None]


def respond(
    of: Property, constants: ForceConstants, temperature: float, statistics: Statistics = "quantum"
) -> Response:
    """Derivatives of a property along every mode of the supercell, at its reference positions.

    Raises:
        VibronicError: the model refuses the crystal, or the temperature makes no sense.
    """
    modes = constants.modes()
    ways = directions(constants, modes)
    sigma = _amplitudes(modes, temperature, statistics)
    value, slope, second = of.curvatures(constants.supercell, ways)
    return Response(of.target.name, of.target.unit, temperature, value, modes.frequencies, sigma, slope @ ways, second)


def thermal_set(
    constants: ForceConstants, temperature: float, statistics: Statistics, n: int, seed: int
) -> list[Atoms]:
    """``n`` harmonic configurations in pairs +u, -u, imaginary modes at rest; none where no mode has an amplitude.

    Raises:
        VibronicError: ``n`` is odd or below 4.
    """
    if n < 4 or n % 2:
        raise VibronicError(f"a thermal average needs an even number of at least 4 configurations, not {n}")
    if constants.modes().unstable.all():
        return []
    sampler = Phonons(constants, temperature, statistics, imaginary="freeze", plus_minus=True)
    return sampler.sample(constants.supercell, n, seed)


def thermal_average(
    of: Property,
    constants: ForceConstants,
    temperature: float,
    statistics: Statistics = "quantum",
    n: int = 100,
    seed: int = 0,
) -> Thermal:
    """Derivatives averaged over ``n`` harmonic configurations at ``temperature``; imaginary modes stay at rest.

    Raises:
        VibronicError: ``n`` is odd or below 4, the temperature makes no sense, or the model refuses a configuration.
    """
    modes, reference = constants.modes(), constants.supercell
    ways, sigma = directions(constants, modes), _amplitudes(modes, temperature, statistics)
    snapshots = thermal_set(constants, temperature, statistics, n, seed)
    if not snapshots:
        none = np.full(len(sigma), np.nan)
        return Thermal(0, sigma, none, none, none, none, none, none, none, np.nan, np.nan)
    mass = np.repeat(reference.get_masses(), 3)
    start = of.value(reference)
    values, slopes, amplitudes = [], [], []
    for snapshot in snapshots:
        value, gradient = of.gradient(snapshot)
        values.append(value - start)
        slopes.append(gradient @ ways)
        amplitudes.append(modes.vectors.T @ (np.sqrt(mass) * (snapshot.positions - reference.positions).ravel()))
    products = np.array(amplitudes) * np.array(slopes)
    sets = degenerate(modes.frequencies)
    members = (sets[:, None] == sets[None]) & ~np.isnan(sigma)
    (total, total_error), (first, first_error), (second, second_error) = map(_over_pairs, (values, slopes, products))
    # Errors of degenerate modes are correlated, so that of their sum is taken from the sums: 1/2 <Q dP/dQ>.
    set_error = _over_pairs(0.5 * products @ members)[1]
    set_deviation = np.full(len(sigma), np.nan)
    for g in np.unique(sets[~np.isnan(sigma)]):
        mine = np.flatnonzero((sets == g) & ~np.isnan(sigma))
        set_deviation[mine] = _deviation(np.array(amplitudes)[:, mine], np.array(slopes)[:, mine], sigma[mine])
    still = sigma == 0  # classical atoms at 0 K
    variance = np.where(still, np.nan, sigma) ** 2
    return Thermal(
        n=len(snapshots),
        sigma=sigma,
        first=first,
        first_error=first_error,
        rms=np.sqrt(np.mean(np.square(slopes), axis=0)),
        second=second / variance,
        second_error=second_error / variance,
        set_error=set_error,
        set_deviation=set_deviation,
        total=float(total[0]),
        total_error=float(total_error[0]),
    )


def _over_pairs(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over pairs +u, -u."""
    pairs = np.reshape(rows, (len(rows) // 2, 2, -1)).mean(axis=1)
    return pairs.mean(axis=0), pairs.std(axis=0, ddof=1) / np.sqrt(len(pairs))


def _deviation(amplitudes: np.ndarray, slopes: np.ndarray, sigma: np.ndarray) -> float:
    """Standard deviation that degenerate modes make together: all the second derivatives among them count, or it would depend on which
    of them a solver has picked.

    Args:
        amplitudes: (n, k) Q of every configuration.
        slopes: (n, k) dP/dQ.
        sigma: (k,) thermal amplitudes.
    """
    if not sigma.all():  # classical atoms at 0 K
        return 0.0
    first, first_error = _over_pairs(slopes)
    bends = (amplitudes / sigma)[:, :, None] * (slopes * sigma)[:, None, :]
    bend, bend_error = _over_pairs(0.5 * (bends + bends.transpose(0, 2, 1)))
    # Squares of standard errors are taken off the squares, which sampling alone would make positive.
    linear = ((first**2 - first_error**2) * sigma**2).sum()
    return float(np.sqrt(max(0.0, linear + 0.5 * (bend**2 - bend_error**2).sum())))


Averaged = TypeVar("Averaged", Response, Thermal)


def mean(several: Sequence[Averaged]) -> Averaged:
    """Mean over models (seeds) of what was found along the same modes, in the same configurations.

    Standard errors are averaged, too: the models share their configurations.
    """
    means: dict[str, Any] = {
        f.name: np.mean([getattr(one, f.name) for one in several], axis=0)
        for f in fields(several[0])
        if f.name not in ("target", "unit", "n")
    }
    changes: Any = {name: value if value.ndim else float(value) for name, value in means.items()}
    return replace(several[0], **changes)


def _amplitudes(modes: Modes, temperature: float, statistics: Statistics) -> np.ndarray:
    """(M,) sigma; nan where there is none."""
    sigma = np.full(len(modes.frequencies), np.nan)
    sigma[~modes.unstable] = np.sqrt(mode_variances(modes.frequencies[~modes.unstable], temperature, statistics))
    return sigma
