"""The verb ``density``: files that other programs read, and one sentence for what it cannot do."""

import gc
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from ase.units import Bohr

from vibronic.cli import main
from vibronic.core.errors import VibronicError
from vibronic.fields import analysis
from vibronic.fields.analysis import analyse, box, read_cube
from vibronic.fields.atoms import promolecule
from vibronic.fields.density import FieldDensity
from vibronic.fields.expansion import LMAX, SHELLS, SIZE, moments
from vibronic.fields.scales import orthonormal
from vibronic.labelling.dft import MolecularDFT
from vibronic.labelling.engines import engine
from vibronic.learning import store
from vibronic.learning.recipe import Training
from vibronic.verbs import density, train

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was never trained, but moves and bends charge by amounts like those of bonds."""
    torch.manual_seed(0)
    model = FieldDensity(channels=8, layers=1)
    model.elements = torch.tensor([1, 6, 7, 8])
    one = torch.zeros(1, SHELLS, SIZE)
    one[0, 0, 0] = 1
    for z in model.elements.tolist():
        for degree in range(LMAX + 1):
            to_bare = orthonormal(z < 3, degree)
            model.to_coefficients[z, degree, :, : to_bare.shape[1]] = 0.02 * to_bare
        model.monopole[z, 0] = 1 / moments(one)[0]
    path = tmp_path_factory.mktemp("model")
    store.save(model, path, store.Card())
    return path


@pytest.fixture
def water(tmp_path: Path) -> Path:
    path = tmp_path / "water.xyz"
    write(path, molecule("H2O"))
    return path


def test_other_programs_read_the_cube(folder, water, tmp_path) -> None:
    out = tmp_path / "rho.cube"
    assert density(str(folder), str(water), spacing=0.4, out=out) == out
    atoms, found = read_cube(out)
    values = box(molecule("H2O"), store.load(folder)[0].density_of(molecule("H2O")).at, 0.4)
    assert found.values == pytest.approx(values.values, rel=1e-4, abs=1e-6)
    assert atoms.positions == pytest.approx(molecule("H2O").positions, abs=1e-5)
    assert len(read(out)) == 3
    cubegen = pytest.importorskip("pyscf.tools.cubegen")
    gto = pytest.importorskip("pyscf.gto")
    mol = gto.M(atom=list(zip(atoms.symbols, atoms.positions.tolist())), verbose=0)
    cube = cubegen.Cube(mol, nx=2, ny=2, nz=2)
    assert cube.read(str(out)) == pytest.approx(values.values * Bohr**3, rel=1e-4, abs=1e-6)
    # In Bohr and e/Bohr^3, so that a sum over the points counts the electrons.
    assert (values.values * Bohr**3).sum() * (0.4 / Bohr) ** 3 == pytest.approx(found.point_sum, rel=1e-4)


@pytest.mark.parametrize("name", ["H2O", "CH4", "C6H6"])
@pytest.mark.parametrize("spacing", [0.2, 0.37])
def test_points_of_a_box_keep_away_from_nuclei_and_its_faces_from_atoms(name, spacing) -> None:
    """A nucleus on a point would count its core for a whole step: 24 electrons for water."""
    atoms = molecule(name)
    found = box(atoms, partial(promolecule, atoms), spacing, margin=3.0)
    places = (atoms.positions - found.origin) / spacing
    assert np.linalg.norm((places - places.round()) * spacing, axis=1).min() > 0.45 * spacing
    assert (places * spacing).min() >= 3.0 - 1e-9
    assert ((np.array(found.values.shape) - 1 - places) * spacing).min() >= 3.0 - 1e-9
    assert found.point_sum < atoms.numbers.sum()


def test_the_numbers_have_units_and_sum(folder, water, tmp_path, capsys) -> None:
    out = tmp_path / "rho.cube"
    density(str(folder), str(water), spacing=0.5, out=out, report=tmp_path / "rho.html")
    told = capsys.readouterr().out
    assert float(re.search(r"H2O: ([\d.]+) electrons", told)[1]) == pytest.approx(10, abs=1e-3)
    assert "e Angstrom" in told
    assert "Debye" in told
    (row,) = json.loads((tmp_path / "rho.json").read_text())["molecules"]
    assert row["electrons"] == pytest.approx(10, abs=1e-3)
    assert "electrons_in_box" not in row
    assert row["cube_sum_not_electrons"] == pytest.approx(read_cube(out)[1].point_sum, abs=1e-3)
    assert f"its points sum to {row['cube_sum_not_electrons']:.2f}; cores are narrower" in told
    assert sum(row["charges"]) == pytest.approx(0, abs=1e-3)
    assert row["dipole [Debye]"] == pytest.approx(np.linalg.norm(row["dipole [e Angstrom]"]) * 4.8032, rel=1e-4)
    assert json.loads((tmp_path / "rho.run.json").read_text())["verb"] == "density"
    page = (tmp_path / "rho.html").read_text()
    assert "isoval" in page
    assert "Hirshfeld" in page
    assert "not the electrons" in page


def test_several_molecules_are_several_cubes(folder, tmp_path) -> None:
    write(tmp_path / "two.xyz", [molecule("H2O"), molecule("CH4")])
    density(str(folder), str(tmp_path / "two.xyz"), spacing=0.8, out=tmp_path / "rho.cube")
    assert [len(read(tmp_path / f"rho-00{k}.cube")) for k in range(2)] == [3, 5]
    assert not (tmp_path / "rho.cube").exists()


def test_one_failure_loses_nothing_of_the_others(folder, tmp_path, capsys, monkeypatch) -> None:
    """Refused (a radical) or failed (DFT of methane): what else was computed is written, and the status is 2."""
    pytest.importorskip("pyscf")
    solve = MolecularDFT._solve

    def fails_for_methane(self) -> object:
        if len(self.atoms) == 5:
            raise VibronicError("the self-consistent field did not converge in 50 cycles")
        return solve(self)

    monkeypatch.setattr(MolecularDFT, "_solve", fails_for_methane)
    radical = Atoms("OH", [[0, 0, 0], [0.97, 0, 0]])
    write(tmp_path / "four.xyz", [molecule("H2O"), radical, molecule("CH4"), molecule("NH3")])
    command = ["density", str(folder), str(tmp_path / "four.xyz"), "--out", str(tmp_path / "rho.cube")]
    command += ["--spacing", "0.8", "--level", "0", "--reference", "dft", "--report", str(tmp_path / "rho.html")]
    assert main(command) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "four.xyz, structure 1: HO has unpaired electrons" in told.err
    assert "1 more of 4 failed" in told.err
    assert "rho.json" in told.err
    rows = json.loads((tmp_path / "rho.json").read_text())["molecules"]
    assert ["error" in row for row in rows] == [False, True, True, False]
    assert [(tmp_path / f"rho-00{k}.cube").exists() for k in range(4)] == [True, False, True, True]
    assert ["electrons" in row for row in rows] == [True, False, True, True]
    assert ["nmae_all_space [%]" in row for row in rows] == [True, False, False, True]
    assert json.loads((tmp_path / "rho.run.json").read_text())["failed"] == 2
    assert (tmp_path / "rho.html").exists()
    gc.collect()


def test_an_interruption_loses_nothing_that_was_computed(folder, tmp_path, monkeypatch) -> None:
    write(tmp_path / "two.xyz", [molecule("H2O"), molecule("CH4")])
    analysed = analysis.analyse

    def interrupted(atoms: Atoms, *arguments) -> object:
        if len(atoms) == 5:
            raise KeyboardInterrupt
        return analysed(atoms, *arguments)

    monkeypatch.setattr(analysis, "analyse", interrupted)
    with pytest.raises(KeyboardInterrupt):
        density(str(folder), str(tmp_path / "two.xyz"), spacing=0.8, level=0, out=tmp_path / "rho.cube")
    first, second = json.loads((tmp_path / "rho.json").read_text())["molecules"]
    assert first["electrons"] == pytest.approx(10, abs=0.01)
    assert second["file"] == "rho-001.cube"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"spacing": -0.1}, "spacing must be positive"),
        ({"margin": -1.0}, "margin not negative"),
        ({"margin": float("nan")}, "margin not negative"),
        ({"level": 6}, "no grid of level 6"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(tmp_path, options, sentence) -> None:
    with pytest.raises(VibronicError, match=sentence):
        density("no such model", "no such file", out=tmp_path / "folder" / "rho.cube", **options)
    assert not (tmp_path / "folder").exists()


def test_references(folder, water, tmp_path) -> None:
    out = tmp_path / "rho.cube"
    density(str(folder), str(water), spacing=0.4, out=out)
    density(str(folder), str(water), spacing=1.0, reference=str(out), out=tmp_path / "again.cube")
    (row,) = json.loads((tmp_path / "again.json").read_text())["molecules"]
    assert row["nmae_on_cube_points [%]"] == pytest.approx(0, abs=1e-2)
    assert "nmae_all_space [%]" not in row
    write(tmp_path / "methane.xyz", molecule("CH4"))
    with pytest.raises(VibronicError, match="another molecule or geometry"):
        density(str(folder), str(tmp_path / "methane.xyz"), reference=str(out), out=tmp_path / "x.cube")


def test_a_reference_without_density_matrices_is_refused(folder, water, tmp_path) -> None:
    pytest.importorskip("pyscf")
    with pytest.raises(VibronicError, match="no 'density_matrix'"):
        density(str(folder), str(water), reference=str(water), out=tmp_path / "x.cube")


def test_a_reference_of_dft_is_computed(folder, water, tmp_path, capsys) -> None:
    pytest.importorskip("pyscf")
    density(str(folder), str(water), spacing=1.0, level=1, reference="dft", out=tmp_path / "rho.cube")
    told = json.loads((tmp_path / "rho.json").read_text())
    (row,) = told["molecules"]
    assert 1 < row["nmae_all_space [%]"] < 100
    assert "nmae_on_cube_points [%]" not in row
    assert told["reference"].startswith("PBE/6-31G*")
    assert "NMAE over all space" in capsys.readouterr().out
    options = {"spacing": 1.0, "level": 1, "reference": "dft", "settings": {"basis": "STO-3G", "xc": "LDA,VWN"}}
    density(str(folder), str(water), **options, out=tmp_path / "rho.cube")
    told = json.loads((tmp_path / "rho.json").read_text())
    assert told["reference"].startswith("LDA,VWN/STO-3G")
    assert abs(told["molecules"][0]["nmae_all_space [%]"] - row["nmae_all_space [%]"]) > 0.1
    run = json.loads((tmp_path / "rho.run.json").read_text())
    assert run["config"]["settings"]["basis"] == "STO-3G"
    labelled = molecule("H2O")
    solver = engine("pyscf", **options["settings"]).calculator()
    labelled.info["density_matrix"] = solver.get_property("density_matrix", labelled)
    write(tmp_path / "labelled.extxyz", labelled)
    options |= {"reference": str(tmp_path / "labelled.extxyz"), "settings": {"basis": "STO-3G"}}
    density(str(folder), str(water), **options, out=tmp_path / "rho.cube")
    (again,) = json.loads((tmp_path / "rho.json").read_text())["molecules"]
    assert again["nmae_all_space [%]"] == pytest.approx(told["molecules"][0]["nmae_all_space [%]"], abs=0.02)
    with pytest.raises(VibronicError, match=r"28 entries, but 6-31G\* has 18 functions .* --settings.basis"):
        density(str(folder), str(water), **options | {"settings": None}, out=tmp_path / "rho.cube")
    with pytest.raises(VibronicError, match="they need --reference dft"):
        density(str(folder), str(water), settings={"basis": "STO-3G"}, out=tmp_path / "rho.cube")
    with pytest.raises(VibronicError, match="no setting 'bsis'"):
        density(str(folder), str(water), reference="dft", settings={"bsis": "STO-3G"}, out=tmp_path / "rho.cube")
    gc.collect()  # PySCF's scratch files, where their warning is ignored


@pytest.mark.parametrize(
    ("atoms", "options", "sentence"),
    [
        (Atoms("OH", [[0, 0, 0], [0.97, 0, 0]]), [], "unpaired electrons"),
        (Atoms("OH", [[0, 0, 0], [0.97, 0, 0]], info={"charge": -1}), [], "charge -1"),
        (Atoms("O", cell=[4, 4, 4], pbc=True), [], "periodic"),
        (Atoms("SH2", [[0, 0, 0], [1.3, 0, 0], [0, 1.3, 0]]), [], "never seen S"),
        (Atoms("H2", [[0, 0, 0], [0.1, 0, 0]]), [], "overlap"),
        (molecule("H2O"), ["--spacing", "0"], "spacing must be positive"),
        (molecule("H2O"), ["--spacing", "0.001"], "choose a larger --spacing"),
        (molecule("H2O"), ["--level", "7"], "no grid of level 7"),
        (None, [], "is empty"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder, tmp_path, capsys, atoms, options, sentence) -> None:
    path = tmp_path / "structure.extxyz"
    path.touch()
    if atoms is not None:
        write(path, atoms)
    command = ["density", str(folder), str(path), "--out", str(tmp_path / "rho.cube"), *options]
    assert main(command) == 2
    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "rho.cube").exists()


def test_a_model_without_a_density_is_one_sentence(labelled_copper, water, tmp_path) -> None:
    model = store.build("cgcnn", targets=["band_gap"])
    store.save(model, tmp_path / "gap", store.Card())
    with pytest.raises(VibronicError, match="has no density"):
        density(str(tmp_path / "gap"), str(water), out=tmp_path / "rho.cube")


IN_A_PROCESS_OF_ITS_OWN = """
import re, sys
from pathlib import Path
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from vibronic.fields.expansion import moments
from vibronic.learning import store

