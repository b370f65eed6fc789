"""What several test files use: plug-ins, made discoverable without installing them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No test depends on how busy the machine is, nor on luck: the same examples in every run. To look for others:
# pytest --hypothesis-profile=search
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("same")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in a run: torch's threads do not spin while numba's work
EXAMPLE_PLUGIN = Path(__file__).parent / "example_plugin"


def install(folder: Path, name: str, entry_points: dict[str, dict[str, str]]) -> None:
    """What an installer leaves beside a package: metadata that importlib finds on the path."""
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in entry_points.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))


def environment(*folders: Path) -> dict[str, str]:
    """This process's environment with folders added to PYTHONPATH."""
    before = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    return os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, folders), *before])}


@pytest.fixture(scope="session")
def example_plugin_path(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders that make tests/example_plugin installed for whoever has them on sys.path."""
    folder = tmp_path_factory.mktemp("example_plugin")
    project = tomllib.loads((EXAMPLE_PLUGIN / "pyproject.toml").read_text())["project"]
    install(folder, project["name"], project["entry-points"])
    return EXAMPLE_PLUGIN, folder


@pytest.fixture(scope="session")
def example_plugin_environment(example_plugin_path: tuple[Path, Path]) -> dict[str, str]:
    """Environment of a subprocess in which the example plug-in (``example.shift_and_add``) is installed."""
    return environment(*example_plugin_path)


@pytest.fixture
def plugin_path(tmp_path: Path) -> Callable[[str, str], Path]:
    """plugin_path(family, source): a folder in which a plug-in module of that source is installed."""

    def make(family: str, source: str) -> Path:
        folder = tmp_path / family
        folder.mkdir()
        (folder / f"convbench_{family}_plugin.py").write_text(source)
        install(
            folder, f"convbench-{family}-plugin", {"convbench.kernels": {family: f"convbench_{family}_plugin:make"}}
        )
        return folder

    return make
