"""The networks as functional Keras graphs, their files, and other people's weights."""
