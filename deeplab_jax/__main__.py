"""`python -m deeplab_jax COMMAND` is `deeplab COMMAND`."""

from deeplab_jax.cli import start

if __name__ == "__main__":
    start()
