"""The network's arithmetic: each operation in one plain form, with its formula.

Products of float32 run as `jax.default_matmul_precision` says. JAX's own default is bfloat16 on a
TPU and TF32 on recent NVIDIA GPUs, and that is what training uses; where official numbers are
promised (`inference/tta.py`), a float32 network runs at "highest".
"""
