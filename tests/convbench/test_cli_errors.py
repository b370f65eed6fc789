"""Bad input on the command line: one line on stderr, the documented exit code, nothing heavy imported."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from convbench.cli.main import COMMANDS, run
from convbench.errors import EXIT_BUG


def convbench(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "convbench.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_line_and_its_examples_are_whole_commands(name, capsys):
    command = import_module(f"convbench.cli.{name}").command
    assert not command.get_short_help_str(limit=60).endswith("...")
    assert run([name, "--help"]) == 0
    _, _, examples = capsys.readouterr().out.partition("Examples:\n")
    lines = [shlex.split(line) for line in examples.splitlines() if line.strip()]
    assert lines
    for program, called, *words in lines:
        assert (program, called) == ("convbench", name)
        command.make_context(name, words).close()  # raises for an option that there is not


def test_a_bug_is_one_line_with_an_exit_code_of_its_own(monkeypatch, tmp_path, capsys):
    def broken(*_):
        raise KeyError("no such\ncolumn")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("convbench.cli.count.select_cases", broken)
    assert run(["count", "mobilenet_v1"]) == EXIT_BUG == 70
    out, err = capsys.readouterr()
    (file,) = tmp_path.iterdir()
    assert out == "" and err.count("\n") == 1 and "a bug of convbench: KeyError" in err and str(file) in err
    assert "mobilenet_v1" in file.read_text() and "Traceback" in file.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert run(["count", "mobilenet_v1"]) == EXIT_BUG
    assert "Traceback" in capsys.readouterr().err


class Unspeakable(BaseException):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize("raised", [SystemExit(0), GeneratorExit(), Unspeakable()])
def test_nothing_that_is_raised_passes_for_a_check(raised, monkeypatch, tmp_path, capsys):
    def broken(*_):
        raise raised

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("convbench.cli.count.select_cases", broken)
    assert run(["count", "mobilenet_v1"]) == EXIT_BUG
    assert type(raised).__name__ in capsys.readouterr().err


def test_no_command_shows_the_help(capsys):
    assert run([]) == 2
    assert "  savings  " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "place"), [("a = [1,\n2,\n", "line 2"), ("a = \n", "line 1, column 5"), ('a = """\n', "line 1")]
)
def test_malformed_toml_names_the_line(text, place, tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert run(["count", str(path)]) == 2
    assert place in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run", "--frobnicate"], "--frobnicate"),
        (["run", "no_such_suite"], "no_such_suite"),
        (["run", "--suite", "no/such/file.toml"], "no/such/file.toml"),
        (["run", "--impl", "numba.fastest", "--quick"], "numba.fastest"),
        (["run", "--case", "nothing*"], "nothing*"),
        (["run", "--precision", "zero"], "zero"),
        (["run", "--precision", "200%"], "200%"),
        (["run", "--threads", "100000", "--quick"], "--threads 100000"),
        (["run", "--device", "cuda:77", "--quick"], "--device cuda:77"),
        (["run", "--device", "toaster", "--quick"], "--device toaster"),
        (["run", "--max-time", "-1", "--quick"], "max-time -1"),
        (["run", "--max-time", "inf", "--quick"], "max-time inf"),
        (["run", "--max-time", "nan", "--quick"], "max-time nan"),
        (["run", "--seed", "-1", "--quick"], "--seed"),
        (["run", "--seed", str(2**64), "--quick"], "--seed"),
        (["run", "--device", "meta", "--quick"], "--device meta"),
        (["run", "--resume", "no/such/folder"], "no/such/folder"),
        (["run", "--resume", "folder", "--quick", "vgg16"], "leave out SUITE, --quick"),
        (["run", "--pass", "sideways"], "sideways"),
        (["verify", "--suite", "no_such_suite"], "no_such_suite"),
        (["count", "no_such_suite"], "no_such_suite"),
        (["count", "vgg16", "--device", "toaster"], "--device toaster"),
        (["report", "no/such/run.json"], "no/such/run.json"),
        (["savings", "--record", "no/such/run.json"], "no/such/run.json"),
        *(
            (words.replace("{}", "W" * 300).split(), "File name too long")
            for words in (
                "run {}",
                "run --resume {}",
                "count {}",
                "report {}",
                "savings --record {}",
                "compare {} {}",
                "history {}",
                "repro {} a",
                "check {} --baseline a",
                "ab {} HEAD",
                "train --resume {}",
                "train classify --data {}",
            )
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    complaint = [line for line in captured.err.splitlines() if line.startswith("convbench: ")]
    assert len(complaint) == 1
    assert expected in complaint[0]
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_a_complaint_cannot_drive_the_terminal(capsys):
    assert run(["count", "\x1b]0;title\x07.toml"]) == 2
    assert "?]0;title?.toml" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command, capsys):
    assert run([command, "--help"]) == 0
    assert f"convbench {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "option"),
    [*((name, "--model") for name in ("run", "verify", "count", "savings")), ("profile", "SPEC"), ("train", "--model"),
     ("train", "--resume"), ("ab", "BASE"), ("ab", "--resume")],
)  # fmt: skip
def test_whatever_runs_the_users_code_says_so(command, option, capsys):
    assert run([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert option in shown
    assert re.search(r"(?i)runs (its|the|that file's) code|code is run", shown[shown.index(option, 40) :])


@pytest.mark.parametrize("arguments", [["--help"], ["count", "--suite", "vgg16"], ["run", "--help"], ["--version"]])
def test_light_commands_import_nothing_heavy(arguments):
    code = (
        "import sys; from convbench.cli.main import run; code = run(sys.argv[1:]); "
        "heavy = {'torch', 'numba', 'pandas', 'scipy', 'altair'} & set(sys.modules); "
        "print(sorted(heavy), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    target = tmp_path / "file"
    target.write_text("not a folder")
    done = convbench("run", "--quick", "--out", str(target / "run"), "--impl", "torch.aten", "--case", "none-at-all")
    assert done.returncode == 2
    done = convbench("run", "--quick", "--out", str(target / "run"), "--impl", "torch.aten")
    assert done.returncode == 2
    assert str(target) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_closed_pipe_is_quiet(option):
    done = subprocess.run(
        f"{sys.executable} -m convbench.cli.main count mobilenet_v2 efficientnet_b0 {option} | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_two_suites_of_one_name_are_not_mixed_up(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[suite]\nname = "vgg16"\n[[case]]\nname = "a"\ninput = [1, 1, 9, 9]\nout_channels = 1\nkernel = 3\n'
    )
    assert run(["count", "vgg16", str(path)]) == 2
    assert "same name (vgg16, vgg16)" in capsys.readouterr().err
    assert run(["count", str(path), str(path)]) == 0


@pytest.mark.parametrize(
    "printing", ["print('hello')", "import ctypes; ctypes.CDLL(None).puts(b'hello')"], ids=["Python", "C"]
)
def test_a_plug_in_that_prints_does_not_spoil_the_document(plugin_path, printing):
    folder = plugin_path("noisy", f"{printing}\ndef make(): return []")
    done = convbench("list", "--json", PYTHONPATH=os.pathsep.join([str(folder), *sys.path]))
    assert done.returncode == 0
    assert json.loads(done.stdout)["command"] == "list"
    assert "hello" in done.stderr


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_closed_stdout_is_no_traceback(option):
    done = subprocess.run(
        f"{sys.executable} -m convbench.cli.main count vgg16 {option} >&-", shell=True, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_an_implementation_with_nothing_to_do_is_named(tmp_path, capsys):
    words = ["run", "quick", "--case", "resnet50.conv4_2.b", "--impl", "numba.phases", "--quick", "--max-time", "0.02"]
    assert run([*words, "--out", str(tmp_path / "run")]) == 0
    assert "no layer here for numba.phases" in capsys.readouterr().err
