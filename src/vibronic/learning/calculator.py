"""An ASE calculator around a trained model, so that ASE, phonopy and our own samplers can drive it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from vibronic.core.batch import Batch
from vibronic.core.model import Model
from vibronic.learning.prediction import check, on_device
from vibronic.learning.store import load


class ModelCalculator(Calculator):
    """Energy, forces, stress and every other target of a model (in ``results`` under its name).

    A model that learned energies alone but has derivatives (qdf) gives forces too, with a warning: what was never labelled
    with forces, as the relaxed molecules of QM9, says little about the slopes between them.

    Args:
        model: a model, a model folder, or the name of a shipped model.
        device: torch device.
    """

    implemented_properties: list[str]

    def __init__(self, model: Model | str | Path, device: str = "cpu", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = on_device(model if isinstance(model, Model) else load(model)[0], device)
        self.device = device
        self.implemented_properties = [t.name for t in self.model.targets]
        if "energy" in self.implemented_properties:
            self.implemented_properties += ["free_energy"]
        self.derived = self.model.differentiable and "energy" in self.implemented_properties
        self.derived = self.derived and "forces" not in self.implemented_properties
        if self.derived:
            self.implemented_properties += ["forces"]

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Evaluate the model once; all its targets land in ``results``."""
        super().calculate(atoms, properties, system_changes)
        missing = set(properties or ()) - set(self.implemented_properties)
        if missing:
            raise PropertyNotImplementedError(f"this model does not predict {', '.join(sorted(missing))}")
        check(self.model, self.atoms)
        batch = Batch.from_atoms(self.atoms, self.model.cutoff, dtype=self.model.dtype).to(self.device)
        derived = self.derived and "forces" in (properties or ())
        batch.positions.requires_grad_(derived)
        with torch.set_grad_enabled(derived):
            predicted = self.model(batch)
        if "novelty" not in predicted and (novelty := self.model.novelty(batch)) is not None:
            predicted["novelty"] = novelty.detach()
        if derived:
            warnings.warn(
                f"these forces are derivatives of a {self.model.kind} model that was trained on energies alone; where it saw relaxed "
                "structures only they are wrong by electronvolts per Angstrom: do not relax or run dynamics with them unchecked",
                stacklevel=2,
            )
            (gradient,) = torch.autograd.grad(predicted["energy"].sum(), batch.positions)
            self.results["forces"] = -gradient.cpu().double().numpy()
        if "novelty" in predicted:
            self.results["novelty"] = float(predicted["novelty"])
            if self.results["novelty"] > 1:
                warnings.warn(
                    "this structure is unlike the training set of the model (results['novelty'] above 1): errors may be large",
                    stacklevel=2,
                )
        for t in self.model.targets:
            value = predicted[t.name].detach().cpu().double().numpy()
            value = value if t.level == "atom" else value[0]
            self.results[t.name] = full_3x3_to_voigt_6_stress(value) if t.name == "stress" else value
            if not np.ndim(self.results[t.name]):
                self.results[t.name] = float(value)
        if "energy" in self.results:
            self.results["free_energy"] = self.results["energy"]
