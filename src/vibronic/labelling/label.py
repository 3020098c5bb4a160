"""label: from structures to labelled structures, crash-safe; what is in the ledger is not computed again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID

from vibronic.core.errors import VibronicError
from vibronic.core.targets import TARGETS
from vibronic.data.dataset import check_structure
from vibronic.labelling.engines import Engine
from vibronic.labelling.engines import engine as named_engine
from vibronic.labelling.executors import Outcome, Submit, calculate, outcome_of
from vibronic.labelling.executors import executor as named_executor
from vibronic.labelling.ledger import Entry, Ledger, structure_key

RETRIES = 1
"""How often a structure whose process died is tried again."""


@dataclass(frozen=True)
class LabelReport:
    """What :func:`label` did.

    Attributes:
        labelled: the structures that have a label, in input order.
        failures: (index in the input, reason) of the others.
        computed: calculations that ran now, failed ones included.
        reused: structures whose label (or failure) was in the ledger already; those that are neither computed nor
            reused equal another of the input, or (engine ``files``) carried their labels.
        seconds: wall time.
    """

    labelled: list[Atoms]
    failures: list[tuple[int, str]]
    computed: int
    reused: int
    seconds: float


def label(
    structures: Iterable[Atoms],
    engine: Engine | str,
    ledger: Ledger | Path | str,
    executor: str = "local",
    workers: int = 1,
    timeout: float | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    properties: Sequence[str] | None = None,
    allow_none: bool = False,
) -> LabelReport:
    """Label structures with an engine; what the ledger knows is not computed again.

    Every result is on the disk the moment it exists: after ``kill -9`` or Ctrl-C the same call continues where it was.

    Args:
        structures: crystals or molecules; a periodic one needs a cell with a volume.
        engine: an engine or its name (:data:`vibronic.labelling.engines.ENGINES`).
        ledger: the ledger or its path; made if it is not there.
        executor: ``in-process``, ``local``, ``dask`` or the address of a Dask scheduler.
        workers: processes side by side (at a Dask address: how many of its workers to keep busy).
        timeout: seconds for one structure, after which it is stopped and counts as failed; None for no limit.
        retry_failed: compute those again that failed in an earlier run.
        progress: show a progress bar when standard error is a terminal.
        properties: labels by name; None for all that the engine gives unasked (a stress only for three-dimensional
            crystals, a density matrix never).
        allow_none: return a report without labels where not a single structure could be labelled.

    Returns:
        Copies of the structures with a ``SinglePointCalculator`` (energy eV, forces (N, 3) eV/Angstrom, stress (6,)
        eV/Angstrom^3 in Voigt order), other labels in ``info``, ``info["engine"]`` and ``info["settings"]`` (hash);
        labels from before are dropped, everything else in ``info`` is kept.

    Raises:
        VibronicError: there is no structure; one is unphysical (nothing is computed then); an option makes no sense;
            the ledger cannot be used; or not a single structure could be labelled, unless that is allowed.
    """
    start = time.perf_counter()
    engine = named_engine(engine) if isinstance(engine, str) else engine
    structures = list(structures)
    if not structures:
        raise VibronicError("there is no structure to label")
    for index, atoms in enumerate(structures):
        _check(atoms, index)
    wanted = [_wanted(atoms, engine, properties) for atoms in structures]
    labelled, failures, computed, reused = [], [], 0, 0
    with ExitStack() as stack:
        if engine.name == "files":
            outcomes = (_finite(calculate(engine, atoms, names)) for atoms, names in zip(structures, wanted))
        else:
            book = ledger if isinstance(ledger, Ledger) else stack.enter_context(Ledger(ledger))
            keys = [structure_key(atoms, engine) for atoms in structures]
            with named_executor(executor, engine, workers, timeout) as submit:
                # Here each result must reach the disk before the next calculation starts; elsewhere a short queue keeps
                # the workers busy, and 100,000 structures do not become 100,000 futures.
                window = 1 if executor == "in-process" else 4 * workers
                reasons, computed, reused = _run(
                    structures, keys, wanted, engine, book, submit, window, timeout, retry_failed, progress
                )
            # From the ledger, so that labels do not pile up in memory beside what is still computed.
            outcomes = (
                Outcome(reason=reasons[key]) if key in reasons else _known(book, atoms, engine, names)
                for key, atoms, names in zip(keys, structures, wanted)
            )
        for index, (atoms, outcome) in enumerate(zip(structures, outcomes)):
            if outcome.reason is None:
                labelled.append(_labelled(atoms, engine, outcome))
            else:
                failures.append((index, outcome.reason))
    if not labelled and not allow_none:
        reason, count = Counter(reason for _, reason in failures).most_common(1)[0]
        earlier = " (in an earlier run; --retry-failed computes them again)" if reused else ""
        raise VibronicError(
            f"no structure could be labelled{earlier}; most common reason ({count} of {len(structures)}): {reason}"
        )
    return LabelReport(labelled, failures, computed, reused, time.perf_counter() - start)


def _run(
    structures: list[Atoms],
    keys: list[str],
    wanted: list[tuple[str, ...]],
    engine: Engine,
    ledger: Ledger,
    submit: Submit,
    window: int,
    timeout: float | None,
    retry_failed: bool,
    progress: bool,
) -> tuple[dict[str, str], int, int]:
    """Bring every label into the ledger.

    Returns:
        The reasons of those that have none, by key; how many were computed; and how many were in the ledger before.
    """
    alike: dict[str, list[int]] = {}  # equal structures wait for one calculation
    for index, key in enumerate(keys):
        alike.setdefault(key, []).append(index)
    reasons: dict[str, str] = {}
    pending: dict[Future[Outcome | None], str] = {}
    deaths: Counter[str] = Counter()
    computed = reused = 0

    def start(key: str) -> None:
        index = alike[key][0]
        pending[submit(_bare(structures[index]), wanted[index])] = key

    def collect(done: list[Future[Outcome | None]], bar: Progress, task: TaskID) -> None:
        """Bring what finished to the disk; only then is a calculation no longer pending."""
        nonlocal computed
        settled: dict[str, Outcome] = {}
        lost: VibronicError | None = None
        for future in done:
            try:
                outcome = outcome_of(future, timeout)
            except VibronicError as error:  # of the place; what the others have computed is recorded all the same
                lost = error
                continue
            if outcome is None:
                deaths[pending[future]] += 1
                if deaths[pending[future]] <= RETRIES:
                    start(pending.pop(future))
                    continue
                count = deaths[pending[future]]
                outcome = Outcome(reason=f"its process died, {count} times (a crash, or no memory left)")
            settled[pending[future]] = _finite(outcome)
        if settled:
            with ledger.together():
                for key, outcome in settled.items():
                    atoms = structures[alike[key][0]]
                    ledger.record(atoms, engine, outcome.results, outcome.reason, outcome.seconds)
        for future in done:
            key = pending.pop(future, "")
            if key in settled:
                computed += 1
                bar.advance(task, len(alike[key]))
        reasons.update({key: outcome.reason for key, outcome in settled.items() if outcome.reason is not None})
        if lost is not None:
            raise lost

    def finished() -> list[Future[Outcome | None]]:
        return [future for future in pending if future.done()]

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task(f"label with {engine.name}", total=len(structures))
        try:
            for key, (index, *others) in alike.items():
                known = ledger.get(structures[index], engine)
                if known is not None and _usable(known, wanted[index], retry_failed):
                    if known.reason is not None:
                        reasons[key] = known.reason
                    reused += 1 + len(others)
                    bar.advance(task, 1 + len(others))
                    continue
                start(key)
                collect(finished(), bar, task)
                while len(pending) >= window:
                    wait(pending, return_when=FIRST_COMPLETED)
                    collect(finished(), bar, task)
            while pending:
                wait(pending, return_when=FIRST_COMPLETED)
                collect(finished(), bar, task)
        except BaseException:
            # What has finished meanwhile is kept where it can be: one by one, because one alone may fit on a full disk.
            for future in finished():
                with suppress(VibronicError):
                    collect([future], bar, task)
            raise
    return reasons, computed, reused


def _known(ledger: Ledger, atoms: Atoms, engine: Engine, names: tuple[str, ...]) -> Outcome:
    entry = ledger.get(atoms, engine)
    assert entry is not None  # or it would have been computed
    return Outcome({name: entry.results[name] for name in names})


def _usable(known: Entry, names: tuple[str, ...], retry_failed: bool) -> bool:
    return not retry_failed if known.reason is not None else set(names) <= set(known.results)


def _check(atoms: Atoms, index: int) -> None:
    """Refuse what no engine should see, before hours go into the structures ahead of it."""
    formula = f" ({atoms.get_chemical_formula()})" if len(atoms) else ""
    what = f"structure {index}{formula}"
    check_structure(atoms, what)
    for name in ("charge", "spin"):
        value = atoms.info.get(name, 0)
        if not isinstance(value, int | float | np.number) or not float(value).is_integer():
            raise VibronicError(f"{what} has {name}={value!r} in its info; it must be a whole number")


def _wanted(atoms: Atoms, engine: Engine, properties: Sequence[str] | None) -> tuple[str, ...]:
    if properties is None:
        usual = [name for name in engine.properties if name not in engine.spec.on_request]
        return tuple(name for name in usual if name != "stress" or atoms.pbc.all())
    for name in properties:
        if name not in engine.properties:
            raise VibronicError(
                f"the engine '{engine.name}' gives no '{name}'; it gives {', '.join(engine.properties)}"
            )
    return tuple(dict.fromkeys(properties))


def _bare(atoms: Atoms) -> Atoms:
    """What the calculation needs and nothing more: whatever else hangs on a structure may not travel."""
    bare = atoms.copy()
    bare.constraints = []
    bare.info = {name: atoms.info[name] for name in ("charge", "spin") if name in atoms.info}
    return bare


def _finite(outcome: Outcome) -> Outcome:
    for name, value in outcome.results.items():
        if not np.isfinite(np.asarray(value, dtype=float)).all():
            return Outcome(reason=f"the engine gave a value of '{name}' that is not finite", seconds=outcome.seconds)
    return outcome


def _labelled(atoms: Atoms, engine: Engine, outcome: Outcome) -> Atoms:
    labelled = atoms.copy()
    for name in TARGETS:
        labelled.info.pop(name, None)
        labelled.arrays.pop(name, None)
    results = {name: np.asarray(v) if isinstance(v, list) else v for name, v in outcome.results.items()}
    by_calculator = {name: value for name, value in results.items() if name in all_properties}
    labelled.calc = SinglePointCalculator(labelled, **by_calculator)
    labelled.info.update({name: value for name, value in results.items() if name not in all_properties})
    labelled.info.update(engine=engine.name, settings=engine.settings_hash)
    return labelled
