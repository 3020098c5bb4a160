"""QM9 from the wheel qm9pack: labels, parts, cache, names."""

import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from vibronic.cli import main
from vibronic.core.errors import VibronicError
from vibronic.core.targets import TARGETS
from vibronic.data import qm9, sources
from vibronic.data.dataset import check_structure, label_of, labels_of, read_labelled

here = pytest.mark.skipif(not qm9.installed(), reason=f"qm9pack is not installed: {qm9.INSTALL}")


@pytest.fixture(scope="module")
def whole() -> dict[str, np.ndarray]:
    return qm9.arrays()


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What was read before is forgotten, and what the test reads as well."""
    qm9.arrays.cache_clear()
    yield
    qm9.arrays.cache_clear()


PUBLISHED = {
    14: -33.00661185800112,
    19: -35.808923464201754,
    34: -29.224581006199955,
    36: -35.41726978400219,
    51: -39.50311591680118,
    66: -45.03658131820189,
    133617: -54.834862230202184,
    133681: -59.04781281240432,
    133783: -59.761050817800935,
}
"""eV, from the test set that the authors of Quantum Deep Field published."""


@here
def test_energies_are_the_published_ones_to_the_last_bit(whole: dict[str, np.ndarray]) -> None:
    energy = dict(zip(whole["qm9_index"].tolist(), whole["energy"].tolist(), strict=True))
    assert {index: energy[index] for index in PUBLISHED} == PUBLISHED


@here
def test_the_labels_of_methane_and_water(whole: dict[str, np.ndarray]) -> None:
    """Numbers as QM9 prints them, in its own units, and conversions written out by hand."""
    methane = {name: whole[name][0] for name in qm9.LABELS}
    assert methane["homo"] == pytest.approx(-0.3877 * 27.2114)
    assert methane["lumo"] == pytest.approx(0.1171 * 27.2114)
    assert methane["band_gap"] == pytest.approx(0.5048 * 27.2114)
    assert methane["zpve"] == pytest.approx(0.044749 * 27.2114)
    assert methane["enthalpy_298K"] == pytest.approx((-40.475117 + 37.844411 + 4 * 0.497912) * 27.2114)
    assert methane["free_energy_298K"] == pytest.approx((-40.498597 + 37.861317 + 4 * 0.510927) * 27.2114)
    assert methane["heat_capacity"] == pytest.approx(6.469 / 1.98720426 * 8.6173333e-5)
    assert methane["polarizability"] == pytest.approx(13.21 * 0.529177**3, rel=1e-5)
    assert methane["electronic_spatial_extent"] == pytest.approx(35.3641 * 0.529177**2, rel=1e-5)
    assert whole["dipole_moment"][2] == pytest.approx(1.8511 * 0.20819434)


@here
def test_thermochemistry_is_consistent(whole: dict[str, np.ndarray]) -> None:
    """H - U of a gas is kT for each particle, so the atomisation of N atoms makes N - 1 of them."""
    kt = 8.617333e-5 * 298.15
    difference = whole["enthalpy_298K"] - whole["energy_298K"]
    assert np.allclose(difference, (1 - whole["n_atoms"]) * kt, atol=1e-3)
    assert (whole["free_energy_298K"] > whole["enthalpy_298K"]).all()  # a molecule has less entropy than its atoms
    assert np.allclose(whole["lumo"] - whole["homo"], whole["band_gap"], atol=0.006)  # QM9 prints four digits


@here
def test_every_molecule_is_there_once_and_sound(whole: dict[str, np.ndarray]) -> None:
    assert len(set(whole["qm9_index"].tolist())) == 130_831
    assert (np.diff(whole["qm9_index"]) > 0).all()
    assert set(whole["numbers"].tolist()) == {1, 6, 7, 8, 9}
    assert all(np.isfinite(values).all() for values in whole.values())
    with pytest.raises(ValueError, match="read-only"):
        whole["energy"][0] = 0.0


@here
def test_the_parts_are_the_authors_and_share_nothing(whole: dict[str, np.ndarray]) -> None:
    parts = {name: qm9.molecules(name) for name in ("train", "validation", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 11_831, "validation": 1_479, "test": 1_480}
    assert max(len(atoms) for part in parts.values() for atoms in part) == 14
    assert set(PUBLISHED) <= {atoms.info["qm9_index"] for atoms in parts["test"]}
    small = [atoms.info["qm9_index"] for part in parts.values() for atoms in part]
    assert sorted(small) == whole["qm9_index"][whole["n_atoms"] < 15].tolist()
    assert (whole["n_atoms"] >= 15).sum() == 116_041


@here
def test_a_molecule_carries_its_geometry_and_labels(whole: dict[str, np.ndarray]) -> None:
    for atoms in qm9.molecules("test")[::50]:
        check_structure(atoms)
        k = int(np.flatnonzero(whole["qm9_index"] == atoms.info["qm9_index"])[0])
        start = int(whole["n_atoms"][:k].sum())
        assert np.array_equal(atoms.positions, whole["positions"][start : start + len(atoms)])
        assert not atoms.pbc.any()
        labels = labels_of(atoms, [TARGETS[name] for name in qm9.LABELS])
        assert labels == {name: whole[name][k] for name in qm9.LABELS}


def test_an_unknown_part_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qm9, "arrays", lambda: {"n_atoms": np.array([3]), "qm9_index": np.array([3])})
    with pytest.raises(VibronicError, match="no part 'trian'; choose one of all, train, validation, test, large"):
        qm9.molecules("trian")


# --- the cache ---


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> Path:
    """A wheel of the first three molecules of each part of QM9's text, and an empty cache folder."""
    data = Path(str(metadata.distribution("qm9pack").locate_file("qm9pack/data")))
    small = tmp_path / "site" / "qm9pack" / "data"
    small.mkdir(parents=True)
    for k in (1, 2, 3):
        with (data / f"qm9_part{k}.csv").open() as file:
            (small / f"qm9_part{k}.csv").write_text("".join(next(file) for _ in range(4)))
    information = tmp_path / "site" / "qm9pack-1.0.3.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: qm9pack\nVersion: 1.0.3\n")
    monkeypatch.setattr(qm9, "_wheel", lambda: metadata.PathDistribution(information))
    monkeypatch.setenv("VIBRONIC_CACHE", str(tmp_path / "cache"))
    return small


