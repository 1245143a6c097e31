"""Folders of results: the old ones or the new ones, whole, and nothing else is ever lost."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osvos_tf import places, results
from osvos_tf.errors import InputError
from support.world import REPOSITORY

A, B = {"command": "test", "seed": 1}, {"command": "test", "seed": 2}
OURS = {  # what the work A and the work B leave, by its path
    1: {"masks/0.png": "one", "masks/1.png": "one", "network": "one"},
    2: {"masks/0.png": "two", "probabilities/0.png": "two", "network": "two"},
}
EXCHANGES = [True, False]  # whether the system can exchange two folders in one step

# Makes results, again and again: each time as a process of its own, which may be killed or stopped
# before any step. A step is whatever changes something on the disk.
_SERVER = """
import itertools, json, os, pathlib, signal, sys, traceback
from osvos_tf import results
os.fsync = lambda descriptor: None  # a power cut is not among what happens

def make(out, work, content, overwrite, can_exchange, number, step):
    if not can_exchange:
        results._exchange = lambda a, b: False
    steps = itertools.count()
    changes = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir"}

    def hook(event, values):
        writes = event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        is_step = writes or event in changes or event == "ctypes.dlsym"  # that is the exchange
        if is_step and next(steps) == step:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    with results.draft(out, work, overwrite=overwrite) as draft:
        for name, text in content.items():
            (draft.folder / name).parent.mkdir(exist_ok=True)
            (draft.folder / name).write_text(text)
        draft.worth_keeping = True
        draft.publish({})

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = 0
        try:
            make(*json.loads(line))
        except KeyboardInterrupt:
            status = 130
        except results.InputError:
            status = 2
        except BaseException:
            traceback.print_exc()
            status = 1
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def make_apart():
    """A function that makes the results of a work in a process of its own; returns its status."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def make_apart(
            out, work, *, overwrite=True, can_exchange=True, number=signal.SIGKILL, step=-1
        ):
            content = OURS[work["seed"]]
            order = [str(out), work, content, overwrite, can_exchange, number, step]
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            assert status in (0, 2, 130, -number)
            return status

        yield make_apart
        process.stdin.close()


@pytest.fixture(params=EXCHANGES, ids=["exchange", "two renames"])
def can_exchange(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(places, "exchange", lambda a, b: False)
    return request.param


def fill(draft, work):
    for name, text in OURS[work["seed"]].items():
        (draft.folder / name).parent.mkdir(exist_ok=True)
        (draft.folder / name).write_text(text)


def make(out, work, **options):
    with results.draft(out, work, **options) as draft:
        fill(draft, work)
        draft.publish({"frames": 2})


def content(folder):
    """All that lies in a folder but the record: path -> text, or where a link leads to."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file() and name != results.RECORD:
            found[name] = path.read_text()
    return found


def seed_of(out):
    """The seed of the work whose results are in `out`, once they have proved whole."""
    seed = results.read_record(out)[results.WORK]["seed"]
    found = content(out)
    assert {name: found.get(name) for name in OURS[seed]} == OURS[seed]
    return seed


def lay_mine(out):
    """Lays things into finished results, as a person would; returns what `content` says of them."""
    (out / "notes.txt").write_text("mine")
    (out / ".hidden").write_text("mine")
    (out / "masks" / "0.corrected.png").write_text("mine")
    (out / "work" / "deep").mkdir(parents=True)
    (out / "work" / "deep" / "draft.txt").write_text("mine")
    (out / "work" / "inner").symlink_to("deep")
    (out / "empty").mkdir()
    (out / "link").symlink_to("notes.txt")
    (out / "dangling").symlink_to("nowhere")
    (out / "folder_link").symlink_to(out.parent)
    return mine_of(out)


def mine_of(out):
    return {name: text for name, text in content(out).items() if name not in OURS[1] | OURS[2]}


# --- taking a place -------------------------------------------------------------------------------


def test_over_nothing(tmp_path):
    out = tmp_path / "a" / "b" / "dog"
    make(out, A)
    assert content(out) == OURS[1]
    record = results.read_record(out)
    assert record["frames"] == 2 and record[results.WORK] == A
    assert list(out.parent.iterdir()) == [out]


