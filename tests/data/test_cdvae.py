"""Crystals in tables: the CSV form of CDVAE, properties beside files, reduced cells, distinct crystals, official files."""

import gzip
import io
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from vibronic.cli import main
from vibronic.core.errors import VibronicError
from vibronic.core.targets import TARGETS
from vibronic.crystals.matching import space_group
from vibronic.data import cdvae, cells, sources
from vibronic.data.dataset import label_of, read_structures


def cif(atoms: Atoms, occupancy: str = "1") -> str:
    """As pymatgen writes a crystal without symmetry."""
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["# generated using pymatgen", "data_X", "_symmetry_space_group_name_H-M   'P 1'"]
    lines += [f"_cell_{name}   {value:.8f}" for name, value in zip(names, atoms.cell.cellpar(), strict=True)]
    lines += ["_symmetry_Int_Tables_number   1", "loop_", " _symmetry_equiv_pos_site_id"]
    lines += [" _symmetry_equiv_pos_as_xyz", "  1  'x, y, z'", "loop_"]
    columns = ("type_symbol", "label", "symmetry_multiplicity", "fract_x", "fract_y", "fract_z", "occupancy")
    lines += [f" _atom_site_{name}" for name in columns]
    for k, (symbol, place) in enumerate(zip(atoms.symbols, atoms.get_scaled_positions(wrap=False), strict=True)):
        lines.append(f"  {symbol}  {symbol}{k}  1  {place[0]:.8f}  {place[1]:.8f}  {place[2]:.8f}  {occupancy}")
    return "\n".join(lines) + "\n"


SALT = bulk("NaCl", "rocksalt", 5.6)
ZINCBLENDE = bulk("GaAs", "zincblende", 5.65)


def table(path: Path, rows: list[str], header: str = "material_id,cif,band_gap,note,spacegroup.number") -> Path:
    text = "\n".join([header, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


ROWS = [f'a,"{cif(SALT)}",5.0,salt,225', f'b,"{cif(ZINCBLENDE)}",,semiconductor,216']


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIBRONIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VIBRONIC_DATA", raising=False)
    return tmp_path / "cache"


# --- the CSV form ---


@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz"])
def test_a_table_of_cifs_reads_as_any_file_does(tmp_path: Path, name: str) -> None:
    salt, gallium = sources.structures(table(tmp_path / name, ROWS))
    assert salt.info == {"material_id": "a", "band_gap": 5.0, "note": "salt", "spacegroup": 225}
    assert isinstance(salt.info["spacegroup"], int)
    assert gallium.info == {"material_id": "b", "note": "semiconductor", "spacegroup": 216}
    assert salt.pbc.all()
    assert np.allclose(salt.get_scaled_positions(), SALT.get_scaled_positions())
    assert np.allclose(salt.cell.cellpar(), SALT.cell.cellpar())


def test_units_beside_a_table_are_converted(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text("units: {band_gap: meV}\n")
    path = table(tmp_path / "mine.csv", ROWS)
    for _ in range(2):  # what is cached is as written, so the second time as well
        assert sources.structures(path)[0].info["band_gap"] == pytest.approx(0.005)


def test_a_cif_of_another_hand_is_left_to_ase(tmp_path: Path) -> None:
    written = io.BytesIO()
    write(written, bulk("Cu", cubic=True), format="cif")
    text = written.getvalue().decode().replace('"', '""')
    row = f'"{text}",1'
    copper = read_structures(table(tmp_path / "mine.csv", [row], "cif,x"))[0]
    assert copper.get_chemical_formula() == "Cu4"
    assert copper.info == {"x": 1.0}


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        ([], "material_id,cif", "has a header but no rows"),
        (["a,1"], "material_id,band_gap", r"has no column 'cif'; .* has material_id, band_gap"),
        ([ROWS[0], ROWS[1].replace(",,", ",wide,"), ROWS[0]], None, r"row 2: 'band_gap' is 'wide', not a number"),
        ([ROWS[0], ROWS[1][: ROWS[1].index("0.25")]], None, r"row 2 \(b\) has 2 fields where the header has 5"),
        ([ROWS[0], 'b,"no crystal",1,x,1'], None, r"cannot read the CIF of .*mine.csv, row 2 \(b\)"),
        ([f'a,"{cif(SALT, "0.5")}",1,x,1'], None, r"row 1 \(a\) has partial occupancies"),
        ([ROWS[0].replace("  Na  ", "  Qq  ")], None, r"mine.csv, row 1 \(a\)"),
        ([ROWS[0].replace("0.50000000", "0.01000000")], None, r"row 1 \(a\): atoms 0 \(Na\) and 1 \(Cl\) overlap"),
        ([ROWS[0]], "material_id,cif,x,x,spacegroup.number", "two columns 'x'"),
    ],
)
def test_a_table_that_is_wrong_is_told(tmp_path: Path, rows: list[str], header: str | None, said: str) -> None:
    path = tmp_path / "mine.csv"
    table(path, rows, header) if header else table(path, rows)
    with pytest.raises(VibronicError, match=said) as told:
        sources.structures(path)
    assert "mine.csv" in str(told.value)
    assert "\n" not in str(told.value)


def test_empty_cut_and_binary_tables_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"material_id,cif\n" * 50)[:-9])
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    for name, said in (("empty.csv", "is empty"), ("cut.csv.gz", "compression is damaged"), ("binary.csv", "no table")):
        with pytest.raises(VibronicError, match=said):
            sources.structures(tmp_path / name)


