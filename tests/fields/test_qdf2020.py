"""The authors' model, number by number: sizes, norms, and the equations once more in plain numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.data.dataset import GraphData, write_structures
from vibronic.fields.qdf2020 import POINTS, QuantumDeepField2020
from vibronic.learning import store
from vibronic.learning.recipe import Training
from vibronic.learning.training import fit
from vibronic.verbs import train

MOLECULES = ["CH4", "H2O", "CH3CH2OH", "C6H6", "HCN", "CF4", "H2", "CH3CONH2"]
SMALL = {"width": 12, "layers": 2, "hk_width": 10, "hk_layers": 2}


@pytest.fixture
def molecules() -> list[Atoms]:
    """Small molecules, with EMT's energies where it knows the elements (hydrogen, carbon, nitrogen, oxygen)."""
    found = []
    for name in MOLECULES:
        atoms = molecule(name)
        if 9 not in atoms.numbers:
            atoms.calc = EMT()
            energy = atoms.get_potential_energy()
            atoms.calc = None
            atoms.info["energy"] = energy
        found.append(atoms)
    return found


def batch_of(molecules: list[Atoms], dtype: torch.dtype = torch.float64) -> Batch:
    return Batch.collate(
        [
            Batch.from_atoms(a, 0.1, {"energy": a.info["energy"]} if "energy" in a.info else None, dtype=dtype)
            for a in molecules
        ]
    )


def model_of(seed: int = 0, **settings: object) -> QuantumDeepField2020:
    """A model whose every weight is random, exponents included."""
    torch.manual_seed(seed)
    model = QuantumDeepField2020(**settings).double()
    with torch.no_grad():
        model.zeta.add_(0.3 * torch.rand_like(model.zeta))
    return model


def by_hand(model: QuantumDeepField2020, atoms: Atoms) -> dict[str, np.ndarray]:
    """The authors' equations for one molecule, with loops and every normalisation they make."""
    weights = {k: v.detach().numpy() for k, v in model.named_parameters()}
    steps = np.arange(-0.75, 0.76, 0.3)
    sphere = [(x, y, z) for x in steps for y in steps for z in steps if x * x + y * y + z * z <= 0.75**2]
    points = np.array([r + np.array(o) for r in atoms.positions for o in sphere])
    kinds, first = {}, 0
    for symbol in model.config["elements"]:
        shells = [1] * 4 if symbol == "H" else [1] * 6 + [2] * 8
        kinds[symbol] = [(first + k, q) for k, q in enumerate(shells)]
        first += len(shells)
    columns, rows = [], []
    for symbol, r in zip(atoms.symbols, atoms.positions, strict=True):
        d = np.linalg.norm(points - r, axis=1)
        for kind, q in kinds[symbol]:
            columns.append(d ** (q - 1) * np.exp(-weights["zeta"][kind] * d**2))
            rows.append(weights["coefficient"][kind])
    phi, c = np.array(columns).T, np.array(rows)
    phi = phi / np.linalg.norm(phi, axis=0)
    c = c / np.linalg.norm(c, axis=0)
    psi = phi @ c
    psi = np.sqrt(atoms.numbers.sum() / psi.shape[1]) * psi / np.linalg.norm(psi, axis=0)
    x = psi
    for k in range(len(model.functional)):
        x = np.maximum(x @ weights[f"functional.{k}.weight"].T + weights[f"functional.{k}.bias"], 0)
    pooled = x.sum(0) if model.extensive else x.mean(0)
    rho = (psi**2).sum(1)
    v = rho[:, None] @ weights["density_in.weight"].T + weights["density_in.bias"]
    for k in range(len(model.hk)):
        v = np.maximum(v @ weights[f"hk.{k}.weight"].T + weights[f"hk.{k}.bias"], 0)
    v = (v @ weights["potential_out.weight"].T + weights["potential_out.bias"])[:, 0]
    pairs = np.linalg.norm(points[:, None] - atoms.positions, axis=-1)
    return {
        "points": points,
        "phi": phi,
        "c": c,
        "psi": psi,
        "density": rho,
        "value": pooled @ weights["property.weight"].T + weights["property.bias"],
        "potential": v,
        "target": -(np.exp(-(pairs**2)) @ atoms.numbers),
    }


def test_the_published_size() -> None:
    assert sum(p.numel() for p in QuantumDeepField2020().parameters()) == 392_562


