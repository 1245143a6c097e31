"""A YouTube-VOS tree: videos without a list, of which few frames have a mask.

    ROOT/<split>/JPEGImages/<video>/<frame>.jpg
    ROOT/<split>/Annotations/<video>/<frame>.png   of the first frame, or of every fifth

ROOT may be the split's folder itself.
"""

import os
import pathlib
from collections.abc import Collection

from osvos_tf.data import davis
from osvos_tf.errors import InputError


def read_tree(
    root: str | os.PathLike[str],
    split: str,
    *,
    resolution: str = "480p",
    sequences: Collection[str] = (),
) -> tuple[davis.Sequence, ...]:
    """Finds the sequences of a DAVIS or YouTube-VOS tree that have a mask, be it of one frame.

    Args:
        root: see `davis.read_split` and the module.
        split: a DAVIS list; of YouTube-VOS, the folder in ROOT, such as "valid".
        resolution: see `davis.read_split`; YouTube-VOS has one.
        sequences: names of the sequences to keep; empty keeps all.

    Raises:
        InputError: see `davis.read_split`; or a sequence has no mask at all.
    """
    root = pathlib.Path(root)
    for place in (root / split, root):
        if (place / "JPEGImages").is_dir() and not (place / "JPEGImages" / resolution).is_dir():
            found = tuple(
                davis.read_sequence(place, folder.name)
                for folder in sorted((place / "JPEGImages").iterdir())
                if folder.is_dir() and not folder.name.startswith(".")
            )
            if not found:
                raise InputError(f"No sequence in {place / 'JPEGImages'}.")
            chosen = davis.select(found, sequences, place)
            break
    else:
        chosen = davis.read_split(
            root, split, resolution=resolution, sequences=sequences, every_mask=False
        )
    for sequence in chosen:
        if not any(frame.mask for frame in sequence.frames):
            raise InputError(
                f"Sequence {sequence.name!r} has no mask for any of its {len(sequence.frames)} "
                "frames. Wanted one at least, named like its frame, with the suffix .png."
            )
    return chosen
