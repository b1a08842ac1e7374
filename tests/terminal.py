"""A terminal for tests: what is seen in it once all is written."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence


def screen(written: str) -> list[str]:
    """The lines that are seen: a carriage return goes back to the start of a line, where the next text covers it."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        seen = ""
        for part in line.split("\r"):
            seen = part + seen[len(part) :]
        lines.append(seen.rstrip())
    return lines


def run_in_terminal(words: Sequence[str], columns: int) -> tuple[list[str], str, int]:
    """Runs a command in a terminal; gives what is seen at the end, all that was written, and the exit code."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(words, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True)
    os.close(its)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    text = written.decode()
    return screen(text), text, process.wait()