def test_a_property_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "mine.csv", ROWS)
    run = [
        "train",
        "ridge",
        str(path),
        "--targets",
        "hardness",
        "--units.hardness",
        "GPa",
        "--out",
        str(tmp_path / "m"),
    ]
    assert main(run) == 2
    assert "structure 0 has no label 'hardness'; it has band_gap" in capsys.readouterr().err


# --- properties beside files ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "cifs"
    place.mkdir()
    write(place / "salt.cif", SALT)
    write(place / "gallium.cif", ZINCBLENDE)
    (place / "scores.csv").write_text("a,b\n1,2\n")
    return place


@pytest.mark.parametrize("name", ["properties.csv", "id_prop.csv"])
@pytest.mark.filterwarnings("ignore:.*ignored files that hold no structures. 1 .scores.csv.")
def test_a_folder_has_its_properties_beside(folder: Path, name: str) -> None:
    (folder / name).write_text("file,band_gap,maker\nsalt.cif,5.0,sea\ngallium,,\n")
    gallium, salt = sources.structures(folder)
    assert (salt.info["band_gap"], salt.info["maker"]) == (5.0, "sea")
    assert "band_gap" not in gallium.info
    assert "spacegroup_kinds" not in gallium.info


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,band_gap\nsalt,5\n", "has no row for gallium.cif; add it"),
        ("salt,5\ngallium,1\n", "has no header: begin it with a line such as 'file,band_gap'"),
        ("file,band_gap\nsalt,5\ngallium,1\nsulphur,2\n", "row 3: there is no structure file 'sulphur'"),
        ("file,band_gap\nsalt,5\ngallium,1\nsalt.cif,2\n", "row 3 is about salt.cif, as row 1 is"),
        ("file,band_gap\nsalt,5\ngallium,wide\n", r"row 2 \(gallium\): 'band_gap' is 'wide', not a number"),
        ("file\nsalt\ngallium\n", "has one column"),
        ("", "properties.csv is empty"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*ignored files that hold no structures")
def test_a_table_that_does_not_fit_its_folder_is_told(folder: Path, text: str, said: str) -> None:
    (folder / "properties.csv").write_text(text)
    with pytest.raises(VibronicError, match=said):
        sources.structures(folder)


@pytest.mark.filterwarnings("ignore:.*ignored files that hold no structures")
def test_properties_are_not_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "properties.csv").write_text("file,band_gap\nsalt,5\ngallium,1\n")
    assert main(["data", str(folder), "--out", str(folder / "properties.csv")]) == 2
    assert "is read here and would be overwritten" in capsys.readouterr().err


# --- reduced cells ---


