"""Which model a folder holds, told from its files alone: the receiving role must not load it."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path

from node.errors import Stop
from pipeline.provenance import digest_folder


@dataclass(frozen=True)
class ModelIdentity:
    """The model that new jobs are created for."""

    name: str
    version: str
    digest: str


def model_identity(folder: Path | None) -> ModelIdentity:
    """Read the identity of a model folder.

    Args:
        folder: As `pseudomri train` wrote it; None for the built-in one.

    Raises:
        Stop: When the folder holds no model.
    """
    if folder is None:
        with importlib.resources.as_file(importlib.resources.files("pipeline")) as package:
            return model_identity(package / "weights")
    try:
        index = json.loads((folder / "model_index.json").read_text())
        return ModelIdentity(index["name"], index["version"], digest_folder(folder))
    except (OSError, KeyError, ValueError) as error:
        raise Stop(
            f"synthesis.model_folder: expected a model with model_index.json in {folder}, found"
            " none; name a folder written by `pseudomri train`, or leave it out"
        ) from error
