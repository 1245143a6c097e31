"""Folders of images with label maps, such as PASCAL-Context's: contours are where labels meet.

Images (.jpg) and maps (.png, or .mat with one two-dimensional array) pair up by name:

    ROOT/images/<name>.jpg       ROOT/labels/<name>.png
    ROOT/JPEGImages/<name>.jpg   ROOT/Annotations/<name>.png
    ROOT/<name>.jpg              ROOT/<name>.png

A name may hold folders. If the images lie elsewhere, name their folder separately.
"""

import os
import pathlib
from collections.abc import Collection

import numpy as np

from osvos_tf.data.davis import Frame, Sequence
from osvos_tf.errors import InputError
from osvos_tf.formats import matlab
from osvos_tf.media.images import open_image
from osvos_tf.media.masks import VOID

_LAYOUTS = (("images", "labels"), ("JPEGImages", "Annotations"))
_IMAGES, _MAPS = (".jpg", ".jpeg"), (".png", ".mat")


def read_folder(
    root: str | os.PathLike[str], images: str | os.PathLike[str] | None = None
) -> Sequence:
    """Finds the images that have a label map.

    Args:
        root: the folder, see the module.
        images: folder of the images, where it is not inside `root`; then `root` holds maps only.

    Returns:
        One `davis.Sequence` named like the folder; a frame's `mask` is its label map, which
        `read_contours` reads.

    Raises:
        InputError: no such folder, or no image with a label map.
    """
    root = pathlib.Path(root)
    image_root, map_root = (pathlib.Path(images), root) if images else _layout(root)
    for folder in (image_root, map_root):
        if not folder.is_dir():
            raise InputError(f"No folder {folder}. Check where the label maps and `images` are.")
    found, maps = _named(image_root, _IMAGES), _named(map_root, _MAPS)
    names = sorted(found.keys() & maps.keys())
    if not names:
        raise InputError(
            f"{len(found)} images in {image_root} and {len(maps)} label maps in {map_root}, but no "
            "two with one name. Wanted NAME.jpg and NAME.png (or .mat), in folders images/ and "
            "labels/ or side by side; `images` names another folder of images."
        )
    return Sequence(root.resolve().name, tuple(Frame(n, found[n], maps[n]) for n in names))


def read_contours(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the boundaries between a map's labels, the label that contour training learns from.

    A contour pixel is one whose right or lower neighbour has another label. The label 255 is void,
    as in PASCAL, unless 0 is the only other one: then the map is a mask.

    Args:
        path: PNG with one channel or a palette, or a `.mat` file.

    Returns:
        uint8 [height, width]: 1 contour, 0 none, 255 (void) at unlabelled pixels and beside them.

    Raises:
        InputError: the file cannot be read, or is not a label map.
    """
    labels = _read_map(pathlib.Path(path))
    void = (labels == VOID) & (set(np.unique(labels)) != {0, VOID})
    contours = np.where(void, VOID, 0).astype(np.uint8)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differs = labels[here] != labels[there]
        unknown = void[here] | void[there]
        contours[here][differs & unknown & (contours[here] == 0)] = VOID
        contours[here][differs & ~unknown] = 1
    return contours


def _layout(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    for images, maps in _LAYOUTS:
        if (root / images).is_dir() and (root / maps).is_dir():
            return root / images, root / maps
    return root, root


def _named(folder: pathlib.Path, suffixes: Collection[str]) -> dict[str, pathlib.Path]:
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
    }


def _read_map(path: pathlib.Path) -> np.ndarray:
    try:
        labels = _read_matlab(path) if path.suffix.lower() == ".mat" else _read_png(path)
    except Exception as error:  # a damaged file fails in many ways inside Pillow
        raise InputError(
            f"Cannot read label map {path} ({type(error).__name__}: {error})."
        ) from error
    if labels.ndim != 2 or labels.dtype.kind not in "biu" or not labels.size:
        raise InputError(
            f"{path} is not a label map: wanted one whole number a pixel (one channel or a "
            f"palette), got {labels.dtype} of shape {labels.shape}."
        )
    return labels


def _read_matlab(path: pathlib.Path) -> np.ndarray:
    arrays = [
        value
        for value in matlab.read(path).values()
        if isinstance(value, np.ndarray) and value.ndim == 2
    ]
    if len(arrays) != 1:
        raise ValueError(f"wanted one two-dimensional array, got {len(arrays)}")
    return arrays[0]


def _read_png(path: pathlib.Path) -> np.ndarray:
    with open_image(path) as picture:
        return np.asarray(picture)