def tilted(atoms: Atoms, seed: int) -> Atoms:
    """The same crystal in another cell, turned, mirrored lattice vectors, and shifted."""
    rng = np.random.default_rng(seed)
    other = make_supercell(atoms, [[1, 1, 0], [0, -1, 1], [2, 0, 1]])
    other.rotate(float(rng.uniform(0, 360)), rng.normal(size=3), rotate_cell=True)
    other.positions += rng.normal(size=3)
    return other


@pytest.mark.parametrize("seed", range(4))
def test_a_reduced_cell_is_the_same_crystal(seed: int) -> None:
    pytest.importorskip("pymatgen.core", reason="pymatgen is not installed: pip install 'vibronic[crystals]'")
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    crystal = [SALT, ZINCBLENDE, bulk("Ti"), bulk("SiC", "zincblende", 4.36, cubic=True)][seed]
    other = tilted(crystal, seed)
    new = cells.reduced(other)
    assert len(new) == 2
    assert new.get_volume() / len(new) == pytest.approx(crystal.get_volume() / len(crystal), rel=1e-12)
    strict = StructureMatcher(ltol=1e-6, stol=1e-6, angle_tol=1e-4, scale=False)
    assert strict.fit(AseAtomsAdaptor.get_structure(new), AseAtomsAdaptor.get_structure(other))
    cell = new.cell.array
    assert np.allclose(cell, np.tril(cell), atol=1e-12)
    assert (np.diag(cell) > 0).all()
    assert np.allclose(cell, cells.reduced(tilted(crystal, 9)).cell.array, atol=1e-9)
    assert np.allclose(cells.reduced(new).cell.array, cell, atol=1e-9)
    places = new.get_scaled_positions(wrap=False)
    assert (places > -1e-12).all()
    assert (places < 1).all()


def test_displaced_atoms_stay_displaced() -> None:
    """In a cell that spglib would idealise, and one whose translations hold to less than its tolerance."""
    salt = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    assert len(cells.reduced(salt)) == 2
    salt.positions[0] += [0.004, 0, 0]
    new = cells.reduced(salt)
    assert len(new) == 8
    assert np.allclose(
        np.sort(new.get_all_distances(mic=True).ravel()), np.sort(salt.get_all_distances(mic=True).ravel())
    )


def test_labels_go_with_the_cell() -> None:
    salt = bulk("NaCl", "rocksalt", 5.6, cubic=True)
    stress = np.array([0.1, 0.2, 0.3, 0.01, 0.02, 0.03])
    forces = np.tile([0.1, 0.0, 0.0], (8, 1))
    salt.rotate(30, "z", rotate_cell=True)
    salt.calc = SinglePointCalculator(salt, energy=-8.0, forces=forces, stress=stress)
    salt.info |= {"zpve": 4.0, "band_gap": 5.0, "energy_per_atom": -1.0, "material_id": "a"}
    new = cells.reduced(salt)
    assert label_of(new, "energy") == pytest.approx(-2.0)
    assert new.info == {"zpve": 1.0, "band_gap": 5.0, "energy_per_atom": -1.0, "material_id": "a"}
    assert label_of(salt, "energy") == -8.0
    assert np.allclose(np.linalg.eigvalsh(label_of(new, "stress")), np.linalg.eigvalsh(label_of(salt, "stress")))
    assert label_of(new, "forces").shape == (2, 3)
    assert np.allclose(np.linalg.norm(label_of(new, "forces"), axis=1), 0.1)


def test_the_force_turns_with_the_crystal() -> None:
    """A force along a bond is along that bond in the new frame."""
    zinc = tilted(ZINCBLENDE, 3)
    bonds = zinc.get_all_distances(mic=True, vector=True)
    gallium, arsenic = np.flatnonzero(zinc.numbers == 31)[0], np.flatnonzero(zinc.numbers == 33)
    forces = np.zeros((len(zinc), 3))
    bond = bonds[gallium, arsenic[np.argmin(np.linalg.norm(bonds[gallium, arsenic], axis=1))]]
    forces[zinc.numbers == 31] = bond
    zinc.arrays["forces"] = forces
    new = cells.reduced(zinc)
    force = new.arrays["forces"][new.numbers == 31][0]
    start, end = new.positions[new.numbers == 31][0], new.positions[new.numbers == 33][0]
    away = np.linalg.solve(new.cell.array.T, end - start - force)
    assert np.allclose(away, np.round(away), atol=1e-8)


