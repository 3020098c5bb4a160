import copy
import dataclasses
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import Bohr, Hartree

from vibronic.core.errors import VibronicError
from vibronic.core.targets import TARGETS
from vibronic.labelling import engines
from vibronic.labelling.engines import ENGINES, doctor, engine


@pytest.mark.parametrize("name", ENGINES)
def test_the_table_is_consistent(name):
    spec = ENGINES[name]
    assert spec.name == name
    assert set(spec.properties) <= set(TARGETS)
    assert spec.install
    assert pickle.loads(pickle.dumps(spec)).build is spec.build
    assert len(spec.example()) <= 2


def test_unknown_engine_names_the_closest():
    with pytest.raises(VibronicError, match=r"unknown engine 'sevenet' \(did you mean 'sevennet'\?\); engines: .*emt"):
        engine("sevenet")


def test_unknown_setting_names_the_known_ones(gpaw_settings):
    with pytest.raises(VibronicError, match=r"no setting 'ecutt' \(did you mean 'ecut'\?\); its settings: xc, ecut"):
        engine("gpaw", ecutt=500)
    with pytest.raises(VibronicError, match="it has no settings"):
        engine("emt", anything=1)


@pytest.mark.parametrize(
    "settings", [{"ecut": "high"}, {"kpts": 2}, {"kpts": [2, 2]}, {"kpts": [1.5, 1, 1]}, {"ecut": -1}, {"width": "nan"}]
)
def test_a_setting_of_the_wrong_kind_is_refused(settings, gpaw_settings):
    with pytest.raises(VibronicError, match=r"must look like"):
        engine("gpaw", **settings)


def test_missing_package_gives_the_commands(monkeypatch):
    monkeypatch.setitem(ENGINES, "emt", dataclasses.replace(ENGINES["emt"], package="no_such_package"))
    with pytest.raises(VibronicError, match="'emt' is not installed; install it with: pip install ase"):
        engine("emt")


def test_gpaw_install_commands_write_a_siteconfig_that_python_reads(tmp_path):
    import subprocess

    printf = next(command for command in ENGINES["gpaw"].install if command.startswith("printf"))
    subprocess.run(printf, shell=True, cwd=tmp_path, check=True)
    found = {}
    exec((tmp_path / "siteconfig.py").read_text(), found)
    assert found["libraries"] == ["xc", "openblas"]
    assert found["mpi"] is found["noblas"] is found["nolibxc"] is False


def test_hash_depends_on_values_and_not_on_how_they_are_written(gpaw_settings):
    assert engine("gpaw").settings_hash == engine("gpaw", ecut=400, kpts=(1, 1, 1)).settings_hash
    assert engine("gpaw").settings_hash != engine("gpaw", ecut=401).settings_hash
    assert engine("emt").settings_hash != engine("files").settings_hash
    assert engine("gpaw").settings_hash.startswith("gpaw-")


def test_hash_depends_on_the_version_and_on_what_a_model_file_holds(tmp_path, monkeypatch):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"first weights")
    first = engine("sevennet", model=str(path))
    path.rename(tmp_path / "moved.pth")
    assert engine("sevennet", model=str(tmp_path / "moved.pth")).settings_hash == first.settings_hash
    path.write_bytes(b"trained again")
    assert engine("sevennet", model=str(path)).settings_hash != first.settings_hash
    before = first.settings_hash
    monkeypatch.setattr(engines, "_version", lambda package: "99.0")
    assert first.settings_hash != before


def test_files_has_no_calculator():
    with pytest.raises(VibronicError, match="computes nothing"):
        engine("files").calculator()


def test_an_engine_that_cannot_start_is_one_sentence(monkeypatch):
    def build(settings):
        raise RuntimeError("no device 'abacus'\nsee the manual")

    monkeypatch.setitem(ENGINES, "emt", dataclasses.replace(ENGINES["emt"], build=build))
    with pytest.raises(
        VibronicError, match=r"'emt' does not start \(RuntimeError: no device 'abacus' see the manual\)"
    ):
        engine("emt").calculator()


def test_a_calculation_that_fails_is_one_sentence(misbehaving, gold, coppers):
    calculator = misbehaving("raise").calculator()
    gold.calc = calculator
    with pytest.raises(VibronicError, match=r"'misbehaving' cannot calculate this structure \(RuntimeError: no conv"):
        gold.get_forces()
    for atoms, own in ((coppers[0], calculator), (coppers[1], copy.deepcopy(calculator))):
        atoms.calc = own
        atoms.get_forces()
    np.testing.assert_array_equal(calculator.atoms.positions, coppers[0].positions)  # a copy calculates for itself


def test_doctor_tries_every_engine(monkeypatch):
    broken = dataclasses.replace(ENGINES["emt"], example=lambda: bulk("Na"))
    absent = dataclasses.replace(ENGINES["emt"], package="no_such_package")
    for name in list(ENGINES):
        if name != "emt":
            monkeypatch.delitem(ENGINES, name)
    monkeypatch.setitem(ENGINES, "broken", broken)
    monkeypatch.setitem(ENGINES, "absent", absent)
    works, fails, missing = doctor()
    assert works["works"]
    assert works["version"]
    assert works["problem"] is None
    assert works["install"] == []
    assert not fails["works"]
    assert "Na" in fails["problem"]
    assert (missing["works"], missing["version"], missing["problem"]) == (False, None, "not installed")
    assert missing["install"] == ["pip install ase"]


