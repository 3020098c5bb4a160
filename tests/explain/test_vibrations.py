"""Derivatives along modes: right against finite differences, sum rules, units, and labels of an engine."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from scipy.spatial.transform import Rotation

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.targets import Target
from vibronic.core.units import KB, THZ
from vibronic.data.dataset import GraphData
from vibronic.explain.differences import agreement, label_differences
from vibronic.explain.vibrations import (
    Property,
    by_set,
    degenerate,
    directions,
    mean,
    respond,
    thermal_average,
    thermal_set,
)
from vibronic.learning import store
from vibronic.properties.cgcnn import CrystalGraph
from vibronic.sampling.harmonic import ForceConstants
from vibronic.sampling.phonons import force_constants

TARGETS = {"painn": ["energy", "forces", "band_gap"], "ridge": ["energy", "band_gap"]}


class Springs(Model):
    """The energy that force constants stand for, and the squared distance of atom 0 from its place."""

    kind = "hand-made"

    def __init__(self, constants: ForceConstants) -> None:
        super().__init__({}, [Target("energy", "eV", extensive=True), Target("square", "Angstrom^2")], cutoff=3.0)
        n = len(constants.supercell)
        self.elements = torch.unique(torch.as_tensor(constants.supercell.numbers))
        self.register_buffer("matrix", torch.as_tensor(constants.array.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)))
        self.register_buffer("rest", torch.as_tensor(constants.supercell.positions))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        u = (batch.positions - self.rest).flatten()
        return {"energy": (0.5 * u @ self.matrix @ u)[None], "square": (u[:3] ** 2).sum()[None]}


@pytest.fixture(scope="module")
def constants() -> ForceConstants:
    """32 atoms of copper by EMT at its own lattice constant."""
    return force_constants(bulk("Cu", a=3.59, cubic=True), (2, 2, 2), EMT(), progress=False)


@pytest.fixture(scope="module")
def soft(constants: ForceConstants) -> ForceConstants:
    """The same with its softest modes made imaginary."""
    n = len(constants.supercell)
    shift = 0.9 * np.median(np.linalg.eigvalsh(constants.array.transpose(0, 2, 1, 3).reshape(3 * n, -1)))
    return replace(constants, array=constants.array - shift * np.einsum("ij,ab->ijab", np.eye(n) - 1 / n, np.eye(3)))


@pytest.fixture(scope="module")
def built(labelled_copper: list[Atoms]) -> Callable[[str], Model]:
    def of(kind: str) -> Model:
        torch.manual_seed(1)
        width = {} if kind == "ridge" else {"width": 16, "layers": 2}
        model = store.build(kind, targets=TARGETS[kind], cutoff=4.0, **width).double()
        model.prepare(GraphData(labelled_copper, model.targets, 4.0).batch().to(dtype=torch.float64))
        if kind == "painn":  # fresh readouts are nearly flat
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.3 * torch.randn_like(p))
        return model.eval()

    return of


@pytest.fixture(params=["painn", "ridge"])
def model(request: pytest.FixtureRequest, built: Callable[[str], Model]) -> Model:
    return built(request.param)


@pytest.fixture
def displaced(constants: ForceConstants) -> Atoms:
    """Where no derivative vanishes by symmetry."""
    atoms = constants.supercell.copy()
    atoms.positions += np.random.default_rng(2).normal(0, 0.05, (len(atoms), 3))
    return atoms


# --- against finite differences of the model itself ---


@pytest.mark.parametrize("target", ["energy", "band_gap"])
def test_derivatives_are_those_of_the_model(
    model: Model, target: str, constants: ForceConstants, displaced: Atoms
) -> None:
    of = Property(model, target)
    ways = directions(constants, constants.modes())[:, [0, 31, 92]]
    value, slope, second = of.curvatures(displaced, ways)
    assert value == pytest.approx(of.value(displaced), abs=1e-10)
    assert slope == pytest.approx(of.gradient(displaced)[1], rel=1e-9, abs=1e-12)
    assert np.abs(slope @ ways).min() > 1e-7
    h = 2e-3
    for way, bent, slid in zip(ways.T, second, slope @ ways, strict=True):

        def at(step: float, way: np.ndarray = way) -> float:
            moved = displaced.copy()
            moved.positions += step * way.reshape(-1, 3)
            return of.value(moved)

        # five points: the error is of fourth order in the step
        first = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        bend = (16 * (at(h) + at(-h)) - (at(2 * h) + at(-2 * h)) - 30 * value) / (12 * h**2)
        assert slid == pytest.approx(first, rel=1e-5, abs=1e-9)
        assert bent == pytest.approx(bend, rel=1e-3, abs=1e-6 * np.abs(second).max())


# --- sum rules ---


def test_a_rigid_translation_changes_nothing(model: Model, displaced: Atoms) -> None:
    of = Property(model, "band_gap")
    translations = np.tile(np.eye(3), (len(displaced), 1))
    _, slope, second = of.curvatures(displaced, translations)
    assert np.abs(slope @ translations).max() < 1e-9 * np.abs(slope).sum()
    one = of.curvatures(displaced, np.eye(len(translations))[:, :3])[2]
    assert np.abs(second).max() < 1e-7 * np.abs(one).max() * len(displaced)


def test_a_turned_crystal_has_the_same_derivatives(model: Model, constants: ForceConstants) -> None:
    """Mode by mode where the eigenvectors turn with it, set by set where they are found anew."""
    turn = Rotation.from_euler("xyz", [0.4, 1.1, -0.7]).as_matrix()
    turned = []
    for atoms in (constants.unitcell, constants.supercell):
        atoms = atoms.copy()
        atoms.positions, atoms.cell = atoms.positions @ turn.T, atoms.cell.array @ turn.T
        turned.append(atoms)
    array = np.einsum("ac,ijcd,bd->ijab", turn, constants.array, turn)
    other = ForceConstants(*turned, constants.supercell_matrix, array)
    of = Property(model, "band_gap")
    ways = directions(constants, constants.modes())
    rotated = np.einsum("ab,ibm->iam", turn, ways.reshape(-1, 3, ways.shape[1])).reshape(ways.shape)
    value, slope, second = of.curvatures(constants.supercell, ways[:, ::7])
    again, turned_slope, turned_second = of.curvatures(other.supercell, rotated[:, ::7])
    assert again == pytest.approx(value, abs=1e-9)
    assert turned_slope @ rotated == pytest.approx(slope @ ways, abs=1e-9)
    assert turned_second == pytest.approx(second, abs=1e-6 * np.abs(second).max())
    if model.kind == "painn":  # which is slow, and one will do
        return
    here, there = respond(of, constants, 300), respond(of, other, 300)
    assert here.sets.tolist() == there.sets.tolist()
    assert here.sets.max() < 20  # of 93 modes: cubic symmetry
    sums = [np.bincount(r.sets, r.shift) for r in (here, there)]
    assert sums[0] == pytest.approx(sums[1], abs=1e-5 * np.abs(sums[0]).max())


def test_first_derivatives_of_the_energy_are_forces(
    built: Callable[[str], Model], constants: ForceConstants, displaced: Atoms
) -> None:
    model = built("painn")
    with torch.no_grad():
        forces = model(Batch.from_atoms(displaced, 4.0, dtype=torch.float64))["forces"].numpy()
    assert np.abs(forces).max() > 0.01
    assert Property(model, "energy").gradient(displaced)[1] == pytest.approx(-forces.ravel(), abs=1e-9)
    assert np.abs(Property(model, "energy").gradient(constants.supercell)[1]).max() < 1e-8  # by symmetry


# --- units, against the harmonic crystal ---


def test_second_derivatives_of_a_harmonic_energy_are_squared_frequencies(constants: ForceConstants) -> None:
    of = Property(Springs(constants), "energy")
    found = respond(of, constants, 300, "classical")
    assert found.second == pytest.approx((found.frequencies / THZ) ** 2, rel=1e-8)
    assert np.abs(found.first).max() < 1e-12
    assert found.shift == pytest.approx(np.full(93, KB * 300 / 2), rel=1e-8)  # equipartition
    cold = respond(of, constants, 0)
    hbar_omega = 4.135667696e-3 * found.frequencies  # h nu, eV
    assert cold.shift == pytest.approx(hbar_omega / 4, rel=1e-6)  # half of the zero-point energy


def test_squared_displacements_have_their_thermal_mean(constants: ForceConstants) -> None:
    """<u^2> of an atom is quadratic, so that the second order is all there is: the analytic thermal displacement."""
    from vibronic.sampling.harmonic import thermal_displacements

    found = respond(Property(Springs(constants), "square"), constants, 300)
    assert found.shift.sum() == pytest.approx(np.trace(thermal_displacements(constants, 300)[0]), rel=1e-8)


def test_a_thermal_set_gives_the_same_second_derivatives_and_shift(constants: ForceConstants) -> None:
    of = Property(Springs(constants), "energy")
    found, hot = respond(of, constants, 300), thermal_average(of, constants, 300, n=60, seed=1)
    pull = (hot.second - found.second) / hot.second_error
    assert np.abs(pull).mean() < 1.2
    assert np.abs(pull).max() < 6
    assert hot.total == pytest.approx(found.shift.sum(), abs=4 * hot.total_error)
    assert hot.shift.sum() == pytest.approx(hot.total, rel=1e-9)  # of a quadratic property, on the same set
    assert 0 < hot.total_error < 0.1 * hot.total
    assert np.abs(hot.first).max() < 1e-10  # pairs +u, -u
    assert hot.rms == pytest.approx(found.second * found.sigma, rel=0.7)
    # one harmonic mode: var(E) = omega^4 sigma^4 / 2; squares of standard errors are taken off, or noise would add up
    assert hot.deviation.mean() == pytest.approx((found.second * found.sigma**2 / np.sqrt(2)).mean(), rel=0.1)
    assert hot.deviation[hot.strongest].tolist() == sorted(hot.deviation, reverse=True)
    again = thermal_average(of, constants, 300, n=60, seed=1)
    assert again.total == hot.total


def test_a_property_that_is_linear_in_a_mode(constants: ForceConstants) -> None:
    """P = c Q: <dP/dQ> = c, no shift, and the standard deviation c sigma."""
    ways = directions(constants, constants.modes())
    mass = np.repeat(constants.supercell.get_masses(), 3)

    class Along(Springs):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            u = (batch.positions - self.rest).flatten()
            return {"energy": (2.0 * u @ torch.as_tensor(mass * ways[:, 40]))[None]}

    of = Property(Along(constants), "energy")
    cold, hot = respond(of, constants, 300), thermal_average(of, constants, 300, n=10)
    only = np.arange(93) == 40
    assert cold.first == pytest.approx(2.0 * only, abs=1e-10)
    assert cold.second.tolist() == [0] * 93
    assert hot.first == pytest.approx(2.0 * only, abs=1e-10)
    assert hot.total == pytest.approx(0, abs=1e-12)
    assert hot.deviation[40] == pytest.approx(2.0 * cold.sigma[40])
    assert hot.strongest[0] == 40


def test_imaginary_modes_have_derivatives_but_no_share(soft: ForceConstants) -> None:
    of = Property(Springs(soft), "energy")
    found, hot = respond(of, soft, 300), thermal_average(of, soft, 300, n=8)
    imaginary = found.frequencies < 0
    assert imaginary.any()
    assert found.second[imaginary] == pytest.approx(-((found.frequencies[imaginary] / THZ) ** 2), rel=1e-7)
    for values in (found.sigma, found.shift, found.per_sigma, hot.shift, hot.second, hot.deviation):
        assert np.isnan(values).tolist() == imaginary.tolist()
    assert not np.isnan(found.sigma[hot.strongest[: (~imaginary).sum()]]).any()
    assert np.isfinite([hot.total, hot.total_error]).all()
    falling = thermal_average(of, replace(soft, array=-constants_of(soft)), 300, n=8)
    assert falling.n == 0
    assert np.isnan(falling.shift).all()
    assert np.isnan(falling.total)


def constants_of(soft: ForceConstants) -> np.ndarray:
    """Of a crystal that is stable along every mode."""
    n = len(soft.supercell)
    return np.einsum("ij,ab->ijab", np.eye(n) - 1 / n, np.eye(3))


# --- against labels of an engine ---


def test_labels_of_an_engine_bend_by_its_squared_frequencies(
    constants: ForceConstants, built: Callable[[str], Model], tmp_path: Path
) -> None:
    """d2E/dQ2 of EMT energies is omega^2 of EMT force constants, which come from forces."""
    of = Property(built("ridge"), "energy")
    chosen = [0, 15, 46, 92]
    book = tmp_path / "labels.sqlite"
    found = label_differences(of, constants, chosen, "emt", book, displacement=0.005, executor="in-process")
    omega = constants.modes().frequencies[chosen] / THZ
    assert found.label_second == pytest.approx(omega**2, rel=2e-3)
    assert np.abs(found.label_first).max() < 1e-4
    moved = directions(constants, constants.modes())[:, chosen] * found.steps
    assert np.linalg.norm(moved.reshape(-1, 3, 4), axis=1).max(axis=0) == pytest.approx(0.005)
    assert found.step_second == pytest.approx(found.second, rel=1e-2)
    before = book.stat().st_mtime_ns
    again = label_differences(of, constants, chosen, "emt", book, displacement=0.005, executor="in-process")
    assert again.label_second.tolist() == found.label_second.tolist()
    assert book.stat().st_mtime_ns == before  # from the ledger


def test_labels_at_a_thermal_configuration(constants: ForceConstants, tmp_path: Path) -> None:
    """EMT copper away from its sites: the slope of its energy is its force, and springs foretell it to a few per cent."""
    of = Property(Springs(constants), "energy")
    (hot, *_) = thermal_set(constants, 100, "quantum", 4, 3)
    chosen = np.arange(0, 93, 9)
    found = label_differences(of, constants, chosen, "emt", tmp_path / "l.sqlite", 0.01, hot, executor="in-process")
    atoms = hot.copy()
    atoms.calc = EMT()
    forces = -atoms.get_forces().ravel() @ directions(constants, constants.modes())[:, chosen]
    assert found.label_first == pytest.approx(forces, abs=2e-3 * np.abs(forces).max())
    assert found.step_first == pytest.approx(found.first, abs=1e-8)
    assert agreement(found.label_first, found.first)["r2"] > 0.95
    assert agreement(found.label_second, found.second)["r2"] > 0.9


def test_agreement() -> None:
    labels = np.array([1.0, 2.0, 3.0])
    assert agreement(labels, labels) == {"mae": 0, "r2": 1}
    assert agreement(labels, np.full(3, 2.0)) == {"mae": pytest.approx(2 / 3), "r2": 0}
    assert np.isnan(agreement(np.ones(2), labels[:2])["r2"])


def test_the_mean_over_seeds(constants: ForceConstants) -> None:
    of = Property(Springs(constants), "energy")
    one, hot = respond(of, constants, 300), thermal_average(of, constants, 300, n=4)
    both = mean([one, replace(one, second=3 * one.second, first=one.first + 2, value=4.0)])
    assert both.second == pytest.approx(2 * one.second)
    assert both.first == pytest.approx(one.first + 1)
    assert both.value == pytest.approx(2.0)
    assert (both.unit, both.temperature) == ("eV", 300)
    several = mean([hot, replace(hot, second=3 * hot.second, total=3 * hot.total)])
    assert several.shift == pytest.approx(2 * hot.shift)
    assert several.total == pytest.approx(2 * hot.total)
    assert several.n == 4


def test_the_error_of_a_set_is_that_of_its_sum(constants: ForceConstants) -> None:
    """The shifts of degenerate modes share their configurations, so their errors do not add up in squares."""
    hot = thermal_average(Property(Springs(constants), "energy"), constants, 300, n=12)
    sets = degenerate(constants.modes().frequencies)
    for k in np.unique(sets):
        mine = sets == k
        assert np.ptp(hot.set_error[mine]) == 0
        assert hot.set_error[mine][0] <= hot.shift_error[mine].sum() * (1 + 1e-9)
        if mine.sum() == 1:
            assert hot.set_error[mine] == pytest.approx(hot.shift_error[mine])
    added = np.sqrt(np.bincount(sets, hot.shift_error**2))
    assert not np.allclose(added, [hot.set_error[sets == k][0] for k in np.unique(sets)], rtol=0.02)


def test_sets_do_not_depend_on_the_eigenvectors_that_a_solver_picked(constants: ForceConstants) -> None:
    """Shift, its error and the deviation of a set stay what they are when its modes are turned among themselves, as those of single modes
    do not; every mode is in one set, and the largest shift comes first."""
    of, modes = Property(Springs(constants), "square"), constants.modes()
    rng, turned = np.random.default_rng(0), modes.vectors.copy()
    for g in np.unique(degenerate(modes.frequencies)):
        mine = degenerate(modes.frequencies) == g
        turned[:, mine] @= np.linalg.qr(rng.normal(size=(mine.sum(), mine.sum())))[0]

    class Turned(ForceConstants):
        def modes(self):
            return replace(modes, vectors=turned)

    other = Turned(**{f.name: getattr(constants, f.name) for f in fields(ForceConstants) if f.init})
    snapshots = thermal_set(constants, 300, "quantum", 12, 0)
    found = []
    for one in (constants, other):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vibronic.explain.vibrations.thermal_set", lambda *_: snapshots)
            hot = thermal_average(of, one, 300, n=12)
        found.append((hot, by_set(respond(of, one, 300), hot)))
    (hot, sets), (other_hot, others) = found
    assert sorted(np.concatenate([s.modes for s in sets])) == list(range(len(modes.frequencies)))
    assert sum(s.shift for s in sets) == pytest.approx(np.nansum(hot.shift))
    assert [abs(s.shift) for s in sets] == sorted((abs(s.shift) for s in sets), reverse=True)
    for name in ("shift", "shift_error", "deviation"):
        mine, theirs = ({tuple(s.modes): getattr(s, name) for s in one} for one in (sets, others))
        assert mine == pytest.approx(theirs, rel=0.02, abs=1e-6)  # frequencies of a set are equal to within as much
    assert not np.allclose(hot.shift, other_hot.shift, rtol=0.1)


def test_a_gap_of_degenerate_levels_has_a_kink_and_a_thermal_mean_all_the_same() -> None:
    """Where levels cross by symmetry an eigenvalue has no second derivative: nan, not zero."""
    silicon = bulk("Si", cubic=True)
    n = len(silicon)
    springs = 8.0 * np.einsum("ij,ab->ijab", np.eye(n) - 1 / n, np.eye(3))  # eV/Angstrom^2
    constants = ForceConstants(silicon, silicon, np.eye(3, dtype=int), springs)
    model = store.build("tight-binding", targets=["band_gap"], cutoff=4.0)
    model.elements = torch.tensor([14])
    model.values, model.zero = torch.as_tensor(model.layout.prior()[0]), torch.zeros(1, 1, dtype=torch.float64)
    of = Property(model, "band_gap")
    found, hot = respond(of, constants, 300), thermal_average(of, constants, 300, n=8)
    assert np.isnan(found.second).any()
    assert np.isnan(found.total)
    assert np.isfinite(hot.shift[np.isfinite(hot.sigma)]).all()
    assert np.isfinite(hot.total)


def test_one_atom_does_not_vibrate() -> None:
    with pytest.raises(VibronicError, match="one atom in the supercell has no vibrations"):
        force_constants(bulk("Cu"), (1, 1, 1), EMT(), progress=False)


# --- refusals ---


def test_refusals(constants: ForceConstants, built: Callable[[str], Model], tmp_path: Path) -> None:
    with pytest.raises(VibronicError, match="choose one of energy, square"):
        Property(Springs(constants), "band_gap")
    rough = Springs(constants)
    rough.smooth = CrystalGraph.smooth
    with pytest.raises(VibronicError, match="jumps where a neighbour"):
        Property(rough, "energy")
    of = Property(built("ridge"), "band_gap")
    with pytest.raises(VibronicError, match="never seen Na, Cl"):
        of.value(bulk("NaCl", "rocksalt", a=5.6))
    for n in (2, 7):
        with pytest.raises(VibronicError, match="even number of at least 4"):
            thermal_average(of, constants, 300, n=n)
    with pytest.raises(VibronicError, match="kelvins"):
        respond(of, constants, -1)
    with pytest.raises(VibronicError, match="gives no 'band_gap'"):
        label_differences(of, constants, [0], "emt", tmp_path / "l.sqlite")
    energy = Property(built("ridge"), "energy")
    with pytest.raises(VibronicError, match="from 0 to 92"):
        label_differences(energy, constants, [93], "emt", tmp_path / "l.sqlite")
    with pytest.raises(VibronicError, match="positive"):
        label_differences(energy, constants, [0], "emt", tmp_path / "l.sqlite", displacement=0)
    assert not (tmp_path / "l.sqlite").exists()


def test_a_model_is_left_as_it_was(built: Callable[[str], Model]) -> None:
    model = built("painn").float()
    of = Property(model, "band_gap")
    assert model.dtype is torch.float32
    assert of.model.dtype is torch.float64
    assert all(p.requires_grad for p in model.parameters())
