"""Every snippet of README runs as it is printed, one after another, in one folder.

A new snippet is run as well; it fails where it needs what `prepare` does not lay out. Only the
tables below change a snippet or leave one out, and no line of them may be out of date.
"""

import contextlib
import importlib
import re
import shlex
import shutil
import subprocess

import cv2
import pytest
from absl import flags

from osvos_tf.commands import cli
from osvos_tf.data import painted_world
from osvos_tf.errors import InputError
from osvos_tf.media.masks import write_mask
from osvos_tf.media.video_writer import write_video
from osvos_tf.training import distribution
from support import foreign
from support.commands import SECONDS, Commands, in_background
from support.readme import take_apart
from support.world import REPOSITORY, WORLD, draw_bsds, paint

SNIPPETS, SPANS = take_apart((REPOSITORY / "README.md").read_text(encoding="utf-8"))
FIRST = next(snippet for snippet in SNIPPETS if snippet.language == "python")
PRINTED = [
    command for snippet in SNIPPETS if snippet.language == "sh" for command in snippet.commands()
]
# What a shell starts -> the command's name.
COMMANDS = {
    f".venv/bin/osvos-{path.stem.replace('_', '-')}": path.stem
    for path in (REPOSITORY / "pipelines").glob("[!_]*.py")
}

# Text of snippets that is replaced: training takes half a minute, adaptation as long, and a port
# may be taken.
SUBSTITUTIONS = {
    "parrot.segment(frames)": "parrot.segment(frames, adapt=False)",
    "dog.segment(video)": "dog.segment(video, adapt=False)",
    "updates=50": "updates=2",
    "budget=30": "budget=1",
    "localhost:8500": "localhost:{gRPC}",
    "localhost:8501": "localhost:{REST}",
}
# Command -> flags behind those that are printed.
QUICK = {
    "segment": ["--updates=1", "--height=32", "--noadapt"],
    "segment_dataset": ["--updates=0", "--height=32", "--noadapt"],
    "train_parent": ["--updates=1", "--height=48"],
    "train_contour": ["--updates=1", "--height=48"],
    "serve": ["--rest_port=0", "--grpc_port=0"],
}
# How that begins which is not run here -> why.
NOT_RUN = {
    "make demo": "two minutes; test_demo.py runs it on a smaller world",
    "make test": "runs this file",
    "make test-addons": "makes an environment of its own",
    "TF_CONFIG=": "two machines; test_distribution.py has two workers on one",
    ".venv/bin/tensorboard ": "serves until it is stopped",
    ".venv/bin/osvos-studio ": "serves until it is stopped; test_page.py runs it in a browser",
    "docker compose up": "wants Docker and an image from its hub",
    "pip install ray": "wants a package index",
    "python -m benchmarks.contours ": "a minute a detector, on the real BSDS500",
    "python -m pipelines.NAME": "stands for each command",
    "osvos-NAME": "stands for each command",
}
TOOLS = ("echo", "curl")  # what else a shell may start
TEXT_FILES = ["videos.txt"]  # names for the blocks without a language

FRAMES, CORRECTED = 43, 42  # of the video; README corrects the last
SEQUENCES = ("dog", "libby")  # of the DAVIS tree that are scored
LEFT = [
    *(
        f"results/dog/{name}"
        for name in (
            "masks/00042.png",
            "overlay.mp4",
            "specialist.keras",
            "specialist.json",
            "annotations",
            "run.json",
        )
    ),
    "dog/specialist.keras",
    "records/train/manifest.json",
    "runs/parent/parent.keras",
    "parent.keras",
    "results/dog_paper/masks/00042.png",
    "results/val/results.jsonl",
    *(f"results/val/{name}/masks/00003.png" for name in SEQUENCES),
    *(f"results/videos/{name}/masks/00042.png" for name in ("dog", "cat")),
    "runs/contour/contour.keras",
    "saved_models/dog/1/saved_model.pb",
    "saved_models/models.config",
    "saved_models/compose.yaml",
    "results/dog_served/masks/00042.png",
    "evaluation/global.csv",
    "evaluation/report.html",
]