def again() -> list[Atoms]:
    qm9.arrays.cache_clear()
    return qm9.molecules()


def never(folder: Path) -> dict[str, np.ndarray]:
    raise AssertionError("the text was read although the cache is there")


@here
def test_the_text_is_read_once(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = again()
    assert len(first) == 9
    assert [f.name for f in (tmp_path / "cache").iterdir()] == ["qm9-1.0.3-1.npz"]
    monkeypatch.setattr(qm9, "_parsed", never)
    second = again()
    assert first == second
    assert [a.info for a in first] == [a.info for a in second]
    monkeypatch.setattr(qm9, "FORMAT", 2)  # another version of ours does not read what this one wrote
    with pytest.raises(AssertionError, match="the text was read"):
        again()


@here
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other", "objects", "prose"])
def test_a_damaged_cache_is_made_again(wheel: Path, tmp_path: Path, damage: str) -> None:
    first = again()
    kept = tmp_path / "cache" / "qm9-1.0.3-1.npz"
    whole = kept.read_bytes()
    middle = whole.index(np.asarray(first[0].positions).tobytes())
    if damage == "other":
        np.savez(kept, qm9_index=[1], n_atoms=[5])
    elif damage == "objects":  # could run code when read; it is not
        np.savez(kept, qm9_index=np.array([print], dtype=object))
    else:
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        kept.write_bytes({"empty": b"", "cut": whole[:-100], "flipped": flipped, "prose": b"no arrays"}[damage])
    second = again()
    assert first == second
    assert kept.read_bytes() == whole


@here
def test_a_cache_that_cannot_be_written_is_no_error(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert len(again()) == 9


@here
@pytest.mark.parametrize("fault", ["missing", "cut", "word", "element", "column"])
def test_a_damaged_wheel_is_told(wheel: Path, fault: str) -> None:
    part = wheel / "qm9_part2.csv"
    text = part.read_text()
    faults = {"cut": text[:-200], "word": text.replace(".", "x", 40), "element": text.replace("'C'", "'Q'")}
    faults["column"] = text.replace("HOMO_au", "homo", 1)
    part.unlink() if fault == "missing" else part.write_text(faults[fault])
    with pytest.raises(VibronicError, match=r"qm9pack is damaged .*pip install --force-reinstall qm9pack"):
        again()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VIBRONIC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert qm9.cache_folder() == tmp_path / ".cache" / "vibronic"
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert qm9.cache_folder() == Path("/scratch/vibronic")
    monkeypatch.setenv("VIBRONIC_CACHE", "/scratch/own")
    assert qm9.cache_folder() == Path("/scratch/own")


# --- by name ---


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    def refuse(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", refuse)


def test_without_the_wheel_every_way_says_how_to_install_it(absent: None, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (["data", "qm9-test"], ["train", "ridge", "qm9-train"], ["label", "qm9", "--engine", "emt"]):
        assert main(verb) == 2
        assert "not installed; install it with: pip install 'vibronic[molecules]'" in capsys.readouterr().err
    assert main(["data"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.endswith("(pip install 'vibronic[molecules]')") for line in listed if line.startswith("qm9")] == [
        True
    ] * 5


@here
def test_the_names_are_listed_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    assert "pip install" not in capsys.readouterr().out
    assert main(["data", "qm9-test", "--out", str(tmp_path / "test.extxyz")]) == 0
    said = capsys.readouterr().out
    assert "structures: 1480" in said
    assert "'heat_capacity': 'eV/K'" in said
    first, read = qm9.molecules("test")[0], read_labelled(tmp_path / "test.extxyz")[0]
    for name in qm9.LABELS:
        assert label_of(read, name) == pytest.approx(label_of(first, name), rel=1e-8), name


@here
def test_a_set_that_is_no_file() -> None:
    assert sources.units("qm9-test") == {}
    with pytest.raises(VibronicError, match="'vibronic data qm9 --out FILE'"):
        sources.resolve("qm9")
    with pytest.raises(VibronicError, match="qm9-test holds 1480 structures"):
        sources.crystal("qm9-test")


@here
def test_a_model_is_trained_on_one_part_and_scored_on_another(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line, on nine molecules."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    run = ["train", "ridge", "qm9", "--test", "qm9", "--targets", "energy", "homo", "--fractions", "0.8", "0.2", "0"]
    assert main([*run, "--out", str(tmp_path / "m")]) == 0
    assert "9 to score" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "m"), "qm9", "--out", str(tmp_path / "p.csv")]) == 0
    table = (tmp_path / "p.csv").read_text().splitlines()
    assert len(table) == 10
    assert "homo [eV]" in table[0]
