"""The descriptor ridge against brute force and against what it must be able to learn."""

import numpy as np
import pytest
import torch
from ase import Atoms

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.learning.prediction import predict as predict_all
from vibronic.learning.prediction import score
from vibronic.properties.descriptors import DescriptorRidge, _pairs_of_edges


def fitted(frames: list[Atoms], **settings) -> DescriptorRidge:
    from vibronic.data.dataset import GraphData

    model = DescriptorRidge(**{"targets": ["energy", "pressure"], "cutoff": 5.0, **settings})
    model.prepare(GraphData(frames, model.targets, model.cutoff).batch().to(dtype=torch.float64))
    return model


def test_pairs_of_edges_are_all_of_them_once() -> None:
    centre = torch.tensor([0, 0, 0, 2, 3, 3])
    pairs = {tuple(p) for p in torch.stack(_pairs_of_edges(centre)).T.tolist()}
    assert pairs == {(0, 1), (0, 2), (1, 2), (4, 5)}
    assert all(len(x) == 0 for x in _pairs_of_edges(torch.zeros(0, dtype=torch.long)))


def test_features_against_brute_force(structures) -> None:
    """Pairs and angles of one crystal summed one by one."""
    atoms = structures[0]
    model = DescriptorRidge(["band_gap"], radial=5, angular=3, cutoff=4.0, angle_cutoff=3.3)
    batch = Batch.from_atoms(atoms, 4.0, dtype=torch.float64)
    Model.prepare(model, batch)  # the elements only: there is nothing to fit
    found = model.features(batch)[0].numpy()
    kinds = model.elements.tolist()
    n = len(kinds)
    radial, angular = np.linspace(0.8, 4.0, 5), np.linspace(-1, 1, 3)
    pairs, angles = np.zeros((n, n, 5)), np.zeros((n, n, n, 3))
    vectors = batch.edge_vectors().numpy()
    i, j = batch.edge_index.numpy()
    species = [kinds.index(z) for z in atoms.numbers]

    def fade(r: float, cutoff: float) -> float:
        return 0.5 * (1 + np.cos(np.pi * min(1, r / cutoff)))

    for e in range(len(i)):
        r = np.linalg.norm(vectors[e])
        a, b = sorted((species[i[e]], species[j[e]]))
        pairs[a, b] += np.exp(-0.5 * ((r - radial) / (radial[1] - radial[0])) ** 2) * fade(r, 4.0)
        for f in range(e):
            s = np.linalg.norm(vectors[f])
            if i[e] != i[f] or max(r, s) >= 3.3:
                continue
            cosine = vectors[e] @ vectors[f] / (r * s)
            b, c = sorted((species[j[e]], species[j[f]]))
            weight = fade(r, 3.3) * fade(s, 3.3)
            angles[species[i[e]], b, c] += weight * np.exp(-0.5 * (cosine - angular) ** 2)
    counts = [species.count(k) for k in range(n)]
    expected = np.concatenate([pairs.ravel(), angles.ravel(), counts]) / len(atoms)
    assert np.allclose(found, expected, atol=1e-10)


def test_it_learns_emt(labelled_copper) -> None:
    model = fitted(labelled_copper[:18])
    scores, units = score(model.targets, predict_all(model, labelled_copper[18:]), labelled_copper[18:])
    assert scores["r2_energy"] > 0.8
    assert scores["r2_pressure"] > 0.8
    assert units["mae_energy"] == "eV/atom"


def test_nothing_to_learn_is_the_mean(labelled_copper) -> None:
    frames = [a.copy() for a in labelled_copper]
    rng = np.random.default_rng(0)
    for a in frames:
        a.info["band_gap"] = 2.0 + rng.normal(0, 1e-3)
    predicted = predict_all(fitted(frames[:18], targets=["band_gap"]), frames[18:])["band_gap"]
    assert np.allclose(predicted, 2.0, atol=3e-3)


def test_one_structure_can_be_fitted(labelled_copper) -> None:
    predicted = predict_all(fitted(labelled_copper[:1]), labelled_copper[:1])
    assert predicted["energy"][0] == pytest.approx(labelled_copper[0].calc.results["energy"], rel=1e-6)


def test_unfitted_and_senseless(copper: Atoms) -> None:
    with pytest.raises(VibronicError, match="has not been fitted"):
        DescriptorRidge()(Batch.from_atoms(copper, 6.0))
    for settings in ({"targets": ["forces"]}, {"radial": 1}, {"angular": 1}, {"angular": -2}):
        with pytest.raises(VibronicError):
            DescriptorRidge(**settings)
