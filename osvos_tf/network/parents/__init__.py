"""The parent networks that come with the package, each with its card and its terms.

The files here are links into `saved_models/`; an installed package has the files themselves.
"""

from importlib import resources
from pathlib import Path

# Name -> `.keras` file.
PARENTS = {
    name: Path(str(resources.files(__name__) / f"{name}.keras")) for name in ("full", "compact")
}
