"""The command line's own manners: streams, paths, signals, help. Most commands here are invented
ones that do one thing, in processes of their own; no TensorFlow is loaded."""

import ast
import contextlib
import fcntl
import importlib
import os
import pathlib
import pty
import re
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from absl import flags

from osvos_tf.commands import cli, help, shared_flags
from osvos_tf.errors import InputError
from support.world import REPOSITORY, paint

COMMANDS = sorted(path.stem for path in (REPOSITORY / "pipelines").glob("[!_]*.py"))
# Flags of text that name no file and no folder; all others know what `~` is.
WORDS = {"split", "resolution", "model", "shard", "ray", "host"}
SECONDS = 60  # for one process on a busy machine

# An invented command: what `main` does is the text of its first flag.
TOY = """
import os, signal, sys, time
from absl import flags
from osvos_tf.errors import InputError
from osvos_tf import runtime
from osvos_tf.commands import cli, progress_bar, shared_flags
FLAGS = flags.FlagValues()
flags.DEFINE_string("do", "", "Python.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed.", flag_values=FLAGS)
shared_flags.define_path("out", None, "Folder.", flag_values=FLAGS)
def main(args):
    exec(args.do, {**globals(), "args": args})
cli.run(main, FLAGS, "Does something.")
"""


def start(arguments, **options):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=options.pop("cwd", REPOSITORY),
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        env={**os.environ, **options.pop("env", {})},
        **options,
    )


def finish(process):
    """Returns a process's status and what it printed on standard output and error."""
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, *(None if x is None else x.decode() for x in (out, err))


def toy(do, *arguments, **options):
    return finish(start(["-c", TOY, f"--do={do}", *arguments], **options))


def wait_for_line(process, line="ready"):
    """Waits until the process has printed a line."""
    found = process.stdout.readline().decode().strip()
    assert found == line, finish(process)


def command_flags(command):
    return importlib.import_module(f"osvos_tf.commands.{command}").FLAGS


# --- C3: no encoding, no stream ends a command ----------------------------------------------------


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, {}]
)
@pytest.mark.parametrize("name", ["结果", b"caf\xe9", "naïve 🐕"])
def test_any_name_can_be_printed(env, name):
    do = "print(args.out); print(args.out, file=sys.stderr); raise InputError(f'no {args.out}')"
    status, out, err = toy(do, os.fsencode("--out=") + os.fsencode(name), env=env)
    assert status == 2 and out.strip() and "Traceback" not in err
    assert err.splitlines()[1].startswith("-c: no ")


def test_a_command_in_a_terminal_without_utf8(tmp_path):
    paint(tmp_path / "数据")
    status, out, err = finish(
        start(
            [
                *(
                    "-m",
                    "pipelines.evaluate",
                    "--davis=数据",
                    "--results=方法:数据/Annotations/480p",
                ),
                *("--split=val", "--out=结果"),
            ],
            cwd=tmp_path,
            env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPOSITORY)},
        )
    )
    assert status == 0, err
    assert r"\u65b9\u6cd5" in out
    assert (tmp_path / "结果" / "global.csv").is_file()


def test_names_do_not_command_the_terminal():
    do = r"raise InputError('no file a\x1b[31mb\x07\nc\u202e')"
    status, _, err = toy(do)
    assert status == 2
    assert err == "-c: no file a\\x1b[31mb\\x07\nc\\u202e\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams(closed, tmp_path):
    """What is printed then must not go into the next file that is opened."""
    do = (
        "file = open(args.out, 'w'); print('out'); print('err', file=sys.stderr); "
        "os.write(2, b'chatter'); progress_bar.Progress('Working').advance(); file.write('all')"
    )
    redirections = " ".join(f"{number}>&-" if number else "<&-" for number in closed)
    path = tmp_path / "file"
    command = [sys.executable, "-c", TOY, f"--do={do}", f"--out={path}"]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *command], cwd=REPOSITORY, timeout=SECONDS
    )
    assert done.returncode == 0
    assert path.read_text() == "all"


def test_a_full_disk_behind_standard_output():
    if not pathlib.Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        status, _, err = finish(start(["-m", "pipelines.serve", "--help"], stdout=full))
    assert status == 2
    assert re.fullmatch(r"serve: No space left on device\..*\n", err)


# --- C4: the home folder --------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "home")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~", "{home}"),
        ("~/res", "{home}/res"),
        ("a/~/b", "a/~/b"),
        ("a:~/x", "a:{home}/x"),
        ("00042:~/m.png", "00042:{home}/m.png"),
        ("a:~1.png", "a:~1.png"),  # a frame's name may end so, and there is no such user
        ("~/a:b", "{home}/a:b"),
        ("./~/x", "./~/x"),
    ],
)
def test_home_folders(home, given, expected):
    values = flags.FlagValues()
    shared_flags.define_path("one", None, "One.", flag_values=values)
    shared_flags.define_paths("many", None, "Many.", flag_values=values)
    args = cli.parse(values, [f"--one={given}", f"--many={given}", "--many=plain"])
    assert args.one == expected.format(home=home)
    assert args.many == [args.one, "plain"]