def test_without_symmetry_the_cell_is_niggli_reduced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import spglib

    monkeypatch.setattr(spglib, "get_symmetry_dataset", lambda *args, **kwargs: None)
    salt = make_supercell(SALT, [[1, 3, 0], [0, 1, 0], [0, 2, 2]])
    assert len(cells.reduced(salt)) == 4

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no symmetry")

    monkeypatch.setattr(spglib, "get_symmetry_dataset", fail)
    monkeypatch.setattr(spglib, "niggli_reduce", fail)
    new = cells.reduced(salt)
    assert new.get_volume() == pytest.approx(salt.get_volume())
    assert new.cell.lengths().max() < 8


def test_only_a_crystal_has_a_reduced_cell() -> None:
    with pytest.raises(VibronicError, match="needs a crystal"):
        cells.reduced(Atoms("H2", [(0, 0, 0), (0, 0, 0.74)]))


# --- symmetric cells ---


def shaken(atoms: Atoms, seed: int, size: float) -> Atoms:
    """A crystal and its cell displaced by ``size`` Angstrom."""
    rng = np.random.default_rng(seed)
    found = atoms.copy()
    found.set_cell(found.cell.array + rng.normal(0, size, (3, 3)), scale_atoms=True)
    found.positions += rng.normal(0, size, (len(found), 3))
    return found


def test_noise_does_not_choose_the_cell() -> None:
    diamond = bulk("C", "diamond", 3.57)
    noisy = [shaken(diamond, seed, 0.003) for seed in range(8)]
    as_they_are = {tuple(np.round(cells.reduced(a).cell.angles(), -1)) for a in noisy}
    assert len(as_they_are) > 1
    for atoms in noisy:
        atoms.info |= {"energy_per_atom": -1.0, "tags_of_mine": [1, 2]}
        found = cells.symmetrised(cells.reduced(atoms), 0.03)
        assert found.cell.cellpar()[3:] == pytest.approx([60, 60, 60], abs=1e-6)
        assert len(found) == 2
        assert found.get_volume() == pytest.approx(atoms.get_volume(), rel=0.01)
        assert found.info == {"energy_per_atom": -1.0}


def test_what_is_not_symmetric_stays() -> None:
    loose = cells.reduced(shaken(bulk("NaCl", "rocksalt", 5.64, cubic=True), 0, 0.15))
    found = cells.symmetrised(loose, 0.01)
    assert len(found) == 8
    assert found.cell.cellpar() == pytest.approx(loose.cell.cellpar(), abs=1e-3)
    assert np.sort(found.get_all_distances(mic=True), None) == pytest.approx(
        np.sort(loose.get_all_distances(mic=True), None), abs=1e-3
    )


def test_elements_in_chemical_order() -> None:
    assert cells.in_chemical_order([22, 8, 38, 8, 8]) == [(38, 1), (22, 1), (8, 3)]
    assert cells.in_chemical_order([9, 19, 9, 30, 9]) == [(19, 1), (30, 1), (9, 3)]
    assert sorted(map(cells.pettifor, range(1, 104))) == list(range(1, 104))


@pytest.mark.parametrize("raises", [False, True])
def test_what_spglib_cannot_do_is_no_error(monkeypatch: pytest.MonkeyPatch, raises: bool) -> None:
    """Phonopy makes spglib raise errors in the whole process as soon as it is imported."""
    monkeypatch.setattr("spglib.error.OLD_ERROR_HANDLING", not raises)
    overlapping = Atoms("Na2", positions=[[0, 0, 0], [1e-4, 0, 0]], cell=[4, 4, 4], pbc=True)
    assert cells.symmetrised(overlapping, 0.1) is overlapping
    assert len(cells.reduced(overlapping)) == 2
    assert space_group(overlapping) is None


# --- the cache ---


