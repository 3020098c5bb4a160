import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from vibronic.core.errors import VibronicError
from vibronic.core.units import HBAR, KB, THZ
from vibronic.sampling.harmonic import ForceConstants, force_constants, mode_variances, thermal_displacements
from vibronic.sampling.phonons import read_force_constants


def component(matrices):
    return np.trace(matrices, axis1=1, axis2=2) / 3


def test_hbar_and_thz_agree_with_si():
    # 1 THz: h nu = 4.1357 meV
    assert pytest.approx(4.135667e-3, rel=1e-6) == HBAR * 2 * np.pi / (2 * np.pi * THZ)


@pytest.mark.parametrize(
    ("statistics", "sodium", "chlorine"), [("quantum", 0.02132, 0.01588), ("classical", 0.02075, 0.01551)]
)
def test_published_thermal_displacements(nacl, statistics, sodium, chlorine):
    component_of = dict(zip(nacl.supercell.numbers, component(thermal_displacements(nacl, 300, statistics))))
    assert component_of[11] == pytest.approx(sodium, abs=1e-5)
    assert component_of[17] == pytest.approx(chlorine, abs=1e-5)


def test_frequencies_are_those_of_phonopy_at_commensurate_wave_vectors(nacl):
    phonopy = nacl.phonopy()
    phonopy.nac_params = None
    phonopy.init_random_displacements()
    displacements = phonopy.random_displacements
    # phonopy lists one of each pair q, -q
    found = []
    for q, frequencies in zip(displacements.qpoints, displacements.frequencies):
        own_partner = np.allclose(2 * q, np.round(2 * q))
        found.extend(np.repeat(frequencies, 1 if own_partner else 2))
    reference = np.sort(found)
    translations = np.argsort(np.abs(reference))[:3]
    np.testing.assert_allclose(nacl.modes().frequencies, np.delete(reference, translations), atol=1e-4)


def test_thermal_displacements_are_those_of_phonopy(nacl):
    phonopy = nacl.phonopy()
    phonopy.nac_params = None
    phonopy.run_mesh([2, 2, 2], with_eigenvectors=True, is_mesh_symmetry=False, is_gamma_center=True)
    phonopy.run_thermal_displacements(temperatures=[300], freq_min=0.1)
    theirs = phonopy.thermal_displacements.thermal_displacements[0].reshape(-1, 3).mean(axis=1)
    small = _fold(nacl, phonopy)
    ours = component(thermal_displacements(small, 300))
    by_species = [ours[small.supercell.numbers == z].mean() for z in phonopy.primitive.numbers]
    np.testing.assert_allclose(by_species, theirs, rtol=1e-5)


def _fold(constants: ForceConstants, phonopy) -> ForceConstants:
    """Force constants of the primitive 2x2x2 supercell whose commensurate wave vectors are a 2x2x2 mesh."""
    from phonopy.harmonic.dynmat_to_fc import DynmatToForceConstants

    from vibronic.sampling.harmonic import build_phonopy, to_ase

    primitive = to_ase(phonopy.primitive)
    target = build_phonopy(primitive, (2, 2, 2), np.eye(3))
    inverse = DynmatToForceConstants(target.primitive, target.supercell)
    phonopy.run_qpoints(inverse.commensurate_points, with_dynamical_matrices=True)
    inverse.dynamical_matrices = phonopy.qpoints.dynamical_matrices
    inverse.run()
    array = np.array(inverse.force_constants)
    if array.shape[0] != array.shape[1]:
        from phonopy.harmonic.force_constants import compact_fc_to_full_fc

        array = compact_fc_to_full_fc(target.primitive, array)
    return ForceConstants(primitive, to_ase(target.supercell), np.diag([2, 2, 2]), array)


def test_translations_are_removed_exactly_even_if_the_sum_rule_is_broken(copper_constants):
    n = len(copper_constants.supercell)
    noise = np.random.default_rng(0).normal(scale=0.01, size=copper_constants.array.shape)
    broken = ForceConstants(
        copper_constants.unitcell,
        copper_constants.supercell,
        copper_constants.supercell_matrix,
        copper_constants.array + noise,
    )
    modes = broken.modes()
    assert modes.vectors.shape == (3 * n, 3 * n - 3)
    momentum = np.einsum("iam,i->am", modes.vectors.reshape(n, 3, -1), np.sqrt(broken.supercell.get_masses()))
    assert np.abs(momentum).max() < 1e-12
    np.testing.assert_allclose(modes.vectors.T @ modes.vectors, np.eye(3 * n - 3), atol=1e-12)


