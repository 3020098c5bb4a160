import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from scipy.spatial.transform import Rotation

from vibronic.core.batch import Batch
from vibronic.core.environments import FAR, Memory, environments, nearest, novelty

CUTOFF = 4.0


def batch_of(frames: list[Atoms]) -> Batch:
    return Batch.collate([Batch.from_atoms(a, CUTOFF, dtype=torch.float64) for a in frames])


def rattled(n: int, size: float, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
        atoms.positions += rng.normal(0, size, atoms.positions.shape)
        found.append(atoms)
    return found


def strangeness(train: list[Atoms], asked: list[Atoms]) -> np.ndarray:
    known = batch_of(train)
    elements = torch.unique(known.numbers)
    memory = Memory(known, elements, CUTOFF)
    return novelty(batch_of(asked), elements, CUTOFF, memory.points, memory.numbers, memory.reach).numpy()


def test_an_environment_does_not_turn_or_jump() -> None:
    atoms = rattled(1, 0.1, 0)[0]
    elements = torch.tensor([11, 17])
    r = Rotation.random(random_state=1).as_matrix()
    turned = Atoms(atoms.numbers, positions=atoms.positions @ r.T, cell=atoms.cell.array @ r.T, pbc=True)
    assert torch.allclose(
        environments(batch_of([atoms]), elements, CUTOFF), environments(batch_of([turned]), elements, CUTOFF)
    )
    assert torch.allclose(
        environments(batch_of([atoms]), elements, CUTOFF).repeat(2, 1),
        environments(batch_of([atoms.repeat((2, 1, 1))]), elements, CUTOFF),
    )


def test_about_one_in_a_hundred_of_the_same_kind_is_unlike() -> None:
    found = strangeness(rattled(120, 0.1, 0), rattled(200, 0.1, 1))
    assert (found > 1).mean() < 0.06
    assert found.mean() > 0.2


def test_hotter_and_denser_structures_are_unlike() -> None:
    train = rattled(60, 0.1, 0)
    assert (strangeness(train, rattled(40, 0.25, 2)) > 1).mean() > 0.9
    dense = rattled(40, 0.1, 3)
    for atoms in dense:
        atoms.set_cell(atoms.cell * 0.93, scale_atoms=True)
    assert (strangeness(train, dense) > 1).mean() > 0.9


def test_a_known_structure_is_not_new_and_a_lone_one_has_no_reach() -> None:
    train = rattled(20, 0.1, 0)
    assert np.allclose(strangeness(train, train[:3]), 0, atol=1e-6)
    memory = Memory(batch_of(train[:1]), torch.tensor([11, 17]), CUTOFF)
    assert float(memory.reach) == FAR


def test_another_element_is_infinitely_far() -> None:
    points = torch.zeros(2, 3)
    found = nearest(points, torch.tensor([1, 2]), points[:1], torch.tensor([1]))
    assert found.tolist() == [0.0, float("inf")]