def test_nothing_stands_under_the_name_before_it_is_whole(tmp_path):
    with results.draft(tmp_path / "dog", A) as draft:
        fill(draft, A)
        assert not (tmp_path / "dog").exists()
        draft.publish({})
    assert content(tmp_path / "dog") == OURS[1]


@pytest.mark.parametrize("hidden", [False, True])
def test_over_an_empty_folder(tmp_path, can_exchange, hidden):
    out = tmp_path / "dog"
    out.mkdir()
    if hidden:  # as file managers leave it
        (out / ".DS_Store").write_text("mine")
    make(out, A)
    assert content(out) == {**OURS[1], **({".DS_Store": "mine"} if hidden else {})}
    assert list(tmp_path.iterdir()) == [out]


def test_over_the_same_work(tmp_path, can_exchange):
    out = tmp_path / "dog"
    make(out, A)
    (out / "masks" / "0.png").unlink()
    make(out, A)
    assert content(out) == OURS[1]
    assert list(tmp_path.iterdir()) == [out]


def test_over_other_work(tmp_path, can_exchange):
    out = tmp_path / "dog"
    make(out, A)
    before = content(out)
    with pytest.raises(InputError, match=rf"'{out}' holds .* made with another seed.*`overwrite`"):
        make(out, B)
    assert content(out) == before and list(tmp_path.iterdir()) == [out]
    make(out, B, overwrite=True)
    assert content(out) == OURS[2]  # and nothing of what A alone had
    assert list(tmp_path.iterdir()) == [out]


def test_the_difference_is_named_once():
    record = {results.WORK: {"learn": {"precision": "a", "x": 1}, "segment": {"precision": "a"}}}
    work = {"learn": {"precision": "b", "x": 1}, "segment": {"precision": "b"}, "new": None}
    assert results.describe_difference(record, work) == "another new, precision"


# --- what is not ours -----------------------------------------------------------------------------


