"""The version, apart from everything that needs JAX."""

VERSION = "0.1.0"
