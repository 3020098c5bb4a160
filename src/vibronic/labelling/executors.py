"""Executors: where calculations run. All of them take a structure and give a ``concurrent.futures.Future``.

============  ==========================================================================================
in-process    one after the other, here; a hung calculation cannot be stopped
local         worker processes on this machine (pebble)
dask          the same worker processes, each driven by a Dask worker: here, or by a scheduler's address
============  ==========================================================================================

``local`` and ``dask`` guarantee: a calculation that exceeds its time is killed with its process; a process that dies
takes only its own structure with it; either way a new process takes its place; each process runs one thread.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.stress import full_3x3_to_voigt_6_stress

from vibronic.core.errors import VibronicError
from vibronic.labelling.engines import Engine

if TYPE_CHECKING:
    from pebble import ProcessPool

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

START = 60.0
"""Seconds that an engine may take to start however short the time-out: to read weights on a busy disk takes its time."""

EXECUTORS = ("in-process", "local", "dask")

# Dask's own cluster here: profiles of threads that wait, and an hour of measurements of this machine, are memory for nothing.
_DASK = {"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.log-length": 100}

_GONE = (
    "the Dask scheduler is gone; start it and its workers again and repeat the same command, which computes only what is "
    "missing"
)


@dataclass(frozen=True)
class Outcome:
    """What came of one calculation: ``results`` by property name, or the ``reason`` why there are none."""

    results: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0


Submit = Callable[[Atoms, tuple[str, ...]], "Future[Outcome | None]"]

# One calculator per engine and process: building one (reading weights) costs seconds.
_CALCULATORS: dict[str, Calculator] = {}


def calculate(engine: Engine, atoms: Atoms, properties: tuple[str, ...]) -> Outcome:
    """Label one structure in this process; an exception of the engine becomes the reason of the outcome."""
    start = time.perf_counter()
    try:
        results = _attached(atoms, properties) if engine.name == "files" else _computed(engine, atoms, properties)
        return Outcome(results, seconds=time.perf_counter() - start)
    except Exception as error:
        _CALCULATORS.pop(engine.settings_hash, None)  # its state after a failure is anyone's guess
        text = " ".join(str(error).split())
        reason = text if isinstance(error, VibronicError) else f"{type(error).__name__}: {text}"
        return Outcome(reason=reason[:400], seconds=time.perf_counter() - start)


def _computed(engine: Engine, atoms: Atoms, properties: tuple[str, ...]) -> dict[str, Any]:
    calculator = _build(engine)
    atoms = atoms.copy()
    atoms.calc = calculator
    # Not atoms.get_forces(): it would zero the forces on atoms that a constraint of the user holds.
    return {name: _plain(name, calculator.get_property(name, atoms)) for name in properties}


def _attached(atoms: Atoms, properties: tuple[str, ...]) -> dict[str, Any]:
    """The labels that a structure already carries: as many of ``properties`` as there are, but an energy at least."""
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    results = {name: value for name, value in {**atoms.info, **results}.items() if name in properties}
    if "energy" not in results:
        raise VibronicError("the structure carries no energy")
    return {name: _plain(name, value) for name, value in results.items()}


def _plain(name: str, value: Any) -> Any:
    """Plain numbers and lists; a stress given as a matrix (CHGNet) in Voigt order, as ASE has it."""
    if name == "stress" and np.shape(value) == (3, 3):
        value = full_3x3_to_voigt_6_stress(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _build(engine: Engine) -> Calculator:
    if engine.settings_hash not in _CALCULATORS:
        _CALCULATORS[engine.settings_hash] = engine.calculator()
    return _CALCULATORS[engine.settings_hash]


def check_place(name: str, workers: int, timeout: float | None) -> None:
    """Refuse an executor that cannot be.

    Raises:
        VibronicError: its name is unknown, or ``workers`` or ``timeout`` make no sense.
    """
    if name not in EXECUTORS and "://" not in name:
        raise VibronicError(
            f"unknown executor '{name}'; choose {', '.join(EXECUTORS)} or a Dask address tcp://host:port"
        )
    _check(workers)
    if timeout is not None and not timeout > 0:
        raise VibronicError(f"the time-out must be a positive number of seconds, not {timeout}")
    if name == "in-process" and timeout is not None:
        raise VibronicError("'in-process' cannot stop a calculation; use the executor 'local' for a time-out")


@contextmanager
def executor(name: str, engine: Engine, workers: int = 1, timeout: float | None = None) -> Iterator[Submit]:
    """A function ``submit(atoms, properties) -> Future`` that runs calculations where ``name`` says.

    Args:
        name: one of :data:`EXECUTORS`, or the address of a Dask scheduler such as ``tcp://host:8786``.
        engine: what computes.
        workers: processes (``local``, ``dask``); a scheduler at an address has its own.
        timeout: seconds for one structure, and (but not less than :data:`START`) for an engine to start in a process;
            None for no limit.

    :func:`outcome_of` reads the future. Leaving the block on an exception kills what is running.

    Raises:
        VibronicError: the name is unknown, ``workers`` or ``timeout`` make no sense, Dask is not installed, or the
            scheduler does not answer.
    """
    check_place(name, workers, timeout)
    if name == "in-process":
        yield lambda atoms, properties: _here(engine, atoms, properties)
    elif name == "local":
        with processes(workers, _build_early, engine, _start(timeout)) as pool:
            yield lambda atoms, properties: _schedule(pool, engine, atoms, properties, timeout)
    else:
        address = None if name == "dask" else name
        with _one_thread(), _dask(address, workers) as (submit, run):
            yield lambda atoms, properties: submit(_guarded, run, engine, atoms, properties, timeout)


def outcome_of(future: Future[Outcome | None], timeout: float | None) -> Outcome | None:
    """The outcome of a finished future, a time-out included; None when the process died on it.

    Raises:
        VibronicError: no process could start, or Dask lost the calculation: a fault of the place, not of the structure.
    """
    from pebble import ProcessExpired

    try:
        return future.result()
    except TimeoutError:
        return Outcome(reason=f"stopped after the time-out of {timeout:g} s", seconds=timeout or 0.0)
    except ProcessExpired:
        return None
    except BrokenProcessPool:
        raise _no_process(timeout) from None
    except (CancelledError, OSError):  # an OSError where the connection broke as Dask sent the result
        raise VibronicError(_GONE) from None
    except Exception as error:
        # Dask's own word for a calculation whose worker died several times; distributed need not be installed here.
        if type(error).__name__ == "KilledWorker":
            return None
        raise


def _here(engine: Engine, atoms: Atoms, properties: tuple[str, ...]) -> Future[Outcome | None]:
    future: Future[Outcome | None] = Future()
    future.set_result(calculate(engine, atoms, properties))
    return future


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread in every process started meanwhile: numerical libraries read these variables as they are loaded."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def processes(workers: int, prepare: Callable[..., None] | None = None, *arguments: Any) -> Iterator[ProcessPool]:
    """Worker processes of one thread each, which end with the block and never outlive this process.

    Args:
        prepare: called with ``arguments`` in every new process before its first task.

    Raises:
        VibronicError: ``workers`` is less than 1.
    """
    _check(workers)
    with _one_thread():
        pool = _pool(workers, prepare, arguments)
        try:
            yield pool
        except BaseException:
            pool.stop()
            raise
        else:
            pool.close()
        finally:
            pool.join()


def _check(workers: int) -> None:
    if workers < 1:
        raise VibronicError(f"there must be at least one worker, not {workers}")


def _pool(workers: int, prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> ProcessPool:
    from pebble import ProcessPool

    # Spawned, because a fork would copy the locks of torch's and BLAS's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    return ProcessPool(workers, initializer=_initialize, initargs=(prepare, arguments), context=context)


def _schedule(
    pool: ProcessPool, engine: Engine, atoms: Atoms, properties: tuple[str, ...], timeout: float | None
) -> Future[Outcome | None]:
    try:
        return pool.schedule(calculate, (engine, atoms, properties), timeout=timeout)
    except RuntimeError:  # the pool broke since the last structure
        raise _no_process(timeout) from None


def _start(timeout: float | None) -> float | None:
    return None if timeout is None else max(timeout, START)


def _no_process(timeout: float | None) -> VibronicError:
    limit = _start(timeout)
    late = "" if limit is None else f", or the engine is not ready after {limit:g} s (a longer time-out gives it more)"
    return VibronicError(
        f"the worker processes die as they start{late}; in a script, call label() below if __name__ == '__main__', "
        "and see with the executor 'in-process' whether the engine works"
    )


def _initialize(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _build_early(engine: Engine, limit: float | None) -> None:
    """Build the calculator before the clock of the first structure runs; this process ends if it takes too long."""
    with open(os.devnull, "w") as nowhere:
        if limit is not None:
            # Not a thread of Python's: a build that hangs in compiled code may never let one run.
            faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        try:
            _build(engine)
        except Exception:
            return  # the first structure meets the same error and reports it
        finally:
            faulthandler.cancel_dump_traceback_later()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _dask(address: str | None, workers: int) -> Iterator[tuple[Callable[..., Future[Any]], str]]:
    """A function that submits to Dask, and a name under which this run's processes are known to the workers."""
    try:
        import dask
        from distributed import Client, LocalCluster, span
        from distributed.utils import silence_logging_cmgr
    except ImportError:
        raise VibronicError(
            "the executor 'dask' is not installed; install it with: pip install 'vibronic[cluster]'"
        ) from None

    with ExitStack() as stack:
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL))  # what matters is raised, in a sentence
        if address is None:
            stack.enter_context(dask.config.set(_DASK))
            # Threads suffice for Dask's own workers: each only waits for the process that it guards.
            address = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=False,
                    dashboard_address="127.0.0.1:0",  # None would warn where another cluster has the usual port
                    silence_logs=logging.CRITICAL,
                )
            )
        try:
            client = stack.enter_context(Client(address, timeout=15))
        except (OSError, ValueError) as error:
            raise VibronicError(f"no Dask scheduler answers at {address}: {error}") from None
        run = uuid.uuid4().hex
        unfinished: dict[Future[Any], Any] = {}

        def submit(*call: Any) -> Future[Any]:
            if client.status not in ("running", "connecting"):
                raise VibronicError(_GONE)
            future: Future[Any] = Future()
            unfinished[future] = client.submit(*call, pure=False)
            future.add_done_callback(unfinished.pop)
            client.loop.add_callback(_settle, unfinished[future], future)
            return future

        stack.enter_context(span(f"label-{run}"))  # else Dask begins a new one whenever it was idle, and keeps them all
        client.register_plugin(_end_with_client(client.id, run), name=run)
        try:
            yield submit, run
        finally:
            if client.status == "running":  # a scheduler that is gone has nothing left to stop
                with suppress(OSError):
                    client.unregister_scheduler_plugin(run)
                    client.cancel(list(unfinished.values()))
                    client.run(_stop_guards, run, on_error="ignore")


