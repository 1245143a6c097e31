"""Tables of results folders, partial ones too, and what is refused."""

import collections
import contextlib
import csv
import hashlib
import json
import math
import os
import pathlib
import shutil
import signal
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from osvos_tf.commands import cli, evaluate
from osvos_tf.data import davis
from osvos_tf.errors import InputError
from osvos_tf.evaluation import metrics, report
from osvos_tf.media.masks import read_mask, write_mask
from support.commands import moments

GLOBAL = ["method", "J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay", "T"]


@pytest.fixture
def results(fake_davis, tmp_path):
    """Two methods on the training split: perfect, and the annotation moved by four pixels."""
    for sequence in davis.read_split(fake_davis, "train"):
        for frame in sequence.frames:
            mask = read_mask(frame.mask)
            for method, moved in (("perfect", 0), ("moved", 4)):
                # `segment` leaves masks/ in the folder it is given, others leave the masks there.
                folder = tmp_path / method / sequence.name / ("masks" if moved else "")
                folder.mkdir(parents=True, exist_ok=True)
                write_mask(folder / f"{frame.name}.png", np.roll(mask, moved, axis=1))
    return tmp_path


def run(root, *flags):
    evaluate.main(cli.parse(evaluate.FLAGS, [f"--davis={root}", "--split=train", *flags]))


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables(fake_davis, results, capsys):
    out = results / "out"
    run(
        fake_davis,
        f"--results={results / 'perfect'}",
        f"--results=off:{results / 'moved'}",
        f"--out={out}",
    )
    rows = read(out / "global.csv")
    assert list(rows[0]) == GLOBAL and [row["method"] for row in rows] == ["perfect", "off"]
    assert float(rows[0]["J_mean"]) == float(rows[0]["F_mean"]) == 1.0
    # 16 pixels wide, moved by 4: 12 of 20 columns are shared.
    assert float(rows[1]["J_mean"]) == pytest.approx(12 / 20, abs=1e-6)
    rows = read(out / "per_sequence.csv")
    assert list(rows[0]) == ["method", "sequence", *GLOBAL[1:]]
    assert [(row["method"], row["sequence"]) for row in rows] == [
        ("perfect", "bear"),
        ("perfect", "goat"),
        ("off", "bear"),
        ("off", "goat"),
    ]
    rows = read(out / "per_frame.csv")
    assert list(rows[0]) == ["method", "sequence", "frame", "J", "F"]
    # DAVIS scores neither the first nor the last of the four frames.
    assert [row["frame"] for row in rows] == ["00001", "00002"] * 4
    printed = capsys.readouterr().out
    assert "perfect" in printed and "off" in printed and "0.600" in printed


def test_sequences_that_the_split_does_not_have(fake_davis, results, capsys):
    shutil.copytree(results / "perfect" / "bear", results / "perfect" / "fox")
    flags = [f"--results={results / 'perfect'}", f"--out={results / 'out'}"]
    with pytest.raises(InputError, match="no sequence 'fox'"):
        run(fake_davis, *flags, "--sequences=fox")
    run(fake_davis, *flags)
    assert "perfect: not in train, so not scored: fox" in capsys.readouterr().out
    assert "fox" not in (results / "out" / "per_sequence.csv").read_text(encoding="utf-8")


def test_one_sequence_of_a_split(fake_davis, results):
    run(
        fake_davis,
        f"--results={results / 'moved'}",
        "--sequences=goat",
        f"--out={results / 'out'}",
    )
    assert [row["sequence"] for row in read(results / "out" / "per_sequence.csv")] == ["goat"]


