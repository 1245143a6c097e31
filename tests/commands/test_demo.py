"""The whole journey through the real commands, on a world and for a time that are tiny."""

import csv
import json
import pathlib
import shutil

import cv2
import pytest

from osvos_tf.commands import cli, demo, evaluate, segment, train_parent
from osvos_tf.data import painted_world
from osvos_tf.errors import InputError
from osvos_tf.network.parents import PARENTS

LEFT = {"contact_sheet.png", "evaluation", "parent", "records", "results", "run.json", "world"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch, parent):
    monkeypatch.setitem(PARENTS, "compact", parent)
    for name, value in {
        "_TRAIN": 2,
        "_VAL": 1,
        "_FRAMES": 4,
        "_SIZE": (32, 48),
        "_PARENT_UPDATES": 2,
        "_METHODS": {"parent": ["--updates=0"], "one-shot": ["--updates=2"]},
    }.items():
        monkeypatch.setattr(demo, name, value)


def run(*flags):
    demo.main(cli.parse(demo.FLAGS, flags))


def interrupt(*arguments):
    raise KeyboardInterrupt


def content(folder):
    """Everything in a folder, hidden files too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_every_stage_runs_and_leaves_what_it_should(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("--out=somewhere/demo")
    out = tmp_path / "somewhere" / "demo"
    assert {path.name for path in out.iterdir()} == LEFT and list(out.parent.iterdir()) == [out]
    with open(out / "evaluation" / "global.csv", newline="", encoding="utf-8") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["parent", "one-shot"]
    for method in ("parent", "one-shot"):
        (sequence,) = (out / "results" / method).iterdir()
        assert len(list((sequence / "masks").glob("*.png"))) == 4
        assert (sequence / "overlay.mp4").stat().st_size
    assert cv2.imread(str(out / "contact_sheet.png")).size

    said = capsys.readouterr()
    assert "unfinished" not in said.out + said.err
    for line in said.out.splitlines():  # what it names is there afterwards
        for word in line.replace(":", " ").split():
            assert "/" not in word or list(pathlib.Path().glob(word))
    for name, data in content(out).items():
        assert b"unfinished" not in data, name
        assert not pathlib.Path(name).name.startswith(".")
    record = json.loads((sequence / "run.json").read_text())
    assert pathlib.Path(record["flags"]["frames"]).is_dir()
    assert record["work"]["frames"].startswith(record["flags"]["frames"])

    before = content(out)
    run("--out=somewhere/demo")  # the same again
    assert "holds the demonstration already, whole" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"made with another seed.*`overwrite`"):
        run("--out=somewhere/demo", "--seed=1")
    assert content(out) == before


@pytest.fixture
def stages(monkeypatch):
    """Stages that leave something cheap; a list of their names, in order of their calls."""
    called = []

    def train(args):
        called.append("train_parent")
        pathlib.Path(args.workdir).mkdir()
        (pathlib.Path(args.workdir) / "parent.keras").write_text(f"seed {args.seed}")

    def find(args):
        called.append("segment")
        (pathlib.Path(args.out) / "masks").mkdir(parents=True)
        for number in range(4):
            mask = pathlib.Path(args.mask[0]).with_name(f"{number:05d}.png")
            shutil.copy(mask, pathlib.Path(args.out) / "masks")

    monkeypatch.setattr(train_parent, "main", train)
    monkeypatch.setattr(segment, "main", find)
    return called


def test_a_stopped_one_resumes(stages, tmp_path, monkeypatch, capsys):
    """What is whole by then is not made again, and nothing shows before all is."""
    out, unfinished = tmp_path / "demo", tmp_path / ".demo.unfinished"
    steps = [(painted_world, "_write_lists"), (demo, "_write_sheet"), (demo, "_rename_in_records")]
    for module, step in steps:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(module, step, interrupt)
            run(f"--out={out}")
        assert list(tmp_path.iterdir()) == [unfinished]
    assert stages == ["train_parent", "segment", "segment"]
    (unfinished / "parent" / ".lock").touch()  # as of a stage that was killed
    run(f"--out={out}")
    assert len(stages) == 3
    assert "Going on from what" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == LEFT and list(tmp_path.iterdir()) == [out]
    assert not [name for name in content(out) if pathlib.Path(name).name.startswith(".")]


def test_another_seed_replaces_it_when_asked_for(stages, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    monkeypatch.setattr(evaluate, "main", lambda args: pathlib.Path(args.out).mkdir(exist_ok=True))
    run(f"--out={out}")
    (out / "world" / "notes.txt").write_text("mine")
    before = content(out)
    with pytest.raises(InputError, match=r"made with another seed.*`overwrite`"):
        run(f"--out={out}", "--seed=1")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(demo, "_write_sheet", interrupt)
        run(f"--out={out}", "--seed=1", "--overwrite")
    assert content(out) == before
    run(f"--out={out}", "--seed=1", "--overwrite")
    assert (out / "parent" / "parent.keras").read_text() == "seed 1"
    assert (out / "world" / "notes.txt").read_text() == "mine"
    (out / "contact_sheet.png").unlink()
    run(f"--out={out}", "--seed=1")  # made again, as it is not whole
    assert (out / "contact_sheet.png").is_file()


def test_what_would_be_lost_is_refused_by_name(tmp_path):
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "notes.txt").write_text("mine")
    for flags in ([], ["--overwrite"]):
        with pytest.raises(InputError, match=r"holds what this command did not make \(world\)"):
            run(f"--out={tmp_path}", *flags)
    with pytest.raises(InputError, match="is a file"):
        run(f"--out={tmp_path / 'world' / 'notes.txt'}")
    assert content(tmp_path) == {"world/notes.txt": b"mine"}
