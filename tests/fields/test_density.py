"""The supervised density: what physics demands of it, trained or not, and what it learns."""

import gc
import hashlib
import json
import warnings
from functools import partial
from importlib import resources

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_numbers
from ase.units import Bohr
from scipy.spatial.transform import Rotation

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.data.dataset import GraphData
from vibronic.fields import expansion
from vibronic.fields.atoms import (
    RATIO,
    REACH,
    START,
    derive,
    free_atom,
    free_density,
    free_derivative,
    kohn_sham_atom,
    promolecule,
)
from vibronic.fields.density import FieldDensity
from vibronic.fields.expansion import LMAX, GaussianDensity, moments
from vibronic.fields.quadrature import molecular_grid, nmae
from vibronic.fields.samples import density_of_matrix
from vibronic.fields.scales import orthonormal
from vibronic.learning import store
from vibronic.learning.prediction import predict

NAMES = ["CH4", "NH3", "H2O", "CH3OH", "C2H4", "HCN", "H2CO", "H3CNH2"]


@pytest.fixture(scope="module")
def model() -> FieldDensity:
    """Random, but with coefficients of the size of real ones."""
    torch.manual_seed(0)
    model = FieldDensity(channels=8, layers=2).double()
    model.elements = torch.tensor([1, 2, 6, 7, 8, 9])
    for z in model.elements.tolist():
        for degree in range(LMAX + 1):
            to_bare = orthonormal(z < 3, degree)
            model.to_coefficients[z, degree, :, : to_bare.shape[1]] = 0.2 * to_bare
        model.monopole[z, 0] = 1.0 / moments(torch.eye(10, dtype=torch.float64)[:, :, None].repeat(1, 1, 25))[0][0]
    return model.eval()


@pytest.fixture(scope="module")
def labelled() -> list[Atoms]:
    """Small molecules with PBE/6-31G* density matrices, computed here."""
    pytest.importorskip("pyscf")
    from vibronic.labelling.dft import MolecularDFT

    frames = []
    with warnings.catch_warnings():  # PySCF leaves the closing of its scratch files to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        for name in NAMES:
            atoms = molecule(name)
            solver = MolecularDFT({"xc": "PBE", "basis": "6-31G*", "fitting": "def2-universal-jfit", "grid": 0})
            atoms.info["density_matrix"] = solver.get_property("density_matrix", atoms)
            atoms.info["dipole_of_engine"] = solver.results["dipole"]
            frames.append(atoms)
        del solver
        gc.collect()
    return frames


def points(n: int = 100) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1.5, (n, 3))


def test_every_electron_is_counted(model) -> None:
    for name in NAMES:
        atoms = molecule(name)
        density = model.density_of(atoms)
        assert abs(float(moments(density.coefficients)[0].sum())) < 1e-10
        grid = molecular_grid(atoms, 4)
        assert grid.weights @ density.at(grid.points) == pytest.approx(atoms.numbers.sum(), rel=1e-5)


@pytest.mark.parametrize("mirror", [1, -1])
def test_the_density_turns_with_the_molecule(model, mirror) -> None:
    atoms = molecule("H3CNH2")
    turn = mirror * Rotation.random(random_state=3).as_matrix()
    turned = Atoms(atoms.numbers, atoms.positions @ turn.T + [3.0, -2.0, 5.0])
    values = model.density_of(atoms).at(points())
    assert model.density_of(turned).at(points() @ turn.T + [3.0, -2.0, 5.0]) == pytest.approx(values, abs=1e-9)
    assert np.abs(values - promolecule(atoms, points())).max() > 1e-3, "or nothing would be tested"


def test_the_order_of_atoms_does_not_matter(model) -> None:
    atoms = molecule("CH3OH")
    order = np.random.default_rng(0).permutation(len(atoms))
    assert model.density_of(atoms[order]).at(points()) == pytest.approx(model.density_of(atoms).at(points()), abs=1e-10)


def test_far_molecules_do_not_know_of_one_another(model) -> None:
    a, b = molecule("H2O"), molecule("CH4")
    b.translate([30, 0, 0])
    both = model.density_of(a + b)
    apart = model.density_of(a).at(points()) + model.density_of(b).at(points())
    assert both.at(points()) == pytest.approx(apart, abs=1e-9)