@pytest.mark.parametrize("record", [None, "", "{", "[1]", "{}", '{"work": {}}', '{"contents": []}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_has_no_record_of_ours_is_left_alone(tmp_path, record, overwrite):
    out = tmp_path / "dog"
    (out / "masks").mkdir(parents=True)
    (out / "masks" / "00000.png").write_text("mine")
    if record is not None:
        (out / results.RECORD).write_text(record)
    with pytest.raises(InputError, match=rf"'{out}' holds what this command did not make \(masks"):
        make(out, A, overwrite=overwrite)
    assert content(out) == {"masks/00000.png": "mine"}
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_is_left_alone(tmp_path):
    (tmp_path / "dog").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        make(tmp_path / "dog", A, overwrite=True)
    assert content(tmp_path) == {"dog": "mine"}


def test_everything_is_left_alone():
    with pytest.raises(InputError, match="'/' holds what this command did not make"):
        results.require_place("/", A, overwrite=True)
    with pytest.raises(InputError, match="'relative' lies in '/'"):
        results.require_place("/", A, overwrite=True, inputs=["relative"])


def test_the_current_folder_cannot_be_replaced(tmp_path, monkeypatch):
    make(tmp_path / "dog", A)
    for folder in (tmp_path / "dog", tmp_path / "dog" / "masks"):
        monkeypatch.chdir(folder)
        with pytest.raises(InputError, match="current folder"):
            make(tmp_path / "dog", A)


def test_what_somebody_laid_into_results_stays(tmp_path, can_exchange):
    out = tmp_path / "dog"
    make(out, A)
    mine = lay_mine(out)
    assert len(mine) == 8
    notes = (out / "notes.txt").stat()
    make(out, B, overwrite=True)
    assert content(out) == {**OURS[2], **mine}
    assert (out / "empty").is_dir() and (out / "folder_link").is_symlink()
    assert os.path.samestat((out / "notes.txt").stat(), notes)  # an editor that has it open goes on
    make(out, A, overwrite=True)
    assert content(out) == {**OURS[1], **mine}
    assert list(tmp_path.iterdir()) == [out]


def test_where_no_links_can_be_made_they_are_copies(tmp_path, can_exchange, monkeypatch):
    def link(*_, **__):
        raise OSError("not here")

    out = tmp_path / "dog"
    make(out, A)
    mine = lay_mine(out)
    monkeypatch.setattr(os, "link", link)
    make(out, B, overwrite=True)
    assert content(out) == {**OURS[2], **mine}
    assert list(tmp_path.iterdir()) == [out]


def test_what_cannot_be_written_to_stays_too(tmp_path, can_exchange):
    out = tmp_path / "dog"
    make(out, A)
    (out / "notes.txt").write_text("mine")
    (out / "notes.txt").chmod(0o444)
    make(out, B, overwrite=True)
    assert content(out) == {**OURS[2], "notes.txt": "mine"}


def test_what_is_gone_is_named(tmp_path):
    out = tmp_path / "dog"
    assert results.find_missing(out) == []
    make(out, A)
    assert results.find_missing(out) == []
    (out / "masks" / "0.png").unlink()
    (out / "mine").touch()
    assert results.find_missing(out) == ["masks/0.png"]


def test_what_comes_while_results_are_made_stays(tmp_path, can_exchange):
    out = tmp_path / "dog"
    with results.draft(out, A) as draft:
        fill(draft, A)
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        draft.publish({})
    assert content(out) == {**OURS[1], "notes.txt": "mine"}


@pytest.mark.parametrize("name", ["probabilities", "probabilities/0.png"])
def test_one_name_for_two(tmp_path, can_exchange, name):
    """B would write what somebody has laid into the results of A: nobody's is lost."""
    out = tmp_path / "dog"
    make(out, A)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(InputError, match=rf"'{out}' holds probabilities, which this command did"):
        make(out, B, overwrite=True)
    assert content(out) == {**OURS[1], name: "mine"}
    assert list(tmp_path.iterdir()) == [out]


def test_inputs_are_not_replaced(tmp_path):
    out = tmp_path / "dog"
    make(out, A)
    (tmp_path / "link").symlink_to(out / "masks")
    (tmp_path / "dog2").mkdir()
    for path in (out, out / "masks", out / "masks" / "0.png", tmp_path / "link" / "0.png"):
        with pytest.raises(InputError, match=rf"'{path}' lies in '{out}'"):
            results.require_place(out, A, overwrite=True, inputs=[tmp_path, path])
    results.require_place(out, A, inputs=[tmp_path, tmp_path / "dog2", tmp_path / "absent"])
    monkey = tmp_path / "monkey"
    monkey.symlink_to(out)  # the folder itself by another name
    with pytest.raises(InputError, match="lies in"):
        results.require_place(monkey, A, inputs=[out / "network"])
    unfinished = tmp_path / ".dog.unfinished"  # what a killed run has learned, say
    with pytest.raises(InputError, match=rf"network' lies in '{unfinished}'"):
        results.require_place(out, A, inputs=[unfinished / "network"])


def test_a_link_to_the_folder_stays_a_link(tmp_path, can_exchange):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "dog").symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        make(tmp_path / "dog", A)
    assert (tmp_path / "dog").is_symlink() and content(tmp_path / "elsewhere") == OURS[1]
    assert {path.name for path in tmp_path.iterdir()} == {"dog", "elsewhere"}


# --- what was not brought to its end --------------------------------------------------------------


def test_work_that_fails_leaves_what_was_there(tmp_path):
    out = tmp_path / "dog"
    make(out, A)
    with pytest.raises(RuntimeError), results.draft(out, B, overwrite=True) as draft:
        fill(draft, B)
        raise RuntimeError
    assert content(out) == OURS[1] and list(tmp_path.iterdir()) == [out]


def test_messages_name_the_place_that_the_user_knows(tmp_path):
    out = tmp_path / "dog"
    with (
        pytest.raises(InputError, match=f"'{out}/masks' is full"),
        results.draft(out, A) as draft,
    ):
        raise InputError(f"'{draft.folder / 'masks'}' is full")
    with pytest.raises(OSError) as caught, results.draft(out, A) as draft:
        raise OSError(28, "No space left on device", str(draft.folder / "masks" / "0.png"))
    assert caught.value.filename == str(out / "masks" / "0.png")
    assert not list(tmp_path.iterdir())


def test_work_goes_on_from_what_is_worth_keeping(tmp_path):
    out = tmp_path / "dog"
    for attempt in range(3):
        with pytest.raises(RuntimeError), results.draft(out, A) as draft:
            assert draft.resumed == (attempt > 0)
            assert content(draft.folder).get("network") == (OURS[1]["network"] if attempt else None)
            fill(draft, A)
            draft.worth_keeping = True
            raise RuntimeError
    with results.draft(out, A) as draft:
        assert draft.resumed
        draft.publish({})
    assert content(out) == OURS[1] and list(tmp_path.iterdir()) == [out]


def test_other_work_begins_anew(tmp_path):
    out = tmp_path / "dog"
    with pytest.raises(RuntimeError), results.draft(out, A) as draft:
        fill(draft, A)
        draft.worth_keeping = True
        raise RuntimeError
    with results.draft(out, B) as draft:
        assert not draft.resumed and not content(draft.folder).keys() & OURS[1].keys()
        fill(draft, B)
        draft.publish({})
    assert content(out) == OURS[2] and list(tmp_path.iterdir()) == [out]


def test_what_others_left_is_not_touched(tmp_path):
    with pytest.raises(RuntimeError), results.draft(tmp_path / "dog.x", A) as draft:
        draft.worth_keeping = True
        raise RuntimeError
    (tmp_path / ".dog").mkdir()
    before = set(tmp_path.iterdir())
    make(tmp_path / "dog", A)
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "dog"}
    with results.draft(tmp_path / "dog.x", A) as draft:
        assert draft.resumed