# --- README, taken apart --------------------------------------------------------------------------


def test_snippets_commands_and_spans_are_found():
    snippets, spans = take_apart(
        "Some `words\nof code`.\n\n* An item:\n  ```sh\n  # why\n  X='1 2' run \\\n      --a=b\n\n"
        "  echo |\n    cat\n  ```\n\n```\nplain\n```\n`more`\n"
    )
    assert [(snippet.line, snippet.language) for snippet in snippets] == [(6, "sh"), (15, "")]
    assert snippets[1].text == "plain\n"
    assert spans == ["words of code", "more"]
    run, echo = snippets[0].commands()
    assert run.words == ["run", "--a=b"]
    assert echo.text == "echo |\n  cat"


@pytest.mark.parametrize(
    "text", ["```sh\nls\n", "    ls\n", "\tls\n", "~~~\nls\n~~~\n", "<pre>ls</pre>\n"]
)
def test_no_snippet_is_overlooked(text):
    with pytest.raises(ValueError, match=r"never ends|three backticks"):
        take_apart(text)


def test_the_tables_are_not_out_of_date():
    printed = [*(command.text for command in PRINTED), *SPANS]
    assert {name for name in NOT_RUN if not any(text.startswith(name) for text in printed)} == set()
    code = "".join(snippet.text for snippet in SNIPPETS)
    assert {old for old in SUBSTITUTIONS if old not in code} == set()
    started = {command.words[0] for command in PRINTED}
    assert set(QUICK) <= {COMMANDS.get(word) for word in started}
    assert set(TOOLS) <= started


# --- what is only named ---------------------------------------------------------------------------


def is_run(text):
    return not any(text.startswith(name) for name in NOT_RUN)


def flags_of(name):
    return importlib.import_module(f"osvos_tf.commands.{name}").FLAGS


def takes(name, words):
    """Tells whether a command has these flags, and takes their values beside those it first has."""
    known = flags_of(name)
    first = next((c.words[1:] for c in PRINTED if COMMANDS.get(c.words[0]) == name), [])
    bare = {word.removeprefix("--") for word in words if "=" not in word}
    if not all({flag, flag.removeprefix("no")} & {"help", *known} for flag in bare):
        return False
    try:
        cli.parse(known, [*first, *(re.sub("=N$", "=1", word) for word in words if "=" in word)])
    except (InputError, flags.Error):
        return False
    return True


@pytest.mark.parametrize(
    "command", [c for c in PRINTED if c.words[0] in COMMANDS], ids=lambda command: command.words[0]
)
def test_commands_take_the_flags_that_are_printed(command):
    cli.parse(flags_of(COMMANDS[command.words[0]]), command.words[1:])


@pytest.mark.parametrize("span", sorted({span for span in SPANS if "--" in span}))
def test_flags_in_the_text_exist_and_take_their_values(span):
    words = shlex.split(span)
    if words[0] in COMMANDS.values():
        assert takes(words[0], words[1:])
    elif is_run(span):
        assert all(word.startswith("--") for word in words), "a command that is neither known here"
        assert any(takes(name, words) for name in COMMANDS.values())


def test_programs_in_the_text_are_known():
    starts = r"(make|docker|pip|python|curl) |osvos-|\.venv/bin/"
    programs = {span.split()[0] for span in SPANS if re.match(starts, span) and is_run(span)}
    assert {f".venv/bin/{name.removeprefix('.venv/bin/')}" for name in programs} <= set(COMMANDS)


def test_two_machines_are_understood(monkeypatch):
    (config,) = (shlex.split(c.text)[0] for c in PRINTED if c.text.startswith("TF_CONFIG="))
    monkeypatch.setenv(*config.split("=", 1))
    assert distribution.cluster() == (["host1:2222", "host2:2222"], 0)


# --- what is run ----------------------------------------------------------------------------------


