"""The README says what the code does: columns, commands, schema. Dependencies are pinned by hash, licences listed."""

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from convbench.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def test_generated_documents_are_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_readme_lists_every_command_and_no_other():
    table = re.findall(r"^\| `convbench (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert tuple(table) == COMMANDS


def test_pictures_and_files_the_readme_points_at_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def closure(name, extra, found):
    """Names of what is installed because this package is, as its metadata says; found is added to."""
    for text in requires(name) or []:
        wanted = Requirement(text)
        key = canonicalize_name(wanted.name)
        if (wanted.marker is None or wanted.marker.evaluate({"extra": extra})) and (key, extra) not in found:
            found.add((key, extra))
            for more in wanted.extras or {""}:
                try:
                    closure(key, more, found)
                except PackageNotFoundError:  # an extra of a machine with other needs
                    continue
    return {key for key, _ in found}


def test_every_package_installed_is_pinned_by_hash_and_has_its_licence():
    spec = importlib.util.spec_from_file_location("licences", ROOT / "docs/licences.py")
    licences = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(licences)
    pinned = (ROOT / "requirements.txt").read_text()
    blocks = re.split(r"\n(?=\S)", pinned.partition("\naltair")[2])
    assert len(blocks) > 50 and all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in pinned
    makefile = (ROOT / "Makefile").read_text()
    installs = ["--require-hashes -r requirements.txt", "$(TORCH)", "--no-deps --no-build-isolation -e ."]
    assert re.findall(r"\$\(PIP\) (.+)", makefile) == installs and re.search(
        r"^TORCH := torch==[\d.]+$", makefile, re.M
    )
    assert re.findall(r"^(run|test|check):( .venv/installed)", makefile, re.M) == [
        (name, " .venv/installed") for name in ("run", "test", "check")
    ]
    cuda = re.compile("nvidia-(?!ml-py)|cuda-")  # torch's own, by its build
    installed = {name for name in closure("convbench", "dev", set()) if not cuda.match(name)}
    assert {"numpy", "mpmath", "nilearn", "torch"} < installed
    assert installed - {"convbench"} <= set(licences.names())
    assert licences.listed().keys() == set(licences.names()) and all(licences.listed().values())