def test_the_home_folder_of_another_user(home):
    pwd = pytest.importorskip("pwd")
    user = pwd.getpwuid(os.getuid())
    values = flags.FlagValues()
    shared_flags.define_path("out", None, "Out.", flag_values=values)
    assert cli.parse(values, [f"--out=~{user.pw_name}/x"]).out == f"{user.pw_dir}/x"
    with pytest.raises(flags.Error, match=r"~nobody-of-that-name is nobody's home.* \./~nobody"):
        cli.parse(values, ["--out=~nobody-of-that-name/x"])
    pathlib.Path("~nobody-of-that-name").touch()  # as a shell would pass it
    assert cli.parse(values, ["--out=~nobody-of-that-name"]).out == "~nobody-of-that-name"


def test_no_path_at_all():
    values = flags.FlagValues()
    shared_flags.define_path("out", None, "Out.", flag_values=values)
    with pytest.raises(flags.Error, match="--out=: wanted a path"):
        cli.parse(values, ["--out="])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_that_names_a_path_knows_the_home_folder(command, home):
    values = command_flags(command)
    for name in set(values) - WORDS:
        flag = values[name]
        if type(flag) is flags.Flag and flag.flag_type() == "string":
            pytest.fail(f"--{name} of {command}: define_path, or add it to WORDS")
        if flag.flag_type() in ("path", "multi path"):
            assert home in str(flag.parser.parse("~/x"))


def test_a_command_writes_to_the_home_folder(home, tmp_path):
    davis = paint(tmp_path / "home" / "DAVIS")
    shutil.copytree(davis / "Annotations" / "480p", tmp_path / "home" / "results")
    status, _, err = finish(
        start(
            [
                *("-m", "pipelines.evaluate", "--davis=~/DAVIS", "--results=ours:~/results"),
                *("--split=val", "--out=~/evaluation"),
            ],
            cwd=tmp_path,
            env={"PYTHONPATH": str(REPOSITORY)},
        )
    )
    assert status == 0, err
    assert (tmp_path / "home" / "evaluation" / "global.csv").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


# --- C5: Ctrl-C, SIGTERM, closed pipes ------------------------------------------------------------

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def slow_module(folder, name, body="time.sleep(60)"):
    """Writes a module that says when it is being imported, and takes its time."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(f"import time\nprint('ready', flush=True)\n{body}\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}


@pytest.mark.parametrize(("number", "status"), SIGNALS)
@pytest.mark.parametrize("script", [False, True])
def test_a_signal_during_a_commands_own_imports(number, status, script, tmp_path):
    """Here of absl, before the first line of our own code that could catch anything."""
    env = slow_module(tmp_path / "slow", "absl")
    if script:  # as pip writes it
        path = tmp_path / "osvos-serve"
        path.write_text("import sys\nfrom pipelines.serve import run\nsys.exit(run())\n")
        process = start([path], env=env)
    else:
        process = start(["-m", "pipelines.serve", "--help"], env=env)
    wait_for_line(process)
    process.send_signal(number)
    assert finish(process) == (status, "", "")


@pytest.mark.parametrize(("number", "status"), SIGNALS)
@pytest.mark.parametrize(
    "body",
    ["time.sleep(60)", "try: time.sleep(60)\nexcept BaseException: raise ImportError from None"],
)
def test_a_signal_while_tensorflow_is_imported(number, status, body, tmp_path):
    """Packages make ImportErrors of any exception, or do without what could not be imported."""
    env = slow_module(tmp_path / "slow", "tensorflow", body)
    process = start(["-c", TOY, "--do=runtime.import_tensorflow()"], env=env)
    wait_for_line(process)
    process.send_signal(number)
    assert finish(process) == (status, "", "")


WORK = {
    "plain": "time.sleep(60)",
    "made into another error": """
try: time.sleep(60)
except BaseException as error: raise InputError('no such file') from error
""",
    "swallowed": """
try: time.sleep(60)
except BaseException: pass
""",
    "in a destructor": """
class Slow:
    def __del__(self): print('here', flush=True); time.sleep(1)
Slow()
time.sleep(60)
""",
    "in a thread that goes on": """