def test_refused(fake_davis, results):
    perfect = results / "perfect"
    flags = [f"--results={perfect}", f"--out={results / 'out'}"]
    with pytest.raises(InputError, match="No results folder"):
        run(fake_davis, "--results=absent", flags[1])
    with pytest.raises(InputError, match="Two --results"):
        run(fake_davis, flags[0], *flags)
    (perfect / "bear" / "00001.png").unlink()
    with pytest.raises(InputError, match=r"1 of 2 masks are missing .*00001\.png"):
        run(fake_davis, *flags)
    cv2.imwrite(str(perfect / "bear" / "00001.png"), np.zeros((10, 20), np.uint8))
    with pytest.raises(InputError, match=r"20x10.*80x48"):
        run(fake_davis, *flags)
    shutil.rmtree(perfect / "bear")
    with pytest.raises(InputError, match=r"No results for sequence 'bear'.*goat"):
        run(fake_davis, *flags)
    assert not (results / "out").exists()


def test_odd_masks_are_refused_by_name(fake_davis, results):
    path = results / "perfect" / "goat" / "00002.png"
    flags = [f"--results={results / 'perfect'}", f"--out={results / 'out'}"]
    cv2.imwrite(str(path), np.full((48, 80), 127, np.uint8))
    with pytest.raises(InputError, match=r"0 and 255.*goat.00002\.png.*127"):
        run(fake_davis, *flags)
    path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"goat.00002\.png"):
        run(fake_davis, *flags)
    path.unlink()
    path.with_name("2.png").touch()
    with pytest.raises(InputError, match=r"1 of 2 masks .*00002\.png.*Found there: .*2\.png"):
        run(fake_davis, *flags)


