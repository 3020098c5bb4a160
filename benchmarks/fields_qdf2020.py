"""CPU-milliseconds per molecule of training and of predicting with qdf2020, beside the authors' code where it is at hand.

    python benchmarks/fields_qdf2020.py [--peer FOLDER]

FOLDER is a checkout of github.com/masashitsubaki/QuantumDeepField_molecule. Its code then runs in this process, on the
same molecules, in turns with ours, and its published weights, loaded into our model, must give its published predictions.
One thread; molecules of QM9 with up to 14 atoms. Writes benchmarks/results/fields_qdf2020.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import pickle
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from ase import Atoms

import record
from vibronic.core.batch import Batch
from vibronic.data import sources
from vibronic.data.dataset import GraphData
from vibronic.fields.qdf2020 import QuantumDeepField2020
from vibronic.learning.recipe import Training
from vibronic.learning.training import fit

KCAL = 23.0605
SET = "QM9under14atoms_atomizationenergy_eV"
NAMES = {
    "W_functional": "functional",
    "W_property": "property",
    "W_density": "density_in",
    "W_HK": "hk",
    "W_potential": "potential_out",
}
"""What the authors' parameters are called here."""


def milliseconds(work: Callable[[], Any], molecules: int) -> float:
    """CPU time of ``work`` per molecule."""
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start) / molecules


class Ours:
    """A training epoch as ``vibronic train`` does it, and predictions in batches of 4 as in the authors' test."""

    def __init__(self, molecules: list[Atoms]) -> None:
        torch.manual_seed(0)
        self.model = QuantumDeepField2020()
        self.data = GraphData(molecules, self.model.targets, self.model.cutoff)

    def train(self) -> None:
        self.model.train()  # the fit before left it ready to predict
        how = Training(**{**QuantumDeepField2020.recipe, "epochs": 1})
        with tempfile.TemporaryDirectory() as folder:
            fit(self.model, self.data, None, Path(folder), how, device="cpu", progress=False, logs=False)

    def predict(self) -> None:
        with torch.no_grad():
            for k in range(0, len(self.data), 4):
                self.model(Batch.collate(self.data.graphs[k : k + 4]))


class Theirs:
    """The authors' trainer and tester on their preprocessed files."""

    def __init__(self, folder: Path, molecules: list[Atoms], place: Path) -> None:
        self.code = _module(folder / "train" / "train.py")
        preprocess = _module(folder / "train" / "preprocess.py")
        with open(place / "set.txt", "w") as file:
            for k, atoms in enumerate(molecules):
                rows = [
                    f"{s} {x} {y} {z}" for s, (x, y, z) in zip(atoms.symbols, atoms.positions.tolist(), strict=True)
                ]
                file.write("\n".join([f"m{k:05d}", *rows, repr(float(atoms.info["energy"]))]) + "\n\n")
        self.molecules, kinds = molecules, _orbital_dict(folder)
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.process_time()
            preprocess.create_dataset(f"{place}/", "set", "6-31G", 0.75, 0.3, kinds)
            self.preprocessing = 1000 * (time.process_time() - start) / len(molecules)
        files = self.code.MyDataset(f"{place}/set_6-31G_0.75sphere_0.3grid/")
        self.batches = self.code.mydataloader(files, 4, 0, shuffle=True)
        torch.manual_seed(0)
        self.model = self.code.QuantumDeepField(torch.device("cpu"), len(kinds), 250, 3, "sum", 1, 250, 3)
        self.trainer = self.code.Trainer(self.model, 1e-4, 0.5, 200)
        self.tester = self.code.Tester(self.model)

    def train(self) -> None:
        self.trainer.train(self.batches)

    def predict(self) -> None:
        self.tester.test(self.batches)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Plain(pickle.Unpickler):
    """Reads tables of words and numbers, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a table")


def _orbital_dict(folder: Path) -> dict[str, int]:
    with open(folder / "dataset" / SET / "orbitaldict_6-31G.pickle", "rb") as file:
        return _Plain(file).load()


def published(folder: Path) -> QuantumDeepField2020:
    """Our model with the authors' published weights."""
    state = torch.load(next((folder / "pretrained_model").iterdir()), map_location="cpu", weights_only=True)
    kinds = _orbital_dict(folder)
    model = QuantumDeepField2020()
    names = []
    for symbol in model.config["elements"]:
        parts = [("1s", 4)] if symbol == "H" else [("1s", 6), ("2s", 4), ("2p", 4)]
        names += [f"{symbol}{shell}{k}" for shell, n in parts for k in range(n)]
    rows = torch.tensor([kinds[name] for name in names])
    ours = {"coefficient": state.pop("coefficient.weight")[rows], "zeta": state.pop("zeta.weight")[rows, 0]}
    for name, value in state.items():
        head, _, rest = name.partition(".")
        ours[f"{NAMES[head]}.{rest}"] = value
    model.load_state_dict({**ours, "elements": model.elements})
    return model.eval()


