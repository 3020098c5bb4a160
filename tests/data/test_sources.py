"""Sets by name."""

from pathlib import Path

import pytest
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.data import sources
from vibronic.data.dataset import label_of, read_structures


def test_embedded_sets_read_and_hold_what_they_say() -> None:
    for name, source in sources.SOURCES.items():
        assert source.licence
        if source.embedded:
            assert not sources.missing(name)
            assert sources.structures(name)
    assert len(sources.crystal("Ag3SBr")) == 5
    assert len(sources.crystal("NaCl")) == 8


def test_embedded_crystals_have_the_symmetry_of_their_structure() -> None:
    import spglib

    kinds = {"Si": 227, "NaCl": 225, "SrTiO3": 221} | dict.fromkeys(("Ag3SBr", "Ag3SI", "Ag3SeBr", "Ag3SeI"), 221)
    for name, group in kinds.items():
        atoms = sources.crystal(name)
        cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
        assert spglib.get_symmetry_dataset(cell).number == group
        assert atoms.get_chemical_formula(empirical=True) == Atoms(name).get_chemical_formula(empirical=True)


def test_the_dft_set_has_gaps_of_a_displaced_semiconductor() -> None:
    frames = sources.structures("Ag3SBr-pbe")
    assert len(frames) >= 58
    gaps = [label_of(a, "band_gap") for a in frames]
    assert all(0 <= g < 1.0 for g in gaps)  # 0.89 eV static, closed by displacements
    for a in frames:
        assert label_of(a, "cbm") - label_of(a, "vbm") == pytest.approx(label_of(a, "band_gap"), abs=1e-3)


def test_a_name_is_no_file_and_the_error_says_who_reads_names() -> None:
    with pytest.raises(VibronicError, match=r"no file NaCl \(sets by name: vibronic\.data\.sources\.structures\)"):
        read_structures("NaCl")


def test_unknown_name_suggests() -> None:
    with pytest.raises(VibronicError, match="did you mean 'NaCl'"):
        sources.structures("NaCL")


def test_reference_sets_need_their_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VIBRONIC_DATA", raising=False)
    with pytest.raises(VibronicError, match="set VIBRONIC_DATA"):
        sources.structures("SrTiO3-test")
    assert sources.missing("SrTiO3-test") == "set VIBRONIC_DATA"
    monkeypatch.setenv("VIBRONIC_DATA", str(tmp_path))
    with pytest.raises(VibronicError, match="expected"):
        sources.structures("SrTiO3-test")


def test_a_reference_set_reads(monkeypatch: pytest.MonkeyPatch, reference_data: Path) -> None:
    monkeypatch.setenv("VIBRONIC_DATA", str(reference_data))
    frames = sources.structures("SrTiO3-test")
    assert len(frames) == 30
    assert label_of(frames[0], "forces").shape == (40, 3)


def test_one_crystal_is_one() -> None:
    with pytest.raises(VibronicError, match="one crystal is needed"):
        sources.crystal("Ag3SBr-pbe")
