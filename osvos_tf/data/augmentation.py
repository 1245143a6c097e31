"""How training views vary, as a value: recipes name it and need no TensorFlow for that."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How one (image, mask) pair is varied; see `augment.augment`."""

    flip: bool = False  # left and right swapped half of the time
    scales: tuple[float, ...] = ()  # the frame resized by one of these; its size changes
    zoom: tuple[float, float] = (1.0, 1.0)  # log-uniform factor about the view's centre
    shift: float = 0.0  # the view's centre moves by up to this fraction of the frame
    rotation: float = 0.0  # degrees, either way
    gain: float = 0.0  # brightness and each colour channel by up to this fraction, either way
    light: float = 1.0  # one side of a random line lighter or darker by up to this factor
    paste: float = 0.0  # probability that another view's object is laid over this view
    crop: float = 1.0  # part of the frame's height and width in a view; below 1 it seeks the object

    @property
    def moves(self) -> bool:
        """Whether views are anything but the frame as it is."""
        return self.zoom != (1.0, 1.0) or self.crop != 1 or bool(self.shift or self.rotation)
