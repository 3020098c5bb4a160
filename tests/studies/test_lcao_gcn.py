"""The study lcao-gcn on a handful of G2 molecules: its identity, its networks, its files, and what it refuses."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT

from vibronic import verbs
from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.folder import belongs
from vibronic.studies import lcao_gcn, lcao_gcn_report
from vibronic.studies.lcao_gcn_model import BOND, VARIANTS, OrbitalNetwork, graph_convolution, lcao_at_nuclei

NAMES = ["CH4", "C2H6", "C2H4", "C2H2", "H2O", "H2O2", "NH3", "N2H4", "HCN", "CH3OH", "CH3CHO", "HCOOH"]


def labelled(names: list[str]) -> list[Atoms]:
    found = []
    for k, name in enumerate(names):
        atoms = molecule(name)
        atoms.calc = EMT()
        energy = atoms.get_potential_energy()
        atoms.calc = None
        atoms.info = {"energy": energy, "qm9_index": k}
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def plan() -> lcao_gcn.Plan:
    return lcao_gcn.Plan(size=8, test=4, steps=4, seeds=(0, 1), batch_size=4, width=8, layers=2)


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    pytest.importorskip("basis_set_exchange", reason="basis-set-exchange is not installed")
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lcao_gcn, "structures", lambda name: labelled(NAMES))
        results = lcao_gcn.run(plan, out, workers=1, say=lambda _: None)
    lcao_gcn_report.write(out)
    return out, results


def test_a_graph_convolution_is_an_lcao_at_the_nuclei() -> None:
    same = lcao_gcn.equality(labelled(NAMES))
    assert same["largest_difference"] < 1e-14
    assert same["largest_value"] > 0.1


def test_and_only_with_that_poor_basis() -> None:
    """Moving an atom within its bonds changes nothing; tearing it off does."""
    features = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.eye(5, dtype=torch.float64)
    water = molecule("H2O")

    def both(x: float) -> list[torch.Tensor]:
        atoms = water.copy()
        atoms.positions[1] += x * (atoms.positions[1] - atoms.positions[0])
        batch = Batch.from_atoms(atoms, BOND, dtype=torch.float64)
        return [graph_convolution(features, weight, batch), lcao_at_nuclei(features, batch.positions)]

    assert all(torch.allclose(a, b) for a, b in zip(both(0), both(0.02), strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(both(0), both(2), strict=True))
    assert torch.allclose(*both(2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_place_and_company_do_not_matter(variant: str) -> None:
    if VARIANTS[variant].basis:
        pytest.importorskip("basis_set_exchange", reason="basis-set-exchange is not installed")
    torch.manual_seed(0)
    model = OrbitalNetwork(variant, 8, 2).double().eval()
    batches = [Batch.from_atoms(a, BOND, {"energy": a.info["energy"]}, torch.float64) for a in labelled(NAMES)]
    model.prepare(Batch.collate(batches))

    def energies(molecules: list[Atoms]) -> np.ndarray:
        with torch.no_grad():
            batch = Batch.collate([Batch.from_atoms(a, BOND, dtype=torch.float64) for a in molecules])
            return model(batch)["energy"].numpy()

    molecules = labelled(NAMES)
    together = energies(molecules)
    assert np.std(together) > 0
    changed = []
    for k, atoms in enumerate(molecules):
        other = atoms[np.random.default_rng(k).permutation(len(atoms))]
        other.translate((1.0, -2.0, 0.3))
        changed.append(float(energies([other])[0]))
    assert changed == pytest.approx(together, rel=1e-9)


def test_functions_per_atom() -> None:
    def functions(variant: str, z: int) -> int:
        return int(OrbitalNetwork(variant, 4, 1).count[z])

    assert [functions(v, 1) for v in ("gcn", "qdf-1", "qdf-3", "qdf-6-31G-count", "lcao-at-nuclei")] == [1, 1, 3, 4, 4]
    assert [functions(v, 6) for v in ("gcn", "qdf-1", "qdf-3", "qdf-6-31G-count", "lcao-at-nuclei")] == [
        1,
        1,
        3,
        14,
        14,
    ]
    pytest.importorskip("basis_set_exchange", reason="basis-set-exchange is not installed")
    assert [functions("qdf-real-6-31G", z) for z in (1, 6)] == [2, 9]


def test_every_network_and_seed_is_scored(plan, finished) -> None:
    out, results = finished
    expected = [(v, s) for v in (lcao_gcn.COMPOSITION, *VARIANTS) for s in plan.seeds]
    assert [(r["network"], r["seed"]) for r in results["rows"]] == expected
    assert all(np.isfinite(r[part]) and r[part] > 0 for r in results["rows"] for part in lcao_gcn.PARTS)
    with (out / "table.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + len(expected)
    metrics = json.loads((out / "metrics.json").read_text())
    means = {r["network"]: r for r in lcao_gcn.summary(results["rows"])}
    assert metrics["interpolation_gcn"] == means["gcn"]["interpolation"]
    assert metrics.keys() - {"units"} == metrics["units"].keys()
    page = (out / "report.html").read_text()
    assert "graph convolution" in page
    assert f"{means['gcn']['interpolation']:.2f}" in page


def test_it_goes_on_where_it_stopped(plan, finished, monkeypatch: pytest.MonkeyPatch) -> None:
    out, results = finished
    monkeypatch.setattr(lcao_gcn, "structures", lambda name: labelled(NAMES))
    kept, lost = out / "runs" / "qdf-1-0.json", out / "runs" / "gcn-1.json"
    written = kept.stat().st_mtime_ns
    lost.unlink()
    again = lcao_gcn.run(plan, out, workers=1, say=lambda _: None)
    assert kept.stat().st_mtime_ns == written
    for a, b in zip(results["rows"], again["rows"], strict=True):
        assert [a[part] for part in lcao_gcn.PARTS] == pytest.approx([b[part] for part in lcao_gcn.PARTS])


def test_another_plan_is_refused(finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lcao_gcn, "structures", lambda name: labelled(NAMES))
    with pytest.raises(VibronicError, match="another plan"):
        lcao_gcn.run(lcao_gcn.Plan(size=8, batch_size=4, test=4, steps=5), finished[0], say=lambda _: None)
    with pytest.raises(VibronicError, match="fewer than 99"):
        lcao_gcn.run(lcao_gcn.Plan(size=99), finished[0], say=lambda _: None)


def test_the_verb_writes_the_page_again(finished) -> None:
    out, _ = finished
    (out / "report.html").unlink()
    assert verbs.report(out) == out / "report.html"
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gap": False}, "has no --gap"),
        ({"crystals": ["NaCl"]}, "has no --crystals"),
        ({"sizes": [100, 200]}, "one training set size"),
        ({"sizes": [3]}, "at least 16"),
        ({"seeds": 0}, "at least one seed"),
        ({"steps": 0}, "one step"),
    ],
)
def test_options_it_would_ignore_or_cannot_meet(options: dict, reason: str, tmp_path: Path) -> None:
    with pytest.raises(VibronicError, match=reason):
        verbs.study("lcao-gcn", out=tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    assert not belongs(tmp_path, "lcao-gcn")
    with pytest.raises(VibronicError, match="no finished study"):
        lcao_gcn_report.write(tmp_path)
