"""What every model must keep, whatever is inside: the symmetries of physics, and the contract of ``Model``."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.learning import store

few = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # they are the same for every example
)
seeds = given(seed=st.integers(0, 10**6))


def close(a: dict, b: dict, tolerance: float = 1e-9) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert np.allclose(a[name], b[name], rtol=tolerance, atol=tolerance), name


def test_the_predictions_tell_structures_apart(model, structures, predict) -> None:
    """Or every invariance below would hold for nothing."""
    for t in model.targets:
        values = [np.linalg.norm(predict(model, a)[t.name] / (len(a) if t.extensive else 1)) for a in structures]
        assert np.std(values) > 1e-3 * np.abs(np.mean(values)) > 0, t.name


@few
@seeds
def test_rotation_and_reflection(model, structures, predict, seed) -> None:
    r = Rotation.random(random_state=seed).as_matrix() * (-1) ** seed
    turn = {"forces": lambda f: f @ r.T, "stress": lambda s: r @ s @ r.T}
    atoms = structures[seed % len(structures)]
    moved = Atoms(atoms.numbers, positions=atoms.positions @ r.T, cell=atoms.cell.array @ r.T, pbc=True)
    still = predict(model, atoms)
    close(predict(model, moved), {name: turn.get(name, lambda v: v)(value) for name, value in still.items()})


@few
@seeds
def test_translation_with_and_without_wrapping(model, structures, predict, seed) -> None:
    atoms = structures[seed % len(structures)]
    moved = atoms.copy()
    moved.translate(np.random.default_rng(seed).uniform(-9, 9, 3))
    close(predict(model, moved), predict(model, atoms))
    moved.wrap()
    close(predict(model, moved), predict(model, atoms))


@few
@seeds
def test_permutation(model, structures, predict, seed) -> None:
    atoms = structures[seed % len(structures)]
    order = np.random.default_rng(seed).permutation(len(atoms))
    expected = predict(model, atoms)
    if "forces" in expected:
        expected["forces"] = expected["forces"][order]
    close(predict(model, atoms[order]), expected)


@few
@seeds
def test_any_cell_of_the_same_lattice(name, model, structures, predict, seed) -> None:
    if name == "tight-binding":
        pytest.skip("the mesh of k points belongs to the cell, as in the calculations it learned from")
    atoms = structures[seed % len(structures)]
    rng = np.random.default_rng(seed)
    change = np.eye(3, dtype=int)
    for _ in range(3):
        a, b = rng.permutation(3)[:2]
        change[a] += rng.integers(-1, 2) * change[b]
    other = Atoms(atoms.numbers, positions=atoms.positions, cell=change @ atoms.cell.array, pbc=True)
    close(predict(model, other), predict(model, atoms))


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 2)])
def test_a_repeated_crystal(name, model, structures, predict, repeats) -> None:
    """Extensive targets grow with the crystal; gaps, stresses and forces do not notice."""
    if name == "tight-binding":
        pytest.skip("its mesh of k points folds only where it can be divided: test_tightbinding.py")
    for atoms in structures[:4]:
        one, many = predict(model, atoms), predict(model, atoms.repeat(repeats))
        n = int(np.prod(repeats))
        for t in model.targets:
            expected = (
                one[t.name] * n if t.extensive else np.tile(one[t.name], (n, 1)) if t.level == "atom" else one[t.name]
            )
            assert np.allclose(many[t.name], expected, rtol=1e-9, atol=1e-9), t.name


def test_far_apart_is_the_sum(model, predict) -> None:
    """Two molecules out of each other's sight: energies add, and each keeps its forces."""
    one = Atoms("AgS", positions=[(0, 0, 0), (0, 0, 2.4)])
    two = Atoms("Ag2Br", positions=[(0, 0, 0), (0, 0, 2.6), (0, 2.5, 0.3)])
    both = one + two
    both.positions[2:] += (0, 0, 60)
    a, b, ab = predict(model, one), predict(model, two), predict(model, both)
    if "energy" in ab:
        assert ab["energy"] == pytest.approx(a["energy"] + b["energy"], rel=1e-9)
    if "forces" in ab:
        assert np.allclose(ab["forces"], np.concatenate([a["forces"], b["forces"]]), atol=1e-9)


def test_a_batch_is_its_structures(model, structures, predict) -> None:
    batch = Batch.collate([Batch.from_atoms(a, model.cutoff, dtype=torch.float64) for a in structures])
    with torch.no_grad():
        together = model(batch)
    alone = [predict(model, a) for a in structures]
    for t in model.targets:
        expected = (
            np.concatenate([p[t.name] for p in alone]) if t.level == "atom" else np.stack([p[t.name] for p in alone])
        )
        assert together[t.name].shape == expected.shape
        assert np.allclose(together[t.name], expected, rtol=1e-9, atol=1e-9), t.name


def test_an_atom_alone(model, predict) -> None:
    for name, value in predict(model, Atoms("Cu")).items():
        assert np.isfinite(value).all() or name == "stress", name