def peak():  # of this process; what getrusage says of a child is no less than the peak of its parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

torch.set_num_threads(1)
model, water = store.load(sys.argv[1])[0], molecule("H2O")
model.density_of(water).at(water.positions)
grid = np.stack(np.meshgrid(*[np.arange(7) * 3.1] * 3, indexing="ij"), -1).reshape(-1, 3)[:334]
many = Atoms(water.numbers.tolist() * 334, np.concatenate([water.positions + x for x in grid]))
before = peak()
found = model.density_of(many)
between = peak()
points = np.stack(np.meshgrid(*[np.linspace(-3, 22, 36)] * 3, indexing="ij"), -1).reshape(-1, 3)
assert found.at(points).max() > 1
assert abs(float(moments(found.coefficients)[0].sum())) < 1e-6
print(between - before, peak() - between)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read where Linux keeps it")
def test_a_thousand_atoms_need_little_memory(folder) -> None:
    """As many as a small protein: what is asked at a point is the atoms near it."""
    run = [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN, str(folder)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    coefficients, values = map(float, done.stdout.split())
    assert 10 < coefficients < 300, "MB"
    assert 10 < values < 500, "MB; all atoms at all points at once take 1,100"


def test_integrals_of_a_molecule_are_sums_over_its_parts(folder) -> None:
    network = store.load(folder)[0]
    a, b = molecule("H2O"), molecule("CH4")
    b.translate([40, 0, 0])
    parts = [analyse(x, network.density_of(x).at, 1) for x in (a, b)]
    both = analyse(a + b, network.density_of(a + b).at, 1)
    assert both.electrons == pytest.approx(sum(p.electrons for p in parts), abs=1e-5)
    assert both.charges == pytest.approx(np.concatenate([p.charges for p in parts]), abs=1e-5)
    assert both.dipole == pytest.approx(sum(p.dipole for p in parts), abs=3e-2)
    assert both.lowest == pytest.approx(min(p.lowest for p in parts), abs=1e-4)


def test_the_density_of_the_published_model_is_called_unsupervised(folder, water, tmp_path, capsys) -> None:
    """Far from the right number of electrons, which is said and not mended."""
    frames = []
    for name in ("H2O", "CH4", "NH3", "CH3OH"):
        atoms = molecule(name)
        atoms.info["energy"] = -5.0 * len(atoms)
        frames.append(atoms)
    write(tmp_path / "energies.extxyz", frames)
    settings = {"width": 8, "layers": 1, "hk_width": 4, "hk_layers": 1}
    file = str(tmp_path / "energies.extxyz")
    training = {"model": settings, "training": Training(epochs=2), "device": "cpu", "out": tmp_path / "qdf2020"}
    train("qdf2020", file, validation=file, test=file, **training)
    options = {"spacing": 0.8, "level": 1, "out": tmp_path / "rho.cube", "report": tmp_path / "rho.html"}
    density(str(tmp_path / "qdf2020"), str(water), **options)
    (row,) = json.loads((tmp_path / "rho.json").read_text())["molecules"]
    assert row["electrons"] > 1
    assert row["lowest"] == 0
    assert row["remark"].startswith("unsupervised")
    assert "note: unsupervised density" in capsys.readouterr().out
    assert "unsupervised density" in (tmp_path / "rho.html").read_text()
    density(str(folder), str(water), **options)
    assert "remark" not in json.loads((tmp_path / "rho.json").read_text())["molecules"][0]
    assert "unsupervised" not in capsys.readouterr().out
