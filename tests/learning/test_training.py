"""Training: it learns, logs, stops, and goes on after a kill as if nothing had happened."""

import csv
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors.torch import load_file
from torch.multiprocessing import ProcessRaisedException

from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.data.dataset import GraphData, write_structures
from vibronic.learning import store
from vibronic.learning.calculator import ModelCalculator
from vibronic.learning.recipe import Training
from vibronic.learning.training import _as_told_by_a_process, fit

KINDS = {
    "painn": {"targets": ["energy", "forces", "stress"], "width": 8, "layers": 1, "basis": 4, "cutoff": 3.5},
    "cgcnn": {"targets": ["band_gap"], "width": 8, "layers": 2, "dropout": 0.4, "cutoff": 3.5},
}


class Killed(BaseException):
    """What no handler of errors catches."""


def fresh(kind: str) -> Model:
    torch.manual_seed(3)
    return store.build(kind, **KINDS[kind])


def train(
    kind: str, frames: list[Atoms], out: Path, how: Training, validated: bool = True, dies_after: int = 0
) -> Model:
    """Train on 16 structures; ``dies_after`` so many steps, in the middle of an epoch."""
    model = fresh(kind)
    data = [GraphData(part, model.targets, model.cutoff) for part in (frames[:16], frames[16:20])]
    if dies_after:
        loss, calls = model.loss, iter(range(10**6))

        def dying(batch):
            if model.training and next(calls) >= dies_after:
                raise Killed
            return loss(batch)

        model.loss = dying  # type: ignore[method-assign]
    fit(model, data[0], data[1] if validated else None, out, how, seed=5, device="cpu", progress=False, say=print)
    return model


