"""A function of JAX in ONNX and TensorFlow: the walk through it, a table for each, a session."""
