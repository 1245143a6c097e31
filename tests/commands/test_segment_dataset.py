"""Many sequences: what is left, what is done again, and what faults of workers cost."""

import contextlib
import csv
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from osvos_tf.commands import cli, evaluate, segment, segment_dataset, shared_flags
from osvos_tf.data import davis
from osvos_tf.errors import InputError
from osvos_tf.jobs import dispatch, engines, video_job, worker, worklist
from osvos_tf.media.masks import write_mask
from osvos_tf.network.files import load_model
from osvos_tf.network.parents import PARENTS
from osvos_tf.segmentation import options, specialist
from support import quick_specialist
from support.commands import SECONDS, in_background, wait_for
from support.world import REPOSITORY

JOB = REPOSITORY / "deploy" / "segment_dataset.job.yaml"
FRAMES = ["00000.png", "00001.png", "00002.png", "00003.png"]


@pytest.fixture
def arguments(fake_davis, parent, tmp_path):
    """Flags by name, for tests to change."""
    return {
        "davis": fake_davis,
        "split": "train",
        "parent": parent,
        "out": tmp_path / "out",
        "updates": 1,
        "precision": "float32",
    }


class InThisProcess:
    """An engine with one worker, which needs no process; notes what it was given."""

    slots = 1
    given: tuple = ()

    def __init__(self, workers, cpus, timeout=None):
        pass

    def start(self, slot, is_wanted):
        return self

    def run(self, job):
        InThisProcess.given += (pathlib.Path(job.out).name,)
        job = video_job.VideoJob.from_json(json.loads(json.dumps(job.as_json())))
        return json.loads(json.dumps(worker.segment_sequence(job)))

    def close(self):
        pass


@pytest.fixture
def run(monkeypatch):
    """A function of flags that runs the command here; returns the sequences that were tried."""
    monkeypatch.setattr(engines, "Processes", InThisProcess)

    def run(arguments):
        InThisProcess.given = ()
        segment_dataset.main(cli.parse(segment_dataset.FLAGS, to_flags(arguments)))
        return list(InThisProcess.given)

    return run


def to_flags(arguments):
    return [f"--{name}={value}" for name, value in arguments.items() if value is not None]


def write_list(path, fake_davis, **masks):
    """A list of the invented sequences; `masks` replaces some sequences' masks."""
    lines = []
    for name in ("bear", "goat", "swan"):
        mask = masks.pop(name, fake_davis / f"Annotations/480p/{name}/00000.png")
        lines.append(f"{fake_davis / 'JPEGImages/480p' / name} {mask}\n")
    for name, mask in masks.items():
        lines.append(f"{name}:{fake_davis / 'JPEGImages/480p/bear'} {mask}\n")
    path.write_text("".join(lines))
    return {"davis": None, "split": None, "list": path}


def read_lines(out, name="results.jsonl"):
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def read_masks(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "masks").iterdir())}


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# --- its flags ------------------------------------------------------------------------------------


def test_the_flags_of_segment_are_its_own():
    ours, theirs = segment_dataset.FLAGS, segment.FLAGS
    single = {"frames", "mask", "specialist", "from"}
    assert set(theirs) - set(ours) == single
    for name in set(theirs) - single - {"out"}:
        assert (ours[name].help, ours[name].default) == (theirs[name].help, theirs[name].default)
    assert len(set(theirs) & set(ours)) > 10


def test_flags_reach_segment(arguments):
    """A sequence's job is the one that `segment` makes of the same flags."""
    flags = {
        **arguments,
        "threshold": 0.1 + 0.2,
        "probabilities": "true",
        "overwrite": "true",
        "contour": "a b.keras",
        "snap": "contour",
        "follow": "false",
        "budget": 7,
    }
    item = worklist.Item("bear", "frames", ("a.png", "00002:b.png"))
    args = cli.parse(segment_dataset.FLAGS, to_flags(flags))
    (job,) = segment_dataset._make_jobs(args, [item])
    shared = {name: flags[name] for name in flags if name in segment.FLAGS}
    own = ["--frames=frames", "--mask=a.png", "--mask=00002:b.png"]
    alone = cli.parse(segment.FLAGS, [*to_flags(shared), *own, f"--out={args.out}/bear"])
    assert job == segment.make_job(alone)
    assert job.segment.threshold == 0.1 + 0.2 and job.segment.contour == "a b.keras"
    assert (job.frames, job.masks) == ("frames", ("a.png", "00002:b.png"))
    assert "probabilities" in job.save and job.overwrite and job.learn.budget == 7


