"""Code run the way a user of a checkpoint runs it: in a new process that has transformers and not this package."""

import os
import subprocess
import sys
from pathlib import Path

# An installed copy of the package is on the path of every process of this environment: it has to be barred by name.
WITHOUT_PACKAGE = "import sys; sys.modules['mmjepa'] = None\n"


def run_fresh(code: str, *arguments: object, folder: Path | None = None, **environment: object) -> str:
    """Runs `code` in `folder` with `arguments` as its `sys.argv[1:]`; returns the last line it printed.

    The process is isolated (`python -I`: no PYTHONPATH, no working directory on the path) and offline, except as far
    as `environment` sets it differently.
    """
    process = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_PACKAGE + code, *map(str, arguments)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | {name: str(value) for name, value in environment.items()},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.rstrip("\n").split("\n")[-1]
