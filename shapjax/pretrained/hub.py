"""Finds weights: at a path, or by a name on the Hugging Face hub, from where they are downloaded once."""

import re

from etils import epath

from shapjax.errors import UserError
from shapjax.paths import as_path
from shapjax.pretrained.weights import PICKLED, SUFFIXES

PATTERNS = ("*.safetensors", "*.json", "*.npz")  # of the files that are downloaded; never a pickle


def locate(name: str) -> epath.Path:
    """Returns `name` if it is a path, else the path of the downloaded files of the hub's repository of this name.

    Raises:
      UserError: if there is no such path, and no such repository can be downloaded; says what to do.
    """
    path = as_path(name)
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or path.suffix in SUFFIXES + PICKLED:
        raise UserError(f"weights {name} do not exist; give a file, a directory or a name on the Hugging Face hub, "
                        "such as google/vit-base-patch16-224")
    by_hand = (f"on a machine with a network run `hf download {name} --local-dir DIRECTORY`, copy that directory here "
               "and give its path")
    try:
        import huggingface_hub  # an optional dependency
    except ImportError as e:
        raise UserError(f"{name} is not a file or directory; to get it from the Hugging Face hub, pip install "
                        f"huggingface_hub, or {by_hand}") from e
    try:
        return as_path(huggingface_hub.snapshot_download(name, allow_patterns=list(PATTERNS)))
    except Exception as e:  # of the hub's client, of its HTTP library, of the system
        reason = " ".join(str(e).split())[:100]
        raise UserError(f"{name} is not a file or directory, and could not be downloaded from the Hugging Face hub "
                        f"({type(e).__name__}: {reason}); check the name, or {by_hand}") from e