def test_every_option_has_a_flag():
    for kind in (options.LearnOptions, options.SegmentOptions):
        args = cli.parse(segment.FLAGS, ["--frames=f", "--mask=m.png", "--out=o"])
        assert shared_flags.read_options(kind, args) == kind()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"split": None}, "--split=NAME or --list=FILE"),
        ({"list": "list.txt"}, "--split=NAME or --list=FILE"),
        ({"davis": None}, "--split wants --davis"),
        ({"davis": None, "split": None, "list": "absent.txt"}, "No list absent.txt"),
        ({"split": "test"}, "No list for split 'test'"),
        ({"sequences": "fox"}, "no sequence 'fox'"),
        ({"shard": "1"}, "--shard=i/n"),
        ({"shard": "2/2"}, "--shard=i/n"),
        ({"shard": "-1/2"}, "--shard=i/n"),
        ({"parent": "absent.keras"}, "--parent: no model file absent.keras"),
        ({"timeout": 0}, "--timeout must be above 0"),
        ({"updates": -1}, "`updates` must be 0 or more"),
        ({"snap": "contour"}, "`contour` network go together"),
    ],
)
def test_refused_before_anything_is_written(run, arguments, flags, message):
    with pytest.raises(InputError, match=message):
        run({**arguments, **flags})
    assert not arguments["out"].exists()


def test_refused_by_the_engines(arguments):
    for flags, message in (
        ({"gpus": 1}, "--gpus goes with --ray"),
        ({"cpus": 4096}, "this machine has"),
    ):
        with pytest.raises(InputError, match=message):
            segment_dataset.main(cli.parse(segment_dataset.FLAGS, to_flags({**arguments, **flags})))


# --- what it leaves, and what is done again -------------------------------------------------------


def test_a_split(run, arguments, fake_davis, tmp_path, capsys):
    out = arguments["out"]
    assert run(arguments) == ["bear", "goat"]
    assert {path.name for path in out.iterdir()} == {"bear", "goat", "results.jsonl"}
    for name in ("bear", "goat"):
        assert list(read_masks(out / name)) == FRAMES
        assert {path.name for path in (out / name).iterdir()} == {
            "annotations",
            "masks",
            "overlay.mp4",
            "run.json",
            "specialist.json",
            "specialist.keras",
        }
        assert json.loads((out / name / "run.json").read_text())["flags"]["out"] == str(out / name)
    lines = read_lines(out)
    assert [(line["sequence"], line["status"], line["attempts"]) for line in lines] == [
        ("bear", "done", 1),
        ("goat", "done", 1),
    ]
    assert lines[0]["frames"] == 4 and lines[0]["updates"] == 1
    assert "2 done in" in capsys.readouterr().out

    # The same command again: all is whole. And `evaluate` finds the masks.
    assert run(arguments) == []
    assert read_lines(out) == lines
    assert "0 done in 0 s, 2 whole before, 0 failed." in capsys.readouterr().out
    flags = [f"--davis={fake_davis}", "--split=train", f"--results={out}", f"--out={out / 'eval'}"]
    evaluate.main(cli.parse(evaluate.FLAGS, flags))
    with open(out / "eval" / "per_sequence.csv", newline="", encoding="utf-8") as file:
        scored = {row["sequence"]: float(row["J_mean"]) for row in csv.DictReader(file)}
    assert scored.keys() == {"bear", "goat"} and all(0 <= J <= 1 for J in scored.values())

    # `segment` makes the same masks.
    (bear, _) = worklist.from_davis(davis.read_split(fake_davis, "train"))
    flags = {name: arguments[name] for name in ("parent", "updates", "precision")}
    own = {"frames": bear.frames, "mask": bear.masks[0], "out": tmp_path / "alone"}
    segment.main(cli.parse(segment.FLAGS, to_flags({**flags, **own})))
    assert read_masks(tmp_path / "alone") == read_masks(arguments["out"] / "bear")


