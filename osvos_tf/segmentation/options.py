"""Everything that decides a result, as two frozen values that need no TensorFlow.

The Python API takes them, the commands make them from their flags, workers get them as JSON, and
records keep them, so that the same work is recognised. Names and defaults are those of the flags.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from osvos_tf.errors import InputError
from osvos_tf.network import DEFAULT_THRESHOLD
from osvos_tf.network.parents import PARENTS
from osvos_tf.training import recipes

PRECISIONS = ("auto", "float32", "bfloat16")
HEADS = ("fused", "all")
SNAPS = ("none", "contour", "bilateral")

_UNLIMITED = 1_000_000  # updates, where seconds are what is limited
_LAST_ID = 254  # of an object in a label map; 255 is void

Options = TypeVar("Options", bound="LearnOptions | SegmentOptions")


@dataclasses.dataclass(frozen=True)
class LearnOptions:
    """How an object is learned.

    Attributes:
        parent: where training starts: a `.keras` file, "full" or "compact" for the parent networks
            that come with the package, or "random" to learn from the annotated frames alone.
        recipe: name of a stage in `recipes.ONE_SHOTS`; None: the one that suits the parent.
        updates: weight changes; 0 uses the parent as it is, None takes the recipe's own number.
        budget: the most seconds of training; only `updates` then limits their number.
        until_learned: end once the loss on held-out views stops falling; None: as the recipe says.
        heads: outputs that are trained, "fused" or "all" (the four side outputs as well).
        height: height in pixels at which the network looks at frames; None: as the parent does.
        crop: part of the frame's height and width in a training view, 0.1..1, around the object;
            None: the recipe's own.
        views: augmented views that are made once and used again, 0 for new ones all the time;
            None: the recipe's own.
        frozen: blocks of the trunk, 0..4, that stay as the parent has them; needs `views`; None:
            the recipe's own.
        object: ids of the objects to take from masks that are label maps; None takes all.
        mask_threshold: part of the range, 0..1, above which a mask's alpha, or else its brightness,
            is the object; None: masks have no shades.
        precision: compute type of the convolutions, "float32", "bfloat16", or "auto" for what is
            fastest on this processor.
        seed: of order and augmentation, and of a random parent's weights.

    Raises:
        InputError: an impossible value.
    """

    parent: str = "full"
    recipe: str | None = None
    updates: int | None = None
    budget: float | None = None
    until_learned: bool | None = None
    heads: str = "fused"
    height: int | None = None
    crop: float | None = None
    views: int | None = None
    frozen: int | None = None
    object: tuple[int, ...] | None = None
    mask_threshold: float | None = None
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        object.__setattr__(self, "parent", os.fspath(self.parent))
        if self.object is not None:
            picked = (self.object,) if isinstance(self.object, int) else tuple(self.object)
            object.__setattr__(self, "object", tuple(sorted(set(picked))) or None)
            if not all(0 < number <= _LAST_ID for number in picked):
                raise InputError(f"Object ids go from 1 to {_LAST_ID}. Got {picked}.")
        if self.recipe is not None:
            _require_one_of(self, recipe=tuple(sorted(recipes.ONE_SHOTS)))
        _require_one_of(self, heads=HEADS, precision=PRECISIONS)
        _require_at_least(self, 0, "updates", "views", "frozen")
        _require_above_zero(self, "budget", "height")
        if self.mask_threshold is not None and not 0 <= self.mask_threshold <= 1:
            raise InputError(f"Wanted `mask_threshold` from 0 to 1. Got {self.mask_threshold}.")
        if self.crop is not None and not 0.1 <= self.crop <= 1:
            raise InputError(f"Wanted `crop` from 0.1 to 1. Got {self.crop}.")
        if self.frozen is not None and self.frozen > 4:
            raise InputError(f"Wanted `frozen` from 0 to 4 blocks. Got {self.frozen}.")
        if self.updates == 0 and self.parent == "random":
            raise InputError(
                "A `parent` of random weights with 0 `updates` has learned nothing: give it some, "
                "or name a parent network."
            )
        self.stage()

    def stage(self) -> recipes.Stage:
        """Returns the stage of training that these options ask for.

        Raises:
            InputError: `frozen` without `views`.
        """
        stage = recipes.ONE_SHOTS[self.recipe or _recipe_for(self.parent)]
        if self.updates is not None:
            (stage,) = recipes.with_updates((stage,), self.updates)
        elif self.budget is not None:
            stage = dataclasses.replace(stage, updates=_UNLIMITED)
        changes: dict[str, Any] = {"side_weight": 1.0} if self.heads == "all" else {}
        if self.views is not None:
            changes["views"] = self.views or None
        for name in ("frozen", "until_learned"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        if self.crop is not None:
            changes["augmentation"] = dataclasses.replace(stage.augmentation, crop=self.crop)
        if changes.get("frozen", stage.frozen) and changes.get("views", stage.views) is None:
            raise InputError(
                "`frozen` needs `views`: what frozen blocks compute is kept for each view. "
                f"Got {self.frozen} and {self.views}."
            )
        return dataclasses.replace(stage, **changes)


@dataclasses.dataclass(frozen=True)
class SegmentOptions:
    """How a learned object is found in frames.

    Attributes:
        follow: look for the object around where it was in the frame before; in the whole frame
            where it is lost or touches the border of that window.
        adapt: let the video's later frames teach the network, see `adaptation`; it needs a frame
            with a given mask to hold on to.
        smooth: average each frame's probability with those before and after it, along the motion,
            see `smoothing`.
        threshold: probability, 0..1, above which a pixel is the object.
        snap: what moves the mask's boundary to one of the frame: "bilateral" to edges of
            brightness and colour, "contour" to what the contour network finds, or "none".
        contour: the contour network, a `.keras` file; goes with snap="contour".
        contour_threshold: weakest contour, 0..1, that parts two superpixels. The default suits
            networks of our own contour recipe; 0.29 is the authors', for theirs.
        precision: compute type of the convolutions, see `LearnOptions`.

    Raises:
        InputError: an impossible value.
    """

    follow: bool = True
    adapt: bool = True
    smooth: bool = True
    threshold: float = DEFAULT_THRESHOLD
    snap: str = "bilateral"
    contour: str | None = None
    contour_threshold: float = 0.1
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.contour is not None:
            object.__setattr__(self, "contour", os.fspath(self.contour))
        _require_one_of(self, snap=SNAPS, precision=PRECISIONS)
        for name in ("threshold", "contour_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                value = getattr(self, name)
                raise InputError(f"Wanted `{name}` from 0 to 1. Got {value}.")
        if (self.snap == "contour") != (self.contour is not None):
            raise InputError(
                "`snap` to contours and a `contour` network go together: its file is made by "
                f"train_contour. Got {self.snap} and {self.contour}."
            )


def with_changes(
    kind: type[Options], options: Options | None, changes: Mapping[str, Any]
) -> Options:
    """Returns the options with some values changed, as the API's keyword arguments ask.

    Args:
        kind: `LearnOptions` or `SegmentOptions`.
        options: what to start from; None: the defaults.
        changes: name -> value.

    Raises:
        TypeError: `options` is of another type, or an option does not exist.
        InputError: the values do not fit.
    """
    if options is not None and not isinstance(options, kind):
        raise TypeError(f"options must be a {kind.__name__}. Received: {options!r}.")
    unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        names = ", ".join(field.name for field in dataclasses.fields(kind))
        raise TypeError(f"No option is called {', '.join(unknown)}. Wanted some of: {names}.")
    return dataclasses.replace(kind() if options is None else options, **changes)


def _recipe_for(parent: str) -> str:
    """Returns the recipe that suits a parent: that of networks from ImageNet, or from nothing.

    They are told by how they take colours: VGG16 as they are in a picture, others scaled.
    """
    if parent == "random":
        return "scratch"
    from osvos_tf.network import keras_file  # HDF5, which --help should not wait for

    path = PARENTS.get(parent, Path(os.path.expanduser(parent)))
    return "imagenet" if keras_file.colour_scale(path) == 1 else "scratch"


def _require_one_of(options: Any, **choices: tuple[str, ...]) -> None:
    for name, allowed in choices.items():
        if getattr(options, name) not in allowed:
            raise InputError(
                f"Wanted `{name}` to be one of {', '.join(allowed)}. "
                f"Got {getattr(options, name)!r}."
            )


def _require_at_least(options: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise InputError(f"`{name}` must be {least} or more. Got {value}.")


def _require_above_zero(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise InputError(f"`{name}` must be above 0. Got {value}.")