def test_sevennet_equals_its_own_calculator(anti_perovskite):
    import warnings

    anti_perovskite.rattle(0.05, seed=1)
    ours = anti_perovskite.copy()
    ours.calc = engine("sevennet", device="cpu").calculator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sevenn.calculator import SevenNetCalculator

        anti_perovskite.calc = SevenNetCalculator("7net-0", device="cpu")
    assert ours.get_potential_energy() == pytest.approx(anti_perovskite.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(ours.get_forces(), anti_perovskite.get_forces(), atol=1e-5)
    np.testing.assert_allclose(ours.get_stress(), anti_perovskite.get_stress(), atol=1e-6)


class TestPyscf:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("pyscf")

    def test_water_equals_pyscf(self):
        from pyscf import dft, gto

        atoms = molecule("H2O")
        atoms.calc = engine("pyscf").calculator()
        geometry = list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True))
        field = dft.RKS(gto.M(atom=geometry, basis="6-31G*", verbose=0), xc="PBE").run()
        assert atoms.get_potential_energy() == pytest.approx(field.e_tot * Hartree, abs=1e-6)
        np.testing.assert_allclose(atoms.get_dipole_moment(), field.dip_moment(unit="AU", verbose=0) * Bohr, atol=1e-6)
        assert atoms.calc.get_property("homo", atoms) == pytest.approx(field.mo_energy[4] * Hartree, abs=1e-6)
        assert atoms.calc.get_property("lumo", atoms) == pytest.approx(field.mo_energy[5] * Hartree, abs=1e-6)

    def test_forces_are_the_slope_of_the_energy(self):
        calculator = engine("pyscf").calculator()

        def at(distance):
            atoms = Atoms("H2", [(0, 0, 0), (0, 0, distance)])
            atoms.calc = calculator
            return atoms

        slope = (at(0.851).get_potential_energy() - at(0.849).get_potential_energy()) / 0.002
        assert at(0.85).get_forces()[1, 2] == pytest.approx(-slope, abs=2e-3)

    def test_helium_and_its_ion(self):
        helium = Atoms("He")
        helium.calc = engine("pyscf").calculator()
        neutral = helium.get_potential_energy()
        helium.info["charge"] = 1
        helium.calc = engine("pyscf").calculator()
        # First ionisation energy 24.59 eV; PBE in this basis comes within an eV.
        assert helium.get_potential_energy() - neutral == pytest.approx(24.6, abs=1.5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda atoms: atoms.info.update(spin=1), "cannot leave 1 unpaired"),
            (lambda atoms: atoms.set_pbc(True), "use 'gpaw' for a periodic structure"),
        ],
    )
    def test_what_it_cannot_do(self, change, message):
        atoms = molecule("H2")
        change(atoms)
        atoms.calc = engine("pyscf").calculator()
        with pytest.raises(VibronicError, match=message):
            atoms.get_potential_energy()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, r"PySCF has no basis 6-31G\* for I; choose another with --settings\.basis \(the def2 sets"),
            ({"basis": "nosuch"}, "PySCF has no basis nosuch for H, I"),
            ({"basis": "def2-SVP", "fitting": "nosuch"}, "PySCF has no fitting nosuch for H, I"),
        ],
    )
    def test_a_basis_without_an_element_is_one_sentence(self, settings, message):
        atoms = Atoms("HI", [(0, 0, 0), (0, 0, 1.61)])
        atoms.calc = engine("pyscf", **settings).calculator()
        with pytest.raises(VibronicError, match=message):
            atoms.get_potential_energy()

    def test_the_cores_of_heavy_atoms_come_with_the_basis(self):
        """All electrons in the 31 functions of def2-SVP would give -2,000 Hartree."""
        atoms = Atoms("HI", [(0, 0, 0), (0, 0, 1.61)])
        atoms.calc = engine("pyscf", basis="def2-SVP", grid=1).calculator()
        assert atoms.get_potential_energy() / Hartree == pytest.approx(-298.28, abs=0.02)


@pytest.mark.slow
class TestGpaw:
    """A cheap cutoff: what is tested is our reading of GPAW, not GPAW."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("gpaw")

    def test_silicon_has_a_gap_and_its_edges(self):
        silicon = bulk("Si")
        calculator = engine("gpaw", ecut=200, kpts=(2, 2, 2)).calculator()
        silicon.calc = calculator
        gap, vbm, cbm = (calculator.get_property(name, silicon) for name in ("band_gap", "vbm", "cbm"))
        assert gap == pytest.approx(cbm - vbm)
        assert 0.3 < gap < 1.1  # PBE: 0.57 eV between any k points, a little more on a coarse mesh
        np.testing.assert_allclose(silicon.get_forces(), 0, atol=1e-3)
        assert silicon.get_stress().shape == (6,)

    def test_an_odd_number_of_electrons_is_a_metal(self):
        sodium = bulk("Na", cubic=False)
        calculator = engine("gpaw", ecut=150, kpts=(2, 2, 2)).calculator()
        sodium.calc = calculator
        assert calculator.get_property("band_gap", sodium) == 0
        assert calculator.get_property("vbm", sodium) == calculator.get_property("cbm", sodium)

    def test_a_label_does_not_depend_on_the_one_before(self):
        calculator = engine("gpaw", ecut=150).calculator()

        def energy(a):
            atoms = Atoms("He2", [(0, 0, 0), (1.5, 0.1, 0)], cell=[a, 3, 3], pbc=True)
            atoms.calc = calculator
            return atoms.get_potential_energy()

        first = energy(3.4)
        energy(3.6)
        assert energy(3.4) == first
