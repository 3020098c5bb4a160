"""The crystal graph as the scripts of arXiv 2511.15222 build it, beside the periodic graph, and whether it matters.

    VIBRONIC_DATA=... python benchmarks/graph_construction.py

The scripts (github.com/polbeni/ML-thermal-optoelectronics, src/graph-generation/create-graphs.py, commit 217d14d) are described in
:func:`published_edges`, which is written anew. Counted are directed edges within 5.5 Angstrom. Writes benchmarks/results/graph_construction.json.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

import record
from vibronic.core.batch import Batch
from vibronic.core.model import Model
from vibronic.core.neighbors import neighbor_list
from vibronic.data.dataset import GraphData, label_of
from vibronic.data.sources import crystal, missing, structures
from vibronic.learning.recipe import Training
from vibronic.learning.store import build
from vibronic.learning.training import fit

CUTOFF, SEED, DRAWS = 5.5, 0, 3
EPOCHS = 20
"""Of the paper's network, half a minute."""
Edges = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Centre (E,), neighbour (E,) and lattice translation (E, 3) of the neighbour, as :func:`neighbor_list` has them."""
Graph = Callable[[Atoms], Edges]


def correct_edges(atoms: Atoms) -> Edges:
    """Every directed pair, every image."""
    return neighbor_list(atoms, CUTOFF)


def published_edges(atoms: Atoms, beyond_middle: int = 1) -> Edges:
    """The authors' procedure.

    An odd supercell of n x n x n cells is made (n = 3, or more until n - 2 of the shortest lattice parameter reach the cutoff) by
    pymatgen, which lists the n^3 images of an atom one after the other and wraps them into the supercell. Of each atom the image number
    floor(n^3 / 2) + 1, counted from zero, is the centre, and without further periodicity all images of this atom and of the later ones
    that are near it are its neighbours; a neighbour of another number is entered in both directions.

    Args:
        beyond_middle: the middle image, counted from zero, is number floor(n^3 / 2): the scripts take the one after it, which is a cell
            further along the last lattice vector, at the surface. 0 takes the middle.
    """
    from pymatgen.io.ase import AseAtomsAdaptor

    n = 3
    while min(atoms.cell.lengths()) * (n - 2) < CUTOFF:
        n += 2
    supercell = AseAtomsAdaptor.get_structure(atoms)
    supercell.make_supercell(np.diag([n, n, n]))
    images = supercell.cart_coords
    per_atom, middle = n**3, n**3 // 2 + beyond_middle
    centres, neighbours, vectors = [], [], []
    for atom in range(len(atoms)):
        later = images[atom * per_atom :] - images[atom * per_atom + middle]
        distance = np.linalg.norm(later, axis=1)
        near = np.nonzero((distance <= CUTOFF) & (distance > 1e-5))[0]
        other = atom + near // per_atom
        back = other != atom
        centres += [np.full(len(near), atom), other[back]]
        neighbours += [other, np.full(back.sum(), atom)]
        vectors += [later[near], -later[near][back]]
    i, j, r = np.concatenate(centres), np.concatenate(neighbours), np.concatenate(vectors)
    fraction = np.linalg.solve(atoms.cell.array.T, (r - atoms.positions[j] + atoms.positions[i]).T).T
    shift = np.round(fraction).astype(int)
    assert np.abs(fraction - shift).max() < 1e-6  # every length that is there is that of a pair of atoms
    order = np.argsort(i, kind="stable")
    return i[order], j[order], shift[order]


def middle_edges(atoms: Atoms) -> Edges:
    """The published procedure with the image that is in the middle."""
    return published_edges(atoms, beyond_middle=0)


def keys(edges: Edges, number: np.ndarray | None = None, moved: np.ndarray | None = None) -> set[tuple[int, ...]]:
    """Edges as a set. ``number`` gives the atoms their old numbers, ``moved`` (N, 3) what translations wrapping added to them."""
    i, j, shift = edges
    if moved is not None:
        shift = shift + moved[j] - moved[i]
    if number is not None:
        i, j = number[i], number[j]
    found = set(map(tuple, np.column_stack([i, j, shift]).tolist()))
    assert len(found) == len(i)  # no edge twice
    return found


def translated(atoms: Atoms, rng: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    """The crystal moved as a whole and wrapped into its cell, and the lattice translations (N, 3) that wrapping added."""
    moved = atoms.copy()
    moved.positions += rng.uniform(size=3) @ atoms.cell.array
    before = moved.positions.copy()
    moved.wrap()
    return moved, np.round(np.linalg.solve(atoms.cell.array.T, (moved.positions - before).T).T).astype(int)


def changed(a: set[tuple[int, ...]], b: set[tuple[int, ...]]) -> float:
    """Share of the edges of either graph that are not in both."""
    return len(a ^ b) / len(a | b)


def count(graph: Graph, frames: list[Atoms]) -> dict[str, float]:
    """A construction against the periodic graph, and against itself for the same crystal described in another way."""
    rng = np.random.default_rng(SEED)
    rows = []
    for atoms in frames:
        right, found = keys(correct_edges(atoms)), keys(graph(atoms))
        degree = np.bincount([key[0] for key in found], minlength=len(atoms))
        full = np.bincount([key[0] for key in right], minlength=len(atoms))
        row = [len(right), len(found), len(right - found) / len(right), len(found - right) / len(right)]
        row.append(((full - degree) / full).max())
        of_moves, of_orders, lacking = [], [], []
        for _ in range(DRAWS):
            other, moved = translated(atoms, rng)
            # An atom that wrapping moved by w is at x + w: its translations have to be counted from there.
            there = keys(graph(other), moved=moved)
            of_moves.append(changed(found, there))
            lacking.append(len(right - there) / len(right))
            order = rng.permutation(len(atoms))
            of_orders.append(changed(found, keys(graph(atoms[order]), number=order)))
        rows.append([*row, np.mean(lacking), np.mean(of_moves), np.mean(of_orders)])
    names = ["edges, periodic", "edges, here", "missing", "spurious", "missing of the worst atom"]
    names += ["missing, origin at random", "changed by moving the crystal", "changed by renumbering"]
    return {name: float(value) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}


def batches(frames: list[Atoms], graph: Graph, model: Model) -> GraphData:
    """The frames on this graph instead of ours; a model sees nothing else of the neighbours."""
    data = GraphData(frames, model.targets, model.cutoff)

    def on(one: Batch, atoms: Atoms) -> Batch:
        i, j, shift = graph(atoms)
        return replace(
            one,
            edge_index=torch.as_tensor(np.stack([i, j])),
            edge_shift=torch.as_tensor(shift, dtype=one.positions.dtype),
        )

    data.graphs = [on(one, atoms) for one, atoms in zip(data.graphs, frames, strict=True)]
    return data


def learned(kind: str, graph: Graph) -> dict[str, float]:
    """Energy of SrTiO3, 270 training and 30 test cells: errors, and how a prediction changes when the crystal is moved."""
    train, test = structures("SrTiO3-train"), structures("SrTiO3-test")
    rng = np.random.default_rng(SEED)
    moved = [translated(atoms, rng)[0] for atoms in test]
    for one, atoms in zip(moved, test, strict=True):
        one.calc = atoms.calc
    start = time.process_time()
    torch.manual_seed(SEED)
    model = build(kind, targets=["energy"], cutoff=CUTOFF)
    data = batches(train, graph, model)
    if model.closed_form:
        model.prepare(data.batch().to(dtype=model.dtype))
    else:
        how = Training(epochs=EPOCHS, batch_size=8, learning_rate=1e-3)
        with tempfile.TemporaryDirectory() as folder:
            fit(model, data, None, Path(folder), how, SEED, device="cpu", progress=False, logs=False)
    sizes = np.array([len(a) for a in test])

    def predicted(frames: list[Atoms]) -> np.ndarray:
        with torch.no_grad():
            return model(batches(frames, graph, model).batch().to(dtype=model.dtype))["energy"].numpy() / sizes

    here, there = predicted(test), predicted(moved)
    error = here - np.array([label_of(a, "energy") for a in test]) / sizes
    return {
        "MAE [meV/atom]": float(1e3 * np.abs(error).mean()),
        "RMSE [meV/atom]": float(1e3 * np.sqrt((error**2).mean())),
        "change when moved, rms [meV/atom]": float(1e3 * np.sqrt(((here - there) ** 2).mean())),
        "CPU seconds": round(time.process_time() - start, 1),
    }


def main() -> None:
    torch.set_num_threads(1)
    graphs: dict[str, Graph] = {"published": published_edges, "its middle image": middle_edges, "ours": correct_edges}
    sets = {
        f"Ag3SBr-pbe, {len(structures('Ag3SBr-pbe'))} x 40 atoms": structures("Ag3SBr-pbe"),
        "Ag3SBr, 5 atoms": [crystal("Ag3SBr")],
        "NaCl, 64 atoms": [crystal("NaCl").repeat(2)],
    }
    lacking = missing("SrTiO3-train") or missing("SrTiO3-test")
    if not lacking:
        sets["SrTiO3-test, 30 x 40 atoms"] = structures("SrTiO3-test")
    tables: dict[str, Any] = {}
    for name, frames in sets.items():
        tables[name] = {title: count(graph, frames) for title, graph in graphs.items()}
        print(name, tables[name], flush=True)
    for kind in () if lacking else ("ridge", "cgcnn"):
        name = f"Energies of SrTiO3, {kind}"
        tables[name] = {title: learned(kind, graphs[title]) for title in ("published", "ours")}
        print(name, tables[name], flush=True)
    record.write(
        "graph_construction",
        {
            "what": "Directed edges within 5.5 Angstrom, means over the structures; shares of the edges of the periodic graph, and of those of "
            "either graph where the same crystal is moved by a random vector and wrapped, or its atoms are renumbered. Then two models "
            f"on either graph, 270 training and 30 test cells; the paper's network with {EPOCHS} epochs of batches of 8",
            "tables": tables,
            "skipped": f"SrTiO3: {lacking}" if lacking else "nothing",
            "draws": DRAWS,
            "seed": SEED,
            "peers": record.peers("pymatgen"),
        },
        "python benchmarks/graph_construction.py",
    )


if __name__ == "__main__":
    main()
