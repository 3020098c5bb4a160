"""Batches: geometry, labels, collation."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from vibronic.core.batch import Batch


def test_edges_have_the_lengths_that_ase_measures(anti_perovskite: Atoms) -> None:
    batch = Batch.from_atoms(anti_perovskite, 3.0, dtype=torch.float64)
    i, j = batch.edge_index
    near = anti_perovskite.get_distances(0, range(5), mic=True)[1] if False else anti_perovskite.get_all_distances(mic=True)
    assert np.allclose(batch.edge_vectors().norm(dim=-1), near[i, j])
    assert len(i) == 6 * 2 + 3 * 4 * 2  # S has 6 Ag at a/2; Ag-Ag is a/sqrt(2) = 3.49, so Ag-Br = 3.49 is out too
