"""Whether a run fits TPUs or GPUs that are not here: `python -m deeplab_jax plan`."""
