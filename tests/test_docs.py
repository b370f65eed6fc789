"""The README says what the code does: columns, commands, schema."""

import re
import subprocess
import sys
from pathlib import Path

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
