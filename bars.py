"""Progress bars of this project and of its libraries: one at a time, removed when done; lines where no terminal is."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from time import monotonic
from typing import Any, TextIO

from tqdm.std import tqdm

LINE_SECONDS = 30
LINE_FORMAT = "{desc}{n_fmt} of {total_fmt}{unit}, {remaining} left"
# What `datasets` calls its work, and plainer names for it.
NAMES = ((r"Generating (\w+) split", r"Reading \1"), ("Map", "Changing rows"), ("Filter", "Choosing rows"))


class PlainLines:
    """A file for tqdm's `file`: of what is drawn to it over and over it writes a line each 30 seconds.

    Args:
        stream: what it writes to.
        clock: gives the time in seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = monotonic):
        self.stream, self.clock = stream, clock
        self.last = clock()

    def write(self, drawn: str) -> None:
        """Writes `drawn` as a line, if it holds any text and the last line is 30 seconds old."""
        text = drawn.strip()
        if text and self.clock() - self.last >= LINE_SECONDS:
            self.stream.write(f"{text}\n")
            self.last = self.clock()

    def flush(self) -> None:
        self.stream.flush()


@contextmanager
def calm_bars() -> Iterator[None]:
    """Has all bars share one line of the terminal, and be gone when they are done.

    Where stderr is no terminal, a bar that takes longer than 30 seconds prints a line each 30 seconds instead.
    All bars, also those inside the libraries, are tqdm's, made by one `__init__`. The arguments that it gets here have
    no other way to the libraries' bars.
    """
    make = tqdm.__init__

    @wraps(make)
    def make_calmly(bar: tqdm, *args: Any, **kwargs: Any) -> None:
        make(bar, *args, **kwargs | calm_arguments(kwargs, sys.stderr))

    tqdm.__init__ = make_calmly
    try:
        yield
    finally:
        tqdm.__init__ = make


def calm_arguments(given: dict[str, Any], stream: TextIO) -> dict[str, Any]:
    """What replaces the arguments `given` of a bar that is shown on `stream`."""
    name = given.get("desc") or ""
    for pattern, plain in NAMES:
        name = re.sub(f"^{pattern}$", plain, name)
    if stream.isatty():
        return {"desc": name, "leave": False, "position": 0}
    lines = {"file": PlainLines(stream), "bar_format": LINE_FORMAT, "unit": given.get("unit", "")}
    return {"desc": f"{name}: " if name else "", "leave": False, **lines}