async def _settle(dask_future: Any, future: Future[Any]) -> None:
    """Dask's own executor leaves its future open for ever if the scheduler dies as it sends the result."""
    try:
        result = await dask_future._result()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _end_with_client(owner: str, run: str) -> Any:
    """A plugin for the scheduler that stops a run's processes at all workers when its client is gone, by ``kill -9`` too."""
    from distributed import SchedulerPlugin
    from distributed.protocol.pickle import dumps

    message = {"op": "run", "function": dumps(_stop_guards), "args": dumps((run,))}

    # Defined here, so that it travels as a whole: the scheduler's environment need not have Vibronic.
    class EndWithClient(SchedulerPlugin):
        def remove_client(self, scheduler: Any, client: str) -> None:
            if client == owner:
                scheduler.remove_plugin(run)
                scheduler.loop.add_callback(scheduler.broadcast, msg=message, on_error="ignore")

    return EndWithClient()


# Worker processes that this Dask worker guards, by run and thread: a process per thread keeps calculations apart.
_GUARDS: dict[tuple[str, int], ProcessPool] = {}
_RUNNING: dict[tuple[str, int], Future[Outcome | None]] = {}
_ENDED: set[str] = set()
_LOCK = threading.Lock()  # or a run might end between the question whether it has and the start of a process


