"""Times how long a user waits for nothing: `import osvos_tf`, and every command's `--help`.

    python -m benchmarks.startup                  # about a minute

Each runs in a separate process, with files in the system's cache. The bound is a Python that does
nothing; wanted is less than a second.
"""

import functools
import importlib.metadata
import subprocess
import sys

from absl import app, flags

from benchmarks import timing

flags.adopt_module_key_flags(timing)


def main(argv):
    """Prints one row a measurement."""
    del argv
    nothing = timing.Probe(lambda: _python("-c", ""), 1)
    cases = {"import osvos_tf": ("-c", "import osvos_tf")}
    for command in commands():
        cases[f"{command} --help"] = "-m", command, "--help"
    rows = []
    for what, arguments in cases.items():
        spent = timing.turns(functools.partial(_python, *arguments), nothing)
        rows.append(timing.show(timing.bounded_row(what, *spent, 1)))
    timing.write(rows)


def commands():
    """Returns the modules of the installed commands, such as `pipelines.segment`."""
    scripts = importlib.metadata.distribution("osvos_tf").entry_points
    return sorted(script.module for script in scripts.select(group="console_scripts"))


def _python(*arguments):
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    app.run(main)