def test_limits_of_the_mode_variance():
    frequencies = np.array([0.5, 3.0, 12.0])
    classical = mode_variances(frequencies, 1e5, "classical")
    np.testing.assert_allclose(mode_variances(frequencies, 1e5, "quantum"), classical, rtol=1e-5)
    zero_point = mode_variances(frequencies, 0, "quantum")
    np.testing.assert_allclose(zero_point, HBAR * THZ / (2 * frequencies))
    np.testing.assert_allclose(mode_variances(frequencies, 1e-3, "quantum"), zero_point)
    assert (mode_variances(frequencies, 0, "classical") == 0).all()
    # equipartition: omega^2 <Q^2> = k T
    np.testing.assert_allclose((frequencies / THZ) ** 2 * mode_variances(frequencies, 300, "classical"), KB * 300)
    # the quantum spread is always the larger one
    assert (mode_variances(frequencies, 300, "quantum") > mode_variances(frequencies, 300, "classical")).all()


@pytest.mark.parametrize("temperature", [-1.0, np.nan, np.inf])
def test_impossible_temperature(temperature):
    with pytest.raises(VibronicError, match="temperature"):
        mode_variances(np.ones(1), temperature, "quantum")


def test_unknown_statistics():
    with pytest.raises(VibronicError, match="quantum or classical"):
        mode_variances(np.ones(1), 300, "fermi")


def test_thermal_displacements_refuse_imaginary_modes(unstable):
    with pytest.raises(VibronicError, match="imaginary"):
        thermal_displacements(unstable, 300)


def test_finite_displacements_recover_a_harmonic_crystal(copper_constants, spring):
    again = force_constants(copper_constants.unitcell, (2, 2, 2), spring(copper_constants), progress=False)
    np.testing.assert_allclose(again.array, copper_constants.array, atol=1e-8)


def test_force_constants_do_not_depend_on_forces_of_the_reference(copper):
    """A strained cell has no forces by symmetry; one atom off its site has, and they must not enter."""
    stretched = bulk("Cu", a=3.7, cubic=True)
    constants = force_constants(stretched, (2, 2, 2), EMT(), progress=False)
    assert np.abs(constants.array.sum(axis=1)).max() < 1e-8
    np.testing.assert_allclose(constants.array, constants.array.transpose(1, 0, 3, 2), atol=1e-8)
    shifted = copper.copy()
    shifted.positions[0] += 0.1
    findings = force_constants(shifted, (1, 1, 1), EMT(), progress=False).findings
    assert any("not relaxed" in finding for finding in findings)


@pytest.mark.parametrize("supercell", [(0, 1, 1), (1, 1), (1.5, 1, 1), np.zeros((3, 3), int)])
def test_bad_supercell(copper, supercell):
    with pytest.raises(VibronicError, match="supercell"):
        force_constants(copper, supercell, EMT(), progress=False)


def test_no_phonons_of_a_molecule():
    with pytest.raises(VibronicError, match="lattice vectors"):
        force_constants(molecule("H2O"), (1, 1, 1), EMT(), progress=False)


def test_force_constants_of_the_wrong_shape(copper):
    with pytest.raises(VibronicError, match="shape"):
        ForceConstants(copper, copper, np.eye(3, dtype=int), np.zeros((4, 3, 3, 3)))
    with pytest.raises(VibronicError, match="not numbers"):
        ForceConstants(copper, copper, np.eye(3, dtype=int), np.full((4, 4, 3, 3), np.nan))


def test_band_structure_and_density_of_states(nacl):
    bands = nacl.band_structure(60)
    assert bands.distance.shape == (len(bands.frequencies),)
    assert bands.frequencies.shape[1] == 6
    assert (np.diff(bands.distance) >= 0).all()
    assert bands.ticks[0] == (0.0, "G")
    gamma = bands.frequencies[0]
    np.testing.assert_allclose(gamma[:3], 0, atol=1e-3)
    assert gamma[5] > gamma[4] + 1  # BORN splits the longitudinal mode off
    plain = ForceConstants(nacl.unitcell, nacl.supercell, nacl.supercell_matrix, nacl.array)
    np.testing.assert_allclose(np.ptp(plain.band_structure(20).frequencies[0, 3:]), 0, atol=1e-3)
    dos = plain.density_of_states(8)
    assert np.trapezoid(dos.density, dos.frequencies) == pytest.approx(6, rel=0.03)