def test_text_is_read_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "mine.csv", ROWS)
    first, small = cdvae.read_csv(path), cdvae.read_csv(path, reduce=True)
    assert len(list(own_cache.iterdir())) == 2

    def never(*args: object) -> None:
        raise AssertionError("the text was read although the cache is there")

    monkeypatch.setattr(cdvae, "_parsed", never)
    again = cdvae.read_csv(path)
    assert again == first
    assert [a.info for a in again] == [a.info for a in first]
    assert [a.info for a in cdvae.read_csv(path, reduce=True)] == [a.info for a in small]
    table(path, ROWS[:1])
    with pytest.raises(AssertionError, match="the text was read"):
        cdvae.read_csv(path)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other", "objects"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, own_cache: Path, damage: str) -> None:
    path = table(tmp_path / "mine.csv", ROWS)
    first = cdvae.read_csv(path)
    (kept,) = own_cache.iterdir()
    whole = kept.read_bytes()
    middle = whole.index(first[1].positions.tobytes())
    if damage == "other":
        np.savez(kept, n_atoms=[2], numbers=[1])
    elif damage == "objects":  # could run code when read; it is not
        np.savez(kept, n_atoms=np.array([print], dtype=object))
    else:
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        kept.write_bytes({"empty": b"", "cut": whole[:-100], "flipped": flipped}[damage])
    assert cdvae.read_csv(path) == first
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, own_cache: Path) -> None:
    own_cache.write_text("a file where the folder would be")
    assert len(cdvae.read_csv(table(tmp_path / "mine.csv", ROWS))) == 2


# --- named sets ---


def test_without_files_both_ways_to_them_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "perov-5-train"]) == 2
    said = capsys.readouterr().err
    assert "put train.csv, gzipped or not, into crystals/perov_5 of the folder that VIBRONIC_DATA names" in said
    assert "'vibronic data perov-5-train --download'" in said
    assert main(["data"]) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mp-20")]
    assert len(listed) == 4
    assert all(line.endswith("(set VIBRONIC_DATA, or --download)") for line in listed)


def test_files_that_are_not_official_load_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIBRONIC_DATA", str(tmp_path))
    for file in ("mp_20/train.csv", "mp_20_subset/subset.csv.gz"):
        (tmp_path / "crystals" / file).parent.mkdir(parents=True)
    table(tmp_path / "crystals/mp_20/train.csv", ROWS)
    table(tmp_path / "crystals/mp_20_subset/subset.csv.gz", [ROWS[0], ROWS[1].replace("b,", "c,", 1)])
    assert [a.info["material_id"] for a in sources.structures("mp-20")] == ["a", "b", "c"]
    assert [a.info["material_id"] for a in sources.structures("mp-20-train")] == ["a", "b"]
    assert main(["data", "mp-20-train"]) == 0
    said = capsys.readouterr().out
    assert "train.csv is not the official file" in said
    assert "https://raw.githubusercontent.com/txie-93/cdvae/main/data/mp_20/train.csv" in said
    assert main(["data", "mp-20"]) == 0
    assert "subset.csv.gz, which is no official file" in capsys.readouterr().out


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's folder with a small 'train.csv', and its checksum in place of the official one."""
    place = tmp_path / "server"
    place.mkdir()
    held = table(place / "train.csv", ROWS).read_bytes()
    blobs = {**cdvae.SETS["perov-5"].blobs, "train": cdvae.blob(held)}
    monkeypatch.setattr("vibronic.data.cdvae.SETS", {"perov-5": cdvae.CrystalSet("perov_5", place.as_uri(), blobs, {})})
    return place


def test_a_download_is_checked_and_found(published: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "perov-5-train", "--download"]) == 0
    said = capsys.readouterr().out
    assert f"fetched: {own_cache / 'crystals' / 'perov_5' / 'train.csv.gz'}" in said
    assert "train.csv.gz is the official file" in said
    (published / "train.csv").unlink()
    assert cdvae.download("perov-5", "train") == []  # it is here
    assert len(sources.structures("perov-5")) == 2


def test_a_download_that_is_another_file_is_not_kept(published: Path, own_cache: Path) -> None:
    table(published / "train.csv", ROWS[:1])
    with pytest.raises(VibronicError, match=r"is not the file it was .* nothing was kept"):
        cdvae.download("perov-5", "train")
    assert not own_cache.exists()


