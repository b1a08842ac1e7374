"""Nothing that is read can run code: no unpickling, no evaluated text. docs/security.md says what else is refused."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PACKAGES = [ROOT.joinpath(*name.split(".")[1:]) for name in SETUP["options"]["packages"].split()]
FILES = [path for folder in PACKAGES for path in sorted(folder.glob("*.py"))]
UNPICKLING_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def faults(code: str) -> list[str]:
    """What in `code` could run code that it reads."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.partition(".")[0] in UNPICKLING_MODULES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            is_unsafe = (
                called in ("eval", "exec", "yaml.load", "yaml.unsafe_load")
                or (called == "torch.load" and options.get("weights_only") != "True")
                or (called == "np.load" and options.get("allow_pickle", "False") != "False")
                or options.get("trust_remote_code") == "True"
            )
            found += [called] if is_unsafe else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_code_that_it_reads(path):
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
        "eval(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_what_could_run_code_is_found(code):
    assert faults(code)