def test_folders_without_results(fake_davis, results, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    flags = [f"--results={empty}", f"--out={tmp_path / 'out'}", "--allow_missing"]
    with pytest.raises(InputError, match=r"No mask to score in .*empty.*Found there: nothing"):
        run(fake_davis, *flags)
    # The folder of one sequence instead of the one above it.
    one = results / "perfect" / "bear"
    with pytest.raises(InputError, match=r"No mask to score in .*Found there: 00000\.png"):
        run(fake_davis, f"--results={one}", *flags[1:])
    assert not (tmp_path / "out").exists()


def test_palette_results(fake_davis, results):
    for path in (results / "moved").glob("*/masks/*.png"):
        labels = np.where(read_mask(path) == 1, np.arange(80) % 2 + 1, 0)  # two objects
        picture = Image.fromarray(labels.astype(np.uint8), mode="P")
        picture.putpalette([0, 0, 0, 236, 95, 103, 249, 145, 87])
        picture.save(path)
    run(fake_davis, f"--results={results / 'moved'}", f"--out={results / 'out'}")
    (row,) = read(results / "out" / "global.csv")
    assert float(row["J_mean"]) == pytest.approx(12 / 20, abs=1e-6)


def test_upper_case_suffixes_and_several_objects(fake_davis, results, capsys):
    for path in (results / "perfect").rglob("*.png"):
        path.rename(path.with_suffix(".PNG"))
    mask = fake_davis / "Annotations/480p/bear/00000.png"
    labels = (np.asarray(Image.open(mask)) > 0).astype(np.uint8)
    labels[0, 0] = 2
    image = Image.fromarray(labels, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(mask)
    run(fake_davis, f"--results={results / 'perfect'}", f"--out={results / 'out'}")
    (row,) = read(results / "out" / "global.csv")
    assert float(row["J_mean"]) == 1.0
    said = "perfect, bear: the annotations hold objects 1, 2, the results no ids: scored as one"
    assert said in capsys.readouterr().out


def save_labels(path, labels):
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(path)


def test_each_object_is_scored(fake_davis, results, capsys):
    """As DAVIS-2017 does, where both have ids; by hand, object 1 is whole and 2 lacks a half."""
    for sequence in ("bear", "goat"):
        for path in sorted((fake_davis / "Annotations/480p" / sequence).glob("*.png")):
            whole = np.asarray(Image.open(path)) > 0
            if sequence == "bear":
                columns = np.flatnonzero(whole.any(0))
                labels = np.zeros(whole.shape, np.uint8)
                labels[whole] = 1
                labels[:, columns[len(columns) // 2 :]] *= 2
                save_labels(path, labels)
                rows = np.flatnonzero((labels == 2).any(1))
                labels[: rows[len(rows) // 2]][labels[: rows[len(rows) // 2]] == 2] = 0
                for result in ("perfect", "moved"):
                    place = results / result / "bear"
                    place = place / "masks" if (place / "masks").is_dir() else place
                    save_labels(place / path.name, labels)
    run(fake_davis, f"--results={results / 'perfect'}", f"--out={results / 'out'}")
    rows = read(results / "out" / "per_sequence.csv")
    assert [(row["sequence"], row["object"]) for row in rows] == [
        ("bear", "1"), ("bear", "2"), ("goat", ""),
    ]  # fmt: skip
    J = [float(row["J_mean"]) for row in rows]
    assert J[0] == J[2] == 1 and 0.3 < J[1] < 0.7
    (means,) = read(results / "out" / "global.csv")
    assert float(means["J_mean"]) == pytest.approx(np.mean(J), abs=1e-5)  # over objects
    assert {row["object"] for row in read(results / "out" / "per_frame.csv")} == {"1", "2", ""}
    page = (results / "out" / "report.html").read_text()
    assert page.count("bear, object 2") > 2 and "bear, object 2" in capsys.readouterr().out


def test_partial_results_are_scored_when_asked_for(fake_davis, results, capsys):
    moved, out = results / "moved", results / "out"
    (moved / "bear" / "masks" / "00002.png").unlink()
    shutil.rmtree(moved / "goat")
    flags = [f"--results={results / 'perfect'}", f"--results={moved}", f"--out={out}"]
    with pytest.raises(InputError, match=r"1 of 2 masks .*00002\.png.*--allow_missing"):
        run(fake_davis, *flags)
    run(fake_davis, *flags, "--allow_missing")
    rows = read(out / "per_sequence.csv")
    assert [(row["method"], row["sequence"]) for row in rows] == [
        ("perfect", "bear"),
        ("perfect", "goat"),
        ("moved", "bear"),
    ]
    assert rows[0]["T"] and not rows[2]["T"]
    # The mean is over the one frame that is there: nothing is counted as empty.
    assert float(rows[2]["J_mean"]) == pytest.approx(12 / 20, abs=1e-6)
    frames = [row["frame"] for row in read(out / "per_frame.csv") if row["method"] == "moved"]
    assert frames == ["00001"]
    printed = capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in (printed, page):
        assert "partial: 1 of 2 frames" in text and "left out, no results: goat" in text
    assert "nan" not in printed and "This is a partial result" in page


def test_a_failed_run_leaves_the_files_of_the_last_one(fake_davis, results):
    out = results / "out"
    run(fake_davis, f"--results=a:{results / 'perfect'}", f"--out={out}")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    tables = {"global.csv", "per_sequence.csv", "per_frame.csv"}
    assert set(before) == {*tables, "report.html", "run.json"}
    (results / "moved" / "goat" / "masks" / "00001.png").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        run(fake_davis, f"--results=b:{results / 'moved'}", f"--out={out}", "--overwrite")
    with pytest.raises(OSError):
        report.write(out, {"global.csv": "new", "per_frame.csv": "new", "no/such/folder": "new"})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # And a run that succeeds takes nothing from the old files.
    flags = [f"--results=c:{results / 'perfect'}", "--sequences=goat", f"--out={out}"]
    run(fake_davis, *flags, "--overwrite")
    assert [row["method"] for row in read(out / "per_sequence.csv")] == ["c"]
    assert "bear" not in (out / "report.html").read_text(encoding="utf-8")


def test_the_same_command_again_scores_anew(fake_davis, results):
    flags = [f"--results={results / 'perfect'}", f"--out={results / 'out'}"]
    run(fake_davis, *flags)
    (results / "out" / "notes.txt").write_text("mine")
    shutil.copytree(results / "moved/bear/masks", results / "perfect/bear", dirs_exist_ok=True)
    run(fake_davis, *flags)
    first, second = read(results / "out" / "per_sequence.csv")
    assert float(first["J_mean"]) == pytest.approx(12 / 20, abs=1e-6)
    assert float(second["J_mean"]) == 1.0
    assert (results / "out" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["report.html", "global.csv"])
def test_a_report_that_was_edited_is_kept(fake_davis, results, name):
    flags = [f"--results={results / 'perfect'}", f"--out={results / 'out'}", "--sequences=goat"]
    run(fake_davis, *flags)
    path = results / "out" / name
    path.write_text(edited := path.read_text(encoding="utf-8") + "my words", encoding="utf-8")
    with pytest.raises(InputError, match=f"{name} was changed .*--overwrite"):
        run(fake_davis, *flags)
    assert path.read_text(encoding="utf-8") == edited
    run(fake_davis, *flags, "--overwrite")
    assert "my words" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"results": "moved"}, "another results"),
        ({"sequences": "bear"}, "another sequences"),
        ({"split": "480p/train"}, "another split"),
        ({"allow_missing": True}, "another allow_missing"),
        ({"out": "DAVIS"}, "lies in '.*DAVIS', whose content would be replaced"),
        ({"out": "DAVIS/Annotations/480p"}, "lies in '.*480p', whose"),
        ({"out": "perfect"}, "lies in '.*perfect', whose"),
        ({"out": "perfect/goat", "overwrite": True}, "lies in '.*goat', whose"),
        ({"out": "."}, "lies in '.*', whose"),
        ({"out": "mine"}, r"mine' holds what this command did not make \(notes\.txt\)"),
        ({"out": "mine", "overwrite": True}, r"mine' holds what this command did not make"),
        ({"out": "mine/notes.txt"}, "is a file"),
    ],
    ids=str,
)
def test_what_would_be_lost_is_refused_by_name(fake_davis, results, changes, message):
    def flags(**changes):
        flags = {"out": "out", "results": "perfect", "sequences": "goat", **changes}
        places = {name: results / flags[name] for name in ("out", "results")}
        return [f"--{name}={value}" for name, value in {**flags, **places}.items()]

    run(fake_davis, *flags())
    (results / "mine").mkdir()
    (results / "mine" / "notes.txt").write_text("mine")
    # A result of ours there would be replaced, were it not for what it is read for.
    shutil.copy(results / "out" / "run.json", results / "perfect" / "goat")
    before = content(results)
    with pytest.raises(InputError, match=message):
        run(fake_davis, *flags(**changes))
    assert content(results) == before


def content(folder):
    """Everything in a folder by its path, hidden files too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_unfinished_results_are_no_strangers(fake_davis, results, capsys):
    """A report may lie among the results that it is of."""
    flags = [f"--results={results / 'perfect'}", f"--out={results / 'perfect' / 'scores'}"]
    run(fake_davis, *flags)
    run(fake_davis, *flags)
    assert "not scored" not in capsys.readouterr().out


def test_processes_that_score_end_with_the_one_that_was_killed(commands, fake_davis, results):
    """Nobody else would end them: a killed process cannot."""
    flags = [f"--davis={fake_davis}", "--split=train", f"--results={results / 'perfect'}"]
    child, wait = commands.start("evaluate", [*flags, f"--out={results / 'out'}"])
    children = pathlib.Path(f"/proc/{child}/task/{child}/children")
    if not children.exists():
        pytest.skip("needs Linux's list of a process's children")
    deadline = time.monotonic() + 60
    while len(found := children.read_text().split()) < 3:  # two workers, and one that tidies up
        assert time.monotonic() < deadline
    os.kill(child, signal.SIGKILL)
    wait()  # all that could still say something have ended
    deadline = time.monotonic() + 60
    while any(pathlib.Path(f"/proc/{number}").exists() for number in found):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_thirty_times_it_leaves_the_old_or_the_new_whole(commands, fake_davis, results):
    """SIGKILL, SIGINT or SIGTERM at random moments, over finished results, again and again."""
    methods, out = ("perfect", "moved"), results / "out"
    for sequence in davis.read_split(fake_davis, "val"):  # one only, scored in the same process
        for method in methods:
            folder = results / method / sequence.name
            folder.mkdir(parents=True)
            for frame in sequence.frames:
                moved = np.roll(read_mask(frame.mask), 4 * (method == "moved"), axis=1)
                write_mask(folder / f"{frame.name}.png", moved)
    flags = [f"--davis={fake_davis}", "--split=val", "--overwrite"]
    expected, seconds = {}, []
    for method in methods:
        command = [*flags, f"--results={results / method}"]
        seconds.append(commands.run("evaluate", [*command, f"--out={results / 'undisturbed'}"]))
        expected[method] = tables(results / "undisturbed")
        shutil.rmtree(results / "undisturbed")
    assert expected["perfect"] != expected["moved"]
    commands.run("evaluate", [*flags, f"--results={results / 'perfect'}", f"--out={out}"])
    stands, found = "perfect", collections.Counter()
    numbers = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
    for count, moment in enumerate(moments(1.1 * seconds[-1], count=30)):
        number = numbers[count % 3]
        following = methods[stands == "perfect"]
        child, wait = commands.start(
            "evaluate", [*flags, f"--results={results / following}", f"--out={out}"]
        )
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        status, text = wait()
        assert status in (0, -number, 128 + number), text
        left = tables(out)
        assert left in ((expected[following],) if status == 0 else expected.values())
        found[status != 0, left == expected[following]] += 1
        stands = next(method for method in methods if expected[method] == left)
    assert found[True, False]  # killed, and the old one stands
    commands.run("evaluate", [*flags, f"--results={results / 'moved'}", f"--out={out}"])
    assert tables(out) == expected["moved"]
    assert {path.name for path in results.iterdir()} == {"DAVIS", "out", *methods}


def tables(out):
    """What finished results hold, but for what differs from run to run."""
    assert {path.name for path in out.iterdir()} == {
        "global.csv", "per_sequence.csv", "per_frame.csv", "report.html", "run.json"
    }  # fmt: skip
    record = json.loads((out / "run.json").read_text())
    for name, checksum in record["checksums"].items():
        assert checksum == f"sha256:{hashlib.sha256((out / name).read_bytes()).hexdigest()}"
    return record["work"]["results"], record["checksums"]


def test_instability_is_averaged_over_stable_sequences():
    def result(sequence, instability):
        scores = metrics.SequenceScores(np.array([0.5]), np.array([0.25]), instability)
        return report.SequenceResult(sequence, ("00001",), scores, ("00001",))

    assert report.summarise([result("blackswan", 0.2), result("dog", 0.6)])[-1] == 0.2
    assert report.summarise([result("red-kite", 0.2), result("dog", 0.6)])[-1] == pytest.approx(0.4)
    assert report.summarise([result("cows", math.nan), result("camel", 0.3)])[-1] == 0.3
    assert math.isnan(report.summarise([result("cows", math.nan)])[-1])


@pytest.mark.real_data
def test_authors_masks_score_what_they_published(real_data, tmp_path):
    masks = real_data.parent / "reference" / "osvos_author_results" / "masks"
    if not masks.is_dir():
        pytest.skip(f"no folder {masks}")
    root = real_data / "DAVIS"
    flags = [f"--davis={root}", f"--results={masks}", f"--out={tmp_path}", "--sequences=car-shadow"]
    evaluate.main(cli.parse(evaluate.FLAGS, flags))
    (row,) = read(tmp_path / "global.csv")
    published = (0.9373, 1.0, 0.0977, 0.9425, 1.0, 0.1485, 0.1526)
    assert [float(row[name]) for name in GLOBAL[1:]] == pytest.approx(published, abs=1e-4)
