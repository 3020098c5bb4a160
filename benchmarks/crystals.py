"""Speed and quality of the shipped generators of crystals.

    python benchmarks/crystals.py [--parts speed minimum best ranked targets curve published carbon mp relaxed relaxation prediction stages
    sites scaling] [--n 512] [--seeds 3]

Properties are predicted by CDVAE's own models (vibronic.crystals.predictor finds or asks for their wheel), success rates use
the published thresholds, uniqueness and novelty (against the rows the model was trained on) StructureMatcher. `minimum` asks for
the lowest value of the training rows, as arXiv 2406.09263 does, and keeps every sample (`--keep all`); `best` is what a user
gets from `vibronic generate --best`. One thread; CPU-seconds of this process. Each part replaces its own entry of
benchmarks/results/crystals.json and leaves the others.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch
from ase import Atoms
from sklearn.linear_model import Ridge
from torch.utils.flop_counter import FlopCounterMode

import record
from vibronic.core.batch import Batch
from vibronic.crystals import matching, metrics, predictor, stability
from vibronic.crystals.candidates import Request
from vibronic.crystals.cells import Cells, lattice_of
from vibronic.crystals.conditioning import EQUAL, Asked, Condition
from vibronic.crystals.generator import CrystalGenerator
from vibronic.crystals.model import CrystalDiffusion, _Choice, _flow
from vibronic.crystals.sampler import generate
from vibronic.crystals.schedules import flow_times
from vibronic.crystals.validity import structural_validity
from vibronic.data import cdvae
from vibronic.labelling.engines import engine
from vibronic.learning import store

SETS = {
    "crystals-perov5": "perov-5",
    "crystals-perov5-cds": "perov-5",
    "crystals-carbon24": "carbon-24",
    "crystals-mp20": "mp-20",
}
SHOWN = [
    "valid_structure",
    "valid_composition",
    "unique",
    "novel",
    "sr5",
    "sr10",
    "sr15",
    "sr5_all",
    "sr10_all",
    "sr15_all",
    "sr5_best_of_10",
    "sr10_best_of_10",
    "sr15_best_of_10",
    "hits",
]


def load(name: str) -> tuple[CrystalGenerator, metrics.Benchmark, predictor.Predictor]:
    network = store.load(name)[0]
    assert isinstance(network, CrystalGenerator)
    return network, metrics.benchmark(SETS[name]), predictor.load(None, SETS[name])  # type: ignore[arg-type]


def judged(name: str, n: int, seeds: int, value: float | None = None, **request: Any) -> dict[str, Any]:
    """What comes of a request with several seeds: means over them, and each seed's own."""
    network, known, predict = load(name)
    column = network.memory.column(known.property)
    value = float(column.min()) if value is None else value
    if "best" not in request:
        request["conditions"] = (Condition(known.property, EQUAL, value),)
    asked = Request(**{"guidance": network.guidance, **request})
    network.sample(  # imports and warm-up
        torch.full((8, int(network.memory.counts.max())), -1), network.allowed(), _asked(8, value, len(network.targets)), 4, 1.0,
        torch.Generator().manual_seed(0), lambda count: None,
    )  # fmt: skip
    runs, reference = [], network.memory.structures()
    for seed in range(seeds):
        made = generate(network, asked, n, seed)
        rows, totals = metrics.evaluate(
            made.crystals,
            reference,
            known.property,
            predict,
            known.thresholds,
            coverage_sample=0,
            progress=False,
            seed=seed,
        )
        values = np.array([row[known.property] for row in rows if row["valid"]], dtype=float)
        estimates = np.array([a.info.get(f"{known.property}_estimate", np.nan) for a in made.crystals])
        estimates = estimates[[row["valid"] for row in rows]]
        runs.append(
            {
                "seed": seed,
                "crystals": len(made.crystals),
                **{k: totals[k] for k in SHOWN},
                **{f"{k}_95": [totals[f"{k}_low"], totals[f"{k}_high"]] for k in ("sr5", "hits")},
                "hits_of_asked": totals["hits"] * len(made.crystals) / n,
                "mean_absolute_deviation": float(np.nanmean(np.abs(values - value))) if "best" not in request else None,
                "mae_of_own_estimate": float(np.nanmean(np.abs(estimates - values))) if len(values) else None,
                "candidates": made.counts["candidates"],
                "sampling_cpu_s_per_64": made.seconds["sampling"] / len(made.crystals) * 64,
                "checking_cpu_s_per_64": made.seconds["checking"] / len(made.crystals) * 64,
            }
        )
    numbers = {k for k, v in runs[0].items() if isinstance(v, float) and not np.isnan(v)}
    mean = {k: float(np.mean([run[k] for run in runs])) for k in runs[0] if k in numbers}
    print(
        name,
        request.get("best") or f"{known.property}={value:.3f}",
        {k: round(v, 3) for k, v in mean.items()},
        flush=True,
    )
    shown = {k: v for k, v in request.items() if k != "conditions"}
    asked_for = None if "best" in request else value
    return {"model": name, "asked": asked_for, **shown, "guidance": asked.guidance, "n": n, "mean": mean, "runs": runs}