class World:
    """The folder that snippets run in, and what runs them.

    Args:
        folder: what `prepare` has laid out.
        commands: a `Commands` that starts commands there.
        start: starts a command in the background, see `in_background`.
    """

    def __init__(self, folder, commands, start):
        self.folder, self._commands, self._start = folder, commands, start
        self._ports = {}  # of the server, by its protocols

    def run_python(self, snippet):
        code = compile(self._adapt(snippet.text), f"README.md, line {snippet.line}", "exec")
        exec(code, {"__name__": "__main__"})

    def run_shell(self, command):
        """Runs a command; returns why it was left out, None if it was not."""
        program, *words = command.words
        text = self._adapt(command.text)
        if not is_run(text):
            return None
        if text.startswith(program) and program in COMMANDS:
            name = COMMANDS[program]
            words = [self._adapt(word) for word in words] + QUICK.get(name, [])
            self._serve(words) if name == "serve" else self._commands.run(name, words)
        elif program in TOOLS:
            if not (shutil.which("curl") and shutil.which("bash")):
                return "needs bash and curl"
            subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=self.folder,
                check=True,
                timeout=SECONDS,
            )
        else:
            pytest.fail(f"no way to run {text}")
        return None

    def _adapt(self, text):
        for old, new in SUBSTITUTIONS.items():
            if old in text:
                text = text.replace(old, new.format_map(self._ports))
        return text

    def _serve(self, words):
        process = self._start("serve", words)
        for line in process.stdout:
            if said := re.match(r"(REST|gRPC): .*?:(\d+)", line):
                self._ports[said[1]] = said[2]
            if len(self._ports) == 2:
                return
        pytest.fail(process.communicate()[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    prepare(folder)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        # The commands start in the folder, whatever else of their names lies there.
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        commands = stack.enter_context(Commands(cwd=folder))
        yield World(folder, commands, stack.enter_context(in_background(folder)))


def prepare(folder):
    """Lays out what the text names."""
    frames, truth = painted_world.paint_video(frames=FRAMES, size=(32, 48))
    with write_video(folder / "dog.mp4", frames.shape[1:3]) as writer:
        for frame in frames:
            writer.write(frame)
    (folder / "day1" / "frames").mkdir(parents=True)
    for number, frame in enumerate(frames[..., ::-1]):
        cv2.imwrite(str(folder / "day1" / "frames" / f"{number:05d}.jpg"), frame)
    shutil.copy(folder / "day1" / "frames" / "00000.jpg", folder / "frame.jpg")
    for name in ("dog_first_frame.png", "day1/cat.png"):
        write_mask(folder / name, truth[0])
    for name in ("corrected.png", "day1/cat corrected.png"):
        write_mask(folder / name, truth[CORRECTED])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORLD, "val", dict.fromkeys(SEQUENCES, ((16, 50), (2, -10))))
        paint(folder / "DAVIS")
    draw_bsds(folder / "BSDS500")
    foreign.write_torch_legacy(
        folder / "parent_epoch-239.pth", foreign.torch_state(foreign.random_arrays())
    )
    texts = [snippet.text for snippet in SNIPPETS if not snippet.language]
    for name, text in zip(TEXT_FILES, texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_the_first_python_snippet_needs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    World(tmp_path, None, None).run_python(FIRST)
    assert re.fullmatch(r"Scores\(J=0\.\d+, F=0\.\d+, T=\d\.\d+\)\n", capsys.readouterr().out)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("snippet", [s for s in SNIPPETS if s.language and s is not FIRST], ids=str)
def test_runs_as_printed(snippet, world, monkeypatch):
    """Each finds what those before it have left."""
    if snippet.language == "python":
        monkeypatch.chdir(world.folder)
        world.run_python(snippet)
    elif snippet.language == "sh":
        reasons = {world.run_shell(command) for command in snippet.commands()} - {None}
        if reasons:
            pytest.skip(", ".join(reasons))
    else:
        pytest.fail(f"no way to run {snippet.language}")


@pytest.mark.slow
def test_what_the_text_promises_is_there(world):
    assert [name for name in LEFT if not (world.folder / name).exists()] == []
    if shutil.which("curl"):
        mask = cv2.imread(str(world.folder / "mask.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (32, 48) and set(mask.ravel()) <= {0, 255}
