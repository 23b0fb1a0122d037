"""A function of JAX as an ONNX graph: the walk through what it computes, the table, a session."""
