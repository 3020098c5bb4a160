"""Training: the one file that knows Lightning.

``fit`` trains any :class:`Model` with AdamW, warm-up and cosine decay, an exponential moving average of the weights,
checkpoints every epoch, logs as CSV and TensorBoard, and goes on where a killed run stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.utils.data import DataLoader

from vibronic.core.batch import Batch, widest
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.provenance import writable, write_json
from vibronic.data.dataset import GraphData, loader
from vibronic.learning.recipe import Training


class _Fit(pl.LightningModule):
    """A model with its data and optimiser, in the form Lightning wants."""

    def __init__(self, model: Model, train: GraphData, validation: GraphData | None, how: Training, seed: int) -> None:
        super().__init__()
        self.model = model
        self.data, self.validation, self.how, self.seed = train, validation, how, seed

    def train_dataloader(self) -> DataLoader:
        ranks = self.trainer.global_rank, self.trainer.world_size
        return loader(self.data, self.how.batch_size, self.seed, *ranks, self.model.turns)

    def val_dataloader(self) -> DataLoader:
        assert self.validation is not None  # or Lightning would not ask
        return DataLoader(self.validation, batch_size=2 * self.how.batch_size, collate_fn=Batch.collate)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, next(self.model.parameters()).dtype)

    def _log(self, prefix: str, figures: dict[str, Tensor], batch: Batch) -> None:
        self.log_dict(
            {f"{prefix}_{k}": v.detach() for k, v in figures.items()},
            on_step=False,
            on_epoch=True,
            batch_size=batch.n_structures,
            sync_dist=self.trainer.world_size > 1,
        )

    def training_step(self, batch: Batch, k: int) -> Tensor:
        # Dropout must draw the same numbers after a resume as it would have drawn without the interruption.
        own = np.random.SeedSequence((self.seed, self.global_step, self.global_rank))
        torch.manual_seed(int(own.generate_state(1)[0]))
        turn = k % self.model.turns  # the loader gives every batch once for each turn
        figures = self.model.loss_in_turn(batch, turn)
        if not torch.isfinite(figures["loss"]):
            raise VibronicError("the training diverged (the loss is not finite); lower --training.learning_rate")
        self._log("train", figures if turn == 0 else {f"loss_{turn}": figures["loss"]}, batch)
        if self.trainer.world_size == 1:
            return figures["loss"]
        # DDP averages over processes; every structure is to weigh the same, also where the last batch does not divide.
        n = torch.tensor(float(batch.n_structures), device=self.device)
        return figures["loss"] * (n / self.trainer.strategy.reduce(n.clone(), reduce_op="mean"))

    def validation_step(self, batch: Batch, _: int) -> None:
        self._log("val", self.model.loss(batch), batch)

    def configure_optimizers(self) -> Any:
        kind = torch.optim.AdamW if self.how.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(self.model.parameters(), lr=self.how.learning_rate, weight_decay=self.how.weight_decay)
        if self.how.schedule == "constant":
            return optimizer
        if self.how.schedule == "plateau":
            if self.validation is None:
                raise VibronicError(
                    "the schedule 'plateau' needs validation structures; choose another --training.schedule"
                )
            lowest = 0.1 * self.how.learning_rate
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.6, patience=30, min_lr=lowest)
            watched = {"scheduler": plateau, "monitor": "val_loss", "frequency": self.how.validate_every}
            return {"optimizer": optimizer, "lr_scheduler": watched}
        total = max(1, int(self.trainer.estimated_stepping_batches))
        warmup = max(1, round(self.how.warmup * total))
        halving = self.how.step_epochs * total / self.how.epochs

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            if self.how.schedule == "step":
                return 0.5 ** int(step / halving)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class _WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or not there. Lightning's go through the temporary directory, and from there to another
    file system byte by byte, under the name of the good one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with writable(Path(path)) as temporary:
            temporary.write_bytes(content.getbuffer())


class _Bar(RichProgressBar):
    """Lightning's bar, whose epochs are counted from 1 to the last instead of from 0."""

    def _get_train_description(self, current_epoch: int) -> str:
        said = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return f"{said:{len(self.validation_description)}}"  # as wide, or the bars would flicker