import threading
threading.Thread(target=time.sleep, args=[60]).start()
time.sleep(60)
""",
}


@pytest.mark.parametrize(("number", "status"), SIGNALS)
@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_a_signal_during_the_work(number, status, work):
    process = start(["-c", TOY, f"--do=print('ready', flush=True)\n{work}"])
    wait_for_line(process)
    if "__del__" in work:
        wait_for_line(process, "here")
    process.send_signal(number)
    words = "interrupted" if number == signal.SIGINT else "terminated"
    assert finish(process) == (status, "", f"-c: {words}.\n")


def test_what_was_opened_is_closed_after_a_signal():
    """Generators too, which only the exception still holds."""
    do = """
def numbers():
    try: yield 1
    finally: print('closed')
for number in numbers():
    print('ready', flush=True)
    time.sleep(60)
"""
    process = start(["-c", TOY, f"--do={do}"])
    wait_for_line(process)
    process.send_signal(signal.SIGINT)
    assert finish(process) == (130, "closed\n", "-c: interrupted.\n")


def test_ignored_signals_stay_ignored():
    """As a shell starts what runs in the background."""
    do = "os.kill(os.getpid(), signal.SIGINT); print('done')"
    ignore = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    run = "import subprocess; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)"
    status, out, _ = finish(start(["-c", ignore + run, "-c", TOY, f"--do={do}"]))
    assert (status, out) == (0, "done\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_early_interrupts_of_real_commands(command):
    """At moments that nobody chose; Python's own start alone is not ours."""
    for seconds in (0.15, 0.3, 0.45):
        process = start(["-m", f"pipelines.{command}", "--help"])
        while _is_starting(process):
            time.sleep(0.005)
        time.sleep(seconds - 0.15)
        process.send_signal(signal.SIGINT)
        status, _, err = finish(process)
        assert status in (130, 0) and not err, (status, err)


def _is_starting(process):
    """Tells whether Python itself is still starting: it holds signals by its default handlers.

    The mask of caught signals has SIGTERM once the package has been imported.
    """
    try:
        lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        pytest.skip("no /proc")
    masks = dict(line.split(":\t") for line in lines if line.startswith(("SigCgt", "SigIgn")))
    return process.poll() is None and not any(
        int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks.values()
    )


def test_a_reader_that_has_seen_enough():
    do = "[print('line') for _ in range(100_000)]"
    process = start(["-c", TOY, f"--do={do}"])
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.communicate(timeout=SECONDS)[1] == b""
    assert process.returncode == 141


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_nobody_reads(closed):
    reader, writer = os.pipe()
    os.close(reader)
    do = f"print('x', file=sys.{closed}, flush=True); print('not reached')"
    process = start(["-c", TOY, f"--do={do}"], **{closed: writer})
    os.close(writer)
    status, out, err = finish(process)
    assert (status, out or "", err or "") == (141, "", "")


def test_help_into_head():
    status = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m pipelines.segment --help | true"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert status.returncode in (0, 141) and not status.stderr


# --- C6, C7: what is said on the way --------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "Stopping as soon as this update is saved.\n"),
        ("'Stopping; nothing is kept.'", "Stopping; nothing is kept.\n"),
        ("''", ""),
    ],
)
def test_a_good_end_in_true_words(words, said):
    do = f"""
with cli.finishing({words}) as stop:
    print('ready', flush=True)
    while not stop(): time.sleep(0.01)
    print('good end')
"""
    process = start(["-c", TOY, f"--do={do}"])
    wait_for_line(process)
    process.send_signal(signal.SIGINT)
    assert finish(process) == (130, "good end\n", f"{said}-c: interrupted.\n")


def test_a_second_signal_ends_at_once():
    do = """
with cli.finishing() as stop:
    print('ready', flush=True)
    while not stop(): time.sleep(0.01)
    print('heard', flush=True)
    time.sleep(60)
"""
    process = start(["-c", TOY, f"--do={do}"])
    wait_for_line(process)
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "heard")
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143


def test_seconds_in_a_log():
    do = (
        "p = progress_bar.Progress('Learning', 15, 'second'); "
        "p.advance(to=12.7); p._print('loss 0.3')"
    )
    status, _, err = toy(do)
    assert (status, err) == (0, "Learning: 12 of 15 seconds, loss 0.3\n")


def test_many_updates_in_a_log():
    do = (
        "p = progress_bar.Progress('Training', 4_000_000, 'update'); "
        "p.advance(to=1_234_567); p._print('')"
    )
    assert toy(do)[2] == "Training: 1234567 of 4000000 updates\n"


