"""How good the predicted electron densities are, and what they save in a DFT calculation.

    OMP_NUM_THREADS=1 python benchmarks/fields_density.py [--sizes 50 100 200] [--work runs/fields-density]

Trains on the first molecules of benchmarks/data/density-train.extxyz.gz (all of them last, as the shipped model), and scores on 60 molecules
of up to 14 atoms and 40 of 15 to 27, none of them in training. Where a training in the folder is complete, it is used. Writes
benchmarks/results/fields_density.json. All densities are PBE/6-31G*; NMAE is the integral of |rho - rho_DFT| over all space in
percent of the electrons.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from record import ROOT, write

DATA = ROOT / "benchmarks" / "data"
SEED = 0
FITTED, STARTED = 20, 20
"""Molecules for the floor of the basis, and for the calculations started from a predicted density."""


def molecules(name: str) -> list[Atoms]:
    """A labelled set by the end of its name."""
    from vibronic.data.dataset import read_labelled

    return read_labelled(DATA / f"density-{name}.extxyz.gz")


def trained(n: int | None, train: list[Atoms], work: Path) -> Path:
    """Folder of the model trained on the first ``n`` molecules."""
    from vibronic import verbs
    from vibronic.data.dataset import write_structures

    out = work / ("all" if n is None else str(n))
    if not (out / "model.safetensors").exists():
        part = work / f"{out.name}.extxyz"
        write_structures(part, train[:n])
        test = str(DATA / "density-test.extxyz.gz")
        verbs.train("qdf-density", str(part), test=test, fractions=(1.0, 0.0, 0.0), device="cpu", out=out, seed=SEED)
    return out


def accuracy(folder: Path, sets: dict[str, list[Atoms]]) -> dict[str, float]:
    """Errors and the negative part of the densities of a model, by set."""
    from vibronic.fields.analysis import analyse
    from vibronic.fields.quadrature import nmae
    from vibronic.fields.samples import density_of_matrix
    from vibronic.learning import store

    network, _ = store.load(folder)
    found = {}
    for name, frames in sets.items():
        rows = [analyse(a, network.density_of(a).at, 1) for a in frames]
        errors = [nmae(network.density_of(a).at, partial(density_of_matrix, a), a) for a in frames]
        exact = [analyse(a, partial(density_of_matrix, a), 1) for a in frames]
        dipoles = [network.density_of(a).dipole - a.calc.results["dipole"] for a in frames]
        charges = np.concatenate([r.charges - e.charges for r, e in zip(rows, exact, strict=True)])
        found |= {
            f"nmae_{name}_percent": float(np.mean(errors)),
            f"nmae_{name}_percent_largest": float(np.max(errors)),
            f"dipole_{name}_mean_error_e_angstrom": float(np.mean(np.linalg.norm(dipoles, axis=1))),
            f"hirshfeld_{name}_mae_e": float(np.abs(charges).mean()),
            f"lowest_{name}_e_per_angstrom3": float(np.min([r.lowest for r in rows])),
            f"negative_part_{name}_percent_of_electrons": 100
            * float(np.mean([-r.negative / a.numbers.sum() for r, a in zip(rows, frames, strict=True)])),
        }
    return found


def without_learning(frames: list[Atoms]) -> dict[str, float]:
    """NMAE of free atoms, and of the best fit that the basis allows: what learning starts from and cannot pass."""
    from vibronic.fields.atoms import promolecule
    from vibronic.fields.expansion import LMAX, RANGES, SHELLS, SIZE, GaussianDensity
    from vibronic.fields.quadrature import molecular_grid, nmae
    from vibronic.fields.samples import density_of_matrix
    from vibronic.fields.scales import best_fit, orthonormal

    free, fit = [], []
    for atoms in frames:
        reference = partial(density_of_matrix, atoms)
        free.append(nmae(partial(promolecule, atoms), reference, atoms))
        grid = molecular_grid(atoms, 0)
        density = reference(grid.points)
        tensors = (grid.points, grid.weights, density - promolecule(atoms, grid.points), density)
        numbers = atoms.numbers.tolist()
        blocks = best_fit(torch.as_tensor(atoms.positions), numbers, *map(torch.as_tensor, tensors))
        coefficients = torch.zeros(len(atoms), SHELLS, SIZE, dtype=torch.float64)
        for a, z in enumerate(numbers):
            for degree in range(LMAX + 1):
                if RANGES[z < 3][degree][1]:
                    bare = orthonormal(z < 3, degree) @ blocks[a][degree]
                    coefficients[a, :, degree**2 : (degree + 1) ** 2] = bare
        fit.append(nmae(GaussianDensity(atoms, coefficients).at, reference, atoms))
    return {"free_atoms_nmae_percent": float(np.mean(free)), "best_fit_nmae_percent": float(np.mean(fit))}


def calculations(folder: Path, frames: list[Atoms]) -> dict[str, object]:
    """Cycles of RKS PBE/6-31G* (density fitting, grid level 1, as the labels) from PySCF's own start and from ours."""
    from pyscf import dft, gto

    from vibronic.fields.scf import initial_density_matrix, structure
    from vibronic.learning import store

    network, _ = store.load(folder)
    cycles: dict[str, list[int]] = {}
    seconds: dict[str, list[float]] = {"guess": [], "cycle": []}
    for atoms in frames:
        mol = gto.M(atom=list(zip(atoms.symbols, atoms.positions.tolist())), basis="6-31G*", verbose=0)
        start = time.process_time()
        matrix = initial_density_matrix(network.density_of(structure(mol)), mol)
        seconds["guess"].append(time.process_time() - start)
        for tolerance in (1e-9, 1e-6):
            for name, guess in (("minao", None), ("predicted", matrix)):
                for first in (1, 0):
                    field = dft.RKS(mol, xc="PBE").density_fit(auxbasis="def2-universal-jfit")
                    field.grids.level, field.conv_tol, field.diis_start_cycle = 1, tolerance, first
                    start = time.process_time()
                    field.kernel(dm0=guess)
                    assert field.converged
                    if guess is None:
                        seconds["cycle"].append((time.process_time() - start) / (field.cycles + 2))
                    cycles.setdefault(f"{tolerance:g} {name} diis_start_cycle={first}", []).append(field.cycles)
    mean = {name: float(np.mean(values)) for name, values in cycles.items()}
    saved = {}
    for tolerance in ("1e-09", "1e-06"):
        for first in (1, 0):
            ours = mean[f"{tolerance} predicted diis_start_cycle={first}"]
            theirs = min(mean[f"{tolerance} minao diis_start_cycle={k}"] for k in (0, 1))
            key = f"{tolerance} diis_start_cycle={first}"
            saved[key] = 100 * (1 - ours / theirs)
            saved[f"{key}, our one matrix counted as a cycle"] = 100 * (1 - (ours + 1) / theirs)
    return {
        "molecules": len(frames),
        "mean_cycles": mean,
        "cycles_saved_percent": saved,
        "cpu_seconds_of_the_start": float(np.mean(seconds["guess"])),
        "cpu_seconds_per_cycle": float(np.mean(seconds["cycle"])),
    }


