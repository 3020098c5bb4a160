"""Intervals: their coverage is what they say, whatever the spread, and they follow it where it means something."""

import csv

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from vibronic.cli import main
from vibronic.core.errors import VibronicError
from vibronic.core.targets import target
from vibronic.data.dataset import GraphData
from vibronic.labelling.label import label
from vibronic.learning import store
from vibronic.learning.prediction import floors, half_widths, intervals, predict, spreads


def coppers(n: int, size: float, seed: int) -> list:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, size, atoms.positions.shape)
        atoms.calc = EMT()
        atoms.info["energy"] = atoms.get_potential_energy()
        atoms.calc = None
        found.append(atoms)
    return found


def test_scaled_intervals_cover_what_they_say_and_follow_the_noise() -> None:
    """Errors whose size is known: the constant interval covers as much on average, but the quiet half too often and the loud
    one too rarely."""
    rng = np.random.default_rng(0)
    atoms = bulk("Cu")
    targets = [target("hardness", "GPa")]
    covered, quiet, loud = [], [], []
    for _ in range(40):
        sizes = rng.choice([0.1, 1.0], 600)
        errors = rng.normal(size=600) * sizes
        frames = []
        for _e in errors:
            copy = atoms.copy()
            copy.info["hardness"] = 0.0
            frames.append(copy)
        spread = {"hardness": sizes}
        cut = 200
        q = intervals(targets, {"hardness": errors[:cut]}, frames[:cut], {"hardness": sizes[:cut]}, {"hardness": 1e-9})
        half = half_widths(q, {"hardness": 1e-9}, {"hardness": sizes[cut:]})["hardness"]
        inside = np.abs(errors[cut:]) <= half
        covered.append(inside.mean())
        quiet.append(inside[sizes[cut:] < 0.5].mean())
        loud.append(inside[sizes[cut:] > 0.5].mean())
        assert spread
    for share in (covered, quiet, loud):
        assert abs(np.mean(share) - 0.9) < 0.02


def test_in_distribution_and_out_of_it() -> None:
    """Nine in ten within the interval on structures like those of the calibration. On hotter ones an interval of constant width
    fails; one that follows what the model foresees does not."""
    train, calibration, test = coppers(60, 0.05, 0), coppers(300, 0.05, 1), coppers(400, 0.05, 2)
    hot = coppers(200, 0.15, 3)
    model = store.build("ridge", targets=["energy"])
    model.prepare(GraphData(train, model.targets, model.cutoff).batch().to(dtype=torch.float64))
    known = spreads(model, calibration)
    bottom = floors(model, known)
    q = intervals(model.targets, predict(model, calibration), calibration, known, bottom)

    constant = intervals(model.targets, predict(model, calibration), calibration)

    def share(frames: list, scaled: bool = True) -> float:
        half = half_widths(q, bottom, spreads(model, frames))["energy"] if scaled else constant["energy"]
        errors = np.array(predict(model, frames)["energy"]) - [a.info["energy"] for a in frames]
        return float((np.abs(errors) / 4 <= half).mean())

    assert abs(share(test) - 0.9) < 0.05
    assert abs(share(test, scaled=False) - 0.9) < 0.05
    assert share(hot, scaled=False) < 0.5
    assert share(hot) > 0.8
    assert (np.array(predict(model, hot)["novelty"]) > 1).mean() > 0.9
    assert (np.array(predict(model, test)["novelty"]) > 1).mean() < 0.1