def test_points_and_orbitals(molecules) -> None:
    model = model_of(**SMALL)
    batch = batch_of(molecules[:3])
    psi, points = model.orbitals(batch)
    assert points == [56 * len(a) for a in molecules[:3]]
    assert psi.shape == (56 * sum(len(a) for a in molecules[:3]), 12)
    assert model.grid(batch).shape == (len(psi), 3)
    assert [model.n_orbitals[z] for z in (1, 6, 7, 8, 9)] == [4, 14, 14, 14, 14]
    assert model_of(basis_set="6-311G", **SMALL).n_orbitals[6] == 6 + 2 * 5


@pytest.mark.parametrize("targets", [["energy"], ["homo", "lumo"]])
def test_the_equations_by_hand(targets: list[str], molecules) -> None:
    model = model_of(targets=targets, **SMALL)
    batch = batch_of([Atoms(a.numbers, a.positions) for a in molecules])
    with torch.no_grad():
        predicted = model(batch)
        density, potential, target = model.density(batch), model.predicted_potential(batch), model.potential(batch)
        psi, points = model.orbitals(batch)
    hand = [by_hand(model, Atoms(a.numbers, a.positions - a.positions.mean(0))) for a in molecules]
    for k, name in enumerate(targets):
        assert predicted[name].numpy() == pytest.approx([h["value"][k] for h in hand], rel=1e-9)
    for h, rho, orbitals in zip(hand, density, psi.split(points), strict=True):
        assert rho.numpy() == pytest.approx(h["density"], rel=1e-9)
        assert orbitals.numpy() == pytest.approx(h["psi"], abs=1e-9)
    for ours, name in ((potential, "potential"), (target, "target"), (model.grid(batch), "points")):
        assert ours.numpy() == pytest.approx(np.concatenate([h[name] for h in hand]), abs=1e-9)


def test_norms(molecules) -> None:
    """Columns of phi and of the coefficients have length 1, those of psi share the electrons out."""
    model = model_of(**SMALL)
    for atoms in molecules[:3]:
        hand = by_hand(model, atoms)
        assert np.linalg.norm(hand["phi"], axis=0) == pytest.approx(1)
        assert np.linalg.norm(hand["c"], axis=0) == pytest.approx(1)
        psi, _ = model.orbitals(batch_of([atoms]))
        assert psi.square().sum(0).detach().numpy() == pytest.approx(atoms.numbers.sum() / 12)
        assert float(model.density(batch_of([atoms]))[0].sum().detach()) == pytest.approx(atoms.numbers.sum())


def test_the_density_anywhere_has_the_norms_of_the_points(molecules) -> None:
    model = model_of(**SMALL)
    batch = batch_of(molecules[:2])
    own = list(model.grid(batch).split([56 * len(a) for a in molecules[:2]]))
    for there, here in zip(model.density(batch, own), model.density(batch), strict=True):
        assert torch.allclose(there, here)
    with torch.no_grad():
        far = model.density(batch, [torch.full((1, 3), 40.0, dtype=torch.float64)] * 2)
    assert all(float(rho) < 1e-12 for rho in far)
    on_a_nucleus = model.density(batch, [batch.positions[:1], batch.positions[-1:]])
    assert all(torch.isfinite(rho).all() for rho in on_a_nucleus)


def test_single_precision_is_enough(molecules) -> None:
    model = model_of(**SMALL)
    with torch.no_grad():
        double = model(batch_of(molecules[:2]))["energy"]
        single = model.float()(batch_of(molecules[:2], torch.float32))["energy"]
    assert single.numpy() == pytest.approx(double.numpy(), rel=1e-5)


def test_order_and_place_do_not_matter_but_rotation_does(molecules) -> None:
    """That the grid stands still when a molecule turns is a fault of the published model, and a fact."""
    model = model_of(**SMALL)

    def energy(atoms: Atoms) -> float:
        with torch.no_grad():
            return float(model(batch_of([Atoms(atoms.numbers, atoms.positions)]))["energy"])

    atoms = molecules[2]
    as_given = energy(atoms)
    moved, turned = atoms.copy(), atoms.copy()
    moved.translate((3.0, -1.7, 0.4))
    assert energy(moved) == pytest.approx(as_given, rel=1e-9)
    assert energy(atoms[np.random.default_rng(0).permutation(len(atoms))]) == pytest.approx(as_given, rel=1e-9)
    turned.rotate(35, (1, 2, 3))
    assert abs(energy(turned) - as_given) > 1e-4 * abs(as_given)


