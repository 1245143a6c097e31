"""Masks as arrays, checked."""

import numpy as np

# Reading masks


def as_mask(array: np.ndarray, name: str) -> np.ndarray:
    """Returns the array as bool [height, width] or [frames, height, width]."""
    array = np.asarray(array)
    if array.ndim not in (2, 3) or 0 in array.shape[-2:]:
        raise ValueError(
            f"{name}: wanted [height, width] or [frames, height, width], got shape {array.shape}."
        )
    if array.dtype == bool:
        return array
    if array.dtype.kind not in "uif":
        raise ValueError(f"{name}: wanted bool or numbers, got dtype {array.dtype}.")
    is_object = array != 0
    object_value = 255 if array.dtype.kind in "ui" and array.max(initial=0) == 255 else 1
    if not np.array_equal(is_object, array == object_value):
        values = np.unique(array)
        found = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise ValueError(f"{name}: wanted a mask of 0 and 1 (or 0 and 255), got values {found}.")
    return is_object


def check_shapes(mask: np.ndarray, truth: np.ndarray, void: np.ndarray | None) -> None:
    """Raises ValueError where truth or void has another shape than the mask."""
    if mask.shape != truth.shape:
        raise ValueError(f"truth: wanted the mask's shape {mask.shape}, got {truth.shape}.")
    if void is not None and mask.shape != void.shape:
        raise ValueError(f"void: wanted the mask's shape {mask.shape}, got {void.shape}.")


def bounding_box(region: np.ndarray) -> tuple[slice, slice] | None:
    """Returns slices around the True pixels and one pixel more on each side, None if empty."""
    filled = np.flatnonzero(region.any(axis=1))
    if not filled.size:
        return None
    rows = slice(max(filled[0] - 1, 0), filled[-1] + 2)
    filled = np.flatnonzero(region[rows].any(axis=0))
    return rows, slice(max(filled[0] - 1, 0), filled[-1] + 2)
