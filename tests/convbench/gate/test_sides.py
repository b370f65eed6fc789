"""What BASE and HEAD may be: revisions laid out with their own entry points, environments, implementations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convbench.errors import InputError
from convbench.gate import sides
from convbench.gate.sides import resolve, same_kind

PROJECT = '[project]\nname = "my-kernels"\n[project.entry-points."convbench.kernels"]\n{family} = "my_kernels:make"\n'
LIST = """
from importlib.metadata import entry_points
import my_kernels
points = entry_points(group="convbench.kernels")
print(my_kernels.WHAT, sorted(point.name for point in points if point.dist.name == "my-kernels"))
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A project in two revisions, imported from its src by this Python; and a cache folder of its own."""
    top = tmp_path / "project"
    (top / "src").mkdir(parents=True)
    for words in (
        ["init", "-q", "-b", "main"],
        ["config", "user.name", "me"],
        ["config", "user.email", "me@localhost"],
    ):
        git(top, *words)
    for family in ("first", "second"):
        (top / "pyproject.toml").write_text(PROJECT.format(family=family))
        (top / "src" / "my_kernels.py").write_text(f"WHAT = {family!r}\n")
        git(top, "add", "-A")
        git(top, "commit", "-q", "-m", family)
    monkeypatch.chdir(top)
    monkeypatch.setattr(sys, "path", [*sys.path, str(top / "src")])
    monkeypatch.setenv("CONVBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return top


def git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True).stdout.strip()


def imported(side):
    done = subprocess.run([side.python, "-P", "-c", LIST], env=side.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_revision_is_imported_with_its_own_entry_points(repository):
    assert imported(resolve("HEAD~1")) == "first ['first']"
    assert imported(resolve("main")) == "second ['second']"


def test_the_working_tree_is_a_revision_too_and_stays_as_it_is(repository):
    assert resolve(".").identity == git(repository, "rev-parse", "HEAD")
    (repository / "src" / "my_kernels.py").write_text("WHAT = 'edited'\n")
    side = resolve(".")
    (repository / "src" / "my_kernels.py").write_text("WHAT = 'edited again'\n")
    assert imported(side) == "edited ['second']"
    assert git(repository, "stash", "list") == git(repository, "worktree", "prune", "-v") == ""
    assert (repository / "src" / "my_kernels.py").read_text() == "WHAT = 'edited again'\n"


def test_an_identity_stays_when_the_branch_moves(repository):
    before = resolve("main")
    git(repository, "commit", "-q", "--allow-empty", "-m", "third")
    assert resolve("main").identity != before.identity
    assert resolve(before.identity) == sides.Side("revision", before.identity, before.identity, path=before.path)


def test_a_revision_is_laid_out_once_and_forgotten_when_old(repository):
    tree = Path(resolve("main").path[0]).parent
    (tree / "files" / "mark").touch()
    resolve("main")
    assert (tree / "files" / "mark").exists()
    os.utime(tree, (0, 0))
    resolve("HEAD~1")
    assert not tree.exists()


def test_a_repository_that_nothing_is_imported_from_asks_for_its_folders(repository, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not entry.startswith(str(repository))])
    with pytest.raises(InputError, match="--source"):
        resolve("main")
    assert imported(resolve("main", ["src"])) == "second ['second']"
    with pytest.raises(InputError, match="has no folder lib"):
        resolve("main", ["lib"])


def test_environments_inside_the_repository_are_not_its_source(repository, monkeypatch):
    inside = repository / ".venv" / "lib" / "site-packages"
    inside.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(inside), str(repository / "src")])
    assert sides.imported_from(repository) == [Path("src")]


def test_environments_and_implementations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no repository
    python = resolve(sys.executable)
    assert (python.kind, python.python, python.path) == ("environment", sys.executable, ())
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").symlink_to(sys.executable)
    assert resolve("env").python == str(tmp_path / "env" / "bin" / "python")
    assert resolve("numba.auto").implementation == "numba.auto"
    with pytest.raises(InputError, match=r"is an implementation, .* an environment"):
        same_kind(resolve("numba.auto"), python)


@pytest.mark.parametrize("text", ["main", "no/such/thing", "", "--help", "-"])
def test_nothing_is_said_to_be_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="give two of the same kind"):
        resolve(text)
