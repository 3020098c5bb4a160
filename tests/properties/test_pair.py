"""The closed-form fits: a pair potential is recovered from its labels, and errors of rows left out are what they say."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.morse import MorsePotential

from vibronic.core.batch import Batch
from vibronic.properties.linear import ridge
from vibronic.properties.painn import PaiNN
from vibronic.properties.pair import MOST_ELEMENTS, evenly


def morse(n: int, seed: int, cutoff: float = 4.5) -> Batch:
    """Rattled and strained copper with energies, forces and stress of a smooth pair potential."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = MorsePotential(epsilon=0.3, r0=2.6, rho0=4.0, rcut1=0.5 * cutoff / 2.6, rcut2=cutoff / 2.6)
        labels = {
            "energy": atoms.get_potential_energy() - 3.0 * len(atoms),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
        }
        batches.append(Batch.from_atoms(atoms, cutoff, labels, dtype=torch.float64))
    return Batch.collate(batches)


@pytest.mark.parametrize("names", [["energy", "forces"], ["energy", "stress"], ["energy", "forces", "stress"]])
def test_a_pair_potential_is_found(names: list[str]) -> None:
    model = PaiNN(names, basis=16, cutoff=4.5).double()
    model.prepare(morse(8, 0))
    for p in model.energy.parameters():
        torch.nn.init.zeros_(p)  # the pair potential alone
    unseen = morse(4, 1)
    predicted = model(unseen)
    for name in names:
        size = (unseen.labels[name] - unseen.labels[name].mean()).abs().mean()
        tolerance = 0.05 if "forces" in names else 0.2
        assert (predicted[name] - unseen.labels[name]).abs().mean() < tolerance * size


def test_what_is_left_is_the_error_on_other_structures() -> None:
    """Labels that are no pair potential: the scales are the errors of the fit on structures it has not seen."""
    train, unseen = morse(8, 0), morse(8, 1)
    size = {name: 0.2 * y.std() for name, y in train.labels.items()}
    for batch, seed in ((train, 2), (unseen, 3)):
        noise = np.random.default_rng(seed)
        for name, y in batch.labels.items():
            y += size[name] * torch.tensor(noise.normal(size=y.shape))
    model = PaiNN(cutoff=4.5).double()
    model.prepare(train)
    for p in model.energy.parameters():
        torch.nn.init.zeros_(p)
    predicted = model(unseen)
    for k, name in enumerate(model.names):
        rms = (predicted[name] - unseen.labels[name]).square().mean().sqrt() / (4.0 if name == "energy" else 1.0)
        assert 0.5 < rms / model.scale[k] < 2, name


def test_the_pair_potential_of_energies_of_all_electrons() -> None:
    """Small differences of huge energies are found as well as small energies, in single precision too."""
    errors = []
    for offset in (0.0, 1e5):
        train, unseen = (morse(n, seed).to(dtype=torch.float32) for n, seed in ((8, 0), (4, 1)))
        for batch in (train, unseen):
            batch.labels["energy"] += offset * batch.n_atoms
        model = PaiNN(basis=16, cutoff=4.5)
        model.prepare(train)
        for p in model.energy.parameters():
            torch.nn.init.zeros_(p)
        errors.append(((model(unseen)["energy"] - unseen.labels["energy"]) / unseen.n_atoms).detach().numpy())
    assert errors[1] == pytest.approx(errors[0], abs=1e-5)
    assert np.abs(errors[1]).max() < 5e-3


def test_energies_alone_fix_no_pairs() -> None:
    model = PaiNN(["energy"], cutoff=4.5).double()
    model.prepare(morse(4, 0))
    assert not len(model.pair.coefficients)


def test_without_pairs_only_references_are_fitted() -> None:
    batch = morse(4, 0)
    model = PaiNN(pair=False, cutoff=4.5).double()
    model.prepare(batch)
    assert not len(model.pair.coefficients)
    assert model.scale[1] == pytest.approx(float(batch.labels["forces"].square().mean().sqrt()))
    mean = (batch.labels["energy"] / batch.n_atoms).mean()
    assert model.pair.reference[29] == pytest.approx(float(mean), rel=1e-5)