def test_a_bond_stretches_smoothly_into_free_atoms(model) -> None:
    def value(length: float) -> float:
        return float(model.density_of(Atoms("F2", [[0, 0, 0], [length, 0, 0]])).at(np.array([[0.5, 0.3, 0.1]]))[0])

    lengths = np.linspace(1.0, 4.4, 341)
    values = np.array([value(x) for x in lengths])
    steps = np.diff(values)
    assert np.abs(np.diff(steps)).max() < 0.2 * np.abs(steps).max(), "no kink, at the cutoff of 4 Angstrom neither"
    free = promolecule(Atoms("F2", [[0, 0, 0], [4.2, 0, 0]]), np.array([[0.5, 0.3, 0.1]]))[0]
    assert value(4.2) == pytest.approx(free, abs=1e-12)


def test_a_lone_atom_is_a_free_atom(model) -> None:
    helium = Atoms("He", [[0, 0, 0]])
    assert model.density_of(helium).at(points()) == pytest.approx(promolecule(helium, points()), abs=1e-14)


def test_the_gradient_is_that_of_the_density(model) -> None:
    density = model.density_of(molecule("H2CO"))
    value, slope = density.with_gradient(points(20))
    assert value == pytest.approx(density.at(points(20)), abs=1e-12)
    for axis, step in enumerate(np.eye(3) * 1e-4):
        change = (density.at(points(20) + step) - density.at(points(20) - step)) / 2e-4
        assert slope[:, axis] == pytest.approx(change, rel=2e-3, abs=2e-3)


def test_the_gradient_asks_the_atoms_near_a_point_only(monkeypatch) -> None:
    chain = Atoms("He300", [[3.0 * k, 0, 0] for k in range(300)])
    asked = []

    def counting(number: int, distance: np.ndarray) -> np.ndarray:
        asked.append(number)
        return free_density(number, distance)

    monkeypatch.setattr(expansion, "free_density", counting)
    value, _ = GaussianDensity(chain, torch.zeros(300, 10, 25).double()).with_gradient(points())
    assert value == pytest.approx(promolecule(chain, points()), abs=1e-12)
    assert len(asked) < 10


def test_the_dipole_is_that_of_the_density(model) -> None:
    atoms = molecule("CH3OH")
    density = model.density_of(atoms)
    grid = molecular_grid(atoms, 4)
    moment = (grid.weights * density.at(grid.points)) @ grid.points
    assert density.dipole == pytest.approx(atoms.numbers @ atoms.positions - moment, abs=2e-3)
    with torch.no_grad():
        predicted = model(Batch.from_atoms(atoms, model.cutoff, dtype=torch.float64))["dipole"][0].numpy()
    assert predicted == pytest.approx(density.dipole, abs=1e-7)


def test_free_atoms_end_at_their_reach() -> None:
    """Points far from an atom do not see it: the values are those of the near atoms alone."""
    chain = Atoms("He300", [[3.0 * k, 0, 0] for k in range(300)])
    here = points()
    assert promolecule(chain, here) == pytest.approx(promolecule(chain[:10], here), abs=1e-12)


@pytest.mark.parametrize("symbol", ["H", "He", "C", "F", "Br"])
def test_free_atoms_hold_their_electrons(symbol) -> None:
    atoms = Atoms(symbol, [[0, 0, 0]])
    grid = molecular_grid(atoms, 4)
    assert grid.weights @ promolecule(atoms, grid.points) == pytest.approx(atoms.numbers[0], rel=2e-4)


@pytest.mark.filterwarnings("ignore:remove_linear_dep_")
@pytest.mark.parametrize("symbol", ["H", "He", "Li", "C", "Na", "Mg", "Al", "P", "K", "Ca", "Br"])
def test_free_atoms_are_those_of_pyscf(symbol) -> None:
    """To 1e-4 of the electrons, of which 1e-5 at most are beyond the reach."""
    pytest.importorskip("pyscf")
    radius, density = kohn_sham_atom(symbol)[:2]
    number = atomic_numbers[symbol]
    shells = 4 * np.pi * radius**3 * np.log(radius[1] / radius[0]) / number
    assert shells @ density == pytest.approx(1, abs=1e-5)
    assert shells @ np.abs(free_density(number, radius * Bohr) * Bohr**3 - density) < 1e-4
    assert (shells * density)[radius * Bohr > REACH].sum() < 1e-5


def test_free_atoms_under_the_shipped_model_stay() -> None:
    """The shipped density is what was learned on top of these: to the last digit, or the model is trained again."""
    table = json.loads(resources.files("vibronic.fields").joinpath("free_atoms.json").read_text())["atoms"]
    assert [table[symbol]["first"] for symbol in "HCNOF"] == [0] * 5
    assert (START, RATIO) == (0.15, 1.35)
    coefficients = json.dumps([table[symbol]["coefficients"] for symbol in "HCNOF"])
    assert hashlib.sha256(coefficients.encode()).hexdigest().startswith("f8defb8780fd5cdb")


