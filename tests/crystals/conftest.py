"""Generators of every kind, tiny, and crystals to train them on."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from vibronic.core.batch import Batch
from vibronic.crystals.generator import CrystalGenerator
from vibronic.data.dataset import labels_of
from vibronic.learning import store

_OURS = {"kind": "crystal-diffusion", "width": 16, "depth": 2, "heads": 2, "pair": 8, "frequencies": 3}
_PUBLISHED = {"kind": "takahara2024", "width": 16, "depth": 2, "heads": 2, "frequencies": 4, "steps": 20}
GENERATORS: dict[str, dict] = {
    "adaln": {**_OURS, "injection": ["adaln"]},
    "cdi": {**_OURS, "injection": ["cdi"]},
    "cds": {**_OURS, "injection": ["cds"]},
    "all": {**_OURS, "injection": ["adaln", "cdi", "cds"]},
    "2024-cdi": {**_PUBLISHED, "condition": "cdi"},
    "2024-cds": {**_PUBLISHED, "condition": "cds"},
}


def simple_crystals() -> list[Atoms]:
    """Eight crystals of 1 to 3 atoms, their ``band_gap`` 0 ... 7 eV."""
    found = [
        bulk("NaCl", "rocksalt", a=5.64),
        bulk("ZnS", "zincblende", a=5.41),
        bulk("CsCl", "cesiumchloride", a=4.12),
        bulk("Cu", "fcc", a=3.61),
        bulk("Mg", "hcp", a=3.21, c=5.21),
        bulk("Si", "diamond", a=5.43),
        bulk("CaF2", "fluorite", a=5.46),
        bulk("GaAs", "zincblende", a=5.65),
    ]
    for k, atoms in enumerate(found):
        atoms.info["band_gap"] = float(k)
    return found


def training_batch(model: CrystalGenerator, structures: list[Atoms]) -> Batch:
    """Crystals as the training hands them to a model."""
    found = [model.labelled(a) for a in structures]
    return Batch.collate([Batch.from_atoms(a, 0.0, labels_of(a, model.labels)) for a in found])


@cache
def _built(name: str, targets: tuple[str, ...], double: bool, **settings: object) -> CrystalGenerator:
    torch.manual_seed(0)
    model = store.build(targets=list(targets), **{**GENERATORS[name], **settings})
    assert isinstance(model, CrystalGenerator)
    model.prepare(training_batch(model, simple_crystals()))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def tiny(name: str, targets: tuple[str, ...] = ("band_gap",), **settings: object) -> CrystalGenerator:
    """A model of this kind that knows the simple crystals and whose every weight is random."""
    return deepcopy(_built(name, targets, torch.get_default_dtype() == torch.float64, **settings))


@pytest.fixture
def crystals() -> list[Atoms]:
    return simple_crystals()


@pytest.fixture
def tiny_model() -> Callable[..., CrystalGenerator]:
    """Function that builds a model by name."""
    return tiny


@pytest.fixture
def batch_of() -> Callable[[CrystalGenerator, list[Atoms]], Batch]:
    return training_batch


@pytest.fixture(params=GENERATORS)
def generator_name(request: pytest.FixtureRequest) -> str:
    """Of every generator in turn."""
    return request.param


@pytest.fixture
def generator_model(generator_name: str) -> CrystalGenerator:
    """Every generator in turn."""
    return tiny(generator_name)


def learned(
    kind: str,
    updates: int,
    rate: float = 5e-3,
    repeats: int = 4,
    structures: list[Atoms] | None = None,
    **settings: object,
) -> CrystalGenerator:
    """A model after some updates on crystals, the simple ones if no others are given, shown ``repeats`` times in each."""
    torch.manual_seed(0)
    model = store.build(kind, targets=["band_gap"], **settings)
    assert isinstance(model, CrystalGenerator)
    one = training_batch(model, structures or simple_crystals())
    model.prepare(one)
    batch = Batch.collate([one] * repeats)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.fixture(scope="session")
def taught() -> Callable[..., CrystalGenerator]:
    """Function that trains a model on some crystals."""
    return learned