def read(path: Path) -> list[Atoms]:
    """Molecules of one of the authors' text files."""
    found = []
    for block in path.read_text().strip().split("\n\n"):
        name, *rows, energy = block.split("\n")
        symbols, places = zip(*((row.split()[0], [float(x) for x in row.split()[1:]]) for row in rows), strict=True)
        found.append(Atoms(symbols, positions=places, info={"id": name, "energy": float(energy)}))
    return found


def equality(folder: Path, molecules: list[Atoms]) -> dict[str, float]:
    """Our predictions with the published weights against the published predictions, over the authors' test split."""
    model = published(folder)
    with torch.no_grad():
        ours = [
            model(Batch.collate([Batch.from_atoms(a, model.cutoff) for a in molecules[k : k + 16]]))["energy"].numpy()
            for k in range(0, len(molecules), 16)
        ]
    energy = np.concatenate(ours).astype(float)
    (file,) = (p for p in (folder / "output").iterdir() if p.name.startswith(f"prediction--{SET}"))
    rows = [line.split("\t") for line in file.read_text().strip().split("\n")[1:]]
    told = {row[0]: float(row[2]) for row in rows}
    theirs = np.array([told[a.info["id"]] for a in molecules])
    true = np.array([a.info["energy"] for a in molecules])
    return {
        "molecules": len(molecules),
        "largest_difference_eV": float(np.abs(energy - theirs).max()),
        "mae_kcal_per_mol": float(np.abs(energy - true).mean() * KCAL),
        "mae_of_their_predictions_kcal_per_mol": float(np.abs(theirs - true).mean() * KCAL),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def side_by_side(folder: Path, theirs: Theirs, molecules: int = 12) -> dict[str, float]:
    """Largest differences between their code and ours, with the published weights, on some molecules of the set."""
    ours = published(folder)
    theirs.model.load_state_dict(
        torch.load(next((folder / "pretrained_model").iterdir()), map_location="cpu", weights_only=True)
    )
    difference: dict[str, float] = {}
    files = iter(theirs.code.mydataloader(theirs.batches.dataset, 1, 0))
    for data in itertools.islice(files, molecules):
        batch = Batch.from_atoms(theirs.molecules[int(data[0][0][1:])], ours.cutoff)
        with torch.no_grad():
            rho = theirs.model.LCAO(data[1:6]).square().sum(1)
            pairs = {
                "energy_eV": (ours(batch)["energy"], theirs.model(data)[2]),
                "density_per_point": (ours.density(batch)[0], rho),
                "target_potential": (ours.potential(batch), torch.tensor(data[7][0])),
                "predicted_potential": (ours.predicted_potential(batch), theirs.model.HKmap(rho[:, None], 3)),
            }
        for name, (a, b) in pairs.items():
            difference[name] = max(difference.get(name, 0.0), float((a.flatten() - b.flatten()).abs().max()))
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="checkout of the authors' code")
    parser.add_argument("--molecules", type=int, default=800, help="how many to train on per round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*pin_memory.*")
    molecules = sources.structures("qm9-test")
    drawn = np.random.default_rng(0).permutation(len(molecules))[: options.molecules]
    chosen = [molecules[k] for k in drawn]
    with tempfile.TemporaryDirectory() as place:
        sides: dict[str, Ours | Theirs] = {"ours": Ours(chosen)}
        if options.peer:
            sides["theirs"] = Theirs(options.peer, chosen, Path(place))
        rows: dict[str, dict[str, list[float]]] = {name: {"train": [], "predict": []} for name in sides}
        for turn in range(options.rounds + 1):
            for name, side in sides.items():
                for work in ("train", "predict"):
                    spent = milliseconds(getattr(side, work), len(chosen))
                    if turn:  # the first round allocates
                        rows[name][work].append(round(spent, 2))
                        print(name, work, rows[name][work][-1], flush=True)
        content: dict[str, Any] = {
            "what": f"CPU-ms per molecule; {len(chosen)} molecules of qm9-test, batches of 4, one thread, sides in turns",
            "seed": 0,
            "cpu_ms_per_molecule": {name: {k: min(v) for k, v in row.items()} for name, row in rows.items()},
            "all_rounds": rows,
        }
        theirs = sides.get("theirs")
        if isinstance(theirs, Theirs):
            ours = content["cpu_ms_per_molecule"]["ours"]
            content["times_faster"] = {
                k: round(v / ours[k], 2) for k, v in content["cpu_ms_per_molecule"]["theirs"].items()
            }
            content["their_preprocessing_cpu_ms_per_molecule"] = round(theirs.preprocessing, 2)
            content["largest_difference_to_their_code"] = side_by_side(options.peer, theirs)
            content["published_predictions"] = equality(options.peer, read(options.peer / "dataset" / SET / "test.txt"))
    record.write(
        "fields_qdf2020", content, "python benchmarks/fields_qdf2020.py" + " --peer FOLDER" * bool(options.peer)
    )
    print({k: v for k, v in content.items() if k != "all_rounds"})


if __name__ == "__main__":
    main()
