"""Our field model: the symmetries and limits of physics, and what it refuses."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.fd import calculate_numerical_forces
from scipy.spatial.transform import Rotation

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.data.dataset import GraphData
from vibronic.explain.attribution import attribute
from vibronic.fields.functional import NOISES, KernelFunctional, farthest, matern, solve
from vibronic.fields.local import LocalField, gaussians
from vibronic.fields.qdf import molecules
from vibronic.learning import store
from vibronic.learning.calculator import ModelCalculator
from vibronic.learning.prediction import predict

MOLECULES = ("CH4", "C2H6", "C2H4", "C2H2", "H2O", "NH3", "CH3OH", "H2CO", "CO2", "HCN", "H3CNH2", "C3H8", "C6H6", "N2")
SMALL = {"cutoffs": (5.0, 3.0), "points": (120, 80), "momentum": 3, "orbitals": 8, "components": 24}


def energy(atoms: Atoms) -> float:
    """A smooth surface with two- and three-body parts: what a fit of invariants can learn from few structures."""
    d = atoms.get_all_distances() + 9.0 * np.eye(len(atoms))
    pair = np.sum(np.exp(-2.0 * d) * np.sqrt(np.outer(atoms.numbers, atoms.numbers)))
    crowd = np.sum(np.exp(-1.5 * d).sum(1) ** 2)
    return float(-atoms.numbers.sum() + 3 * pair + 0.5 * crowd)


def rattled(n: int, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        atoms = molecule(MOLECULES[k % len(MOLECULES)])
        atoms.positions += rng.normal(0, 0.06, atoms.positions.shape)
        atoms.info.update(energy=energy(atoms), homo=-8 + 0.1 * energy(atoms) / len(atoms))
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = store.build("qdf", targets=["energy", "homo"], noise=1e-7, **SMALL)
    made.prepare(GraphData(rattled(140, 0), made.targets, made.cutoff).batch())
    return made.double().eval()


def of(model, *structures: Atoms) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in predict(model, structures).items()}


def test_it_learns_more_than_the_composition(model) -> None:
    unseen = rattled(56, 1)
    labels = np.array([a.info["energy"] for a in unseen])
    counts = np.array([[np.sum(a.numbers == z) for z in (1, 6, 7, 8)] for a in unseen])
    left = labels - counts @ np.linalg.lstsq(counts, labels)[0]
    error = of(model, *unseen)["energy"] - labels
    assert np.abs(error).mean() < 0.15 * np.abs(left).mean()


@pytest.mark.parametrize("seed", range(3))
def test_rotation_reflection_translation_and_order(model, seed) -> None:
    rng = np.random.default_rng(seed)
    atoms = rattled(9, seed)[-1]
    moved = atoms[rng.permutation(len(atoms))]
    moved.positions = moved.positions @ Rotation.random(random_state=seed).as_matrix().T * (-1) ** seed + rng.normal(
        0, 5, 3
    )
    for name, value in of(model, atoms).items():
        assert of(model, moved)[name] == pytest.approx(value, abs=1e-9), name


def test_distant_molecules_add_up_and_a_copy_has_the_same_mean(model) -> None:
    a, b = molecule("C2H6"), molecule("CH3OH")
    both = a + Atoms(b.numbers, b.positions + np.array([60, 0, 0]))
    parts = of(model, a, b)["energy"]
    assert of(model, both)["energy"][0] == pytest.approx(parts.sum(), abs=1e-9)
    twice = a + Atoms(a.numbers, a.positions + np.array([0, 60, 0]))
    assert of(model, twice)["homo"][0] == pytest.approx(of(model, a)["homo"][0], abs=1e-9)


def test_a_level_of_several_molecules_is_the_highest_or_the_lowest(model) -> None:
    a, b = molecule("C6H6"), molecule("H2O")
    alone = of(model, a, b)["homo"]
    assert abs(alone[0] - alone[1]) > 0.01
    both = a + Atoms(b.numbers, b.positions + np.array([0, 0, 40.0]))
    assert of(model, both)["homo"][0] == pytest.approx(alone.max(), abs=1e-9)
    assert of(model, b, both, a)["homo"] == pytest.approx([alone[1], alone.max(), alone[0]], abs=1e-9)


def test_levels_are_learned_from_single_molecules_and_gaps_asked_of_them() -> None:
    torch.manual_seed(0)
    frames = rattled(56, 0)
    for atoms in frames:
        atoms.info.update(lumo=1.0 + atoms.info["homo"] / 8, band_gap=3.0)
    a, b = molecule("C6H6"), molecule("H2O")
    both = a + Atoms(b.numbers, b.positions + np.array([0, 0, 40.0]))
    made = store.build("qdf", targets=["lumo"], noise=1e-5, **SMALL)
    made.prepare(GraphData(frames, made.targets, made.cutoff).batch())
    alone = of(made, a, b)["lumo"]
    assert of(made, both)["lumo"][0] == pytest.approx(alone.min(), abs=1e-6)
    gap = store.build("qdf", targets=["band_gap"], noise=1e-5, **SMALL)
    gap.prepare(GraphData(frames, gap.targets, gap.cutoff).batch())
    with pytest.raises(VibronicError, match="several molecules"):
        of(gap, both)
    both.info["lumo"] = 1.0
    with pytest.raises(VibronicError, match="learned from single ones"):
        made.prepare(GraphData([*frames, both], made.targets, made.cutoff).batch())


def test_a_crystal_is_one_piece_and_molecules_are_several() -> None:
    water = molecule("H2O", vacuum=5.0)
    pair = water + Atoms(water.numbers, water.positions + np.array([8.0, 0, 0]))
    crystal = pair.copy()
    crystal.set_cell([20, 20, 20])
    crystal.pbc = True
    batch = Batch.collate([Batch.from_atoms(atoms, 5.0) for atoms in (pair, crystal, water)])
    pieces, owner = molecules(batch)
    assert owner.tolist() == [0, 0, 1, 2]
    assert pieces.tolist() == [0, 0, 0, 1, 1, 1, *[2] * 6, *[3] * 3]


def test_the_energy_is_smooth_along_a_stretch_and_through_the_cutoffs(model) -> None:
    distances = np.arange(0.8, 6.0, 0.01)
    chain = [Atoms("CH4", np.vstack([molecule("CH4").positions[:4], [[-d, d, -d]] / np.sqrt(3)])) for d in distances]
    energies = of(model, *chain)["energy"]
    step, bend = np.diff(energies), np.diff(energies, 2)
    assert np.ptp(energies) > 0.1
    assert np.abs(bend).max() < 0.2 * np.abs(step).max()  # a jump would make the two alike
    assert np.allclose(energies[distances > 5.2], energies[-1], atol=0.02)


def test_forces_are_the_slope_and_are_warned_about(model) -> None:
    atoms = rattled(7, 3)[-1]
    atoms.calc = ModelCalculator(model)
    with pytest.warns(UserWarning, match="trained on energies alone"):
        forces = atoms.get_forces()
    assert np.allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-5)
    assert np.allclose(forces.sum(0), 0, atol=1e-9)


def test_a_supercell_has_twice_the_energy_of_its_crystal() -> None:
    rng = np.random.default_rng(0)
    frames = []
    for a in np.linspace(3.9, 4.3, 12):
        atoms = bulk("Al", cubic=True, a=a)
        atoms.rattle(0.05, seed=int(rng.integers(999)))
        atoms.info["energy"] = float((a - 4.1) ** 2)
        frames.append(atoms)
    made = store.build("qdf", targets=["energy"], noise=1e-6, **SMALL)
    made.prepare(GraphData(frames, made.targets, made.cutoff).batch())
    made = made.double().eval()
    atoms = frames[3]
    assert of(made, atoms * (2, 1, 1))["energy"][0] == pytest.approx(2 * of(made, atoms)["energy"][0], abs=1e-8)


def test_a_folder_gives_the_same_model(model, tmp_path) -> None:
    store.save(model, tmp_path / "m", store.Card())
    again, _ = store.load(tmp_path / "m")
    atoms = molecule("C3H8")
    assert of(again, atoms)["energy"][0] == pytest.approx(of(model, atoms)["energy"][0], abs=1e-4)


@pytest.mark.parametrize(
    ("atoms", "said"),
    [
        (molecule("SiH4"), "never seen Si"),
        (Atoms("CH3", molecule("CH3").positions), "CH3 has an odd number of electrons"),
        (Atoms("O"), "smaller than any structure of the training"),
        (bulk("C", "diamond", a=3.57), "trained on molecules only"),
    ],
)
def test_what_it_never_saw_is_refused(model, atoms, said) -> None:
    with pytest.raises(VibronicError, match=said):
        of(model, atoms)


def test_one_crystal_in_the_batch_does_not_let_a_radical_pass(model) -> None:
    with pytest.raises(VibronicError, match=r"periodic|odd number"):
        of(model, Atoms("CH3", molecule("CH3").positions), bulk("C", "diamond", a=3.57))


def test_single_precision_turns_and_adds_up() -> None:
    """As shipped, not as doubled for the tests above."""
    torch.manual_seed(0)
    made = store.build("qdf", targets=["energy"], noise=1e-5, **SMALL)
    made.prepare(GraphData(rattled(140, 0), made.targets, made.cutoff).batch())
    assert made.eval().fields[0].centres.dtype is torch.float32
    a, b = rattled(14, 5)[7], rattled(14, 5)[11]
    turned = a.copy()
    turned.positions = turned.positions @ Rotation.random(random_state=1).as_matrix().T + 20.0
    both = a + Atoms(b.numbers, b.positions + np.array([40, 0, 0]))
    apart = a + Atoms(b.numbers, b.positions + np.array([1e4, 0, 0]))
    far = Atoms(a.numbers, a.positions + 1e5)
    one, other, again, sum_of_two = of(made, a, b, turned, both)["energy"]
    assert of(made, far)["energy"][0] == pytest.approx(one, abs=4e-4)
    assert again == pytest.approx(one, abs=4e-4)  # 0.01 kcal/mol
    assert sum_of_two == pytest.approx(one + other, abs=1e-4)
    assert of(made, apart)["energy"][0] == pytest.approx(one + other, abs=1e-4)


def test_what_is_unlike_the_training_set_is_told(model) -> None:
    seen, unseen = of(model, *rattled(140, 0))["novelty"], of(model, *rattled(56, 1))["novelty"]
    assert np.mean(seen > 1) < 0.05
    odd = rattled(56, 1)
    for atoms in odd:
        atoms.rattle(0.3, seed=4)
    assert np.mean(unseen > 1) < 0.1 < 0.5 < np.mean(of(model, *odd)["novelty"] > 1)
    assert np.median(of(model, *odd)["novelty"]) > 2 * np.median(unseen)


def test_an_element_of_which_one_atom_is_known_is_no_less_novel() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(41, 5, generator=rng)
    numbers = torch.tensor([6] * 40 + [8])
    functional = KernelFunctional(30, 1.0, 1.0, 0.0)
    functional.prepare(x, numbers)
    functional.learn(torch.zeros(int(functional.points_of.sum()), 1, dtype=torch.float64))
    novelty = functional(x[-1:] + torch.tensor([0.0, 3.0, 0, 0, 0]), torch.tensor([8]))[1]
    assert novelty > 1
    assert functional(x[-1:].half().float(), torch.tensor([8]))[1] < 0.01


def test_an_ion_is_refused_on_every_way_to_a_prediction(model) -> None:
    ion = molecule("CH4")
    ion.set_initial_charges([2, 0, 0, 0, 0])
    with pytest.raises(VibronicError, match="initial charges that sum to 2"):
        of(model, ion)
    ion.calc = ModelCalculator(model)
    with pytest.raises(VibronicError, match="initial charges that sum to 2"):
        ion.get_potential_energy()
    with pytest.raises(VibronicError, match="initial charges that sum to 2"):
        attribute(model, ion, "energy")


@pytest.mark.parametrize(
    "settings",
    [
        {"points": (3,)},
        {"cutoffs": (0.5, 3.0)},
        {"orbitals": 0},
        {"linear": -1.0},
        {"long_amplitude": 0.0},
        {"targets": ["forces"]},
    ],
)
def test_settings_that_make_no_model(settings) -> None:
    with pytest.raises(VibronicError, match="qdf"):
        store.build("qdf", **settings)


def test_the_invariants_tell_angles_apart_that_distances_to_the_nucleus_do_not() -> None:
    def water(angle: float) -> Atoms:
        t = np.radians(angle)
        return Atoms("OH2", [[0, 0, 0], [1, 0, 0], [np.cos(t), np.sin(t), 0]])

    field = LocalField(3.0, 3, 6, 4, 1.6, 1.0)
    batch = Batch.collate([Batch.from_atoms(water(a), 3.0) for a in range(80, 130, 3)])
    field.prepare(batch)
    oxygen = field(batch)[batch.numbers == 8]
    assert torch.pdist(oxygen).min() > 1e-3


def test_radial_functions_cover_the_range() -> None:
    centres, widths = gaussians(5.0)
    grid = torch.linspace(0.8, 4.4, 100)
    covered = torch.exp(-0.5 * ((grid[:, None] - centres) / widths) ** 2).max(1)[0]
    assert covered.min() > 0.6


def test_farthest_points_are_a_cover() -> None:
    x = torch.cat([torch.zeros(50, 2) + 0.01 * torch.rand(50, 2), torch.tensor([[5.0, 0.0], [0.0, 7.0]])])
    assert {50, 51} < set(farthest(x, 3).tolist())


def test_the_noise_of_each_target_is_found() -> None:
    """Columns of falling size, as those of a kernel: each noise has weights that it alone should let through."""
    torch.manual_seed(0)
    columns = torch.randn(2000, 300, dtype=torch.float64) / 300**0.5 * torch.logspace(0, -2, 300, dtype=torch.float64)
    x, new = columns.split(1000)
    truth = torch.randn(300, 3, dtype=torch.float64)
    noises = (1e-6, 1e-4, 1e-2)
    y = x @ truth + torch.randn(1000, 3, dtype=torch.float64) * torch.tensor(noises, dtype=torch.float64).sqrt()
    error = torch.stack([(new @ (solve(x, y, noise) - truth)).abs().mean(0) for noise in NOISES])
    found = (new @ (solve(x, y, None) - truth)).abs().mean(0)
    assert (found < 1.15 * error.min(0)[0]).all()
    assert (error > 1.3 * found).any(1)[[0, -1]].all()  # neither the least nor the most noise would do for all three
    assert [NOISES[int(k)] for k in error.argmin(0)] == list(noises)


def test_the_solution_is_the_minimum() -> None:
    torch.manual_seed(1)
    x = torch.randn(200, 6, dtype=torch.float64)
    truth = torch.randn(6, 1, dtype=torch.float64)
    y = x @ truth + 3.0 * torch.randn(200, 1, dtype=torch.float64)
    for columns, labels in ((x, y), (x[:4], y[:4])):  # more structures than columns, and fewer
        w = solve(columns, labels, 0.3)
        gradient = columns.T @ (columns @ w - labels) + 0.3 * w
        assert torch.allclose(gradient, torch.zeros_like(gradient), atol=1e-8)
    assert torch.allclose(solve(x, x @ truth, None), truth, atol=1e-6)


def test_the_functional_reproduces_the_process_when_every_atom_is_a_point() -> None:
    """With all atoms as inducing points the projected process is the full one."""
    torch.manual_seed(2)
    x, numbers = torch.randn(30, 3, dtype=torch.float64), torch.ones(30, dtype=torch.long)
    functional = KernelFunctional(30, 1.0, 2.0, 0.0)
    functional.prepare(x, numbers)
    inducing = functional.inducing.double()
    index = torch.arange(30)
    y = torch.sin(inducing[:, :1])
    columns = functional.columns(inducing, numbers, index, 30)
    functional.learn(solve(columns, y, 1e-3))
    kernel = 4 * matern(3 * torch.cdist(inducing, inducing) ** 2 / functional.scale[0] ** 2)
    full = kernel @ torch.linalg.solve(kernel + 1e-3 * torch.eye(30), y)
    assert torch.allclose(functional(inducing, numbers)[0], full, atol=1e-5)