def _moving_average(decay: float, average: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
    """A young average forgets faster, or it would keep the first steps to the end of a short training."""
    if not average.is_floating_point():  # elements and counts among the buffers
        return current
    return average + (1 - min(decay, float((1 + n) / (10 + n)))) * (current - average)


def fit(
    model: Model,
    train: GraphData,
    validation: GraphData | None,
    out: Path,
    how: Training,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    progress: bool = True,
    logs: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, float]:
    """Train ``model`` in place; its weights end as the best averaged ones (the last ones without a validation set).

    The same call on the same folder goes on from its last checkpoint, bit for bit as if it had never stopped.

    Args:
        device: ``auto``, ``cpu``, ``gpu``, ... as Lightning names them.
        devices: processes; more than one trains with DDP, as one would with as many times the batch size, for losses that
            are means over structures.
        say: told where a training goes on.

    Returns:
        The last logged figures, by name.

    Raises:
        VibronicError: the folder holds another training or a damaged checkpoint, the loss diverges, or the device does
            not exist.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    out = Path(out)
    checkpoints = out / "checkpoints"
    last = checkpoints / "last.ckpt"
    described = {"kind": model.kind, "config": model.config, "training": asdict(how), "seed": seed}
    _same_training(out, {**described, "data": _fingerprint(train, validation)})
    for left in checkpoints.glob(".*.ckpt"):  # by a kill while one was written
        left.unlink(missing_ok=True)
    pl.seed_everything(seed, verbose=False)
    model.prepare(train.batch())
    if validation is not None:
        model.check_elements(validation.batch().numbers)
    module = _Fit(model, train, validation, how, seed)
    monitor = "val_loss" if validation is not None else None
    # Lightning's ``save_last`` is only as recent as the best checkpoint; this one is as recent as the last epoch.
    newest = ModelCheckpoint(checkpoints, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    best = ModelCheckpoint(checkpoints, "best", monitor, enable_version_counter=False, save_on_train_epoch_end=False)
    callbacks: list[Callback] = [best, newest] if monitor else [newest]
    if how.ema:
        # Lightning's own EMA cannot be sent to another process. Averaged weights need the averaged statistics of a batch
        # norm; a buffer that is constant is its own average.
        callbacks.append(WeightAveraging(use_buffers=True, avg_fn=partial(_moving_average, how.ema)))
    if how.patience and monitor:
        callbacks.append(EarlyStopping(monitor, patience=how.patience))
    if progress:
        callbacks.append(_Bar())
    # A resumed training writes a new table of figures: Lightning would delete the one that is there.
    loggers: list[Logger] = [CSVLogger(out, "logs"), TensorBoardLogger(out, "tensorboard", "")] if logs else []
    with _quiet():
        try:
            trainer = pl.Trainer(
                accelerator=device,
                devices=devices,
                strategy="auto" if devices == 1 else _ddp(model),
                max_epochs=how.epochs,
                # A training shorter than the interval is validated at its end, or nothing would choose its weights.
                check_val_every_n_epoch=min(how.validate_every, how.epochs),
                gradient_clip_val=how.clip,
                callbacks=callbacks,
                plugins=_WholeCheckpoints(),
                logger=loggers,
                enable_progress_bar=progress,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                limit_val_batches=1.0 if monitor else 0,
                log_every_n_steps=1,
                use_distributed_sampler=False,
                inference_mode=False,  # forces are derivatives, in validation too
                deterministic="warn",
            )
        except (MisconfigurationException, ValueError, ImportError) as error:
            raise VibronicError(f"cannot train on device '{device}': {str(error).splitlines()[0]}") from error
        if widest(trainer.strategy.root_device) is torch.float32:
            module.float()  # Lightning moves the references to the device as they are, and this one has no double
        try:
            resumed = _weights(last) is not None
            if resumed:
                done = torch.load(last, map_location="cpu", weights_only=True)["epoch"] + 1
                over = done >= how.epochs
                say(f"all {done} epochs are done" if over else f"going on after epoch {done} of {how.epochs}")
            trainer.fit(module, ckpt_path=last if resumed else None, weights_only=True)
        except SystemExit as stop:  # how Lightning passes Ctrl-C on, deaf to a second one
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from stop
        except ProcessRaisedException as error:
            raise _as_told_by_a_process(error) from error
        except ProcessExitedException as error:
            raise VibronicError(
                f"a process of the training died ({str(error).splitlines()[0]}); the same command goes on from its last "
                "checkpoint"
            ) from error
    state = _weights(checkpoints / "best.ckpt" if monitor else last)
    if state is not None:
        model.load_state_dict({k.removeprefix("model."): v for k, v in state.items()})
    model.cpu().eval()
    return {k: float(v) for k, v in trainer.callback_metrics.items()}


def _ddp(model: Model) -> str:
    """Processes started by a cluster's launcher are joined; otherwise they are started here."""
    start = "ddp" if {"SLURM_NTASKS", "WORLD_SIZE"} & set(os.environ) else "ddp_spawn"
    # A loss in turn leaves the weights of the others alone, which DDP would wait for.
    return start if model.turns == 1 else f"{start}_find_unused_parameters_true"


def _as_told_by_a_process(error: ProcessRaisedException) -> Exception:
    """The mistake in one sentence that a process ended with, of which only the traceback arrives here."""
    told = re.findall(r"^(?:vibronic\.core\.errors\.VibronicError|OSError): (.+)$", str(error), re.MULTILINE)
    return VibronicError(told[-1]) if told else error


def _weights(checkpoint: Path) -> dict[str, Tensor] | None:
    """The averaged weights in a checkpoint; None where there is no such file."""
    if not checkpoint.exists():
        return None
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # torch raises a dozen kinds for a damaged archive
        raise VibronicError(f"the checkpoint {checkpoint} is damaged; delete its folder and train again") from error


def _fingerprint(*sets: GraphData | None) -> str:
    """Changes with any structure or label of the sets."""
    digest = hashlib.sha256()
    for batch in [data.batch() for data in sets if data is not None]:
        labels = [batch.labels[name] for name in sorted(batch.labels)]
        for tensor in (batch.positions, batch.numbers, batch.cell, batch.index, *labels):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _same_training(out: Path, description: dict[str, Any]) -> None:
    """Refuse to continue a training that was another one."""
    record = out / "training.json"
    description = json.loads(json.dumps(description))
    if record.exists() and (out / "checkpoints" / "last.ckpt").exists():
        try:
            before = json.loads(record.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError):
            before = None
        if before != description:
            raise VibronicError(
                f"{out} holds a training with other settings or data{_difference(before, description)}; choose another --out "
                "or delete it"
            )
    write_json(record, description)


def _difference(before: Any, now: dict[str, Any]) -> str:
    """The first setting of which two trainings differ, in brackets."""

    def flat(one: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in one.items():
            found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        return found

    if not isinstance(before, dict):
        return ""
    old, new = flat(before), flat(now)
    names = [name for name in new if name not in ("data", "seed") and old.get(name) != new[name]]
    return f" ({names[0].removeprefix('config.')} {old.get(names[0])}, now {new[names[0]]})" if names else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says about things that are as they should be here."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    told = threading.excepthook

    def untold(failure: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread, which prints a full disk as a traceback; the trainer raises it again."""
        writer = type(failure.thread).__module__.startswith("tensorboard")
        if not (writer and issubclass(failure.exc_type, OSError)):
            told(failure)

    threading.excepthook = untold
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
            warnings.filterwarnings("ignore", ".*Experiment logs directory.*")
            warnings.filterwarnings("ignore", ".*treespec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", ".*LeafSpec.*")
            warnings.filterwarnings("ignore", ".*you defined a `validation_step` but have no `val_dataloader`.*")
            warnings.filterwarnings("ignore", ".*val_dataloader.*")
            warnings.filterwarnings("ignore", ".*lr_scheduler.step.*")
            yield
    finally:
        threading.excepthook = told
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
