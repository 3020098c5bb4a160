"""Fidelity: exact where the answer is known, blind to models that learned nothing, and the same for the same seed."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_sum
from vibronic.core.statistics import geometric_mean
from vibronic.core.targets import Target
from vibronic.data.dataset import GraphData
from vibronic.explain import fidelity as room
from vibronic.explain.attribution import attribute
from vibronic.explain.fidelity import ENOUGH, fidelity, untrained
from vibronic.learning import store

SITES = [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5), (0, 0, 0)]


class Charges(Model):
    """Bonds add up to the property, each the product of two numbers that a fit would find: bromine counts."""

    kind = "hand-made"
    fitted = ("strength",)

    def __init__(self, bromine: float = 1.0) -> None:
        super().__init__({}, [Target("stiffness", "eV")], cutoff=4.0)
        self.elements = torch.tensor([16, 29, 35, 47])
        self.register_buffer("strength", torch.zeros(119, dtype=torch.float64))
        self.strength[[16, 29, 35, 47]] = torch.tensor([0.1, 0.1, bromine, 0.1], dtype=torch.float64)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        i, j = batch.edge_index
        pair = self.strength[batch.numbers[i]] * self.strength[batch.numbers[j]]
        energy = batch.weigh(pair * torch.exp(-batch.edge_vectors().norm(dim=-1)))
        return {"stiffness": 3.0 + scatter_sum(energy, batch.edge_structure, batch.n_structures)}


def rattled(n: int, seed: int = 0, size: float = 0.1) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        atoms = Atoms("Ag3SBr", scaled_positions=SITES, cell=[4.934] * 3, pbc=True)
        atoms.positions += rng.normal(0, size, (5, 3))
        distances = atoms.get_all_distances(mic=True)
        atoms.info |= {"band_gap": float(np.exp(-distances[:3, 3]).sum()), "energy": float(-distances.sum())}
        found.append(atoms)
    return found


def test_bonds_that_matter_are_told_from_others_of_their_length() -> None:
    """Ag-Br and Ag-Ag are equally long here, and only bromine counts."""
    found = fidelity([Charges()], rattled(6), "stiffness", fractions=(0.1, 0.2), draws=10, steps=2)
    assert found.removed.interval[0] > 1.3
    assert found.removed.beaten == 1
    assert found.kept.interval[1] < 1
    assert found.untrained.ratio < found.removed.ratio
    assert found.advantage_interval[0] > 1
    assert found.holds is True
    assert found.foretold == pytest.approx(1, abs=1e-6)  # bonds that add up change it by just their attributions


def test_where_all_bonds_are_equal_no_ranking_is_better() -> None:
    frames = [bulk("Cu", a=a, cubic=True) for a in (3.5, 3.55, 3.6, 3.65, 3.7)]
    found = fidelity([Charges()], frames, "stiffness", fractions=(0.1, 0.3), steps=2)
    for contrast in (found.removed, found.kept):
        assert contrast.ratio == pytest.approx(1, abs=1e-6)
        assert contrast.interval == pytest.approx((1, 1), abs=1e-6)
        assert contrast.change == pytest.approx(contrast.random)
    assert found.holds is False
    assert found.foretold is None  # all draws change it equally


def test_changes_are_those_of_the_prediction() -> None:
    """Of an additive model: the attributions of the bonds that go, or of all but those that stay."""
    (atoms,) = rattled(1)
    model = Charges()
    values = np.sort(np.abs(attribute(model, atoms, "stiffness", 1).value))[::-1]
    fractions = (0.05, 0.25)
    found = fidelity([model], [atoms], "stiffness", fractions, draws=2, twins=1, steps=1)
    gone = [values[: round(f * len(values))].sum() for f in fractions]
    assert found.removed.change == pytest.approx(gone, rel=1e-6)
    assert found.kept.change == pytest.approx(values.sum() - np.array(gone), rel=1e-6)


def test_random_bonds_have_the_same_number_in_every_interval_of_length() -> None:
    rng = np.random.default_rng(0)
    bins = rng.integers(0, 6, 200)
    importance = rng.random(200) + 3 * (bins == 2)
    masks = room._masks(importance, bins, (0.1, 0.4), 20, rng)
    assert masks.shape == (2, 21, 200)
    assert (masks[0].sum(axis=1) == 20).all()
    assert (masks[1].sum(axis=1) == 80).all()
    for mask in masks:
        counts = [np.bincount(bins[one], minlength=6).tolist() for one in mask]
        assert all(count == counts[0] for count in counts)
        assert len({tuple(one) for one in mask}) > 15
        assert importance[mask[0]].min() >= importance[~mask[0]].max()


def test_both_directions_of_a_bond_go_together() -> None:
    (atoms,) = rattled(1)
    torch.manual_seed(0)
    model = store.build("painn", targets=["band_gap"], width=8, layers=2, cutoff=4.0).double()
    model.prepare(GraphData(rattled(6), model.targets, 4.0).batch().to(dtype=torch.float64))
    whole = attribute(model.eval(), atoms, "band_gap", 1)
    predict = room._predictor(model, atoms, "band_gap")
    none, every = predict(np.array([[False] * len(whole.value), [True] * len(whole.value)]))
    assert (none, every) == pytest.approx((whole.bare, whole.whole), abs=1e-12)
    batch = Batch.from_atoms(atoms, 4.0, dtype=torch.float64)
    i, j = batch.edge_index.numpy()
    shift = batch.edge_shift.numpy().astype(int)
    k = 7
    same = (i == whole.i[k]) & (j == whole.j[k]) & (shift == whole.shift[k]).all(axis=1)
    back = (i == whole.j[k]) & (j == whole.i[k]) & (shift == -whole.shift[k]).all(axis=1)
    assert (same.sum(), back.sum()) == (1, 1)
    batch.edge_weight = torch.as_tensor(1.0 - (same | back))
    with torch.no_grad():
        expected = float(model(batch)["band_gap"])
    present = np.ones((1, len(whole.value)), bool)
    present[0, k] = False
    assert predict(present)[0] == pytest.approx(expected, abs=1e-12)
    assert predict(present)[0] != pytest.approx(every, abs=1e-9)


@pytest.mark.parametrize("kind", ["painn", "cgcnn", "ridge"])
def test_an_untrained_model_keeps_its_scales_and_forgets_the_rest(kind: str) -> None:
    frames = rattled(12)
    width = {} if kind == "ridge" else {"width": 8, "layers": 1}
    torch.manual_seed(5)
    model = store.build(kind, targets=["energy", "band_gap"], cutoff=4.0, **width).double()
    model.prepare(GraphData(frames, model.targets, 4.0).batch().to(dtype=torch.float64))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    twin, same, other = (untrained(model, seed) for seed in (0, 0, 1))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in twin.state_dict().items())
    changed = {k for k, v in twin.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert any(not torch.equal(v, other.state_dict()[k]) for k, v in twin.state_dict().items())
    buffers = {name for name, _ in model.named_buffers()}
    assert changed & buffers == ({"weights"} if kind == "ridge" else set())  # scales stay
    if kind == "ridge":
        assert torch.equal(twin.weights.flatten().sort()[0], model.weights.flatten().sort()[0])
    everything = np.ones((1, len(attribute(twin, frames[0], "band_gap", 1).value)), bool)
    gaps = [room._predictor(m, frames[0], "band_gap")(everything)[0] for m in (twin, model.eval())]
    assert gaps[0] != pytest.approx(gaps[1], abs=1e-9)


def test_a_learned_gap_is_explained_better_than_by_models_that_learned_nothing() -> None:
    """The gap of these crystals is that of their Ag-S bonds alone."""
    frames = rattled(40, size=0.2)
    model = store.build("ridge", targets=["band_gap"], cutoff=4.5, angular=0)
    model.prepare(GraphData(frames, model.targets, 4.5).batch().to(dtype=torch.float64))
    found = fidelity([model], rattled(6, seed=1, size=0.2), "band_gap", draws=8, steps=16)
    assert found.removed.ratio > found.untrained.ratio
    assert found.foretold > 0.9
    assert found.spread > 0


def test_same_seed_same_numbers_as_plain_json() -> None:
    one, two = (asdict(fidelity([Charges()], rattled(2), "stiffness", draws=3, steps=2, seed=4)) for _ in range(2))
    assert json.loads(json.dumps(one)) == json.loads(json.dumps(two))
    other = asdict(fidelity([Charges()], rattled(2), "stiffness", draws=3, steps=2, seed=5))
    assert other["removed"]["random"] != one["removed"]["random"]
    assert other["removed"]["change"] == one["removed"]["change"]


def test_over_models_the_changes_are_averaged() -> None:
    frames = rattled(2)
    strong, weak = Charges(2.0), Charges(1.0)
    alone = [fidelity([m], frames, "stiffness", (0.2,), draws=4, steps=1) for m in (strong, weak)]
    both = fidelity([strong, weak], frames, "stiffness", (0.2,), draws=4, steps=1)
    assert both.removed.change == pytest.approx([np.mean([a.removed.change for a in alone])])
    assert both.models == 2


def test_what_is_said() -> None:
    good = fidelity([Charges()], rattled(6), "stiffness", fractions=(0.1, 0.2), steps=2).sentences()
    assert good[-1].startswith("the attribution holds up:")
    assert f"{1.0:.2f}" not in good[0].split("times")[0]
    same = [bulk("Cu", a=a, cubic=True) for a in (3.5, 3.55, 3.6, 3.65, 3.7)]
    bad = fidelity([Charges()], same, "stiffness", steps=2).sentences()
    assert bad[-1].startswith("the attribution is not shown to hold up")


def test_few_structures_say_nothing_and_one_has_no_interval() -> None:
    few = fidelity([Charges()], rattled(ENOUGH - 1), "stiffness", fractions=(0.2,), steps=2)
    assert few.holds is None
    assert few.removed.interval is not None
    assert few.sentences()[-1].startswith(f"fewer than {ENOUGH} structures")
    one = fidelity([Charges()], rattled(1), "stiffness", fractions=(0.2,), steps=2)
    assert (one.spread, one.removed.interval, one.advantage_interval) == (None, None, None)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Log ratios that scatter about zero from structure to structure, as few structures as are allowed to speak."""
    logs = np.random.default_rng(0).normal(0, 0.3, (2000, ENOUGH))
    inside = [low < 1 < high for _, (low, high) in map(geometric_mean, logs)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_refusals(copper: Atoms) -> None:
    model, frames = Charges(), rattled(1)
    for arguments, word in (
        (([], frames, "stiffness"), "at least one model"),
        (([model], [], "stiffness"), "one structure"),
        (([model], frames, "stiffness", (1.5,)), "fractions between 0 and 1"),
        (([model], frames, "stiffness", (0.1,), 0), "at least one draw"),
        (([model], frames, "energy"), "choose one of stiffness"),
        (([model], [Atoms("Ag")], "stiffness"), "no bond within the cutoff"),
    ):
        with pytest.raises(VibronicError, match=word):
            fidelity(*arguments)
    model.fitted = ()
    with pytest.raises(VibronicError, match="no untrained hand-made"):
        fidelity([model], frames, "stiffness")
