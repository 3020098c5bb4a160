"""Where the shipped energies and levels stop to hold: larger molecules, and geometries off the minima of their method.

    python benchmarks/fields_limits.py [--large N]

Writes benchmarks/results/fields_limits.json. Coverage is the share of labels within the 90 % interval of the model's card.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

import record
from vibronic.core.batch import Batch
from vibronic.core.units import conversion
from vibronic.data.sources import structures
from vibronic.learning.prediction import predict
from vibronic.learning.store import load

KCAL = conversion("eV", "kcal/mol")
ETHANOL, FORMULA = "CH3CH2OH", "C2H6O"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--large", type=int, default=3000)
    n = parser.parse_args().large
    torch.set_num_threads(1)
    test, large = structures("qm9-test"), structures("qm9-large")
    sets = {"test": test, "large": [large[k] for k in np.random.default_rng(1).permutation(len(large))[:n]]}
    found: dict[str, Any] = {}
    for name in ("qdf-qm9", "qdf-qm9-gap"):
        model, card = load(name)
        for part, molecules in sets.items():
            values = predict(model, molecules, batch_size=64)
            for t in model.targets:
                error = np.array(values[t.name]) - np.array([a.info[t.name] for a in molecules])
                half = card.intervals[t.name] * np.array([len(a) if t.extensive else 1 for a in molecules])
                found.setdefault(t.name, {})[f"mae_{part} [eV]"] = round(float(np.abs(error).mean()), 4)
                found[t.name][f"coverage_{part} [%]"] = round(100 * float((np.abs(error) <= half).mean()), 1)
                told = np.array(values["novelty"]) > 1
                if told.any() and not told.all():
                    found[t.name][f"mae_{part} where novelty is up to 1 [eV]"] = round(
                        float(np.abs(error[~told]).mean()), 4
                    )
                    found[t.name][f"mae_{part} where it is above [eV]"] = round(float(np.abs(error[told]).mean()), 4)
                    inside = np.abs(error) <= half
                    found[t.name][f"coverage_{part} where novelty is up to 1 [%]"] = round(
                        100 * float(inside[~told].mean()), 1
                    )
    energies = load("qdf-qm9")[0]
    record.write(
        "fields_limits",
        {
            "what": f"1,480 molecules of qm9-test and {n} random ones of qm9-large; 500 of each displaced at random (each coordinate); all X-H bonds of QM9's ethanol shorter and longer by 0.01 "
            "Angstrom; ethanol as ASE's builder makes it against QM9's; forces at 200 minima of the training, which should vanish",
            **found,
            "novelty above 1 [%]": unlike(
                energies, [test[k] for k in np.random.default_rng(5).permutation(len(test))], sets["large"][:500]
            ),
            "off_the_minima": off_the_minima(energies, structures("qm9-train")),
        },
        f"python benchmarks/fields_limits.py --large {n}",
    )


def unlike(model: Any, test: Sequence[Atoms], large: Sequence[Atoms]) -> dict[str, float]:
    """Structures that the model says to be unlike its training set, per cent: as they are, and displaced at random."""
    rng = np.random.default_rng(4)
    found = {}
    for name, molecules in (("test", test[:500]), ("large", large)):
        for size in (0.0, 0.003, 0.01, 0.03):
            moved = [Atoms(a.numbers, a.positions + rng.normal(0, size, a.positions.shape)) for a in molecules]
            share = np.mean(np.array(predict(model, moved, batch_size=64)["novelty"]) > 1)
            found[f"{name}, displaced by {size:g} Angstrom rms"] = round(100 * float(share), 1)
    return found


def off_the_minima(model: Any, known: Sequence[Atoms]) -> dict[str, float]:
    """Changes of the energy of ethanol, eV and kcal/mol, and forces at minima, eV/Angstrom."""
    small = [*known, *structures("qm9-validation"), *structures("qm9-test")]
    candidates = [a for a in small if a.get_chemical_formula() == FORMULA]
    ethanol = next(a for a in candidates if _has_hydroxyl(a))

    def energy(atoms: Atoms) -> float:
        return float(predict(model, [atoms])["energy"][0])

    start, builder = energy(ethanol), energy(molecule(ETHANOL))
    forces = []
    for atoms in known[:: len(known) // 200][:200]:
        batch = Batch.from_atoms(atoms, model.cutoff)
        batch.positions.requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(batch)["energy"].sum(), batch.positions)
        forces.append(float(gradient.norm(dim=1).max()))
    return {
        "ethanol, X-H shorter by 0.01 [eV]": round(energy(_stretched(ethanol, -0.01)) - start, 3),
        "ethanol, X-H longer by 0.01 [eV]": round(energy(_stretched(ethanol, 0.01)) - start, 3),
        "ethanol, builder minus QM9 [kcal/mol]": round((builder - start) * KCAL, 2),
        "ethanol, builder: novelty": round(float(predict(model, [molecule(ETHANOL)])["novelty"][0]), 2),
        "largest force at a minimum, median of 200 [eV/Angstrom]": round(float(np.median(forces)), 2),
        "largest force at a minimum, largest of 200 [eV/Angstrom]": round(max(forces), 2),
    }


def _has_hydroxyl(atoms: Atoms) -> bool:
    (oxygen,) = np.nonzero(atoms.numbers == 8)[0]
    near = atoms.get_distances(oxygen, range(len(atoms))) < 1.1
    return bool((atoms.numbers[near] == 1).any())


def _stretched(atoms: Atoms, by: float) -> Atoms:
    out = atoms.copy()
    distances = atoms.get_all_distances()
    for h in np.nonzero(atoms.numbers == 1)[0]:
        heavy = min(np.nonzero(atoms.numbers != 1)[0], key=lambda k: distances[h, k])
        bond = atoms.positions[h] - atoms.positions[heavy]
        out.positions[h] += by * bond / np.linalg.norm(bond)
    return out


if __name__ == "__main__":
    main()