@pytest.mark.filterwarnings("ignore:remove_linear_dep_")
@pytest.mark.parametrize("number", [1, 3])
def test_a_free_atom_is_derived_again(number) -> None:
    pytest.importorskip("pyscf")
    exponents, coefficients = free_atom(number)
    distance = np.linspace(0, 5, 200)
    gaussians = np.exp(-np.outer(distance**2, exponents))
    first, derived = derive(number)
    assert exponents[0] * Bohr**2 == pytest.approx(START * RATIO**first)
    assert gaussians @ coefficients == pytest.approx(gaussians @ (derived / Bohr**3), rel=1e-3, abs=1e-6)
    assert free_density(number, distance) == pytest.approx(gaussians @ coefficients, rel=1e-5, abs=1e-7)
    slope = -2 * distance * (gaussians @ (exponents * coefficients))
    assert free_derivative(number, distance) == pytest.approx(slope, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("atoms", "sentence"),
    [
        (Atoms("OH", [[0, 0, 0], [0.97, 0, 0]]), "unpaired electrons"),
        (Atoms("OH", [[0, 0, 0], [0.97, 0, 0]], info={"charge": -1}), "charge -1"),
        (Atoms("He2", [[0, 0, 0], [1, 0, 0]], info={"spin": 2}), "spin 2"),
        (Atoms("He", cell=[4, 4, 4], pbc=True), "periodic"),
        (Atoms("SH2", [[0, 0, 0], [1.3, 0, 0], [0, 1.3, 0]]), "never seen S"),
        (Atoms(), "no atoms"),
    ],
)
def test_what_it_does_not_know_is_one_sentence(model, atoms, sentence) -> None:
    with pytest.raises(VibronicError, match=sentence) as error:
        model.density_of(atoms)
    assert "\n" not in str(error.value)
    with pytest.raises(VibronicError, match=sentence):
        predict(model, [atoms])


def test_it_learns_densities_and_labels_are_checked(labelled) -> None:
    torch.manual_seed(0)
    model = FieldDensity(channels=16, layers=2)
    frames = [model.labelled(atoms) for atoms in labelled]
    for atoms in frames:
        assert atoms.info["dipole"] == pytest.approx(atoms.info["dipole_of_engine"], abs=1e-4)
    data = GraphData(frames, model.labels, model.cutoff)
    model.prepare(data.batch())
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    batch, bare = data.batch(), []
    for _ in range(60):
        figures = model.loss(batch)
        bare.append(float(figures["nmae"].detach()))
        optimizer.zero_grad()
        figures["loss"].backward()
        optimizer.step()
    model.eval()
    scores, units = model.own_scores(labelled[:3])
    start = [nmae(partial(promolecule, a), partial(density_of_matrix, a), a) for a in labelled[:3]]
    assert units == {"nmae_density": "%"}
    assert scores["nmae_density"] < 0.25 * np.mean(start), "learned far beyond free atoms"

    wrong = labelled[0].copy()
    wrong.info = {}
    with pytest.raises(VibronicError, match="no 'density_matrix'"):
        model.labelled(wrong)
    wrong.info = {"density_matrix": labelled[1].info["density_matrix"]}
    with pytest.raises(VibronicError, match="entries, but"):
        model.labelled(wrong)
    wrong.info = {"density_matrix": 1.5 * labelled[0].info["density_matrix"]}
    with pytest.raises(VibronicError, match="electrons, not 10"):
        model.labelled(wrong)


def test_a_saved_model_gives_the_same_density(model, tmp_path) -> None:
    store.save(model, tmp_path, store.Card())
    loaded, _ = store.load(tmp_path)
    atoms = molecule("HCN")
    assert loaded.density_of(atoms).at(points()) == pytest.approx(model.density_of(atoms).at(points()), abs=1e-4)


def test_an_element_without_a_place_is_refused() -> None:
    with pytest.raises(VibronicError, match="no free-atom density of Xe"):
        free_atom(54)
    assert isinstance(GaussianDensity(Atoms("He"), torch.zeros(1, 10, 25).double()).at(points()), np.ndarray)


def test_targets_cannot_be_chosen() -> None:
    with pytest.raises(VibronicError, match="leave --targets out"):
        store.build("qdf-density", targets=["energy"])