def test_without_a_network_one_sentence(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (published / "train.csv").unlink()
    assert main(["data", "perov-5-train", "--download"]) == 2
    assert "cannot fetch" in capsys.readouterr().err


def test_only_crystal_sets_are_downloaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "NaCl", "--download"]) == 2
    assert "--download is for the sets of crystals: perov-5," in capsys.readouterr().err


def test_a_checksum_is_gits() -> None:
    assert cdvae.blob(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_units_and_zeros_of_a_named_set_are_known() -> None:
    from vibronic.core.units import conversion

    assert sources.units("perov-5-train")["heat_ref"] == "eV/atom"
    assert "energy_per_atom" in sources.references("carbon-24")
    for name, crystals in cdvae.SETS.items():
        for label, unit in sources.units(name).items():
            assert conversion(unit, TARGETS[label].unit if label in TARGETS else unit) == 1
        assert set(crystals.blobs) == set(cdvae.PARTS)


# --- the sets at hand ---


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def at_hand(reference_data: Path, shared_cache: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if not (reference_data / "crystals").is_dir():
        pytest.skip(f"no crystal sets in {reference_data}")
    monkeypatch.setenv("VIBRONIC_DATA", str(reference_data))
    monkeypatch.setenv("VIBRONIC_CACHE", str(shared_cache))
    return reference_data / "crystals"


def test_perov_5_is_read_in_seconds_and_cached_in_less(at_hand: Path) -> None:
    if not all((at_hand / "perov_5" / f"{part}.csv.gz").exists() for part in ("val", "test")):
        pytest.skip("val and test of Perov-5 are not here")
    said = cdvae.described("perov-5")
    assert ["is the official file" in line for line in said[1:]] == [True, True]
    assert len(sources.structures("perov-5-val")) == 3787
    whole = cdvae.crystals("perov-5")
    start = time.process_time()
    again = sources.structures("perov-5")
    assert time.process_time() - start < 1.5
    assert again == whole
    if not (at_hand / "perov_5" / "train.csv.gz").exists():
        assert len(again) == 7572
    assert {"heat_ref", "heat_all", "dir_gap", "ind_gap"} < set(again[0].info)


def test_rows_equal_those_of_ase(at_hand: Path) -> None:
    import csv

    checked = 0
    for path in (*at_hand.glob("perov_5/test.csv.gz"), *at_hand.glob("mp_20_subset/subset.csv.gz")):
        with gzip.open(path, "rt", newline="") as file:
            rows = list(csv.DictReader(file))[:300:20]
        for row in rows:
            ours, theirs = cdvae._crystal(row["cif"], "here"), read(io.StringIO(row["cif"]), format="cif")
            assert (ours.numbers == theirs.numbers).all()
            assert np.allclose(ours.cell.array, theirs.cell.array)
            away = ours.get_scaled_positions(wrap=False) - theirs.get_scaled_positions(wrap=False)
            assert np.allclose(away, np.round(away), atol=1e-7)
            checked += 1
    if not checked:
        pytest.skip("neither Perov-5 nor MP-20 is here")


def test_a_named_set_trains_without_units(at_hand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of its rows, below a folder of their own."""
    if not (at_hand / "perov_5" / "val.csv.gz").exists():
        pytest.skip("Perov-5 is not here")
    few = [a for a in cdvae.crystals("perov-5", "val") if set(a.symbols) <= {"O", "N", "F", "Ti", "Zr"}]
    rows = [f'{k},"{cif(atoms)}",{atoms.info["heat_ref"]}' for k, atoms in enumerate(few)]
    place = tmp_path / "own" / "crystals" / "perov_5"
    place.mkdir(parents=True)
    table(place / "val.csv", rows, "material_id,cif,heat_ref")
    monkeypatch.setenv("VIBRONIC_DATA", str(tmp_path / "own"))
    out = tmp_path / "model"
    run = ["train", "ridge", "perov-5", "--targets", "heat_ref", "--fractions", "1", "0", "0", "--out", str(out)]
    assert main(run) == 0
    assert '"heat_ref": "eV/atom"' in (out / "config.json").read_text()
