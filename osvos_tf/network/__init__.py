"""The networks as functional Keras graphs, their files, and other people's weights."""

# Above one half, because the class-balanced loss counts the rarer class, the object, as heavily as
# the background. Best or within 0.01 J of it in what we measured; the authors used 0.64 and 0.76.
DEFAULT_THRESHOLD = 0.7
