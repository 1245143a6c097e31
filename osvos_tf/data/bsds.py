"""The Berkeley Segmentation Data Set (BSDS500): images and what several annotators drew on each.

    ROOT/images/<split>/<name>.jpg
    ROOT/groundTruth/<split>/<name>.mat     MATLAB 5: cell `groundTruth`, one struct an annotator,
                                            with the fields `Segmentation` and `Boundaries`

ROOT may also be the folder above, as the data set's archive unpacks: ROOT/BSDS500/data.
"""

import os
import pathlib

import numpy as np

from osvos_tf.data.davis import Frame, Sequence
from osvos_tf.errors import InputError
from osvos_tf.formats import matlab
from osvos_tf.media.masks import VOID

_INSIDE = (".", "data", "BSDS500/data", "BSR/BSDS500/data")


def read_split(root: str | os.PathLike[str], split: str = "train") -> Sequence:
    """Finds the images of a split, each with its ground truth.

    Args:
        root: the data set's folder, see the module.
        split: name of a folder in `images`: "train", "val" or "test".

    Returns:
        One `davis.Sequence` named like the split; a frame's `mask` is its `.mat` file, which
        `read_boundaries` and `read_contours` read.

    Raises:
        InputError: no such folders, no image in them, or an image without ground truth.
    """
    root = pathlib.Path(root)
    data = next((root / inside for inside in _INSIDE if (root / inside / "images").is_dir()), root)
    images, truths = data / "images" / split, data / "groundTruth" / split
    for folder in (images, truths):
        if not folder.is_dir():
            raise InputError(
                f"No folder {folder}. BSDS500 holds images/{split} and groundTruth/{split}. Check "
                "its folder and the split."
            )
    frames = []
    for image in sorted(images.glob("*.jpg")):
        truth = truths / f"{image.stem}.mat"
        if not truth.is_file():
            raise InputError(f"Image {image} has no ground truth: wanted {truth}.")
        frames.append(Frame(image.stem, image, truth))
    if not frames:
        raise InputError(f"No .jpg file in {images}.")
    return Sequence(split, tuple(frames))


def read_boundaries(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the boundaries that each annotator drew, bool [annotators, height, width].

    Raises:
        InputError: not a MATLAB 5 file of BSDS500.
    """
    try:
        annotators = matlab.read(path)["groundTruth"]
        return np.stack([structs[0]["Boundaries"] > 0 for structs in annotators])
    except Exception as error:  # a file may hold anything else
        raise InputError(
            f"Cannot read {path} as ground truth of BSDS500: wanted a MATLAB 5 file with the cell "
            f"'groundTruth' ({type(error).__name__}: {error})."
        ) from error


def read_contours(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the annotators' consensus, the label that contour training learns from.

    Returns:
        uint8 [height, width]: 1 where at least half of the annotators drew a boundary, 255 (void)
        where fewer did, 0 where none did.

    Raises:
        InputError: see `read_boundaries`.
    """
    drawn = read_boundaries(path).mean(axis=0)
    return np.where(drawn >= 0.5, 1, np.where(drawn > 0, VOID, 0)).astype(np.uint8)