def test_what_is_damaged_is_done_again_by_the_specialist_that_lies_there(
    run, quick, arguments, capsys
):
    out = arguments["out"]
    run(arguments)
    expected = {name: read_masks(out / name) for name in ("bear", "goat")}
    path = out / "goat" / "masks" / "00001.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert run(arguments) == ["goat"]
    assert "goat is done again" in capsys.readouterr().err
    (out / "bear" / "masks" / "00003.png").unlink()
    assert run(arguments) == ["bear"]
    assert len(quick) == 2  # trainings, one for each sequence
    (out / "bear" / "specialist.keras").write_bytes(b"damaged")
    (out / "bear" / "masks" / "00003.png").unlink()
    assert run(arguments) == ["bear"] and len(quick) == 3
    assert {name: read_masks(out / name) for name in ("bear", "goat")} == expected
    assert hidden(out) == [] and run(arguments) == []


def test_what_is_made_otherwise_is_done_again_where_the_user_says_so(run, quick, arguments, parent):
    out = arguments["out"]
    run(arguments)
    before = content(out)
    other = out.parent / "other.keras"
    other.write_bytes(parent.read_bytes())
    assert run({**arguments, "parent": other}) == []  # the same weights
    for flags, what in (({"seed": 1}, "seed"), ({"parent": "random"}, "parent")):
        with pytest.raises(
            InputError,
            match=rf"'{out / 'bear'}' holds .* another {what}\..*`overwrite`.*with 1 more",
        ):
            run({**arguments, **flags})
        assert content(out) == before
        assert run({**arguments, **flags, "overwrite": "true"}) == ["bear", "goat"]
        assert run({**arguments, **flags, "overwrite": "true"}) == []
        before = content(out)
        arguments.update(flags)


@pytest.mark.parametrize("record", [None, "{", '{"sequences": 3}'])
def test_folders_of_somebody_else_are_refused_before_any_work(
    run, quick, arguments, fake_davis, tmp_path, record
):
    out = arguments["out"]
    flags = {**arguments, **write_list(tmp_path / "list.txt", fake_davis), "overwrite": "true"}
    for name in ("goat", "swan"):
        (out / name / "masks").mkdir(parents=True)
        (out / name / "masks" / "00000.png").write_bytes(b"my annotation")
        (out / name / "notes.txt").write_text("mine")
        if record is not None:
            (out / name / "run.json").write_text(record)
    before = content(out)
    with pytest.raises(
        InputError, match=rf"'{out / 'goat'}' holds what this .* \(masks, notes.*with 1 more"
    ):
        run(flags)
    assert InThisProcess.given == () and content(out) == before
    assert {path.name for path in out.iterdir()} == {"goat", "swan"}
    assert run({**flags, "sequences": "bear"}) == ["bear"]


def test_the_parent_that_comes_with_the_package_is_known_by_its_content(
    run, quick, arguments, parent, monkeypatch
):
    monkeypatch.setitem(PARENTS, "full", parent)
    flags = {**arguments, "parent": None}
    assert run(flags) == ["bear", "goat"] and run(flags) == []
    other = arguments["out"].parent / "other.keras"
    other.write_bytes(parent.read_bytes() + b"another version")
    monkeypatch.setitem(PARENTS, "full", other)
    with pytest.raises(InputError, match="another parent"):
        run(flags)
    assert run({**flags, "overwrite": "true"}) == ["bear", "goat"]


def test_a_lost_line_is_written_again(run, quick, arguments):
    out = arguments["out"]
    run(arguments)
    (line, _) = read_lines(out)
    (out / "results.jsonl").write_text(json.dumps(line) + '\n{"sequence": "go')
    assert run(arguments) == []
    assert worklist.read_results(out / "results.jsonl")["goat"]["status"] == "done"


def test_a_broken_sequence_is_tried_twice_and_reported_while_others_go_on(
    run, quick, arguments, fake_davis, tmp_path, capsys
):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    flags = {**arguments, **write_list(tmp_path / "list.txt", fake_davis, goat=bad)}
    with pytest.raises(cli.Unfinished, match=r"1 of 3 sequences failed: goat \(.*bad\.png"):
        run(flags)
    assert InThisProcess.given == ("bear", "goat", "swan", "goat")
    out = arguments["out"]
    assert {path.name for path in out.iterdir()} == {"bear", "swan", "results.jsonl"}
    assert hidden(out) == []
    last = read_lines(out)[-1]
    assert (last["sequence"], last["status"], last["attempts"]) == ("goat", "failed", 2)
    assert "bad.png" in last["error"]
    assert re.search(r"goat +failed", capsys.readouterr().out)

    write_mask(bad, np.eye(48, 80))
    assert run(flags) == ["goat"]
    assert worklist.read_results(out / "results.jsonl")["goat"]["status"] == "done"