def test_many_elements_have_references_only() -> None:
    numbers = list(range(3, 4 + MOST_ELEMENTS))
    atoms = [Atoms([z, z], positions=[(0, 0, 0), (0, 0, 2.0)]) for z in numbers]
    batch = Batch.collate([Batch.from_atoms(a, 4.0, {"energy": -2.0 * a.numbers[0]}) for a in atoms])
    model = PaiNN(["energy"], cutoff=4.0)
    model.prepare(batch)
    assert not len(model.pair.coefficients)
    assert torch.allclose(model.pair.reference[numbers], -torch.tensor(numbers).double(), atol=1e-4)


def test_rows_left_out() -> None:
    """The errors of rows left out equal a fit without that row, at the same penalty; here there is next to none."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(20, 4)))
    y = x @ torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64) + 1e-3 * torch.tensor(rng.normal(size=20))
    coefficients, out, *_ = ridge(x, y)
    assert torch.allclose(coefficients, torch.linalg.lstsq(x, y[:, None]).solution[:, 0], atol=1e-5)
    keep = torch.arange(20) != 7
    without = torch.linalg.lstsq(x[keep], y[keep][:, None]).solution[:, 0]
    assert float(out[7]) == pytest.approx(float(y[7] - x[7] @ without), rel=1e-2)


def test_noise_is_shrunk_away() -> None:
    rng = np.random.default_rng(1)
    x, y = torch.tensor(rng.normal(size=(30, 25))), torch.tensor(rng.normal(size=30))
    coefficients, _, *_ = ridge(x, y)
    assert coefficients.norm() < 0.2 * torch.linalg.lstsq(x, y[:, None]).solution.norm()


def test_evenly() -> None:
    assert evenly(torch.tensor([10] * 5), 1000).tolist() == [0, 1, 2, 3, 4]
    assert evenly(torch.tensor([10] * 100), 30).tolist() == [0, 50, 99]


def binary(n: int, seed: int, size: float, cutoff: float = 3.3) -> Batch:
    """Rattled CuAg with the same pair potential between all atoms; like atoms are 3.0 Angstrom apart, near the cutoff."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(n):
        atoms = bulk("CuAg", "cesiumchloride", a=3.0) * (2, 2, 2)
        atoms.rattle(size, rng=rng)
        atoms.calc = MorsePotential(epsilon=0.3, r0=2.6, rho0=4.0, rcut1=0.9 * cutoff / 2.6, rcut2=cutoff / 2.6)
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        batches.append(Batch.from_atoms(atoms, cutoff, labels, dtype=torch.float64))
    return Batch.collate(batches)


def test_nothing_swings_where_no_distance_was_seen() -> None:
    """Fitted to cold crystals, asked for hot ones. A penalty on the coefficients misses the forces by their fiftyfold
    here; these distances were never seen, so no more than the right size can be expected."""
    cold, hot = binary(4, 0, size=0.02), binary(4, 1, size=0.12)
    model = PaiNN(["energy", "forces"], cutoff=3.3).double()
    model.prepare(cold)
    for p in model.energy.parameters():
        torch.nn.init.zeros_(p)
    error = (model(hot)["forces"] - hot.labels["forces"]).abs().mean()
    assert error < 4 * hot.labels["forces"].abs().mean()


def test_forces_in_single_precision_are_smooth() -> None:
    """Large terms of both signs cancel in a pair potential: summed in single precision they leave 1e-4 eV/Angstrom of
    noise, on which a relaxation stalls."""
    batch = morse(4, 0)
    torch.manual_seed(0)
    model = PaiNN(["energy", "forces"], width=8, layers=1, cutoff=4.5)
    model.prepare(batch)
    for p in model.energy.parameters():
        torch.nn.init.zeros_(p)
    single = model(batch.to(dtype=torch.float32))["forces"]
    double = model.double()(batch)["forces"]
    assert float((single - double).detach().abs().max()) < 1e-5


def test_the_memory_of_a_large_set_is_bounded(monkeypatch) -> None:
    """References do not depend on how many structures are evaluated at once."""
    found = []
    for chunk in (1, 256):
        monkeypatch.setattr("vibronic.properties.pair.CHUNK", chunk)
        model = PaiNN(["energy", "forces"], cutoff=4.5)
        model.prepare(morse(5, 0))
        found.append(model.pair.reference)
    assert torch.allclose(*found, rtol=1e-12)
