"""Errors with a way out, and the exit codes of every command.

A message is one line that names the file, row or option, says what was expected, and ends with
what the user can do. The command line prints it and exits with ``exit_code``; nothing else in
convbench catches these.
"""

EXIT_OK = 0
EXIT_CHECK_FAILED = 1  # a mismatch or a regression
EXIT_BAD_INPUT = 2  # bad input or usage
EXIT_INCONCLUSIVE = 3
EXIT_SOME_CELLS_FAILED = 4  # the run finished, some of its cells did not
EXIT_BUG = 70  # a fault of convbench itself (EX_SOFTWARE of sysexits.h)
EXIT_INTERRUPTED = 130  # interrupted, results kept

STRANGERS_ERRORS = (Exception, SystemExit)  # of a plug-in: whatever it raises, the rest still runs


class ConvbenchError(Exception):
    """Base of every error a user can cause; ``exit_code`` is what the process returns."""

    exit_code = EXIT_BAD_INPUT


class InputError(ConvbenchError):
    """A file, option or value that cannot be used."""


class OutputError(ConvbenchError):
    """A result that cannot be written (permission, full disk, vanished folder)."""