def _asked(n: int, value: float, properties: int = 1) -> Asked:
    shape = n, properties
    return Asked(torch.full(shape, value), torch.full(shape, EQUAL), torch.zeros(n, dtype=torch.long))


def speed(n: int, seeds: int) -> dict[str, Any]:
    """CPU-seconds of 64 crystals: the samples alone, and valid, new and different ones."""
    return {keep: judged("crystals-perov5", 64, seeds, 0.0, keep=keep)["mean"] for keep in ("all", "new")}


def minimum(n: int, seeds: int) -> dict[str, Any]:
    """The task of arXiv 2406.09263: every sample as it comes; valid ones, chosen of four; different and new ones."""
    found = {"all": judged("crystals-perov5", n, seeds, keep="all")}
    found["valid"] = judged("crystals-perov5", n, seeds, keep="valid", choice=4)
    return found | {"new": judged("crystals-perov5", n // 8, 1, keep="new")}  # there is hardly anything new to find


def best(n: int, seeds: int) -> dict[str, Any]:
    return judged("crystals-perov5", n, seeds, best="heat_ref")


def ranked(n: int, seeds: int) -> dict[str, Any]:
    """The best, each chosen among four by the model's estimate."""
    return judged("crystals-perov5", n // 2, 1, best="heat_ref", choice=4)


def stages(n: int, seeds: int) -> dict[str, Any]:
    """Which stage of ours costs what: each from the truth, for the crystals of lowest heat among those at hand.

    Their heat is asked for; most were in training. The species stay but where they are named, and then it is known by symmetry
    which atoms are of one orbit.
    """
    network, known, predict = load("crystals-perov5")
    assert isinstance(network, CrystalDiffusion)
    lowest = sorted(cdvae.crystals("perov-5"), key=lambda a: a.info["heat_ref"])[: n // 2]
    crystals = [network.labelled(atoms) for atoms in lowest]
    heats = torch.tensor([a.info["heat_ref"] for a in crystals])[:, None]
    cells = Cells.from_batch(Batch.collate([Batch.from_atoms(a, 0.0) for a in crystals]))
    asked = Asked(heats, torch.full_like(heats, EQUAL, dtype=torch.long), torch.zeros(len(heats), dtype=torch.long))
    true, generator = (cells.fractional, network._strain(cells)), torch.Generator().manual_seed(0)
    found: dict[str, Any] = {"as they are": _success(crystals, known, predict)}
    symmetry = network._symmetry(cells)
    with torch.no_grad():
        say = partial(network._say, network.conditions(asked), symmetry, guidance=1.0)
        keeping = partial(network._keeping, symmetry=symmetry, n_atoms=cells.n_atoms)
        for back in (0.9, 0.7, 0.5, 0.0):
            way, noise = network._noise(true[0], cells.numbers, symmetry, generator)
            taken = true[0] - (1 - back) * way, keeping(noise + back * (true[1] - noise))
            times = back + (1 - back) * flow_times(15)
            fractional, strain = _flow(partial(say, cells.numbers), keeping, taken, times, lambda count: None)
            lattice = lattice_of(strain * network.spread + network.center, cells.n_atoms)
            settled = Cells(cells.numbers, fractional % 1, lattice).to_atoms()
            found[f"settled from {back}"] = _success(settled, known, predict)
        hidden, silent = -cells.mask.long(), lambda count: None
        how = _Choice(network.allowed(), asked, guidance=1.0, strength=1.0, several=4, alone=frozenset())
        named = network._name(how, hidden, cells.mask, true, symmetry, 5, generator, silent)
        found["named on true skeletons"] = _success(Cells(named, true[0], cells.lattice).to_atoms(), known, predict)
    for row in found.items():
        print(*row, flush=True)
    return found


def _success(crystals: list[Atoms], known: metrics.Benchmark, predict: predictor.Predictor) -> dict[str, float]:
    valid = np.array([structural_validity(atoms) for atoms in crystals])
    sound = [atoms for atoms, is_valid in zip(crystals, valid, strict=True) if is_valid]
    return {"valid_structure": float(valid.mean()), **metrics.success_rates(predict(sound), known.thresholds)}


def sites(n: int, seeds: int) -> dict[str, float]:
    """R2 of a linear model of heat_ref on the last tenth of the crystals at hand: from the composition, and with the sites."""
    crystals = cdvae.crystals("perov-5", reduce=True)
    heats = np.array([a.info["heat_ref"] for a in crystals])
    composition, placed = np.zeros((len(crystals), 101)), np.zeros((len(crystals), 303))
    for k, atoms in enumerate(crystals):
        # The corner atom has y = z = 0, the centre y = z = 1/2, X atoms one of each; along x the cells are distorted.
        half = np.round(2 * atoms.get_scaled_positions()[:, 1:]).astype(int) % 2
        place = np.where(np.isin(atoms.numbers, (7, 8, 9, 16)), 2, half.all(1))
        np.add.at(composition[k], atoms.numbers, 1)
        np.add.at(placed[k], 101 * place + atoms.numbers, 1)
    train = np.random.default_rng(0).permutation(len(crystals)) < 0.9 * len(crystals)
    found = {}
    for name, features in (("composition", composition), ("with sites", placed)):
        model = Ridge(alpha=1.0).fit(features[train], heats[train])
        found[name] = float(model.score(features[~train], heats[~train]))
    print(found, flush=True)
    return found


def targets(n: int, seeds: int) -> list[dict[str, Any]]:
    """Values across the range of the training rows; every sample, and those that a user gets."""
    column = load("crystals-perov5")[0].memory.column("heat_ref")
    points = [float(torch.quantile(column, share)) for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    return [judged("crystals-perov5", n // 4, seeds, point, keep=keep) for point in points for keep in ("all", "new")]


def curve(n: int, seeds: int) -> list[dict[str, Any]]:
    """Quality against evaluations."""
    return [judged("crystals-perov5", n // 2, 1, 0.0, keep="all", evaluations=k) for k in (5, 10, 20, 50, 100, 1000)]


def published(n: int, seeds: int) -> list[dict[str, Any]]:
    """The model of arXiv 2406.09263: all its 2,000 evaluations, and strides over them."""
    return [
        judged("crystals-perov5-cds", k, 1, keep="all", evaluations=e) for e, k in ((2000, 128), (200, 512), (50, 512))
    ]


def mp(n: int, seeds: int) -> dict[str, Any]:
    return {
        "minimum": judged("crystals-mp20", n // 2, seeds, keep="all"),
        "minimum, 400 evaluations": judged("crystals-mp20", n // 4, 1, keep="all", evaluations=400),
        "best": judged("crystals-mp20", n // 2, 1, best="formation_energy_per_atom"),
    }


def carbon(n: int, seeds: int) -> dict[str, Any]:
    return {
        "minimum": judged("crystals-carbon24", n // 4, seeds, keep="all"),
        "minimum, not made symmetric": judged("crystals-carbon24", n // 4, seeds, keep="all", tolerance=0.0),
        "best": judged("crystals-carbon24", n // 8, 1, best="energy_per_atom"),
    }


def relaxed(n: int, seeds: int) -> dict[str, Any]:
    """What comes of MP-20's lowest formation energy when the crystals, as they come, are relaxed by SevenNet (`--relax sevennet`); and
    of crystals of which nothing is asked, within the symmetry of a training crystal and free."""
    network, known, _ = load("crystals-mp20")
    lowest = float(network.memory.column(known.property).min())
    how = {"guidance": network.guidance, "keep": "all"}
    return {
        "minimum": _relaxed(Request((Condition(known.property, EQUAL, lowest),), **how), n // 8),  # type: ignore[arg-type]
        "nothing asked": _relaxed(Request(**how), n // 16),  # type: ignore[arg-type]
        "nothing asked, free": _relaxed(Request(free=True, **how), n // 16),  # type: ignore[arg-type]
    }


def _relaxed(request: Request, n: int) -> dict[str, Any]:
    network, known, predict = load("crystals-mp20")
    made = generate(network, request, n).crystals
    start = time.process_time()
    found = stability.relaxed(made, engine("sevennet").calculator())
    seconds = (time.process_time() - start) / len(made)
    states = {"as they come": made, "relaxed": [atoms for atoms, _ in found]}
    reference, rows = network.memory.structures(), [row for _, row in found]
    result: dict[str, Any] = {"n": len(made), "relax_cpu_s_per_crystal": seconds}
    for name, crystals in states.items():
        totals = metrics.evaluate(
            crystals, reference, known.property, predict, known.thresholds, coverage_sample=0, progress=False
        )[1]
        result[name] = {k: totals[k] for k in SHOWN} | {
            f"{k}_95": [totals[f"{k}_low"], totals[f"{k}_high"]] for k in ("sr5", "hits")
        }
    there = [row for row in rows if row["relax_error"] is None]
    result["failed"], result["converged"] = len(rows) - len(there), sum(row["relax_converged"] for row in rows)
    result["median_rmsd_angstrom"] = float(np.median([row["relax_rmsd"] for row in there]))
    result["median_gain_ev_per_atom"] = float(np.median([row["energy_before"] - row["energy_after"] for row in there]))
    print(result, flush=True)
    return result


def relaxation(n: int, seeds: int) -> dict[str, Any]:
    """How far new crystals of the best 5 % are from a minimum of SevenNet, and from the lowest training crystal of their composition."""
    calculator = engine("sevennet").calculator()
    found = {}
    for name in ("crystals-perov5", "crystals-carbon24", "crystals-mp20"):
        network, known, _ = load(name)
        request = Request(best=known.property, guidance=network.guidance, evaluations=network.evaluations)
        crystals = generate(network, request, n // 16).crystals
        lowest = stability.envelope(network.memory.structures(like=crystals), crystals, calculator)
        start = time.process_time()
        rows = stability.relaxation(crystals, calculator, lowest=lowest)
        there = [row for row in rows if row["relax_error"] is None]
        above = [r["energy_above_reference"] for r in there if r["energy_above_reference"] is not None]
        found[name] = {
            "crystals": len(rows),
            "relaxed": len(there),
            "converged": float(np.mean([row["relax_converged"] for row in rows])),
            "median_rmsd_angstrom": float(np.median([row["relax_rmsd"] for row in there])),
            "median_volume_ratio": float(np.median([row["relax_volume_ratio"] for row in there])),
            "median_gain_ev_per_atom": float(np.median([r["energy_before"] - r["energy_after"] for r in there])),
            "of_known_composition": len(above),
            "median_above_reference_ev_per_atom": float(np.median(above)) if above else None,
            "cpu_s_per_crystal": (time.process_time() - start) / max(1, len(rows)),
        }
        print(name, found[name], flush=True)
    return found


def prediction(n: int, seeds: int) -> dict[str, Any]:
    """Structures of given compositions, of crystals that the model was not shown: one try each, and the best of 20.

    With nothing else given, as DiffCSP (arXiv 2309.04475) is asked; placed freely; and with the property too.
    """
    found: dict[str, Any] = {}
    for name in ("crystals-perov5", "crystals-mp20"):
        network, known, _ = load(name)
        shown = {_key(atoms, known.property) for atoms in network.memory.structures()}
        rows = [network.labelled(atoms) for atoms in cdvae.crystals(SETS[name], reduce=True)]
        unseen = [atoms for atoms in rows if _key(atoms, known.property) not in shown]
        chosen = [unseen[k] for k in np.random.default_rng(0).permutation(len(unseen))[: n // 2]]
        found[name] = {"crystals": len(chosen)}
        for how, wish, free in (
            ("composition", False, False),
            ("placed freely", False, True),
            ("and property", True, False),
        ):
            matched = []
            for seed, atoms in enumerate(chosen):
                value = float(atoms.info[known.property])
                conditions = (Condition(known.property, EQUAL, value),) if wish else ()
                request = Request(conditions, composition=str(atoms.symbols), guidance=1.0, keep="all", free=free)
                made = generate(network, request, 20, seed).crystals
                matched.append([matching.match_rate([one], [atoms]) for one in made])
            hit = np.array([[rate for rate, _ in row] for row in matched])
            away = [row[0][1] for row in matched if row[0][1] is not None]
            rates = {"match_rate": float(hit[:, 0].mean()), "match_rate_20": float(hit.any(1).mean())}
            found[name][how] = rates | {"rms": float(np.mean(away))}
            print(name, how, found[name][how], flush=True)
    return found


def _key(atoms: Atoms, name: str) -> tuple[str, float]:
    return atoms.get_chemical_formula(), round(float(atoms.info[name]), 3)


def scaling(n: int, seeds: int) -> list[dict[str, Any]]:
    """Seconds and memory of one crystal of N atoms, 16 at once, beside the operations it takes; weights do not matter."""
    rows = []
    for atoms in (5, 10, 20, 30, 40):
        torch.manual_seed(0)
        network = CrystalDiffusion(["heat_ref"]).eval()
        network.elements = torch.arange(1, 101)
        arguments = torch.full((16, atoms), -1), network.allowed(), _asked(16, 0.0), network.evaluations, 1.0
        with FlopCounterMode(display=False) as counter:
            network.sample(*arguments, torch.Generator().manual_seed(0), lambda count: None)
        start = time.process_time()
        network.sample(*arguments, torch.Generator().manual_seed(0), lambda count: None)
        seconds = (time.process_time() - start) / 16
        operations = counter.get_total_flops() / 16
        square = torch.rand(1024, 1024)
        begun = time.process_time()
        for _ in range(20):
            square @ square
        floor = operations / (20 * 2 * 1024**3 / (time.process_time() - begun))
        rows.append(
            {
                "atoms": atoms,
                "cpu_s_per_crystal": seconds,
                "gflop_per_crystal": operations / 1e9,
                "floor_s_by_matrix_products": floor,
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
        print({k: round(v, 4) for k, v in rows[-1].items()}, flush=True)
    return rows


PARTS = {
    part.__name__: part
    for part in (
        speed, minimum, best, ranked, targets, curve, published, carbon, mp, relaxed, relaxation, prediction, stages, sites, scaling,
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.parts:
        found = PARTS[part](options.n, options.seeds)
        path = record.RESULTS / "crystals.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        kept = {k: v for k, v in before.items() if k in PARTS}
        measured = before.get("measured", {}) | {part: f"{record.COMMIT}, {datetime.now(UTC).date().isoformat()}"}
        record.write("crystals", kept | {part: found, "measured": measured}, "python benchmarks/crystals.py")


if __name__ == "__main__":
    main()
