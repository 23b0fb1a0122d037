"""Folders of weights on the Hugging Face Hub, by huggingface_hub: data and a card, never code."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deeplab_jax.config.values import MAX_JSON_BYTES
from deeplab_jax.errors import UserError, first_line
from deeplab_jax.version import VERSION
from deeplab_jax.weights.claims import MAX_BYTES
from deeplab_jax.weights.files import CONVERT, FILES
from deeplab_jax.weights.readers import NO_PICKLES, PICKLES

# All that is ever fetched or sent, and the most bytes of each.
MOST = {"model.json": MAX_JSON_BYTES, "model.safetensors": MAX_BYTES, "README.md": 2**20}
NAME = re.compile(r"[\w.-]+/[\w.-]+")
NAME_AT = re.compile(rf"{NAME.pattern}(@\S+)?")  # at a branch, a tag or a commit
INSTALL = "the Hugging Face Hub takes one more package: pip install huggingface_hub"
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"
BY_HAND = f"put the model's {' and '.join(FILES)} into a folder and name that"


def fetch(name: str) -> Path:
    """The folder of `user/model` or `user/model@revision`, in huggingface_hub's own cache.

    Where the Hub cannot be asked, what was fetched before will do, and this is said.

    Raises:
      UserError: there is no such model, or none that is a folder of weights; or it cannot be had.
    """
    repo, _, revision = name.partition("@")
    at, unreachable = revision or None, ""
    with one_error(f"{name}: no such folder here", f"or {BY_HAND}"):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        api = HfApi()
        try:
            info = api.model_info(repo, revision=at, files_metadata=True)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except Exception as error:  # of either library for HTTP, by huggingface_hub's version
            unreachable = f"the Hugging Face Hub cannot be asked ({first_line(error)})"
        else:
            check_files(name, {file.rfilename: file.size for file in info.siblings or ()})
        try:
            folder = api.snapshot_download(
                repo, revision=at, allow_patterns=[*MOST], local_files_only=bool(unreachable)
            )
        except FileNotFoundError as error:  # nor is it in the cache
            raise ConnectionError(unreachable or first_line(error)) from error
    if unreachable:
        print(f"{name} is what was fetched before: {unreachable}", file=sys.stderr)
    return Path(folder)


def check_files(name: str, sizes: Mapping[str, int | None]) -> None:
    """Raise UserError unless files, by name, are those of a folder of weights, of bounded sizes.

    That is before any is fetched. What they hold, `load_weights` checks.
    """
    missing = " and no ".join(file for file in FILES if file not in sizes)
    if missing:
        advice = "did this program write it?"
        if "model.safetensors" in sizes:
            advice = f"download it: {CONVERT.format('model.safetensors')}"
        elif any(file.endswith(PICKLES) for file in sizes):
            advice = NO_PICKLES
        raise UserError(f"{name}: the model on the Hub has no {missing}; {advice}")
    for file, most in MOST.items():
        size = sizes.get(file, 0)
        if size is None or size > most:
            found = "of unknown size" if size is None else f"{size / 1e6:,.0f} MB"
            allowed = f"at most {most / 1e6:,.0f} MB are fetched"
            raise UserError(f"{name}: {file} on the Hub is {found}; {allowed}")


def push(folder: Path, name: str, *, private: bool | None, token: str | None) -> str:
    """Make the files of a folder of weights a commit of the model `user/model`; return its URL.

    A model that is not there yet is made, for all to see unless it is to be `private`.

    Raises:
      UserError: the name is none; nobody is logged in who may write there; the Hub refuses a file.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name on the Hub, which is user/model, as alice/leaves")
    needs = f"it takes a network and a token that may write there: {LOG_IN}"
    with one_error(f"{name}: nothing was sent", needs):
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        url = api.create_repo(name, private=private, exist_ok=True)
        message = f"Weights and card, by deeplab_jax {VERSION}"
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=message, allow_patterns=[*MOST]
        )
    return str(url)


@contextmanager
def one_error(what: str, advice: str) -> Iterator[None]:
    """Let all that huggingface_hub raises be one error: `what` is the matter, why, and `advice`."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{what}; {INSTALL}; {advice}") from error
    except Exception as error:
        why = {
            "RepositoryNotFoundError": f"no such model on the Hub; of a private one, {LOG_IN}",
            "GatedRepoError": f"accept the model's terms on its page on the Hub, and {LOG_IN}",
            "RevisionNotFoundError": "the model on the Hub has no such revision",
        }.get(type(error).__name__, " ".join(str(error).split())[:300])
        raise UserError(f"{what}; {why}; {advice}") from error