def test_seconds_on_a_terminal():
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    do = """
with progress_bar.Progress('Learning', 15, 'second') as progress:
    time.sleep(0.2)
    progress.advance(to=12.7, note='loss 0.3')
"""
    process = start(["-c", TOY, f"--do={do}"], stderr=writer)
    assert finish(process)[0] == 0
    os.close(writer)
    said = b""
    with contextlib.suppress(OSError):  # what Linux says at the end; a read may stop before it
        while piece := os.read(reader, 10_000):
            said += piece
    os.close(reader)
    said = said.decode()
    assert "12 of 15 seconds, loss 0.3" in said
    assert "/s" not in said


# --- C8: messages name flags that there are -------------------------------------------------------


def test_options_of_the_library_become_flags_of_the_command():
    assert toy("raise InputError('another `seed`, or `threshold`')") == (
        2, "", "-c: another --seed, or threshold\n",
    )  # fmt: skip


def test_the_library_knows_no_flags():
    """Its messages name options, `object`; flags beside an option, or the command that has them."""
    flag = re.compile(r"(?<!\w )(?<!\()--[a-z]")
    for path in sorted((REPOSITORY / "osvos_tf").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for text in ast.walk(node) if isinstance(node, ast.Raise) else ():
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    assert not flag.search(text.value), (path.name, text.value)


def test_words_that_are_no_flags():
    status, _, err = toy("", "results")
    assert status == 2 and "Wanted flags only" in err and "'results'" in err


# --- C12: what can be installed -------------------------------------------------------------------


def test_what_is_missing_can_be_installed(monkeypatch):
    from osvos_tf import errors

    extras = {}
    monkeypatch.setattr("setuptools.setup", lambda **settings: extras.update(settings))
    runpy.run_path(str(REPOSITORY / "setup.py"))
    for extra in errors.PACKAGES:
        message = str(errors.missing_package("It", extra, ImportError("No module named 'x'")))
        named = re.findall(r"[a-z][a-z-]+", message.partition("pip install ")[2])
        wanted = [re.split("[<>=]", text)[0] for text in extras["extras_require"][extra]]
        assert named == wanted
        assert "No module named 'x'" in message and "osvos_tf[" not in message


def test_no_message_asks_an_index_for_this_package():
    for path in (*REPOSITORY.glob("osvos_tf/*.py"), *REPOSITORY.glob("pipelines/*.py")):
        assert "pip install osvos_tf" not in path.read_text(encoding="utf-8"), path


# --- --version and --help -------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_version(command):
    """And no package that is slow to load is loaded for it."""
    program = (
        "import runpy, sys\n"
        "sys.argv = ['command', '--version']\n"
        f"runpy.run_module('pipelines.{command}', run_name='__main__')\n"
        "assert not {'tensorflow', 'keras', 'h5py', 'ray'} & set(sys.modules)"
    )
    status, out, err = finish(start(["-c", program]))
    assert (status, err) == (0, "")
    first, *others = out.splitlines()
    assert re.fullmatch(r"osvos_tf \d+\.\d+\.\d+", first)
    assert {"tensorflow", "keras", "Python"} <= {line.split()[0] for line in others}


def test_a_flag_called_version():
    values = command_flags("export_saved_model")
    args = cli.parse(values, ["--model=a", "--out=b", "--version", "3"])
    assert args.version == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_grouped_and_fits(command):
    status, out, err = finish(start(["-m", f"pipelines.{command}", "--help"]))
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 88
    shown = re.findall(r"^  --(\w+)", out, re.MULTILINE)
    assert sorted(shown) == sorted(command_flags(command))
    if len(shown) > 4:
        headings = re.findall(r"^(\w[^\n]*)\n  --", out, re.MULTILINE)
        assert headings[0] == "What you need" and len(headings) > 1
        needed = re.split(r"\n\n", out.partition("What you need\n")[2])[0]
        assert len(re.findall(r"^  --", needed, re.MULTILINE)) <= 8
    for name in command_flags(command):
        flag = command_flags(command)[name]
        assert (f"--no{name}" in out) == (flag.boolean and flag.default is not False)


def test_groups_of_flags():
    values = flags.FlagValues()
    for name in ("a", "b", "c"):
        flags.DEFINE_integer(name, None, name.upper(), flag_values=values)
    text = help.describe(values, (("First", ("c",)), ("Second", ("a",))))
    assert text == "Flags:\n\nFirst\n  --c: C\n\nSecond\n  --a: A\n\nOthers\n  --b: B"
    assert help.describe(values, ()) == "Flags:\n  --a: A\n  --b: B\n  --c: C"
    for wrong in ((("First", ("d",)),), (("First", ("a",)), ("Second", ("a",)))):
        with pytest.raises(KeyError):
            help.describe(values, wrong)


def test_missing_flags_are_all_named():
    with pytest.raises(InputError, match="Wanted --davis, --split, --out as well"):
        cli.parse(command_flags("davis_to_tfrecord"), [])
