"""`convbench`: finds the command, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from importlib import import_module
from tempfile import NamedTemporaryFile

import click

from convbench import __version__
from convbench.errors import EXIT_BAD_INPUT, EXIT_BUG, EXIT_INTERRUPTED, ConvbenchError

COMMANDS = (
    "run", "repro", "list", "machine", "count", "verify", "savings", "profile", "train", "report", "compare", "history",
    "check", "ab",
)  # fmt: skip
USERS_ERRORS = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOTDIR,
                errno.ELOOP)  # fmt: skip  # of files, wherever they are met


class LazyGroup(click.Group):
    """Imports a command's module only when that command, or the list of commands, is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return import_module(f"convbench.cli.{name}").command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `convbench run`. Exit codes: 0 ok, 1 a check failed, 2 bad input, 3 inconclusive, "
    "4 some cells failed, 70 a bug of convbench, 130 interrupted (results are kept).",
)
@click.version_option(__version__, prog_name="convbench")
def cli() -> None:
    """Benchmark convolution kernels: verified first, timed side by side, explained by the roofline.

    Code that runs: convbench, every installed plug-in (`convbench list`), and what --model, ab and train name. Records,
    suites and journals are data.
    """


def main() -> None:
    """Entry point of the `convbench` script."""
    if sys.stdout is None:  # closed by the caller (>&-): there is nowhere to print to
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are one line on stderr."""
    try:
        return _run(arguments)
    except BaseException as error:  # SystemExit too: its code would be taken for one of ours
        return _complain(_bug(error, arguments), EXIT_BUG)


def _run(arguments: list[str]) -> int:
    try:
        return cli.main(arguments, prog_name="convbench", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_BAD_INPUT
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "convbench"
        return _complain(f"{error.format_message().rstrip('.')}; see `{where} --help`", EXIT_BAD_INPUT)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except ConvbenchError as error:
        return _complain(str(error), error.exit_code)
    except MemoryError:
        return _complain("not enough memory; give fewer or smaller files, or allow this process more", EXIT_BAD_INPUT)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing to say
        return 0
    except OSError as error:
        if error.errno not in USERS_ERRORS:
            raise
        from convbench.untrusted import shortened

        name = shortened(str(error.filename or "output"), 200)  # what is wrong must be on the line as well
        return _complain(f"{name}: {error.strerror}", EXIT_BAD_INPUT)


def _bug(error: BaseException, arguments: list[str]) -> str:
    """What to say of a fault of convbench itself; the traceback goes into a file."""
    from convbench.untrusted import failure

    lines = (f"convbench {__version__}, Python {sys.version}\n", f"{shlex.join(arguments)}\n\n")
    text = "".join((*lines, *traceback.format_exception(error)))
    try:
        with NamedTemporaryFile("w", encoding="utf-8", errors="replace", prefix="convbench-bug-", suffix=".txt",
                                delete=False) as file:  # fmt: skip
            file.write(text)
        place = f"is in {file.name}"
    except OSError:
        click.echo(text, err=True)
        place = "stands above"
    return f"a bug of convbench: {failure(error)[1]}; report it with its traceback, which {place}"


def _complain(message: str, code: int) -> int:
    from convbench.untrusted import one_line

    click.echo(f"convbench: {one_line(message, '?')}", err=True)
    return code


if __name__ == "__main__":
    main()
