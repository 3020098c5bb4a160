"""The Hamiltonian against what is known in closed form, its derivatives against finite differences, and what it learns."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.data.dataset import GraphData
from vibronic.data.sources import structures as read_named
from vibronic.learning import store
from vibronic.learning.prediction import predict
from vibronic.properties import orbitals
from vibronic.properties.hamiltonian import Layout, band_energies, derivatives, hamiltonian, k_points, layout, terms
from vibronic.properties.tightbinding import TightBinding

CUTOFF = 5.5


def terms_of(atoms: Atoms, extent: float = 0.0, cutoff: float = CUTOFF):
    basis = layout(tuple(sorted(set(atoms.numbers.tolist()))))
    return terms(Batch.from_atoms(atoms, cutoff, dtype=torch.float64), basis, cutoff, (extent,) * 3)[0]


def guess(basis: Layout, seed: int = 0) -> torch.Tensor:
    first, scale = basis.prior()
    return torch.as_tensor(first + 0.3 * scale * np.random.default_rng(seed).normal(size=len(first)))


def anti_perovskite(seed: int = 0, amplitude: float = 0.15) -> Atoms:
    scaled = [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5), (0, 0, 0)]
    atoms = Atoms("Ag3SBr", scaled_positions=scaled, cell=[4.93] * 3, pbc=True)
    atoms.positions += np.random.default_rng(seed).normal(scale=amplitude, size=(5, 3))
    return atoms


def test_slater_and_koster() -> None:
    """A few entries of their table, for direction cosines l, m, n."""
    l, m, n = unit = np.array([0.36, -0.48, 0.8])
    blocks = orbitals.slater_koster(torch.tensor(unit)[None])
    root3 = math.sqrt(3)
    assert float(blocks[1, 1, 0][0, 0, 1]) == pytest.approx(l * m)
    assert float(blocks[1, 1, 1][0, 0, 0]) == pytest.approx(1 - l**2)
    assert float(blocks[0, 2, 0][0, 0, 0]) == pytest.approx(root3 * l * m)
    assert float(blocks[0, 2, 0][0, 0, 4]) == pytest.approx(n**2 - (l**2 + m**2) / 2)
    assert float(blocks[1, 2, 0][0, 0, 0]) == pytest.approx(root3 * l**2 * m)
    assert float(blocks[1, 2, 1][0, 0, 0]) == pytest.approx(m * (1 - 2 * l**2))
    assert float(blocks[1, 2, 1][0, 2, 4]) == pytest.approx(root3 * n * (l**2 + m**2))
    assert float(blocks[2, 2, 0][0, 0, 0]) == pytest.approx(3 * l**2 * m**2)
    assert float(blocks[2, 2, 1][0, 0, 0]) == pytest.approx(l**2 + m**2 - 4 * l**2 * m**2)
    assert float(blocks[2, 2, 2][0, 0, 0]) == pytest.approx(n**2 + l**2 * m**2)


def test_a_chain_of_hydrogen_has_the_cosine_band() -> None:
    """One s orbital per cell: E(k) = e + f + 2 V cos(2 pi k), with the shift f by both neighbours."""
    atoms = Atoms("H", cell=[2.0, 30, 30], pbc=True)
    # Its own images repel the orbital as well, by a charge that is 0 here.
    t = terms_of(atoms, cutoff=3.5)  # beyond 0.6 of the cutoff nothing fades at 2 Angstrom
    basis = layout((1,))
    level, hop, shift, decay, decay_on = -3.0, -1.2, 0.1, 2.0, 1.0
    parameters = torch.tensor([level, hop, shift, decay, decay_on, 0.0], dtype=torch.float64)
    assert [c.k for c in basis.channels] == [0, None]
    x = 2.0 / 3.0 - 1
    for k in (0.0, 0.2, 0.5):
        h = hamiltonian(t, parameters, torch.tensor([k, 0, 0], dtype=torch.float64))
        expected = level + 2 * shift * math.exp(-decay_on * x)
        expected += 2 * hop * math.exp(-decay * x) * math.cos(2 * math.pi * k)
        assert complex(h[0, 0]).real == pytest.approx(expected, rel=1e-12)
        assert complex(h[0, 0]).imag == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 2)])
def test_a_mesh_folds_into_a_supercell(repeats) -> None:
    atoms = anti_perovskite()
    extent = 4 * 4.93
    one, many = terms_of(atoms, extent), terms_of(atoms.repeat(repeats), extent)
    parameters = guess(one.basis)
    v, c = band_energies(one, parameters)[one.valence], band_energies(one, parameters)[one.conduction]
    folded = band_energies(many, parameters)
    assert len(many.points) < len(one.points)
    assert float(folded[many.valence]) == pytest.approx(float(v), abs=1e-6)
    assert float(folded[many.conduction]) == pytest.approx(float(c), abs=1e-6)


@pytest.mark.parametrize("extent", [0.0, 12.0])
def test_derivatives_are_those_of_finite_differences(extent) -> None:
    t = terms_of(anti_perovskite(), extent)
    parameters = guess(t.basis)
    energies, slopes = derivatives(t, parameters, {t.valence, t.conduction})
    bands = band_energies(t, parameters)
    for band in (t.valence, t.conduction):
        assert energies[band] == pytest.approx(float(bands[band]), abs=1e-9)
        for p in range(0, len(parameters), 7):
            step = torch.zeros_like(parameters)
            step[p] = 1e-5
            up, down = (float(band_energies(t, parameters + s * step)[band]) for s in (1, -1))
            assert slopes[band][p] == pytest.approx((up - down) / 2e-5, abs=1e-7)


def test_the_gap_is_differentiable_in_positions() -> None:
    atoms = anti_perovskite()
    basis = layout((16, 35, 47))
    parameters = guess(basis)

    def gap(positions: torch.Tensor) -> torch.Tensor:
        batch = Batch.from_atoms(atoms, CUTOFF, dtype=torch.float64)
        batch.positions = positions
        t = terms(batch, basis, CUTOFF, (0.0,) * 3)[0]
        bands = band_energies(t, parameters)
        return bands[t.conduction] - bands[t.valence]

    positions = torch.as_tensor(atoms.positions, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(gap(positions), positions)
    assert float(slope.sum(0).abs().max()) < 1e-9  # a rigid shift changes nothing
    assert float(slope.abs().max()) > 1e-2
    for i, a in ((0, 0), (3, 1), (4, 2)):
        step = torch.zeros(5, 3, dtype=torch.float64)
        step[i, a] = 1e-5
        with torch.no_grad():
            difference = float(gap(positions + step) - gap(positions - step)) / 2e-5
        assert float(slope[i, a]) == pytest.approx(difference, abs=1e-6)


def test_the_whole_spectrum_turns_with_the_crystal() -> None:
    atoms = anti_perovskite()
    turn = Rotation.random(random_state=3).as_matrix()
    turned = Atoms(atoms.numbers, positions=atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=True)
    a, b = terms_of(atoms), terms_of(turned)
    parameters = guess(a.basis)
    assert torch.allclose(band_energies(a, parameters), band_energies(b, parameters), atol=1e-10)


def test_k_points() -> None:
    """With each of k and -k counted, a mesh is complete; its first point is Gamma."""
    for mesh in ((1, 1, 1), (2, 2, 2), (3, 2, 1), (4, 4, 4)):
        points = k_points(mesh)
        both = {tuple(np.round(sign * p.numpy() % 1, 9) % 1) for p in points for sign in (1, -1)}
        assert len(both) == np.prod(mesh)
        assert not points[0].any()


def test_electrons_and_shells() -> None:
    assert [orbitals.electrons(z) for z in (1, 2, 6, 8, 11, 22, 30, 35, 47)] == [1, 2, 4, 6, 1, 4, 12, 7, 11]
    assert list(orbitals.shells(1)) == [0]
    assert list(orbitals.shells(16)) == [0, 1]
    assert list(orbitals.shells(47)) == [0, 1, 2]
    assert orbitals.shells(8)[0] == pytest.approx(-23.71, abs=0.01)  # 2s of oxygen
    with pytest.raises(VibronicError, match="no f shells: Ce"):
        orbitals.shells(58)


def test_an_odd_number_of_electrons_is_a_metal() -> None:
    copper = bulk("Cu")
    t = terms_of(copper, 10.0)
    assert t.valence == t.conduction == 5


def with_gaps(n: int, parameters: torch.Tensor, seed: int) -> list[Atoms]:
    """Structures labelled by a Hamiltonian of known parameters."""
    found = []
    for k in range(n):
        atoms = anti_perovskite(seed + k)
        t = terms_of(atoms)
        bands = band_energies(t, parameters)
        v, c = float(bands[t.valence]), float(bands[t.conduction])
        atoms.info |= {"vbm": v, "cbm": c, "band_gap": c - v, "eigenvalues": bands.numpy()}
        found.append(atoms)
    return found


@pytest.mark.parametrize("levels", [0, 3])
def test_it_learns_a_hamiltonian_and_knows_how_well(levels) -> None:
    """Labels of a Hamiltonian that differs from the first guess, more parameters than labels: errors fall several times, and
    are as large as the model says."""
    truth = guess(layout((16, 35, 47)), seed=5)
    train, test = with_gaps(24, truth, 0), with_gaps(12, truth, 100)
    model = store.build("tight-binding", targets=["band_gap", "vbm"], levels=levels, penalty=0.03, iterations=15)
    model.prepare(GraphData(train, model.labels, model.cutoff).batch().to(dtype=torch.float64))
    gaps = np.array([a.info["band_gap"] for a in test])
    error = np.array(predict(model, test)["band_gap"]) - gaps
    assert np.abs(error).mean() < 0.35 * np.abs(gaps - gaps.mean()).mean()
    told = model.posterior(GraphData(test, model.targets, model.cutoff).batch())[1]["band_gap"].norm(dim=1).numpy()
    assert 0.2 < np.sqrt(np.mean((error / told) ** 2)) < 5


def test_band_gaps_of_dft_are_learned() -> None:
    """PBE gaps of displaced Ag3SBr, tested on molecular dynamics of each temperature, where knowing the temperature is no help."""
    frames = read_named("Ag3SBr-pbe")
    train = [a for a in frames if a.info["method"] != "md"]
    test = [a for a in frames if a.info["method"] == "md"]
    model = store.build("tight-binding", targets=["band_gap", "vbm"], iterations=6)
    model.prepare(GraphData(train, model.labels, model.cutoff).batch().to(dtype=torch.float64))
    predicted = np.array(predict(model, test)["band_gap"])
    gaps = np.array([float(a.info["band_gap"]) for a in test])
    kelvin = np.array([float(a.info["temperature_K"]) for a in test])
    for temperature in (300, 600):
        mine = kelvin == temperature
        assert np.corrcoef(predicted[mine], gaps[mine])[0, 1] > 0.5


def fitted_to(structures: list[Atoms], **settings) -> TightBinding:
    model = store.build("tight-binding", **settings)
    model.prepare(GraphData(structures, model.labels, model.cutoff).batch().to(dtype=torch.float64))
    return model


def test_training_structures_have_the_mesh_of_their_labels_in_cells_of_any_shape() -> None:
    """Gamma alone in a long cell stays Gamma alone along its short axes."""
    long = bulk("Si", cubic=True).repeat((1, 1, 2))
    long.rattle(0.05, seed=1)
    long.info |= {"band_gap": 0.5, "vbm": 5.0}
    model = fitted_to([long], iterations=1)
    assert [len(t.points) for t in model._terms(Batch.from_atoms(long, model.cutoff, dtype=torch.float64))] == [1]
    short = Batch.from_atoms(bulk("Si", cubic=True), model.cutoff, dtype=torch.float64)
    assert [len(t.points) for t in model._terms(short)] == [2]


def test_bands_of_a_metal_may_overlap_as_they_like() -> None:
    """A label of zero says that bands overlap, not by how much: what is fitted to gaps of zero keeps its overlap."""
    metal = bulk("Al", cubic=True)
    metal.rattle(0.03, seed=2)
    metal.info["band_gap"] = 0.0
    fitted = fitted_to([metal], targets=["band_gap"], mesh=[2, 2, 2], iterations=5)
    first, _ = fitted.layout.prior()
    assert fitted.values.numpy() == pytest.approx(first)
    assert predict(fitted, [metal])["band_gap"][0] == 0


def test_an_odd_number_of_electrons_has_no_edges() -> None:
    chain = Atoms("H", cell=[8, 8, 1.0], pbc=True)
    chain.info |= {"band_gap": 0.0, "vbm": -3.0}
    with pytest.raises(VibronicError, match="odd number of electrons"):
        fitted_to([chain], targets=["band_gap", "vbm"], mesh=[1, 1, 4])


def test_levels_that_are_not_there_and_sheets_are_refused() -> None:
    truth = guess(layout((16, 35, 47)), seed=5)
    frames = with_gaps(2, truth, 0)
    for a in frames:
        v = int((a.info["eigenvalues"] < a.info["vbm"] + 1e-6).sum())
        a.info["eigenvalues"] = a.info["eigenvalues"][v - 4 : v + 4]
    with pytest.raises(VibronicError, match="5 levels on either side of the gap: the labels and the orbitals have 3"):
        fitted_to(frames, levels=5, iterations=1)
    sheet = Atoms(
        "C2", positions=[[0, 0, 0], [0, 1.42, 0]], cell=[[2.46, 0, 0], [1.23, 2.13, 0], [0, 0, 0]], pbc=[1, 1, 0]
    )
    sheet.info |= {"band_gap": 0.0, "vbm": 0.0}
    with pytest.raises(VibronicError, match="three lattice vectors or none, not 2"):
        fitted_to([sheet])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ["energy"]}, "tight-binding gives vbm, cbm, band_gap, not energy"),
        ({"penalty": 0.0}, "positive cutoff and penalty"),
        ({"mesh": [2, 2]}, "a mesh of three whole numbers"),
        ({"levels": 2, "targets": ["band_gap"]}, "with 'vbm' among the targets"),
    ],
)
def test_settings_that_make_no_sense(settings, message) -> None:
    with pytest.raises(VibronicError, match=message):
        store.build("tight-binding", **settings)


def test_not_fitted() -> None:
    model = store.build("tight-binding")
    with pytest.raises(VibronicError, match="has not been fitted"):
        model(Batch.from_atoms(anti_perovskite(), CUTOFF))