def prediction_time(folder: Path, frames: list[Atoms]) -> dict[str, float]:
    """CPU milliseconds per molecule: coefficients alone, and one by one with everything round them."""
    from vibronic.data.dataset import in_batches
    from vibronic.learning import store

    network, _ = store.load(folder)
    batches = list(in_batches(frames, network.cutoff, 16, network.dtype))
    with torch.no_grad():
        network.coefficients(batches[0])
        start = time.process_time()
        for batch in batches:
            network.coefficients(batch)
    middle = time.process_time()
    for atoms in frames:
        network.density_of(atoms)
    count = len(frames) / 1000
    return {"in_batches": (middle - start) / count, "one_by_one": (time.process_time() - middle) / count}


def main() -> None:
    """Everything, into one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[50, 100, 200])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "fields-density")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = molecules("train")
    sets = {"test": molecules("test"), "large": molecules("large")}
    curve = {}
    for n in [*(n for n in options.sizes if n < len(train)), None]:
        folder = trained(n, train, options.work)
        curve[str(n or len(train))] = accuracy(folder, sets)
    content = {
        "training_molecules": len(train),
        "seed": SEED,
        "learning_curve": curve,
        "without_learning": without_learning(sets["test"][:FITTED]),
        "scf": calculations(folder, sets["test"][:STARTED]),
        "prediction_cpu_ms_per_molecule": prediction_time(folder, sets["test"]),
        "model_bytes": (folder / "model.safetensors").stat().st_size,
    }
    sizes = " ".join(map(str, options.sizes))
    print(write("fields_density", content, f"OMP_NUM_THREADS=1 python benchmarks/fields_density.py --sizes {sizes}"))


if __name__ == "__main__":
    main()