def test_what_it_refuses(molecules) -> None:
    model = model_of(**SMALL)
    with pytest.raises(VibronicError, match="no periodic field"):
        model(Batch.from_atoms(bulk("C"), 0.1, dtype=torch.float64))
    with pytest.raises(VibronicError, match="no orbitals for S"):
        model.prepare(batch_of([molecule("SH2")]))
    model.prepare(batch_of(molecules[:2]))
    with pytest.raises(VibronicError, match="never seen F"):
        model.check_elements(torch.tensor([1, 9]))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"targets": ["energy", "homo"]}, "all sums"),
        ({"targets": ["forces"]}, "numbers per molecule"),
        ({"basis_set": "STO-3G"}, "like 6-31G"),
        ({"elements": ["H", "Xx"]}, "chemical symbols"),
        ({"elements": ["H", "H"]}, "chemical symbols"),
        ({"interval": 2.0}, "interval"),
        ({"width": 0}, "positive widths"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, reason: str) -> None:
    with pytest.raises(VibronicError, match=reason):
        store.build("qdf2020", **settings)


def energies(molecules: list[Atoms]) -> list[Atoms]:
    return [a for a in molecules if "energy" in a.info]


def trained(molecules: list[Atoms], out: Path, epochs: int, **how: object) -> QuantumDeepField2020:
    torch.manual_seed(0)
    model = QuantumDeepField2020(**SMALL)
    data = GraphData(energies(molecules), model.targets, model.cutoff)
    recipe = {**QuantumDeepField2020.recipe, "epochs": epochs, "batch_size": 3, **how}
    fit(model, data, None, out, Training(**recipe), device="cpu", progress=False, logs=False)
    return model


def test_a_step_on_the_energy_then_one_on_the_potential(molecules, tmp_path: Path) -> None:
    """Lightning's steps are those of the authors' loop: Adam on one loss, then on the other, rates halved in between."""
    model = trained(molecules, tmp_path, 4, step_epochs=2)
    torch.manual_seed(0)
    same = QuantumDeepField2020(**SMALL)
    data = GraphData(energies(molecules), same.targets, same.cutoff)
    from vibronic.data.dataset import BucketSampler

    sampler = BucketSampler([len(g.numbers) for g in data.graphs], 3, seed=0)
    optimizer = torch.optim.Adam(same.parameters(), 1e-4)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        optimizer.param_groups[0]["lr"] = 1e-4 * 0.5 ** (epoch // 2)
        for indices in sampler:
            batch = Batch.collate([data[k] for k in indices])
            for turn in (0, 1):
                optimizer.zero_grad()
                same.loss_in_turn(batch, turn)["loss"].backward()
                optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), same.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7), name


def test_a_killed_training_goes_on(molecules, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    whole = trained(molecules, tmp_path / "whole", 4, ema=0.9)
    save = ModelCheckpoint.on_train_epoch_end

    def killed(self, trainer, *rest) -> None:
        save(self, trainer, *rest)
        if trainer.current_epoch == 1:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelCheckpoint, "on_train_epoch_end", killed)
        with pytest.raises(InterruptedError):
            trained(molecules, tmp_path / "parts", 4, ema=0.9)
    parts = trained(molecules, tmp_path / "parts", 4, ema=0.9)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_verb_trains_it_with_its_own_recipe(molecules, tmp_path: Path) -> None:
    import json

    file = tmp_path / "molecules.extxyz"
    write_structures(file, [a for a in energies(molecules) for _ in range(3)])
    out = train(
        "qdf2020",
        str(file),
        validation=str(file),
        test=str(file),
        model=SMALL,
        training=Training(epochs=2),
        device="cpu",
        out=tmp_path / "model",
    )
    told = json.loads((out / "run.json").read_text())
    assert told["config"]["training"]["epochs"] == 2
    assert told["config"]["training"]["schedule"] == "step"
    assert told["config"]["training"]["learning_rate"] == 1e-4
    model, card = store.load(out)
    assert isinstance(model, QuantumDeepField2020)
    assert np.isfinite(card.scores["mae_energy"])


@pytest.mark.parametrize("radius", [3.3, 100.0, 1e6])
def test_more_points_than_memory_holds_are_refused_before_they_are_made(radius: float) -> None:
    with pytest.raises(VibronicError, match=r"points, more than memory holds; choose a radius up to 3\.18"):
        store.build("qdf2020", radius=radius)


def test_as_many_points_as_are_allowed() -> None:
    offsets = store.build("qdf2020", radius=3.18).offsets
    assert 0.8 * POINTS < len(offsets) < 1.05 * POINTS
