"""Remove from a store what no name stands for."""

from __future__ import annotations

import shutil
from pathlib import Path

from oci_runtime.errors import HostError
from oci_runtime.image.build import locked_store, trees_in_use


def prune_store(store: Path) -> list[str]:
    """Remove images without a name and first stages that no named image comes from; return what was removed.

    A VM that runs from a removed image keeps its mapped files; it cannot be recovered from them after its end.
    """
    if not store.is_dir():
        return []
    removed = []
    with locked_store(store):
        named = {path.resolve().name for path in store.iterdir() if path.is_symlink()}
        kept_trees = trees_in_use(store, named)
        images = [path for path in store.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] != "."]
        trees = list((store / ".trees").iterdir()) if (store / ".trees").is_dir() else []
        for path in (*images, *trees):
            if path.name in named or path.name in kept_trees:
                continue
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise HostError.from_oserror(error, "remove", str(path)) from error
            removed.append(str(path))
    return removed