def test_nothing_jumps_at_the_cutoff(name, model, structures, predict) -> None:
    """Every prediction, forces included, is continuous as an atom crosses the cutoff of another."""
    if name.startswith("cgcnn"):
        pytest.skip("the paper's network gives the longest bond the largest weight: it jumps, by design")

    def at(distance: float) -> dict:
        atoms = Atoms("Ag2S", positions=[(0, 0, 0), (0, 0, 2.5), (distance, 0, 0)], cell=[20] * 3, pbc=True)
        return predict(model, atoms)

    below, above, well_inside = (at(model.cutoff + d) for d in (-1e-5, 1e-5, -1.0))
    close(below, above, 1e-6)
    first = model.targets[0].name
    assert not np.allclose(below[first], well_inside[first], atol=1e-3)


def test_the_loss_is_a_number_to_minimise(model, structures, labelled) -> None:
    figures = model.loss(labelled(model, structures))
    assert figures["loss"].ndim == 0
    assert torch.isfinite(figures["loss"])
    assert {f"mae_{t.name}" for t in model.targets} <= figures.keys()
    if parameters := list(model.parameters()):
        gradients = torch.autograd.grad(figures["loss"], parameters)
        assert sum(g.abs().sum() for g in gradients) > 0


def test_the_folder_holds_all_of_it(model, structures, predict, tmp_path: Path) -> None:
    store.save(model.to(torch.float64), tmp_path / "m", store.Card())
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    again, _ = store.load(tmp_path / "m")
    assert [t.name for t in again.targets] == [t.name for t in model.targets]
    assert [t.unit for t in again.targets] == [t.unit for t in model.targets]
    for a in structures[:3]:
        # folders are read in single precision, in which networks are trained
        close(predict(again.double(), a), predict(model, a), 1e-4)


@pytest.mark.parametrize("name", ["painn", "cgcnn", "ridge"], indirect=True)
def test_energies_of_all_electrons_are_as_good_as_any(name, model, structures, labelled, tmp_path: Path) -> None:
    """An offset of 1e5 eV per atom changes neither the loss nor what is predicted of the meV on top of it."""
    plain = labelled(model, structures).to(dtype=torch.float32)
    offset = 1e5 * plain.n_atoms
    large = replace(plain, labels={**plain.labels, "energy": plain.labels["energy"] + offset})
    losses, energies = [], []
    for batch in (plain, large):
        torch.manual_seed(0)
        network = store.build(model.kind, **model.config)
        getattr(network, "fit", network.prepare)(batch)  # in the precision of every user's model
        store.save(network.eval(), tmp_path / "m", store.Card())
        again, _ = store.load(tmp_path / "m")
        batch = batch.to(dtype=again.dtype)
        with torch.no_grad():
            losses.append(float(again.loss(batch)["loss"]))
            energies.append(again(batch)["energy"])
    assert (energies[1] - energies[0] - offset).abs().max() < 1e-5 * plain.n_atoms.min()
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_config_builds_an_equal_model(model) -> None:
    again = store.build(model.kind, **model.config)
    assert again.config == model.config
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]
    assert again.cutoff == model.cutoff


def test_elements_never_seen_are_refused(model) -> None:
    model.check_elements(torch.tensor([16, 29, 35, 47]))
    with pytest.raises(VibronicError, match="never seen H, O; it was trained on S, Cu, Br, Ag only"):
        model.check_elements(torch.tensor(molecule("H2O").numbers))


def test_preparation_looks_at_labels_in_any_order(model, structures, labelled) -> None:
    """Scales come from the whole training set: its order says nothing."""
    fresh = [store.build(model.kind, **model.config).double() for _ in range(2)]
    parts = [labelled(model, [a], seed=k) for k, a in enumerate(structures)]
    for network, order in zip(fresh, (parts, parts[::-1]), strict=True):
        network.prepare(Batch.collate(order))
    for (key, a), (_, b) in zip(fresh[0].named_buffers(), fresh[1].named_buffers(), strict=True):
        if "seen" in key:  # one row per atom, in their order
            a, b = a.double().sort(0).values, b.double().sort(0).values
        scale = float(b.double().abs().max()) if b.numel() else 0.0
        assert torch.allclose(a.double(), b.double(), rtol=1e-6, atol=1e-8 + 1e-9 * scale), key


def test_predictions_come_with_the_deviations_too(model, structures) -> None:
    """The prediction that has an uncertainty beside it is the one without."""
    batch = Batch.collate([Batch.from_atoms(atoms, model.cutoff, dtype=model.dtype) for atoms in structures])
    predicted, deviations = model.posterior(batch)
    close(
        {name: value.detach().numpy() for name, value in predicted.items()},
        {name: value.detach().numpy() for name, value in model(batch).items()},
    )
    for name, rows in (deviations or {}).items():
        assert rows.shape[0] == len(structures)
        assert torch.isfinite(rows).all(), name