def _guarded(
    run: str, engine: Engine, atoms: Atoms, properties: tuple[str, ...], timeout: float | None
) -> Outcome | None:
    """In a Dask worker: calculate in a process of its own, which can be killed when Dask's worker cannot."""
    if multiprocessing.current_process().daemon:
        raise VibronicError(
            "these Dask workers may not start processes; start them with --no-nanny, "
            "or with DASK_DISTRIBUTED__WORKER__DAEMON=False in their environment"
        )
    key = run, threading.get_ident()
    with _LOCK:
        if run in _ENDED:  # a task that was queued behind the one that the end of the run stopped
            return None
        if key not in _GUARDS:
            os.environ.update(_ONE_THREAD)
            _GUARDS[key] = _pool(1, _build_early, (engine, _start(timeout)))
        future = _RUNNING[key] = _schedule(_GUARDS[key], engine, atoms, properties, timeout)
    try:
        future.exception()
    except CancelledError:  # the run ended meanwhile
        return None
    # Settled here, because Dask would log an expected exception as an error of its own.
    return outcome_of(future, timeout)


def _stop_guards(run: str) -> None:
    with _LOCK:
        _ENDED.add(run)
        guards = {key: _GUARDS.pop(key) for key in list(_GUARDS) if key[0] == run}
        for key, pool in guards.items():
            if key in _RUNNING:
                _RUNNING.pop(key).cancel()  # else the thread of Dask's worker waits for ever
            pool.stop()
    for pool in guards.values():
        pool.join()