def test_an_ensemble_from_the_command_line(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    frames = coppers(40, 0.06, 0)
    labelled = label([a.copy() for a in frames], "emt", tmp_path / "l.sqlite", "in-process", progress=False).labelled
    write(tmp_path / "set.extxyz", labelled)
    flags = ["--members", "3", "--model.width", "8", "--model.layers", "1", "--training.epochs", "3"]
    flags += ["--fractions", "0.6", "0.3", "0.1", "--out", str(tmp_path / "model")]
    assert main(["train", "painn", str(tmp_path / "set.extxyz"), *flags]) == 0
    assert (
        main(["predict", str(tmp_path / "model"), str(tmp_path / "set.extxyz"), "--out", str(tmp_path / "p.csv")]) == 0
    )
    model, card = store.load(tmp_path / "model")
    assert model.kind == "ensemble"
    assert set(card.floors) == {"energy"}
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = 8 * half_widths(card.intervals, card.floors, spreads(model, labelled))["energy"]
    like = np.array([float(r["novelty"]) <= 1 for r in rows])
    widths = [
        float(r["energy_high [eV]"]) - float(r["energy_low [eV]"]) for r, near in zip(rows, like, strict=True) if near
    ]
    assert np.allclose(widths, expected[like], rtol=1e-3)
    assert np.ptp(widths) > 0
    assert all(
        r["energy_low [eV]"] == r["energy_high [eV]"] == "" for r, near in zip(rows, like, strict=True) if not near
    )
    capsys.readouterr()
    assert main(["models", str(tmp_path / "model")]) == 0
    assert "foreseendeviations" in "".join(capsys.readouterr().out.split())


def test_the_intervals_of_a_ridge_hold_and_are_not_given_far_away(tmp_path, capsys) -> None:
    """From the command line: nine in ten within the interval; of hotter structures there is none, and it is said."""
    for name, frames in {
        "set": coppers(200, 0.05, 0),
        "new": coppers(300, 0.05, 1),
        "hot": coppers(40, 0.3, 2),
    }.items():
        write(tmp_path / f"{name}.extxyz", frames)
    flags = ["--targets", "energy", "--fractions", "0.5", "0.5", "0", "--out", str(tmp_path / "model")]
    assert main(["train", "ridge", str(tmp_path / "set.extxyz"), *flags]) == 0
    rows = {}
    for name in ("new", "hot"):
        command = ["predict", str(tmp_path / "model"), str(tmp_path / f"{name}.extxyz")]
        assert main([*command, "--out", str(tmp_path / f"{name}.csv")]) == 0
        with (tmp_path / f"{name}.csv").open() as file:
            rows[name] = list(csv.DictReader(file))
    labels = [a.info["energy"] for a in coppers(300, 0.05, 1)]
    near = [(r, y) for r, y in zip(rows["new"], labels, strict=True) if float(r["novelty"]) <= 1]
    assert len(near) > 250
    held = [float(r["energy_low [eV]"]) <= y <= float(r["energy_high [eV]"]) for r, y in near]
    assert abs(np.mean(held) - 0.9) < 0.06
    assert all(float(r["novelty"]) > 1 and not r["energy_low [eV]"] for r in rows["hot"])
    assert "40 of 40 unlike those of the training set" in capsys.readouterr().out
    flags = ["--targets", "energy", "--fractions", "1", "0", "0", "--out", str(tmp_path / "all")]
    assert main(["train", "ridge", str(tmp_path / "set.extxyz"), *flags]) == 0
    assert main(["predict", str(tmp_path / "all"), str(tmp_path / "new.extxyz"), "--out", str(tmp_path / "n.csv")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "predictions will have no 90 % intervals" in out
    assert "no intervals: none were calibrated" in out


def test_the_members_differ_and_the_mean_is_theirs() -> None:
    frames = coppers(6, 0.1, 0)
    torch.manual_seed(0)
    model = store.build("ensemble", targets=["energy", "forces"], members=3, settings={"width": 8, "layers": 1})
    for a in frames:
        a.calc = EMT()
    batch = GraphData(
        label(frames, "emt", ":memory:", "in-process", progress=False).labelled, model.targets, model.cutoff
    ).batch()
    model.prepare(batch)
    each = torch.stack([member(batch)["energy"] for member in model.members])
    assert torch.allclose(model(batch)["energy"], each.mean(0))
    assert torch.allclose(model.posterior(batch)[1]["energy"].norm(dim=1), each.std(0), rtol=1e-4)
    assert (each.std(0) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": 1}, "at least 2 members"),
        ({"member": "ridge", "targets": ["energy"]}, "fitted in closed form, so all members would be equal"),
        ({"member": "ensemble"}, "not ensembles"),
        ({"member": "crystal-diffusion", "targets": ["band_gap"]}, "networks for properties"),
    ],
)
def test_ensembles_that_make_no_sense(settings, message) -> None:
    with pytest.raises(VibronicError, match=message):
        store.build("ensemble", **settings)
