"""What an installation brings: one importable name, with all that it needs, wherever it is run."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from support.world import REPOSITORY

SECONDS = 120
BUILD = (
    "import sys; from setuptools import build_meta; print(getattr(build_meta, {!r})(sys.argv[1]))"
)
# A console script as pip writes it: Python looks beside it first, not in the current folder.
SCRIPT = "import sys\nfrom osvos_tf.commands.{} import run\nsys.exit(run())\n"


def run(arguments, folder, path=""):
    """Runs Python in a folder; returns what it printed on standard output."""
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what git tracks, links as links: nothing of it is installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    root = tmp_path_factory.mktemp("checkout")
    for name in listed.stdout.decode().splitlines():
        if name.startswith("tests/") or not (REPOSITORY / name).exists():
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, root / name, follow_symlinks=False)
    return root


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory):
    """The source distribution, unpacked."""
    out = tmp_path_factory.mktemp("sdist")
    name = run(["-c", BUILD.format("build_sdist"), out], checkout).split()[-1]
    with tarfile.open(out / name) as archive:
        archive.extractall(out, filter="data")
    return out / name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """A wheel, made from the source distribution, as installers make it."""
    out = tmp_path_factory.mktemp("wheel")
    return out / run(["-c", BUILD.format("build_wheel"), out], sdist).split()[-1]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder for `PYTHONPATH` that the wheel is installed to, with a console script."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "bin").mkdir()
    (site / "bin" / "osvos-segment").write_text(SCRIPT.format("segment"))
    return site


@pytest.fixture
def crowded(tmp_path):
    """A user's folder, with an `osvos_tf` and a `pipelines` that are none of ours."""
    for name in ("osvos_tf", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not ours')")
    return tmp_path


def test_a_wheel_brings_one_name_and_all_its_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        scripts = archive.read("osvos_tf-0.1.0.dist-info/entry_points.txt").decode()
    assert {name.partition("/")[0] for name in sizes} == {"osvos_tf", "osvos_tf-0.1.0.dist-info"}
    tracked = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "osvos_tf").rglob("*.*")}
    expected = {path.as_posix() for path in tracked if "__pycache__" not in path.parts}
    assert expected <= set(sizes)
    for name in ("full", "compact"):
        there = (REPOSITORY / "saved_models" / name / "parent.keras").stat().st_size
        assert sizes[f"osvos_tf/network/parents/{name}.keras"] == there
    for path in (REPOSITORY / "pipelines").glob("[!_]*.py"):
        command = f"osvos-{path.stem.replace('_', '-')} = osvos_tf.commands.{path.stem}:run"
        assert command in scripts


def test_installed_commands_run_anywhere(installed, crowded, tmp_path_factory):
    for folder in (crowded, tmp_path_factory.mktemp("empty")):
        said = run([installed / "bin" / "osvos-segment", "--version"], folder, installed)
        assert said.startswith("osvos_tf 0.1.0\n")


def test_installed_workers_run_anywhere(installed, crowded):
    """As `engines` starts them: they say that they are ready, and load nothing that lies there."""
    said = "from osvos_tf.jobs import worker; print(worker.PROGRAM)"
    program = run(["-c", said], installed)
    settings = json.dumps({"threads": 1, "cores": None})
    with subprocess.Popen(
        [sys.executable, "-c", program, settings],
        cwd=crowded,
        env={**os.environ, "PYTHONPATH": str(installed)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        lines = [process.stdout.readline(), process.stdout.readline()]
        process.stdin.close()
        assert process.wait(SECONDS) == 0
    assert json.loads("".join(lines)) == {"ready": True}


def test_installed_parents_load(installed, tmp_path):
    program = (
        "import osvos_tf\n"
        "from osvos_tf.network.parents import PARENTS\n"
        "print(osvos_tf.__file__, osvos_tf.load_model(PARENTS['compact']).name)\n"
    )
    file, name = run(["-c", program], tmp_path, installed).split()
    assert file.startswith(str(installed)) and name == "foreground"


def test_a_bare_checkout_runs(checkout):
    assert run(["-m", "pipelines.segment", "--version"], checkout).startswith("osvos_tf 0.1.0\n")
    program = "import osvos_tf; print(osvos_tf.__file__)"
    assert run(["-c", program], checkout).startswith(str(checkout))
