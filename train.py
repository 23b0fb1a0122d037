"""The same as `deeplab train`: `python train.py [DATA] [--config=NAME] [--section.field=value]`."""

from deeplab_jax.__main__ import start

if __name__ == "__main__":
    start("train")
