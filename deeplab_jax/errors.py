"""The one exception that a user's mistake ends in."""


class UserError(Exception):
    """Bad input: a message that names the field or file, the value, what is allowed and what to do.

    `python -m deeplab_jax` and `train.py` print it without a traceback and leave with code 2.
    """
