"""The command line: its help, its spelling, its YAML, and the way from crystal to explanation."""

import csv
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ase import Atoms
from ase.io import read, write
from safetensors.numpy import load_file

from vibronic import __version__, cli, verbs
from vibronic.cli import main
from vibronic.data.dataset import write_structures
from vibronic.learning import store

VERBS = {f.__name__: f for f in verbs.VERBS}


@pytest.fixture
def data(tmp_path: Path, labelled_copper: list[Atoms]) -> str:
    write_structures(tmp_path / "data.extxyz", labelled_copper)
    return str(tmp_path / "data.extxyz")


@pytest.fixture
def model(tmp_path: Path, data: str) -> str:
    assert main(["train", "ridge", data, "--targets", "energy", "band_gap", "--out", str(tmp_path / "model")]) == 0
    return str(tmp_path / "model")


# --- help ---


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_parameter(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert (inspect.getdoc(VERBS[verb]) or "").splitlines()[0] in shown
    for name in inspect.signature(VERBS[verb]).parameters:
        assert re.search(rf"(--|^  |[ {{,]){name}\b", shown, re.MULTILINE), name


@pytest.mark.parametrize("kind", verbs.KINDS["study"])
def test_help_of_one_study_is_of_no_other(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = verbs.KINDS["study"]
    assert main(["study", kind, "--help"]) == 0
    shown = capsys.readouterr().out
    text, options = shown.split("positional arguments:")
    for option in set().union(*kinds.values()):
        assert (f"--{option}" in options) == (option in kinds[kind]), option
    assert re.search(rf"^{kind}: \w", text, re.MULTILINE)
    assert "--workers" in options
    for other in kinds.keys() - {kind}:
        assert f"{other}: " not in shown
        assert f"vibronic study {other}" not in shown


def test_what_is_said_of_one_study_is_kept_whole(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(["study", *arguments, "--help"]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "training set sizes; 100, 300, 1000, of 11,831. (type" in said("extrapolation")
    assert "of the dynamics, fs; shorter with hydrogen. (type" in said("thermal")


@pytest.mark.parametrize("verb", VERBS)
def test_the_docstring_explains_exactly_the_parameters(verb: str) -> None:
    text = inspect.getdoc(VERBS[verb]) or ""
    section = re.search(r"^Args:\n(.*?)(?=^\w+:|\Z)", text, re.MULTILINE | re.DOTALL)
    explained = re.findall(r"^    (\w+): \S", section.group(1), re.MULTILINE) if section else []
    assert explained == list(inspect.signature(VERBS[verb]).parameters)


def test_overview(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(re.search(rf"^  {verb}\b", shown, re.MULTILINE) for verb in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vibronic {__version__}\n"


def test_every_verb_is_one_function_of_the_package() -> None:
    for name, function in VERBS.items():
        assert getattr(verbs, name) is function
        assert all(p.annotation is not p.empty for p in inspect.signature(function).parameters.values())


# --- spelling ---


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        (["sample", "NaCl", "--supercell", "2", "3", "4"], "supercell", [2, 3, 4]),
        (["sample", "NaCl", "--supercell", "2,3,4"], "supercell", [2, 3, 4]),
        (["sample", "NaCl", "--supercell=[2,3,4]"], "supercell", [2, 3, 4]),
        (["sample", "--supercell", "2", "3", "4", "--seed", "1", "NaCl"], "crystal", "NaCl"),
        (["sample", "NaCl", "-n", "7"], "n", 7),
        (["sample", "NaCl", "-n7"], "n", 7),
        (["sample", "NaCl", "-n=7"], "n", 7),
        (["sample", "NaCl", "--relax"], "relax", True),
        (["sample", "NaCl", "--relax", "false"], "relax", False),
        (["sample", "NaCl", "--relax", "False"], "relax", False),
        (["sample", "NaCl", "--relax=True"], "relax", True),
        (["sample", "--relax", "NaCl"], "crystal", "NaCl"),
        (["sample", "NaCl", "--strain", "-0.01"], "strain", -0.01),
        (["sample", "NaCl", "--plus-minus"], "plus_minus", True),
        (["sample", "NaCl", "--settings.ecut", "500"], "settings", {"ecut": 500}),
        (["sample", "NaCl", "--settings.xc", "PBE"], "settings", {"xc": "PBE"}),
        (["train", "painn", "x", "--model.width", "8"], "model", {"width": 8}),
        (
            ["train", "painn", "x", "--model.cutoff", "4.5", "--model.sigmoid", "true"],
            "model",
            {"cutoff": 4.5, "sigmoid": True},
        ),
        (["train", "painn", "x", "--targets", "energy", "forces"], "targets", ["energy", "forces"]),
        (["train", "painn", "x", "--targets", "energy"], "targets", ["energy"]),
        (["train", "painn", "x", "--targets", "energy", "--targets", "forces"], "targets", ["energy", "forces"]),
        (["generate", "x", "--condition", "1<a<2", "--condition", "b=-2"], "condition", ["1<a<2", "b=-2"]),
        (["train", "painn", "x", "--units.my_gap", "eV"], "units", {"my_gap": "eV"}),
        (["data", "NaCl"], "name", "NaCl"),
        (["data", "--name", "NaCl"], "name", "NaCl"),
    ],
)
def test_what_people_type(typed: list[str], key: str, value: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed, "--print_config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("typed", [["--out", ""], ["--out="], ["--force-constants", ""]])
def test_an_empty_path_is_refused(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "NaCl", *typed]) == 2
    option = typed[0].rstrip("=")
    assert capsys.readouterr().err == f"vibronic: {option} is empty; give it a path, or leave it out\n"


@pytest.mark.parametrize("typed", [["-n"], ["-n="], ["--relax=perhaps"], ["-name", "x"]])
def test_what_cannot_be_meant_is_one_sentence(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "NaCl", *typed]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_option_that_may_be_left_out_is_refused_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", "--guidance", "nan"]) == 2
    assert "expected float, got 'nan'" in capsys.readouterr().err
    assert main(["evaluate", "crystals", "x", "--benchmark", "mp20"]) == 2
    assert "expected one of 'perov-5', 'carbon-24', 'mp-20', got 'mp20'" in capsys.readouterr().err


def test_nested_settings_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["train", "painn", "x", "--training.epochs", "7", "--training.optimizer", "adam", "--print_config"]) == 0
    )
    training = yaml.safe_load(capsys.readouterr().out)["training"]
    assert (training["epochs"], training["optimizer"], training["batch_size"]) == (7, "adam", 4)


# --- YAML ---


def test_yaml_is_the_same_as_flags(data: str, tmp_path: Path) -> None:
    flags = [
        "--targets",
        "energy",
        "band_gap",
        "--model.radial",
        "8",
        "--fractions",
        "0.5",
        "0.25",
        "0.25",
        "--seed",
        "3",
    ]
    assert main(["train", "ridge", data, *flags, "--out", str(tmp_path / "a")]) == 0
    keys = {"kind": "ridge", "data": data, "targets": ["energy", "band_gap"], "model": {"radial": 8}}
    keys |= {"fractions": [0.5, 0.25, 0.25], "seed": 3, "out": str(tmp_path / "b")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(keys))
    assert main(["train", "--config", str(tmp_path / "c.yaml")]) == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all((one[k] == two[k]).all() for k in one)
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in "ab"]
    assert records[0]["config"] == records[1]["config"]
    assert records[0]["seed"] == records[1]["seed"] == 3


def test_flags_win_over_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("crystal: NaCl\ntemperature: 100\nseed: 4\n")
    assert main(["sample", "--config", str(tmp_path / "c.yaml"), "--temperature", "50", "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["temperature"], shown["seed"], shown["crystal"]) == (50, 4, "NaCl")


# --- the verbs end to end ---


def test_predict_evaluate_explain(model: str, data: str, tmp_path: Path, labelled_copper: list[Atoms]) -> None:
    table, metrics, why = (str(tmp_path / name) for name in ("p.csv", "m.json", "why.csv"))
    assert main(["predict", model, data, "--out", table]) == 0
    rows = list(csv.DictReader(Path(table).read_text().splitlines()))
    assert [int(r["structure"]) for r in rows] == list(range(24))
    assert main(["evaluate", "predictions", table, "--reference", data, "--out", metrics]) == 0
    found = json.loads(Path(metrics).read_text())
    errors = [float(r["energy [eV]"]) - a.calc.results["energy"] for r, a in zip(rows, labelled_copper, strict=True)]
    assert found["mae_energy"] == pytest.approx(sum(map(abs, errors)) / 24 / 4, rel=1e-4)
    assert found["n"] == 24
    assert found["units"]["mae_energy"] == "eV/atom"
    assert main(["explain", model, data, "--target", "band_gap", "--steps", "4", "--out", why]) == 0
    bonds = list(csv.DictReader(Path(why).read_text().splitlines()))
    assert {r["bond"] for r in bonds} == {"Cu-Cu"}
    assert {int(r["structure"]) for r in bonds} == set(range(24))
    for beside in ("p.run.json", "m.run.json", "why.run.json"):
        assert json.loads((tmp_path / beside).read_text())["versions"]["torch"]


def test_units_of_a_table_are_respected(model: str, data: str, tmp_path: Path) -> None:
    table, metrics = tmp_path / "p.csv", tmp_path / "m.json"
    assert main(["predict", model, data, "--out", str(table)]) == 0
    assert main(["evaluate", "predictions", str(table), "--reference", data, "--out", str(metrics)]) == 0
    before = json.loads(metrics.read_text())["mae_band_gap"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    with table.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["structure", "formula", "n_atoms", "band_gap [meV]"])
        out.writerows([r["structure"], r["formula"], r["n_atoms"], 1000 * float(r["band_gap [eV]"])] for r in rows)
    assert main(["evaluate", "predictions", str(table), "--reference", data, "--out", str(metrics)]) == 0
    assert json.loads(metrics.read_text())["mae_band_gap"] == pytest.approx(before, rel=1e-5)


def test_a_network_end_to_end(data: str, tmp_path: Path) -> None:
    out = tmp_path / "potential"
    flags = ["--model.width", "8", "--model.layers", "1", "--training.epochs", "2", "--device", "cpu"]
    assert main(["train", "painn", data, *flags, "--out", str(out)]) == 0
    described = json.loads((out / "config.json").read_text())
    assert set(described["targets"]) == {"energy", "forces", "stress"}
    assert described["data"]["structures"] == 19
    assert main(["predict", str(out), data, "--out", str(tmp_path / "p.csv")]) == 0
    frames = read(tmp_path / "p.forces.extxyz", ":")
    assert len(frames) == 24
    assert frames[0].get_forces().shape == (4, 3)
    assert frames[0].get_stress().shape == (6,)


def test_own_target_takes_its_unit_from_the_data(tmp_path: Path, labelled_copper: list[Atoms]) -> None:
    frames = [a.copy() for a in labelled_copper]
    for k, a in enumerate(frames):
        a.info["hardness"] = float(k)
    write_structures(tmp_path / "set" / "data.extxyz", frames)
    (tmp_path / "set" / "dataset.yaml").write_text("units: {hardness: GPa}")
    out = tmp_path / "model"
    assert main(["train", "ridge", str(tmp_path / "set"), "--targets", "hardness", "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["targets"] == {"hardness": "GPa"}


def test_label_with_emt(tmp_path: Path, copper: Atoms) -> None:
    write(tmp_path / "in.extxyz", [copper, copper * (2, 1, 1)])
    out = tmp_path / "out.extxyz"
    run = ["label", str(tmp_path / "in.extxyz"), "--engine", "emt", "--executor", "in-process", "--out", str(out)]
    assert main(run) == 0
    assert json.loads((tmp_path / "out.run.json").read_text())["computed"] == 2
    assert main(run) == 0
    assert json.loads((tmp_path / "out.run.json").read_text())["reused"] == 2
    assert [a.info["engine"] for a in read(out, ":")] == ["emt", "emt"]


def test_label_says_where_labels_came_from(
    tmp_path: Path, copper: Atoms, labelled_copper: list[Atoms], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in.extxyz", [copper, copper, copper * (2, 1, 1)])
    write_structures(tmp_path / "had.extxyz", labelled_copper)

    def told(*options: str) -> str:
        assert main(["label", *options, "--out", str(tmp_path / "out.extxyz")]) == 0
        return capsys.readouterr().out

    emt = (str(tmp_path / "in.extxyz"), "--engine", "emt", "--executor", "in-process")
    assert told(*emt).startswith("3 labelled (2 computed, 0 from the ledger, 1 equal to others)")
    assert told(*emt).startswith("3 labelled (0 computed, 3 from the ledger)")
    assert told(str(tmp_path / "had.extxyz"), "--engine", "files").startswith(
        "24 labelled (with what the structures carried)"
    )


def test_label_reaches_for_a_scheduler(tmp_path: Path, copper: Atoms, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed")
    write(tmp_path / "in.extxyz", copper)
    run = ["label", str(tmp_path / "in.extxyz"), "--engine", "emt", "--out", str(tmp_path / "out.extxyz")]
    assert main([*run, "--executor", "nowhere://x:1"]) == 2
    assert "no Dask scheduler answers at nowhere://x:1" in capsys.readouterr().err
    assert main([*run, "--executor", "slurm"]) == 2
    assert "choose in-process, local, dask or a Dask address" in capsys.readouterr().err


def test_sample_with_emt_is_reproducible(tmp_path: Path, copper: Atoms) -> None:
    write(tmp_path / "cu.cif", copper)
    written = []
    for name in "ab":
        out = tmp_path / f"{name}.extxyz"
        run = ["sample", str(tmp_path / "cu.cif"), "--engine", "emt", "-n", "3", "--seed", "7", "--out", str(out)]
        assert main(run) == 0
        written.append(read(out, ":"))
    assert len(written[0]) == 3
    assert len(written[0][0]) == 32
    assert all((a.positions == b.positions).all() for a, b in zip(*written, strict=True))
    assert written[0][0].info["method"] == "phonons"
    assert written[0][0].info["temperature_K"] == 300


def test_models_say_what_they_are_for_and_how_good_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    for name in store.shipped():
        model, card = store.load(name)
        row, *_ = [line for line in shown.splitlines() if line.startswith(f" {name} ")]
        structures, (smallest, largest) = card.data["structures"], card.data["atoms"]
        atoms = f"{smallest} to {largest}" if largest > smallest else f"{largest}"
        assert f"{structures:,} structures of {atoms} atoms" in row
        if (score := f"mae_{model.targets[0].name}") in card.scores or not model.generates:
            assert f"{card.scores[score]:.3g} " in shown
        assert all(f"{t.name} [{t.unit}]" in shown for t in model.targets)
    # takahara2024 has presets, and an ensemble is made of another kind by --members.
    trained = {kind: entry for kind, entry in store.MODELS.items() if kind not in ("takahara2024", "ensemble")}
    for kind, (module, _, what) in trained.items():
        assert re.search(rf"^ {kind} +{re.escape(what)}", shown, re.MULTILINE)
        assert module not in shown
    assert "takahara2024" not in shown
    for name in store.shipped():
        _, card = store.load(name)
        assert main(["models", name]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert card.summary in told
        assert card.only in told
        assert all(zero in told for zero in card.references.values())


def test_lists(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data"]) == 0
    assert "Ag3SBr-pbe" in capsys.readouterr().out
    assert main(["data", "NaCl", "--out", str(tmp_path / "x.extxyz")]) == 0
    assert len(read(tmp_path / "x.extxyz")) == 8


def test_doctor_prints_what_engines_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from vibronic.labelling import engines

    monkeypatch.setattr(engines, "ENGINES", {k: engines.ENGINES[k] for k in ("emt", "files")})
    assert main(["doctor"]) == 0
    assert re.search(r"^emt +works", capsys.readouterr().out, re.MULTILINE)


# --- endings ---


def test_a_warning_is_one_line(tmp_path: Path, copper: Atoms) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "a.cif", copper)
    (tmp_path / "set" / "README.md").write_text("Copper.\n")
    run = [sys.executable, "-m", "vibronic", "data", str(tmp_path / "set")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    told = f"vibronic: {tmp_path / 'set'}: ignored files that hold no structures: 1 (README.md)\n"
    assert done.stderr == told


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["NaCl", "--engine", "emt"], "the engine 'emt' cannot calculate this structure (NotImplementedError: No EMT"),
        (["NaCl", "--settings.model", "nosuch"], "the engine 'sevennet' does not start ("),
    ],
)
def test_an_engine_that_fails(
    typed: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", *typed, "-n", "2"]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith(f"vibronic: {told}")
    assert len(message.splitlines()) == 1


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stop)
    assert main(["data"]) == 130
    assert "goes on where it stopped" in capsys.readouterr().err


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "_run", stop)
    assert main(["data"]) == 2
    assert "out of memory" in capsys.readouterr().err


def test_as_a_module_and_through_a_closed_pipe() -> None:
    done = subprocess.run([sys.executable, "-m", "vibronic", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"vibronic {__version__}\n"
    shell = f"set -o pipefail; {sys.executable} -m vibronic data | head -c 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
