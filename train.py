"""Train, evaluate, draw: `python train.py [--config=configs/x.py] [--section.field=value ...]`."""

from deeplab_jax.cpu import restart_with_huge_pages
from deeplab_jax.errors import leave_when_told

if __name__ == "__main__":
    restart_with_huge_pages()
    leave_when_told()
    from deeplab_jax.__main__ import main

    main("train")
