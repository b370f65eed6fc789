"""What BASE and HEAD are: git revisions, environments, or implementations of this environment.

A revision's files are laid out in the cache folder, by `git archive`: the repository gets no worktree to clean up
after, no hook runs, and Numba finds what it compiled when the revision is gated again. They are put on PYTHONPATH: each
folder of the repository that this Python imports from (an editable install) is replaced by the revision's, and its
entry points are those of its own pyproject.toml. Dependencies are this environment's; where they differ, install both
and give the two environments.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convbench.errors import InputError
from convbench.journal import cache_folder

Kind = Literal["revision", "environment", "implementation"]

WORKING_TREE = "."
KEPT_S = 14 * 86400  # a revision not gated for so long is laid out again


@dataclass(frozen=True)
class Side:
    """One side of the comparison.

    name            what the user wrote, and what it stands for
    identity        resolves to this same side again, whatever branch has moved meanwhile
    python, path    interpreter, and folders before all others on its path
    implementation  the only one to time, where implementations are compared
    """

    kind: Kind
    name: str
    identity: str
    python: str = sys.executable
    path: tuple[str, ...] = ()
    implementation: str = ""

    def environment(self) -> dict[str, str]:
        """This process's, with the side's folders in front."""
        inherited = os.environ.get("PYTHONPATH", "")
        return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (*self.path, inherited)))}


def resolve(text: str, sources: Sequence[str] = ()) -> Side:
    """A side by what the user wrote. Raises InputError where it is nothing.

    sources  folders of the repository that hold packages, where this Python does not import from it
    """
    if python := _python(Path(text)):
        return Side("environment", text, python, python=python)
    if commit := _commit(text):
        name = text if commit.startswith(text) else f"{text} ({commit[:10]})"
        return Side("revision", name, commit, path=_source_path(commit, sources))
    if re.fullmatch(r"[\w-]+(\.[\w-]+)+", text):
        return Side("implementation", text, text, implementation=text)
    raise InputError(
        f"{text}: no git revision here, no Python or virtual environment, and no name of an implementation; "
        "give two of the same kind"
    )


def same_kind(base: Side, head: Side) -> None:
    """Raises InputError where the two cannot be compared."""
    if base.kind != head.kind:
        raise InputError(f"{base.name} is {_a(base.kind)}, {head.name} {_a(head.kind)}: give two of the same kind")


def _a(kind: Kind) -> str:
    return "a revision" if kind == "revision" else f"an {kind}"


def _python(path: Path) -> str:
    """The interpreter a path stands for; links are kept, they make a virtual environment what it is."""
    found = [p for p in (path, path / "bin" / "python", path / "Scripts" / "python.exe") if p.is_file()]
    return str(found[0].absolute()) if found and os.access(found[0], os.X_OK) else ""


# Git --------------------------------------------------------------------------------------------


def _git(*words: str) -> bytes | None:
    """What git says; None where it fails or is not there."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _commit(text: str) -> str:
    """Commit of a revision; of `.`, the tracked files as they are now. "" where it is none."""
    if text == WORKING_TREE:
        # a commit that no branch has; it needs a name for its author, which a CI machine may lack
        made = _git("-c", "user.name=convbench", "-c", "user.email=convbench@localhost", "stash", "create")
        text = (made or b"").decode().strip() or "HEAD"
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    return (found or b"").decode().strip()


def _source_path(commit: str, sources: Sequence[str]) -> tuple[str, ...]:
    top = Path((_git("rev-parse", "--show-toplevel") or b"").decode().strip())
    relative = [Path(source) for source in sources] or imported_from(top)
    if not relative:
        raise InputError(
            f"this Python imports nothing from {top}: install it with `pip install --editable`, or name the folders "
            "that hold its packages with --source"
        )
    tree = lay_out(top, commit)
    found = [str(tree / "files" / folder) for folder in relative if (tree / "files" / folder).is_dir()]
    if not found:
        raise InputError(f"{commit[:10]} has no folder {', '.join(map(str, relative))}; name its own with --source")
    return str(tree / "metadata"), *found


def imported_from(top: Path) -> list[Path]:
    """Folders of the repository on this Python's path, less those of environments inside it."""
    environments = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    folders = [Path(entry or ".").resolve() for entry in sys.path]
    return list(dict.fromkeys(
        folder.relative_to(top) for folder in folders
        if folder.is_dir() and folder.is_relative_to(top)
        and "site-packages" not in folder.parts and not any(folder.is_relative_to(e) for e in environments)
    ))  # fmt: skip


def lay_out(top: Path, commit: str) -> Path:
    """Folder with the revision's ``files`` and the ``metadata`` of its distribution, made once."""
    base = cache_folder("revisions")
    target = base.absolute() / commit
    _forget_old(base)
    if not target.is_dir():
        archive = _git("-C", str(top), "archive", "--format=tar", commit)
        if archive is None:
            raise InputError(f"{commit[:10]}: git archive failed in {top}; a shallow clone lacks it: fetch it first")
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base) as folder:
            made = Path(folder) / "made"
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(made / "files", filter="tar")
            _write_metadata(made, commit)
            made.rename(target)
    os.utime(target)
    return target


def _forget_old(base: Path) -> None:
    for folder in base.glob("*"):
        if time.time() - folder.stat().st_mtime > KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)


def _write_metadata(made: Path, commit: str) -> None:
    """What an installer would leave of the revision, so that its own entry points are found and no later ones."""
    (made / "metadata").mkdir()
    try:
        project = tomllib.loads((made / "files" / "pyproject.toml").read_text())["project"]
        name = project["name"]
    except (OSError, ValueError, KeyError):
        return
    folder = made / "metadata" / f"{re.sub(r'[-_.]+', '_', name)}-0+g{commit[:10]}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0+g{commit[:10]}\n")
    points = project.get("entry-points", {})
    groups = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for group, found in points.items())
    (folder / "entry_points.txt").write_text("\n".join(groups))
