"""Predictions, scores, intervals and their table."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from vibronic.core.errors import VibronicError
from vibronic.core.targets import TARGETS
from vibronic.data.dataset import GraphData
from vibronic.learning import store
from vibronic.learning.prediction import (
    intervals,
    on_device,
    predict,
    predictions_of,
    read_predictions,
    score,
    torch_device,
    write_predictions,
)

GAP, ENERGY = TARGETS["band_gap"], TARGETS["energy"]


def with_gaps(values) -> list[Atoms]:
    return [
        Atoms("H2", positions=[(0, 0, 0), (0, 0, 1)], info={"band_gap": float(v), "energy": 2 * float(v)})
        for v in values
    ]


def test_scores_by_hand() -> None:
    frames = with_gaps([1, 2, 3])
    scores, units = score([GAP, ENERGY], {"band_gap": [1, 2, 4], "energy": [3, 4, 6]}, frames)
    assert scores["n"] == 3
    assert scores["mae_band_gap"] == pytest.approx(1 / 3)
    assert scores["rmse_band_gap"] == pytest.approx(np.sqrt(1 / 3))
    assert scores["r2_band_gap"] == pytest.approx(1 - 1 / 2)
    assert scores["mae_energy"] == pytest.approx(1 / 6)  # per atom
    assert units["mae_energy"] == "eV/atom"
    assert units["mae_band_gap"] == "eV"


def test_no_spread_no_r2() -> None:
    scores, _ = score([GAP], {"band_gap": [1, 1]}, with_gaps([1, 1]))
    assert np.isnan(scores["r2_band_gap"])


def test_conformal_intervals_cover() -> None:
    """90 % of new points, whatever the distribution of the errors (here a skew one)."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        error = rng.exponential(1, 60)
        frames = with_gaps(np.zeros(60))
        half = intervals([GAP], {"band_gap": error[:40]}, frames[:40])["band_gap"]
        covered.append(np.mean(np.abs(error[40:]) <= half))
    assert np.mean(covered) + 0.01 >= 0.9
    assert np.mean(covered) < 0.95


def test_intervals_by_hand_and_too_few() -> None:
    frames = with_gaps(np.zeros(19))
    assert (
        intervals([GAP], {"band_gap": np.arange(19.0)}, frames)["band_gap"] == 17
    )  # the ceil(20 * 0.9) = 18th smallest
    assert intervals([GAP], {"band_gap": np.arange(8.0)}, frames[:8]) == {}  # ceil(9 * 0.9) = 9 > 8


def test_the_table(tmp_path: Path) -> None:
    frames = with_gaps([1, 2])
    stress = np.arange(9.0).reshape(3, 3)
    predicted = {
        "band_gap": [np.array(1.5), np.array(2.5)],
        "energy": [np.array(4.0), np.array(5.0)],
        "stress": [stress] * 2,
    }
    targets = [ENERGY, GAP, TARGETS["stress"], TARGETS["forces"]]
    write_predictions(tmp_path / "p.csv", targets, predicted, frames, {"energy": 0.1})
    rows = read_predictions(tmp_path / "p.csv")
    assert list(rows[0]) == [
        *("structure", "formula", "n_atoms"),
        *("energy [eV]", "energy_low [eV]", "energy_high [eV]"),
        *("band_gap [eV]", "band_gap_low [eV]", "band_gap_high [eV]"),
        *(f"stress_{c} [eV/Angstrom^3]" for c in ("xx", "yy", "zz", "yz", "xz", "xy")),
    ]
    assert rows[1]["structure"] == "1"
    assert rows[0]["formula"] == "H2"
    assert float(rows[0]["energy_high [eV]"]) == pytest.approx(4.2)  # intervals of extensive targets are per atom
    assert rows[0]["band_gap_low [eV]"] == ""  # not calibrated
    assert [float(rows[0][f"stress_{c} [eV/Angstrom^3]"]) for c in ("zz", "yz")] == [8, 5]


def test_the_table_says_what_energies_are_relative_to(tmp_path: Path) -> None:
    frames, zero = with_gaps([1, 2]), "free atoms, at 0 K"
    write_predictions(tmp_path / "p.csv", [ENERGY], {"energy": [4.0, 5.0]}, frames, {}, {"energy": zero})
    (names, *rows) = csv.reader((tmp_path / "p.csv").read_text().splitlines())
    assert names[3:] == ["energy [eV]", "energy_low [eV]", "energy_high [eV]", "energy_reference"]
    assert [row[-1] for row in rows] == [zero, zero]
    targets, values = predictions_of(tmp_path / "p.csv", frames)
    assert [t.name for t in targets] == ["energy"]
    assert values["energy"].tolist() == [4, 5]


def test_the_table_keeps_the_meV_of_an_energy_of_all_electrons(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", [ENERGY], {"energy": [np.array(-140_000.0012)]}, with_gaps([1]), {})
    assert float(read_predictions(tmp_path / "p.csv")[0]["energy [eV]"]) == -140_000.0012


def test_a_device_without_double_precision(labelled_copper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's GPU, played by the CPU: nothing of the model or of what it predicts is double."""
    monkeypatch.setattr("vibronic.learning.prediction.widest", lambda _: torch.float32)
    model = store.build("painn", width=8, layers=1, cutoff=4.0)
    data = GraphData(labelled_copper, model.targets, 4.0)
    model.prepare(data.batch())
    model = on_device(model, "cpu")
    assert not any(b.dtype == torch.float64 for b in model.buffers())
    assert not any(v.dtype == torch.float64 for v in model(data[0]).values())


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n", b"\xff\xfe\x00\x00", "structure\n"])
def test_not_a_table(tmp_path: Path, content: str | bytes | None) -> None:
    if content is not None:
        (tmp_path / "p.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(VibronicError):
        read_predictions(tmp_path / "p.csv")


def test_predictions_do_not_depend_on_the_batch_size(labelled_copper) -> None:
    model = store.build("painn", width=8, layers=1, cutoff=4.0)
    model.prepare(GraphData(labelled_copper, model.targets, 4.0).batch())
    frames = [*labelled_copper[:3], bulk("Cu") * (1, 1, 3)]
    one, many = (predict(model, frames, n, "cpu") for n in (1, 4))
    assert [len(f) for f in one["forces"]] == [4, 4, 4, 3]
    for name in one:
        for a, b in zip(one[name], many[name], strict=True):
            assert np.allclose(a, b, atol=1e-5)


def test_refusals(labelled_copper) -> None:
    model = store.build("painn", targets=["energy"], width=8, layers=1, cutoff=4.0)
    model.prepare(GraphData(labelled_copper, model.targets, 4.0).batch())
    with pytest.raises(VibronicError, match="never seen Na, Cl"):
        predict(model, [bulk("NaCl", "rocksalt", a=5.64)])
    with pytest.raises(VibronicError, match="batch size"):
        predict(model, labelled_copper, batch_size=0)
    with pytest.raises(VibronicError, match="no device 'abacus'"):
        predict(model, labelled_copper, device="abacus")


def test_devices() -> None:
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_table_is_plain_csv(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", [GAP], {"band_gap": [np.array(1 / 3)]}, with_gaps([1]), {})
    assert list(csv.reader((tmp_path / "p.csv").read_text().splitlines()))[1] == ["0", "H2", "2", "0.33333333", "", ""]