def test_a_fault_of_ours_is_reported_with_its_trace(run, arguments, monkeypatch):
    def fail(*_):
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(specialist, "learn_from", fail)
    with pytest.raises(cli.Unfinished, match=r"2 of 2 .*RuntimeError: not foreseen"):
        run(arguments)
    assert "Traceback" in read_lines(arguments["out"])[0]["trace"]
    assert [path.name for path in arguments["out"].iterdir()] == ["results.jsonl"]


def test_a_mistake_in_the_flags_ends_it(run, quick, arguments, tmp_path):
    parent = tmp_path / "no_network"
    parent.write_text("damaged")
    with pytest.raises(InputError, match=r"no_network.* \(Both of the first two sequences failed"):
        run({**arguments, "parent": parent})
    assert len(InThisProcess.given) == 4


def test_what_was_not_found_is_said(run, quick, arguments, monkeypatch, capsys):
    def find(specialist, name, options):
        mask = specialist.annotations[0].mask == 1
        return mask & (name != "00002")

    monkeypatch.setattr(quick_specialist.Quick, "find", find)
    for _ in range(2):  # also of results that were whole before
        run(arguments)
        said = capsys.readouterr().out
        for name in ("bear", "goat"):
            assert f"{name}: No object was found in 1 of 4 frames: 00002." in said
    assert all("00002" in line["remarks"][0] for line in read_lines(arguments["out"]))


def test_shards(run, quick, arguments, fake_davis, tmp_path):
    flags = {**arguments, **write_list(tmp_path / "list.txt", fake_davis)}
    assert run({**flags, "shard": "0/2"}) == ["bear", "swan"]
    assert run({**flags, "shard": "1/2"}) == ["goat"]
    assert run({**flags, "shard": "3/4"}) == []
    assert run(flags) == []
    assert len(read_lines(arguments["out"], "results-00000-of-00002.jsonl")) == 2


# --- real processes -------------------------------------------------------------------------------


@pytest.fixture
def start():
    """Starts the command in the background."""
    with in_background(REPOSITORY) as start:
        yield lambda arguments: start("segment_dataset", to_flags(arguments))