def same(a: Model, b: Model) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("validated", [True, False], ids=["validated", "unvalidated"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_is_bit_for_bit_the_same(kind, validated, labelled_copper, tmp_path: Path, capsys) -> None:
    """6 epochs of 4 steps, straight and killed in the middle of the fourth."""
    how = Training(epochs=6, batch_size=4, learning_rate=1e-2, ema=0.9)
    straight = train(kind, labelled_copper, tmp_path / "straight", how, validated)
    with pytest.raises(Killed):
        train(kind, labelled_copper, tmp_path / "killed", how, validated, dies_after=14)
    assert not capsys.readouterr().out
    resumed = train(kind, labelled_copper, tmp_path / "killed", how, validated)
    assert capsys.readouterr().out == "going on after epoch 3 of 6\n"
    assert same(straight, resumed)
    assert not same(straight, fresh(kind))
    again = train(kind, labelled_copper, tmp_path / "killed", how, validated)  # nothing is left to do
    assert same(again, resumed)


def test_it_learns(labelled_copper, tmp_path: Path) -> None:
    settings = {"width": 16, "layers": 2, "basis": 6, "cutoff": 4.0}
    model = store.build("painn", targets=["energy", "forces"], pair=False, **settings)  # or little is left to learn
    data = GraphData(labelled_copper, model.targets, model.cutoff)
    model.prepare(data.batch())
    with torch.no_grad():
        before = model.loss(data.batch())
    fit(model, data, None, tmp_path, Training(epochs=30, learning_rate=1e-2), device="cpu", progress=False)
    with torch.no_grad():
        after = model.loss(data.batch())
    assert after["mae_forces"] < 0.5 * before["mae_forces"]


def test_energies_of_all_electrons_train_like_any(labelled_copper, tmp_path: Path) -> None:
    """With 1e5 eV more per atom every step is the same but for the last digits; the folder predicts to the meV."""
    predicted = []
    for offset in (0.0, 1e5):
        frames = [atoms.copy() for atoms in labelled_copper]
        for a, b in zip(frames, labelled_copper, strict=True):
            results = {**b.calc.results, "energy": b.calc.results["energy"] + offset * len(a)}
            a.calc = SinglePointCalculator(a, **results)
        out = tmp_path / str(offset)
        store.save(train("painn", frames, out, Training(epochs=3, batch_size=4)), out, store.Card())
        frames[0].calc = ModelCalculator(out)
        predicted.append(frames[0].get_potential_energy() - offset * len(frames[0]))
    assert predicted[1] == pytest.approx(predicted[0], abs=1e-4)


def test_a_device_without_double_precision(labelled_copper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's GPU, played by the CPU: the model brings no double to it."""
    monkeypatch.setattr("vibronic.learning.training.widest", lambda _: torch.float32)
    model = train("painn", labelled_copper, tmp_path, Training(epochs=2, batch_size=4))
    assert not any(v.dtype == torch.float64 for v in model.state_dict().values())


def test_seeds(labelled_copper, tmp_path: Path) -> None:
    how = Training(epochs=1, batch_size=4)
    a, b = (train("cgcnn", labelled_copper, tmp_path / name, how) for name in "ab")
    assert same(a, b)


def test_logs_and_checkpoints(labelled_copper, tmp_path: Path) -> None:
    how = Training(epochs=3, batch_size=4)
    train("cgcnn", labelled_copper, tmp_path, how)
    with (tmp_path / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["val_loss"]) > 0 for r in rows if r["val_loss"]] == [True] * 3
    assert {r["epoch"] for r in rows} == {"0", "1", "2"}
    assert "train_mae_band_gap" in rows[0]
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    # a checkpoint is plain tensors: it opens without running code
    torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_resumed_training_keeps_its_earlier_figures(labelled_copper, tmp_path: Path) -> None:
    how = Training(epochs=3, batch_size=4)
    with pytest.raises(Killed):
        train("cgcnn", labelled_copper, tmp_path, how, dies_after=6)
    before = (tmp_path / "logs" / "version_0" / "metrics.csv").read_text()
    train("cgcnn", labelled_copper, tmp_path, how)
    assert (tmp_path / "logs" / "version_0" / "metrics.csv").read_text() == before


def test_ctrl_c_reaches_the_caller(labelled_copper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Killed", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train("cgcnn", labelled_copper, tmp_path, Training(epochs=3, batch_size=4), dies_after=6)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_killed_while_a_checkpoint_is_written(labelled_copper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing partial ever has the name of a checkpoint, wherever the kill comes."""
    how = Training(epochs=3, batch_size=4)
    straight = train("cgcnn", labelled_copper, tmp_path / "straight", how)
    save, write = torch.save, Path.write_bytes

    def saved(content, file) -> None:
        save(content, file)
        if content["epoch"] == 1:
            monkeypatch.setattr(Path, "write_bytes", half_written)

    def half_written(path: Path, content) -> None:
        write(path, content[:1000])
        raise Killed

    def half_moved(source, destination) -> None:  # as to another file system
        half_written(Path(destination), Path(source).read_bytes())

    monkeypatch.setattr(torch, "save", saved)
    monkeypatch.setattr(shutil, "move", half_moved)
    with pytest.raises(Killed):
        train("cgcnn", labelled_copper, tmp_path / "killed", how)
    assert torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0
    monkeypatch.undo()
    (tmp_path / "killed" / "checkpoints" / ".last-left.ckpt").write_bytes(b"PK")  # by a kill -9
    assert same(train("cgcnn", labelled_copper, tmp_path / "killed", how), straight)
    assert {p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_early_stop(labelled_copper, tmp_path: Path) -> None:
    how = Training(epochs=50, batch_size=4, learning_rate=1e-30, ema=0.0, patience=2)
    train("painn", labelled_copper, tmp_path, how)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["epoch"] < 10


def test_the_averaged_weights_are_kept(labelled_copper, tmp_path: Path) -> None:
    """After two steps: d w1 + (1 - d) w2, where the first decay is (1 + 1) / (10 + 1) and no larger than asked for."""

    def weights(epochs: int, ema: float) -> torch.Tensor:
        how = Training(epochs, batch_size=16, learning_rate=1e-2, ema=ema, schedule="constant")
        model = train("painn", labelled_copper, tmp_path / f"{epochs}-{ema}", how, validated=False)
        return model.state_dict()["messages.0.scalar.0.weight"]

    one, two = weights(1, 0.0), weights(2, 0.0)
    assert not torch.allclose(one, two, atol=1e-3)
    for asked, used in ((0.1, 0.1), (0.99, 2 / 11)):
        assert torch.allclose(weights(2, asked), used * one + (1 - used) * two, atol=1e-6)


def test_batch_norms_are_averaged_with_the_weights(labelled_copper, tmp_path: Path) -> None:
    def statistics(epochs: int, ema: float) -> dict[str, torch.Tensor]:
        how = Training(epochs, batch_size=16, learning_rate=1e-2, ema=ema, schedule="constant")
        return train("cgcnn", labelled_copper, tmp_path / f"{epochs}-{ema}", how, validated=False).state_dict()

    one, two, average = statistics(1, 0.0), statistics(2, 0.0), statistics(2, 0.1)
    name = "norms.1.running_mean"
    assert not torch.allclose(one[name], two[name], atol=1e-4)
    assert torch.allclose(average[name], 0.1 * one[name] + 0.9 * two[name], atol=1e-6)
    for name, value in average.items():  # what is constant stays what it is, and a count stays a count
        if torch.equal(one[name], two[name]) or not value.is_floating_point():
            assert torch.equal(value, two[name]), name


def test_another_training_in_the_folder_is_refused(labelled_copper, tmp_path: Path) -> None:
    how = Training(epochs=1, batch_size=4)
    train("cgcnn", labelled_copper, tmp_path, how)
    for frames, other in ((labelled_copper, Training(epochs=2, batch_size=4)), (labelled_copper[1:], how)):
        with pytest.raises(VibronicError, match="other settings or data"):
            train("cgcnn", frames, tmp_path, other)


def test_another_validation_set_is_another_training(labelled_copper, tmp_path: Path) -> None:
    how = Training(epochs=1, batch_size=4)
    train("cgcnn", labelled_copper, tmp_path, how)
    with pytest.raises(VibronicError, match="other settings or data"):
        train("cgcnn", [*labelled_copper[:16], *labelled_copper[17:]], tmp_path, how)


def test_a_full_disk_in_the_thread_of_tensorboard(
    labelled_copper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(OSError, match="No space left"):
        train("cgcnn", labelled_copper, tmp_path, Training(epochs=3, batch_size=4))
    assert "Traceback" not in capsys.readouterr().err


def test_a_damaged_checkpoint(labelled_copper, tmp_path: Path) -> None:
    how = Training(epochs=1, batch_size=4)
    train("cgcnn", labelled_copper, tmp_path, how)
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(VibronicError, match="damaged"):
        train("cgcnn", labelled_copper, tmp_path, how)


def test_divergence_and_devices(labelled_copper, tmp_path: Path) -> None:
    with pytest.raises(VibronicError, match="diverged"):
        train("painn", labelled_copper, tmp_path / "a", Training(epochs=3, learning_rate=1e30, clip=0))
    model = fresh("cgcnn")
    data = GraphData(labelled_copper, model.targets, model.cutoff)
    for device in ("abacus", "tpu"):
        with pytest.raises(VibronicError, match=f"cannot train on device '{device}'"):
            fit(model, data, None, tmp_path / "b", Training(epochs=1), device=device, progress=False)


def test_what_a_process_of_several_tells() -> None:
    told = "-- Process 0 terminated with the following error:\nTraceback (most recent call last):\n  File x\n    raise {0}\n{0}\n"
    for last in ("vibronic.core.errors.VibronicError: lower it", "OSError: lower it"):
        found = _as_told_by_a_process(ProcessRaisedException(told.format(last), 0, 1))
        assert isinstance(found, VibronicError)
        assert str(found) == "lower it"
    bug = ProcessRaisedException(told.format("KeyError: 3"), 0, 1)
    assert _as_told_by_a_process(bug) is bug


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": -1.0},
        {"ema": 1.0},
        {"clip": -1.0},
        {"learning_rate": float("nan")},
    ],
)
def test_recipes_that_cannot_train(settings: dict) -> None:
    with pytest.raises(VibronicError, match=next(iter(settings))):
        Training(**settings)


# --- through the command line, with real processes ---


def command(data: Path, out: Path, *more: str) -> list[str]:
    text = "-m vibronic train cgcnn {} --targets band_gap --model.width 8 --model.dropout 0.3 --device cpu --seed 2 --out {}"
    return [sys.executable, *text.format(data, out).split(), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(labelled_copper, tmp_path: Path) -> None:
    write_structures(tmp_path / "data.extxyz", labelled_copper)
    more = ["--training.epochs", "40"]
    subprocess.run(
        command(tmp_path / "data.extxyz", tmp_path / "a", *more), check=True, env=environment(), capture_output=True
    )
    process = subprocess.Popen(
        command(tmp_path / "data.extxyz", tmp_path / "b", *more), env=environment(), stdout=subprocess.DEVNULL
    )
    while not (tmp_path / "b" / "checkpoints" / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "b" / "model.safetensors").exists()
    subprocess.run(
        command(tmp_path / "data.extxyz", tmp_path / "b", *more), check=True, env=environment(), capture_output=True
    )
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.slow
def test_two_processes_share_the_work(labelled_copper, tmp_path: Path) -> None:
    """DDP over two processes on the CPU: it ends, sees everything and learns."""
    write_structures(tmp_path / "data.extxyz", labelled_copper)
    text = (
        "-m vibronic train painn data.extxyz --targets energy forces --model.width 8 --model.pair false --devices 2 "
        "--training.epochs 20 --training.batch_size 2 --training.learning_rate 1e-2 --device cpu --out model"
    )
    run = [sys.executable, *text.split()]
    done = subprocess.run(run, env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "model" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 20 * 5  # 19 structures, 2 per step and process
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path / "model" / "model.safetensors").values())
    scores = json.loads((tmp_path / "model" / "config.json").read_text())["scores"]
    assert scores["mae_forces"] < 0.7 * np.mean([np.abs(a.get_forces()) for a in labelled_copper])


def twice_as_long(frames: list[Atoms]) -> list[Atoms]:
    """Every other structure doubled along x: energies that add up, and other numbers of atoms."""
    longer = []
    for k, atoms in enumerate(frames):
        repeated = atoms.repeat((1 + k % 2, 1, 1))
        repeated.calc = SinglePointCalculator(repeated, energy=atoms.get_potential_energy() * (1 + k % 2))
        longer.append(repeated)
    return longer


@pytest.mark.parametrize(
    ("targets", "n", "cells"),
    [(["energy", "forces", "stress"], 17, list), (["energy"], 19, twice_as_long)],
    ids=["equal_cells", "energies_of_unequal_cells"],
)
def test_two_processes_give_the_model_of_one_with_twice_the_batch(
    targets, n, cells, labelled_copper, tmp_path: Path
) -> None:
    """Batches of 3 in two processes, of 6 in one; the last of an epoch is 3 and 2 structures, or 1 that both take."""
    models = []
    for devices in (1, 2):
        torch.manual_seed(3)
        model = store.build("painn", targets=targets, width=8, layers=1, basis=4, cutoff=3.5).double()
        data = GraphData(cells(labelled_copper)[:n], model.targets, model.cutoff)
        how = Training(epochs=3, batch_size=6 // devices, learning_rate=1e-2)
        options = {"device": "cpu", "devices": devices, "progress": False, "logs": False}
        fit(model, data, None, tmp_path / str(devices), how, seed=5, **options)
        models.append(model.state_dict())
    steps = [torch.load(tmp_path / d / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] for d in "12"]
    assert steps == [3 * math.ceil(n / 6)] * 2
    for name, weights in models[0].items():
        torch.testing.assert_close(models[1][name], weights, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.slow
def test_two_processes_diverge_in_one_sentence(labelled_copper, tmp_path: Path) -> None:
    write_structures(tmp_path / "data.extxyz", labelled_copper)
    text = (
        "-m vibronic train painn data.extxyz --targets energy forces --model.width 8 --training.learning_rate 1e30 "
        "--training.clip 0 --training.epochs 3 --device cpu --devices 2 --out model"
    )
    run = [sys.executable, *text.split()]
    done = subprocess.run(run, env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "vibronic: the training diverged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_validation_set_of_other_elements_is_refused_at_once(tmp_path: Path) -> None:
    """Not after hours of training, and not by an index error in the pair potential."""
    frames = []
    for symbol in ("Cu", "Au"):
        atoms = bulk(symbol, cubic=True)
        atoms.rattle(0.1, seed=0)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    model = store.build("painn", targets=["energy", "forces"], width=8, layers=1, cutoff=4.0)
    train, validation = (GraphData([a], model.targets, model.cutoff) for a in frames)
    with pytest.raises(VibronicError, match="never seen Au"):
        fit(model, train, validation, tmp_path, Training(epochs=1), device="cpu", progress=False)
