"""What a run prints: its own messages, and the libraries' warnings that a user can do something about.

Of an error that a user can mend it prints the message, without the traceback.
"""

import dis
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Loggers of libraries, and a part of each of their messages that is not shown.
HIDDEN_MESSAGES = (
    # transformers imports torchao wherever it is installed. Its files for other GPUs and Pythons do not load.
    ("torchao", "Failed to load"),
    ("torch.utils._pytree", "Calling register_constant() on Enum subclasses is deprecated"),  # torchao calls it
    # Images are prepared with Pillow where torchvision is not installed, as they are meant to be.
    ("transformers.utils.import_utils", "requires torchvision (not installed)"),
    # A checkpoint leaves out the output head that is tied to the decoder's embeddings.
    ("transformers.trainer", "There were missing keys in the checkpoint model loaded: ['lm_head.weight']."),
    # Checkpoints are numbered; by time they would be in the same order.
    ("transformers.trainer_utils", "mtime may not be reliable on this filesystem"),
    # The exporter was last tried by its authors with other versions. This project's tests try it with these.
    ("transformers.exporters.utils", "is experimental and patches many backend internals"),
    # Operators that the exporter can't translate. The model has none of them.
    ("torch.onnx._internal.exporter._registration", "torchvision is not installed"),
    ("torch.onnx._internal.exporter._registration", "Failed to infer the signature for function"),
)
# Python's warnings, by the beginnings of their messages.
HIDDEN_WARNINGS = (
    r"Glyph \d+ .* missing from font",  # answers of an untrained model hold characters that no font has
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # torch's own exporter calls it
)
# Modules of libraries that raise errors about values of flags, such as --report_to and --adam_beta1, and about the
# files of a model. Those of the models and of generation are left out: their errors are about a call.
CHECKING_MODULES = (
    "torch.optim",
    "transformers.integrations",
    "transformers.modeling_utils",
    "transformers.optimization",
    "transformers.tokenization",
    "transformers.trainer",
    "transformers.training_args",
    "transformers.utils.import_utils",
    "transformers.utils.loading_report",
)


class WrongCall(ValueError):
    """A command, a flag, a value or a path of a command line is wrong. Nothing was started."""


class WithoutText(logging.Filter):
    """Drops the messages that hold a text."""

    def __init__(self, text: str):
        super().__init__()
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return self.text not in record.getMessage()


def hide_unhelpful_messages() -> None:
    """Hides what is listed above. Some of it is said while libraries are imported, so call it before."""
    for name, text in HIDDEN_MESSAGES:
        logging.getLogger(name).addFilter(WithoutText(text))
    for message in HIDDEN_WARNINGS:
        warnings.filterwarnings("ignore", message)


def show_messages(is_first_process: bool) -> None:
    """Shows this project's messages, those of the first process alone, and the warnings of all processes."""
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("mmjepa").setLevel(logging.INFO if is_first_process else logging.WARNING)
    # Its own handler prints a warning as if it were any other line.
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()


@contextmanager
def checking_the_call() -> Iterator[None]:
    """Turns an error that a check of the command line raises into [`WrongCall`]."""
    try:
        yield
    except ValueError as error:
        if not is_message(error):
            raise
        raise WrongCall(str(error)) from error


def end_run(program: str, error: BaseException) -> NoReturn:
    """Ends the process with a line on stderr where a user can mend `error`: in the data, the model or the flags.

    The exit code is 2 where the call is wrong, 130 where the user has interrupted the run, else 1.

    What a user can mend are errors of the system and the Hub, errors that this project raises itself, and errors of
    the libraries about flags and files of models. Anything else may be a bug: it is raised again and keeps its
    traceback.
    """
    if isinstance(error, KeyboardInterrupt):
        leave(130, f"{program}: interrupted.")
    message = str(error)
    if not (isinstance(error, OSError) or is_message(error)):
        from .data.errors import DataError  # imported late: other errors are said before the imports of seconds

        if not isinstance(error, DataError):
            raise error
        message = error.line  # torch has raised it again for a worker of a loader
    message = " ".join(message.split())
    leave(2 if isinstance(error, WrongCall) else 1, f"{program}: {message or type(error).__name__}")


def leave(code: int, line: str) -> NoReturn:
    """Ends the process with an exit code, and a line on stderr."""
    if code == 1:
        sys.exit(line)  # prints it
    print(line, file=sys.stderr)
    sys.exit(code)


def is_message(error: BaseException) -> bool:
    """Whether a `raise` of this project, or of a library about flags or a model's files, raised `error`.

    An operation that failed there, such as `int("x")`, was not meant to.
    """
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code, module = last.tb_frame.f_code, last.tb_frame.f_globals.get("__name__", "")
    is_raise = dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    is_ours = module.partition(".")[0] == __name__.partition(".")[0]
    is_checked = module.startswith(CHECKING_MODULES) and not isinstance(error, (AttributeError, TypeError))
    return is_raise and (is_ours or is_checked)