class TestFiles:
    def test_a_random_displacement_set_gives_the_same_crystal(self, nacl, reference_data):
        random = read_force_constants(reference_data / "thermal/phonopy_examples/NaCl-rd")
        np.testing.assert_allclose(random.modes().frequencies, nacl.modes().frequencies, atol=0.15)

    def test_yaml_written_by_phonopy(self, copper_constants, tmp_path):
        copper_constants.phonopy().save(tmp_path / "phonopy_params.yaml", settings={"force_constants": True})
        again = read_force_constants(tmp_path / "phonopy_params.yaml")
        np.testing.assert_allclose(again.array, copper_constants.array, atol=1e-10)
        np.testing.assert_allclose(again.supercell.positions, copper_constants.supercell.positions, atol=1e-10)

    @pytest.mark.parametrize("compact", [True, False])
    def test_force_constants_file_beside_a_poscar(self, copper_constants, tmp_path, compact):
        from ase.io import write
        from phonopy.file_IO import write_FORCE_CONSTANTS
        from phonopy.harmonic.force_constants import full_fc_to_compact_fc

        phonopy = copper_constants.phonopy()
        array, indices = copper_constants.array, None
        if compact:
            array, indices = full_fc_to_compact_fc(phonopy.primitive, array), phonopy.primitive.p2s_map
        write_FORCE_CONSTANTS(array, tmp_path / "FORCE_CONSTANTS", p2s_map=indices)
        write(tmp_path / "POSCAR-unitcell", copper_constants.unitcell, format="vasp", direct=True)
        again = read_force_constants(tmp_path / "FORCE_CONSTANTS", supercell=(2, 2, 2))
        np.testing.assert_allclose(again.array, copper_constants.array, atol=1e-10)
        with pytest.raises(VibronicError, match="crystal"):
            read_force_constants(tmp_path / "FORCE_CONSTANTS")
        with pytest.raises(VibronicError, match=r"FORCE_CONSTANTS|supercell"):
            read_force_constants(tmp_path / "FORCE_CONSTANTS", supercell=(1, 1, 1))

    def test_units_of_another_code(self, copper_constants, tmp_path):
        """The same crystal in Rydberg and Bohr, as Quantum ESPRESSO's users have it."""
        from ase.units import Bohr, Rydberg
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms

        cell = copper_constants.unitcell
        atoms = PhonopyAtoms(
            symbols=cell.get_chemical_symbols(),
            cell=cell.cell.array / Bohr,
            scaled_positions=cell.get_scaled_positions(),
        )
        phonopy = Phonopy(atoms, np.diag([2, 2, 2]), primitive_matrix="F", calculator="qe")
        phonopy.force_constants = copper_constants.array * Bohr**2 / Rydberg
        phonopy.save(tmp_path / "phonopy.yaml", settings={"force_constants": True})
        again = read_force_constants(tmp_path)
        np.testing.assert_allclose(again.array, copper_constants.array, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(again.supercell.cell, copper_constants.supercell.cell, rtol=1e-7)

    def test_files_in_the_current_folder_do_not_leak_in(self, reference_data, tmp_path, monkeypatch):
        source = reference_data / "thermal/phonopy_examples/NaCl"
        (tmp_path / "alone").mkdir()
        (tmp_path / "alone/phonopy_disp.yaml").write_bytes((source / "phonopy_disp.yaml").read_bytes())
        monkeypatch.chdir(source)
        with pytest.raises(VibronicError, match="no forces"):
            read_force_constants(tmp_path / "alone/phonopy_disp.yaml")

    @pytest.mark.parametrize("content", ["", "nonsense: [", "phonopy: {version: 2}", "\x00\x01"])
    def test_broken_files(self, tmp_path, content):
        path = tmp_path / "phonopy.yaml"
        path.write_text(content)
        with pytest.raises(VibronicError, match=r"phonopy\.yaml"):
            read_force_constants(path)

    def test_missing_file(self, tmp_path):
        with pytest.raises(VibronicError, match="does not exist"):
            read_force_constants(tmp_path / "phonopy.yaml")

    def test_cut_force_sets(self, reference_data, tmp_path):
        source = reference_data / "thermal/phonopy_examples/NaCl"
        (tmp_path / "phonopy_disp.yaml").write_bytes((source / "phonopy_disp.yaml").read_bytes())
        text = (source / "FORCE_SETS").read_text()
        (tmp_path / "FORCE_SETS").write_text(text[: len(text) // 2])
        with pytest.raises(VibronicError, match="cannot read"):
            read_force_constants(tmp_path)


def test_a_heavier_isotope_vibrates_more_slowly(copper_constants):
    heavy = copper_constants.supercell.copy()
    heavy.set_masses(4 * heavy.get_masses())
    slow = ForceConstants(copper_constants.unitcell, heavy, copper_constants.supercell_matrix, copper_constants.array)
    np.testing.assert_allclose(2 * slow.modes().frequencies, copper_constants.modes().frequencies, rtol=1e-9)