def workers_of(process):
    """Process ids of the command's workers."""
    found = []
    for path in pathlib.Path(f"/proc/{process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has just ended
            found += [int(word) for word in path.read_text().split()]
    return found


def is_running(pid):
    try:
        return "State:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


needs_proc = pytest.mark.skipif(
    not pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists(),
    reason="needs Linux's /proc to find workers",
)


@needs_proc
@pytest.mark.slow
def test_two_workers_that_are_killed_once_equal_one(start, arguments, fake_davis, tmp_path):
    """And a broken sequence beside them costs nothing but itself."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    flags = {**arguments, **write_list(tmp_path / "list.txt", fake_davis, broken=bad)}
    flags.update(cpus=1, updates=3)
    one, two = ({**flags, "out": tmp_path / name, "workers": n} for name, n in (("a", 1), ("b", 2)))
    alone = start(one)
    _, said = alone.communicate(timeout=SECONDS)
    assert alone.returncode == 3, said
    assert said.count("broken.png") == 0 and "1 of 4 sequences failed: broken (" in said
    assert "Traceback" not in said

    pair = start(two)
    wait_for(lambda: list(tmp_path.glob("b/.*.unfinished")), pair)  # a sequence is under way
    for pid in workers_of(pair):
        os.kill(pid, signal.SIGKILL)
    _, said = pair.communicate(timeout=SECONDS)
    assert pair.returncode == 3, said
    assert "signal SIGKILL" in said
    lines = {line["sequence"]: line for line in read_lines(tmp_path / "b")}
    assert {name: line["status"] for name, line in lines.items()} == {
        "bear": "done",
        "goat": "done",
        "swan": "done",
        "broken": "failed",
    }
    for name in ("bear", "goat", "swan"):
        assert read_masks(tmp_path / "b" / name) == read_masks(tmp_path / "a" / name)
        networks = (load_model(tmp_path / o / name / "specialist.keras") for o in "ab")
        for ours, theirs in zip(*(network.get_weights() for network in networks), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert hidden(tmp_path / "b") == []


@needs_proc
@pytest.mark.slow
def test_a_sequence_whose_worker_is_killed_goes_on_from_what_it_has_learned(
    start, arguments, fake_davis
):
    """While masks are written: the next worker only finds, and does not learn."""
    frames = fake_davis / "JPEGImages/480p/bear"
    for number in range(4, 200):
        os.link(frames / f"{number % 4:05d}.jpg", frames / f"{number:05d}.jpg")
    flags = {**arguments, "split": None, "davis": None, "list": fake_davis / "list.txt"}
    flags["list"].write_text(f"{frames} {fake_davis / 'Annotations/480p/bear/00000.png'}\n")
    out, draft = arguments["out"], arguments["out"] / ".bear.unfinished"
    process = start(flags)
    wait_for(lambda: list(draft.glob("masks/*.png")), process)
    (pid,) = workers_of(process)
    os.kill(pid, signal.SIGKILL)
    learned = (draft / "specialist.keras").stat()
    assert not (out / "bear").exists()
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert "bear is tried again: Its worker ended with signal SIGKILL." in said
    assert read_lines(out)[-1]["attempts"] == 2
    assert len(read_masks(out / "bear")) == 200 and hidden(out) == []
    assert os.path.samestat((out / "bear" / "specialist.keras").stat(), learned)


@pytest.mark.slow
def test_a_sequence_that_hangs_costs_its_attempts_and_a_worker_each(
    arguments, fake_davis, tmp_path
):
    frames = str(fake_davis / "JPEGImages/480p/bear")
    mask = str(fake_davis / "Annotations/480p/bear/00000.png")
    args = cli.parse(segment_dataset.FLAGS, to_flags({**arguments, "updates": 10**6}))
    jobs = segment_dataset._make_jobs(
        args,
        [
            worklist.Item("hanging", frames, (mask,)),
            worklist.Item("broken", frames, (str(tmp_path / "absent.png"),)),
        ],
    )
    engine = engines.Processes(1, 1, timeout=4)
    started = []

    def start(slot, is_wanted):
        started.append(engine.start(slot, is_wanted))
        return started[-1]

    outcomes = {
        pathlib.Path(outcome.job.out).name: outcome for outcome in dispatch.run(jobs, start, 1)
    }
    assert outcomes["hanging"].attempts == outcomes["broken"].attempts == 2
    assert outcomes["hanging"].reply["error"] == "No result after 4 s; its worker was ended."
    assert "absent.png" in outcomes["broken"].reply["error"]
    # hanging, broken, hanging, broken: each hang cost a process.
    assert len(started) == 3
    assert all(worker._process.poll() is not None for worker in started)
    assert not list(arguments["out"].glob("[!.]*"))


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_leaves_what_is_whole_and_goes_on_from_there(start, arguments, number, status):
    out = arguments["out"]
    process = start({**arguments, "updates": 3})
    wait_for(lambda: (out / "bear").is_dir() and list(out.glob(".goat.unfinished")), process)
    (pid,) = workers_of(process)
    process.send_signal(number)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == status, said
    assert "Traceback" not in said
    assert not is_running(pid)
    assert {path.name for path in out.glob("[!.]*")} <= {"bear", "results.jsonl"}
    before = (out / "bear" / "run.json").read_bytes()
    if number == signal.SIGINT:
        again = start({**arguments, "updates": 3})
        said, _ = again.communicate(timeout=SECONDS)
        assert again.returncode == 0 and "1 done in" in said and "1 whole before" in said
        assert (out / "bear" / "run.json").read_bytes() == before
        assert hidden(out) == []


@needs_proc
@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_command(start, arguments):
    process = start(arguments)
    (pid,) = wait_for(lambda: workers_of(process), process)
    wait_for(lambda: list(arguments["out"].glob(".bear.*")), process)
    process.kill()
    wait_for(lambda: not is_running(pid))


@pytest.mark.slow
def test_exit_status_of_a_users_mistake(start, arguments):
    process = start({**arguments, "shard": "2/1"})
    out, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (2, "")
    assert said.startswith("segment_dataset: Wanted --shard=i/n") and "Traceback" not in said


# --- what lies in the current folder --------------------------------------------------------------

DRUM = """
import sys
sys.stdout.write('{"level": "info"}\\nnot a line of JSON\\n[1]\\n{"ready": ')
sys.stdout.flush()
"""
INSTALLED = pathlib.Path(sys.executable).with_name("osvos-segment-dataset")


@pytest.fixture
def start_elsewhere(tmp_path):
    """Starts the installed command in a folder of its own, with this text in modules of our names.

    `site` is the text of a `sitecustomize.py`, which Python runs before anything else.
    """
    if not INSTALLED.exists():
        pytest.skip("the package is not installed: no console scripts")

    def start(arguments, text, site=""):
        folder = tmp_path / "elsewhere"
        for name in ("pipelines", "osvos_tf", "numpy"):
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text(text)
        (folder / "json.py").write_text(text)
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(site)
        return subprocess.run(
            [INSTALLED, *to_flags(arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "site"),
    [("", DRUM), ("print('{\"ready\": true}')", "print('hello')"), ("raise ImportError('no')", "")],
    ids=["empty", "prints", "raises"],
)
def test_modules_of_our_names_do_not_matter(start_elsewhere, arguments, text, site):
    """Nor does what is printed before a worker is ready: JSON, or half a line of it."""
    done = start_elsewhere({**arguments, "updates": 0, "sequences": "goat"}, text, site)
    assert done.returncode == 0, done.stderr
    assert "1 done in" in done.stdout
    (line,) = read_lines(arguments["out"])
    assert (line["status"], line["frames"], line["attempts"]) == ("done", 4, 1)


@pytest.mark.slow
def test_a_worker_that_dies_at_its_start_is_told(start_elsewhere, arguments):
    site = """
import os, sys
if "-c" in sys.orig_argv:
    print("no room here", flush=True)
    os._exit(7)
"""
    began = time.monotonic()
    done = start_elsewhere(arguments, "", site)
    assert done.returncode == 3
    assert "Its worker ended with status 7. It wrote:" in done.stderr
    assert "no room here" in done.stderr and "Traceback" not in done.stderr
    assert time.monotonic() - began < 60  # most of it for starting the command itself


# --- Ray ------------------------------------------------------------------------------------------


def test_without_ray_the_message_says_what_to_install(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install ray"):
        segment_dataset.main(
            cli.parse(segment_dataset.FLAGS, to_flags({**arguments, "ray": "local"}))
        )


def test_a_ray_address_where_nothing_listens(arguments):
    pytest.importorskip("ray", reason="Ray is not installed: pip install osvos_tf[distributed]")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"):
        with pytest.raises(InputError, match=f"No Ray cluster at ray={address}"):
            segment_dataset.main(
                cli.parse(segment_dataset.FLAGS, to_flags({**arguments, "ray": address}))
            )


@pytest.mark.slow
def test_a_ray_node_is_killed_halfway(start, arguments, fake_davis, tmp_path):
    """Two nodes on loopback with room for one sequence each; one dies with its sequence."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install osvos_tf[distributed]")
    from ray import cluster_utils

    cluster = cluster_utils.Cluster()
    try:
        nodes = [cluster.add_node(num_cpus=1, include_dashboard=False) for _ in range(2)]
        flags = {**arguments, **write_list(tmp_path / "list.txt", fake_davis), "updates": 20}
        process = start({**flags, "ray": cluster.address})
        out = arguments["out"]
        wait_for(lambda: len(list(out.glob(".*.unfinished"))) == 2, process)
        cluster.remove_node(nodes[1], allow_graceful=False)
        said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said
        assert "Its worker was lost" in said[1]
    finally:
        cluster.shutdown()
    attempts = {line["sequence"]: line["attempts"] for line in read_lines(out)}
    assert attempts.keys() == {"bear", "goat", "swan"}
    assert sorted(attempts.values()) == [1, 1, 2]
    for name in attempts:
        assert list(read_masks(out / name)) == FRAMES


# --- Kubernetes -----------------------------------------------------------------------------------


def test_the_job_file_gives_each_index_its_shard():
    text = JOB.read_text(encoding="utf-8")
    completions = int(re.search(r"^  completions: (\d+)", text, re.MULTILINE)[1])
    assert "completionMode: Indexed" in text and "- osvos-segment-dataset" in text
    arguments = re.findall(r"^ +- (--\S+)", text, re.MULTILINE)
    arguments = [word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in arguments]
    args = cli.parse(segment_dataset.FLAGS, arguments)
    assert args.shard == f"3/{completions}"
    assert len(args.flag_values_dict()) and args.davis == "/data/DAVIS"
    assert f'cpu: "{args.cpus}"' in text


@pytest.mark.skipif(importlib.util.find_spec("yaml") is None, reason="no YAML parser is there")
def test_the_job_file_is_a_job():
    import yaml

    job = yaml.safe_load(JOB.read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    codes = {
        rule["action"]: rule["onExitCodes"]["values"]
        for rule in job["spec"]["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert codes == {"FailJob": [2], "FailIndex": [3]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]
    }