def test_nobody_resumes_from_what_was_being_removed(tmp_path, monkeypatch):
    def draft(work):
        with results.draft(tmp_path / "dog", work) as draft:
            draft.worth_keeping = True
            resumed = draft.resumed
            (draft.folder / "network").write_text("one")
            raise OverflowError(resumed)

    def interrupt(path, **options):
        raise KeyboardInterrupt

    with pytest.raises(OverflowError, match="False"):
        draft(A)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(results.shutil, "rmtree", interrupt)
        draft(B)
    with pytest.raises(OverflowError, match="False"):
        draft(A)
    with pytest.raises(OverflowError, match="True"):
        draft(A)


def test_files_that_a_killed_process_was_writing_are_removed(tmp_path):
    out = tmp_path / "dog"
    with pytest.raises(RuntimeError), results.draft(out, A) as draft:
        fill(draft, A)
        for folder in (draft.folder, draft.folder / "masks"):
            (folder / ".0123abcd.network").write_text("half of it")
        draft.worth_keeping = True
        raise RuntimeError
    make(out, A)
    assert content(out) == OURS[1]


def test_a_second_run_is_told_at_once(tmp_path):
    out = tmp_path / "dog"
    with results.draft(out, A) as draft:
        fill(draft, A)
        for work in (A, B):
            with pytest.raises(InputError, match=rf"Another run is writing to '{out}' right now"):
                make(out, work)
        draft.publish({})
    assert content(out) == OURS[1]


def test_what_another_run_left_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    """B is refused also where A ends after B has looked, but before it has the lock."""
    out = tmp_path / "dog"
    ensure_writable = results.files.ensure_writable

    def meanwhile(folder):
        monkeypatch.undo()
        make(out, A)
        return ensure_writable(folder)

    monkeypatch.setattr(results.files, "ensure_writable", meanwhile)
    with pytest.raises(InputError, match="made with another seed"):
        make(out, B)
    assert content(out) == OURS[1]


HOLDER = """
import sys, time
from osvos_tf import results
with results.draft(sys.argv[1], {"command": "test", "seed": 1}):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(places.fcntl is None, reason="needs locks")
def test_a_lock_ends_with_its_process(tmp_path):
    out = tmp_path / "dog"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, out], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(InputError, match="Another run is writing"):
            make(out, B)
        assert time.monotonic() - began < 5
        holder.kill()
        holder.wait()
    make(out, B)
    assert content(out) == OURS[2] and list(tmp_path.iterdir()) == [out]


def test_what_is_replaced_says_until_its_end_what_is_ours(tmp_path, can_exchange, monkeypatch):
    """So that a run that finds half of it takes nothing of it for somebody's own."""
    make(tmp_path / "dog", B)
    rmtree, left = results.shutil.rmtree, []

    def watch(path, **options):
        if path.parent == tmp_path:
            left.append([file.name for file in path.iterdir()])
        rmtree(path, **options)

    monkeypatch.setattr(results.shutil, "rmtree", watch)
    make(tmp_path / "dog", A, overwrite=True)
    assert left == [[results.RECORD]]


