"""What leaves JAX: networks as files of other runtimes, and as a web page."""
