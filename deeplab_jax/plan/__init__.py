"""Whether a run fits TPUs or GPUs that are not here: `deeplab plan`."""