# --- killed at any step ---------------------------------------------------------------------------


def assert_is_old_or_new(out, mine, can_exchange, was_killed):
    """Results of A or B, whole, with all that somebody laid into them; returns the seed.

    Without an exchange, a kill between the two renames leaves the old ones under another name,
    until the next run.
    """
    if not out.exists():
        assert was_killed and not can_exchange
        out = out.with_name(f".{out.name}.replaced")
    assert mine_of(out) == mine
    return seed_of(out)


@pytest.mark.slow
@pytest.mark.parametrize("can_exchange", EXCHANGES, ids=["exchange", "two renames"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_any_step(make_apart, tmp_path, can_exchange, number):
    """Old or new; then the same work, and other work, come to the right end from there."""
    out = tmp_path / "dog"
    make(out, A)
    mine = lay_mine(out)
    found = set()
    for step in itertools.count():
        options = {"can_exchange": can_exchange, "number": number, "step": step}
        status = make_apart(out, B, **options)
        seed = assert_is_old_or_new(out, mine, can_exchange, status == -signal.SIGKILL)
        found.add(seed)
        if status == 0:
            assert seed == 2
        # Without --overwrite B is refused where A stands, under whichever name that is now.
        again = make_apart(out, B, can_exchange=can_exchange, overwrite=False)
        assert again == (2 if seed == 1 else 0)
        assert mine_of(out) == mine and seed_of(out) == seed
        for work in (B, A) if step % 2 else (A,):
            assert make_apart(out, work, can_exchange=can_exchange) == 0
            assert content(out) == {**OURS[work["seed"]], **mine}
        assert list(tmp_path.iterdir()) == [out]  # nothing is left behind
        if status == 0:
            break
    assert step > 30 and found == {1, 2}


ACTIONS = st.lists(
    st.tuples(st.sampled_from([A, B]), st.booleans(), st.none() | st.integers(0, 60))
    | st.sampled_from(["notes.txt", "masks/2.png", "more/notes.txt"]),
    max_size=8,
)


@settings(deadline=None, max_examples=40)
@given(actions=ACTIONS, can_exchange=st.booleans())
def test_whatever_is_done_nothing_is_lost(make_apart, tmp_path_factory, actions, can_exchange):
    """Runs of two works with and without --overwrite, kills, and a person's own files."""
    parent = tmp_path_factory.mktemp("results")
    out = parent / "dog"
    mine, seed = {}, None
    for action in actions:
        if isinstance(action, str):
            if out.is_dir():
                (out / action).parent.mkdir(exist_ok=True)
                (out / action).write_text("mine")
                mine[action] = "mine"
            continue
        work, overwrite, step = action
        status = make_apart(
            out,
            work,
            overwrite=overwrite,
            can_exchange=can_exchange,
            step=-1 if step is None else step,
        )
        may = {seed}
        if seed in (None, work["seed"]) or overwrite:
            assert status in (0, -signal.SIGKILL)
            may = {work["seed"]} if status == 0 else {seed, work["seed"]}
        if out.exists() or seed is not None:
            seed = assert_is_old_or_new(out, mine, can_exchange, status == -signal.SIGKILL)
        assert seed in may
    if seed is not None:
        for work in (A, B):
            assert make_apart(out, work, can_exchange=can_exchange) == 0
            assert content(out) == {**OURS[work["seed"]], **mine}
        assert list(parent.iterdir()) == [out]


# --- inputs ---------------------------------------------------------------------------------------


def test_a_file_is_known_by_its_content(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"weights")
    other.write_bytes(b"weights")
    before = results.identify(path)
    assert before == results.identify(other)
    path.write_bytes(b"new weights")
    assert results.identify(path) != before
