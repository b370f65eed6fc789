"""What was found by trial, remembered between processes: one JSON file of {question: answer}."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from platformdirs import user_cache_dir

CACHE_VARIABLE = "CONVBENCH_CACHE_DIR"
LARGEST_BYTES = 2**24  # of some 200 bytes an answer, more than anybody asks


def cache_base() -> Path:
    """Where what can be made again is kept; CONVBENCH_CACHE_DIR moves it."""
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_dir("convbench", appauthor=False)).absolute()


@dataclass(frozen=True)
class Answers:
    """A file of answers; ``what`` they are in messages, and which values are ones."""

    path: Path
    what: str
    valid: Callable[[Any], bool]

    def known(self) -> dict[str, Any]:
        """The answers so far; none where the file is missing or cannot be read, which is said."""
        try:
            with self.path.open("rb") as file:
                found = json.loads(file.read(LARGEST_BYTES))  # what is cut off is no JSON
            if isinstance(found, dict) and all(map(self.valid, found.values())):
                return found
        except OSError:
            return {}
        except (ValueError, RecursionError):  # of JSON, of the encoding
            pass
        warnings.warn(f"{self.path}: not a file of {self.what}; they are tried again and it is replaced", stacklevel=2)
        return {}

    def keep(self, key: str, answer: Any) -> None:
        """Add an answer to those on disk, in one step: two processes may lose an answer, never the file."""
        answers = json.dumps(self.known() | {key: answer}, indent=0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.path.parent) as folder:  # of this call alone, and gone whatever happens
                new = Path(folder, self.path.name)
                new.write_text(answers)
                new.replace(self.path)
        except OSError as error:
            text = f"{self.path}: {error.strerror}; {self.what} are tried again in the next process"
            warnings.warn(text, stacklevel=2)

    def by_trial(
        self, key: str, options: list[Any], seconds: Callable[[Any], float], before: Callable[[list[Any]], object] = len
    ) -> Any:
        """The answer that is known, or the fastest option; seconds(option) is inf where it cannot run.

        before(options) precedes any trial. Raises RuntimeError where none can run.
        """
        if len(options) == 1:
            return options[0]
        known = self.known().get(key)
        if known in options:
            return known
        before(options)
        times = [seconds(option) for option in options]
        if min(times) == inf:
            raise RuntimeError(f"none of {len(options)} {self.what} can run: {key}")
        best = options[times.index(min(times))]
        self.keep(key, best)
        return best
