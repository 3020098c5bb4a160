"""Every kind of model, ready to predict, in double precision; and structures to try it on."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from vibronic.core.batch import Batch
from vibronic.core.model import Model
from vibronic.learning import store

SETTINGS: dict[str, dict] = {
    "painn": {
        "kind": "painn",
        "targets": ["energy", "forces", "stress", "band_gap", "hardness"],
        "width": 16,
        "layers": 2,
        "basis": 6,
    },
    "cgcnn": {"kind": "cgcnn", "targets": ["energy", "band_gap", "hardness"], "width": 16},
    "cgcnn-max": {"kind": "cgcnn", "targets": ["band_gap", "hardness"], "width": 16, "pooling": "max", "sigmoid": True},
    "ridge": {
        "kind": "ridge",
        "targets": ["energy", "band_gap", "hardness"],
        "radial": 8,
        "angular": 4,
        "angle_cutoff": 3.5,
    },
    "tight-binding": {
        "kind": "tight-binding",
        "targets": ["band_gap", "vbm", "cbm"],
        "mesh": [4, 4, 4],
        "iterations": 3,
    },
    "ensemble": {
        "kind": "ensemble",
        "targets": ["energy", "forces", "band_gap"],
        "members": 3,
        "settings": {"width": 8, "layers": 1, "cutoff": 4.0},
    },
}
CUTOFF = 4.0


def rattled(n: int = 8, seed: int = 0) -> list[Atoms]:
    """Rattled crystals of Ag, S, Br and Cu, cubic and skewed."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True) if k % 2 else bulk("Ag", "fcc", a=4.1) * (2, 1, 1)
        if k % 4 == 0:
            sites = [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5), (0, 0, 0)]
            atoms = Atoms("Ag3SBr", scaled_positions=sites, cell=[4.9] * 3, pbc=True)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
        found.append(atoms)
    return found


def invented(model: Model, atoms: list[Atoms], seed: int = 0) -> Batch:
    """Invented labels of the right shapes; the scalars follow the pair distances, so that a ridge can learn them."""
    rng = np.random.default_rng(seed)
    batches = []
    for a in atoms:
        shapes = {t.name: (len(a), *t.shape) if t.level == "atom" else t.shape for t in model.targets}
        labels = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        pairs = np.exp(-Batch.from_atoms(a, model.cutoff).edge_vectors().norm(dim=-1).numpy()).sum() / len(a)
        for t in model.targets:
            if not t.shape:
                labels[t.name] = (10 * pairs + 0.01 * labels[t.name]) * (len(a) if t.extensive else 1)
        batches.append(Batch.from_atoms(a, model.cutoff, labels, dtype=torch.float64))
    return Batch.collate(batches)


@cache
def built(name: str) -> Model:
    """A model of this kind whose every weight is random, so that no symmetry holds by accident of a zero."""
    settings = dict(SETTINGS[name])
    kind = settings.pop("kind")
    torch.manual_seed(0)
    cutoff = {} if kind == "ensemble" else {"cutoff": CUTOFF}
    model = store.build(kind, units={"hardness": "GPa"}, **cutoff, **settings).double()
    batch = invented(model, rattled(24, seed=1))
    if model.closed_form:
        model.prepare(batch)
        return model.eval()
    model.prepare(batch)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for key, b in model.named_buffers():
            if key.endswith("running_mean"):
                b.normal_(0, 0.3)
    return model.eval()


Predict = Callable[[Model, Atoms], dict[str, np.ndarray]]


@pytest.fixture(params=SETTINGS)
def name(request: pytest.FixtureRequest) -> str:
    """Of every model in turn."""
    return request.param


@pytest.fixture
def model(name: str) -> Model:
    """Every model in turn."""
    return built(name)


@pytest.fixture
def painn() -> Model:
    return built("painn")


@pytest.fixture
def structures() -> list[Atoms]:
    return rattled()


@pytest.fixture
def labelled() -> Callable[[Model, list[Atoms]], Batch]:
    """Function that makes a batch with invented labels."""
    return invented


@pytest.fixture
def predict() -> Predict:
    """Function that predicts one structure, without the axis of structures."""

    def of(model: Model, atoms: Atoms) -> dict[str, np.ndarray]:
        with torch.no_grad():
            out = model(Batch.from_atoms(atoms, model.cutoff, dtype=torch.float64))
        return {t.name: out[t.name].numpy() if t.level == "atom" else out[t.name].numpy()[0] for t in model.targets}

    return of
