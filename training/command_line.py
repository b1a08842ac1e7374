"""The command line of a training: one parser of flags, and files of flags. Neither needs PyTorch."""

import ast
import json
import sys
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, ArgumentTypeError, Namespace
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from dataclasses import Field, fields
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

import yaml

from .agreement import GivenFlag, check_agreement, contradiction
from .flags import CONFIG_FIELDS, FIXED_FLAGS, DataArguments, ModelArguments, TrainingFlags, with_underscores
from .values import json_object

if TYPE_CHECKING:
    from transformers.hf_argparser import HfArgumentParser, string_to_bool
else:

    def library_parser() -> ModuleType:
        """transformers' module `hf_argparser` without the library, whose import takes longer than all help."""
        (folder,) = find_spec("transformers").submodule_search_locations
        spec = spec_from_file_location("transformers.hf_argparser", Path(folder, "hf_argparser.py"))
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    hf_argparser = library_parser()
    HfArgumentParser, string_to_bool = hf_argparser.HfArgumentParser, hf_argparser.string_to_bool

FILE_SUFFIXES = (".json", ".yaml", ".yml")
LIBRARY_FLAGS = "All other flags of transformers' TrainingArguments work too: --help_all shows them."
# What a field's metadata says beside what argparse understands.
OWN_METADATA = ("bound", "check", "of_config", "published", "fixed")
# How like a known name an unknown one has to be for an error to suggest it, as a ratio of equal letters. Before the
# library's flags are known this is also what tells a slip from one of those, and none of them comes as close.
LIKE, LIKE_BEFORE_IMPORTS = 0.7, 0.9


class FlagHelp(ArgumentDefaultsHelpFormatter):
    """Shows each name of a flag once, not with hyphens too, and defaults that say something."""

    def _format_action_invocation(self, action: Action) -> str:
        names = [name for name in action.option_strings if "-" not in name.lstrip("-")]
        value = self._format_args(action, getattr(action.type, "__name__", "value"))
        return " ".join([", ".join(names), *([] if action.nargs == 0 else [value])])

    def _get_help_string(self, action: Action) -> str:
        if action.dest in CONFIG_FIELDS:
            return f"{action.help} (default: {config_defaults()[action.dest]}, or the saved model's)"
        return action.help if action.default in (None, False) else super()._get_help_string(action)


@cache
def config_defaults() -> dict[str, Any]:
    """The defaults of `MMJepaConfig`, read from its source: its import takes longer than all help."""
    source = Path(__file__).parents[1] / "configuration_mmjepa.py"
    parts = ast.parse(source.read_text(encoding="utf-8")).body
    (config,) = (part for part in parts if isinstance(part, ast.ClassDef) and part.name == "MMJepaConfig")
    assigned = [part for part in config.body if isinstance(part, ast.AnnAssign) and part.value is not None]
    return {ast.unparse(part.target): ast.literal_eval(part.value) for part in assigned}


class FlagParser(HfArgumentParser):
    """Parses flags, in groups by class; those of the library's Trainer are shown only by `--help_all`.

    Args:
        argument_classes: dataclasses, whose fields are the flags.
        show_all: whether help shows the library's flags.
        is_early: whether the library is not imported yet. The classes are without its flags then, so that a name that
            is not known is left alone: it may be the library's, or the beginning of one of its names.
    """

    def __init__(self, argument_classes: tuple[type, ...], show_all: bool = False, is_early: bool = False):
        self.show_all, self.is_early = show_all, is_early
        self.fields: dict[str, Field] = {}
        super().__init__(
            argument_classes,
            usage="%(prog)s [flags.json] [--flag value ...]",
            description="Trains, evaluates and exports MMJepa. A JSON or YAML file of flags may come first; flags "
            "after it win.",
            epilog="Example: %(prog)s configs/demo.json --seed 1",
            formatter_class=FlagHelp,
            allow_abbrev=not is_early,
        )
        # The early parser leaves it to the later one, which knows those flags.
        self.add_argument(
            "--help_all",
            action="store_true" if is_early else "help",
            help="show the flags of the library's Trainer too, and exit",
        )
        if is_early:
            self.add_argument_group("Trainer", LIBRARY_FLAGS)
        # By each name, second names and `no_` included, as `--help` spells it.
        self.flags = {
            option[2:]: action
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--") and "-" not in option[2:]
        }

    def print_help(self, file=None) -> None:
        self.prog = Path(sys.argv[0]).name  # a parser that was made earlier does not know under which name it runs
        super().print_help(file)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}: see --help.")

    def _add_dataclass_arguments(self, dtype: type) -> None:
        types = get_type_hints(dtype)
        ungrouped = {field.name: field for field in fields(dtype) if field.init}
        self.fields |= ungrouped
        for owner in dtype.__mro__:
            own = [ungrouped.pop(name) for name in vars(owner).get("__annotations__", {}) if name in ungrouped]
            if not own:
                continue
            is_library_group = not hasattr(owner, "_argument_group_name")
            title = getattr(owner, "_argument_group_name", "Trainer")
            group = self.add_argument_group(title, LIBRARY_FLAGS if is_library_group else owner.__doc__)
            for field in own:
                described = copy(field)
                described.type = types[field.name]
                known = {key: value for key, value in field.metadata.items() if key not in OWN_METADATA}
                described.metadata = MappingProxyType(known)
                self._parse_dataclass_field(group, described)
            for action in group._group_actions:
                is_hidden = is_library_group and not self.show_all or action.dest in FIXED_FLAGS
                if is_hidden or action.option_strings[0].startswith("--no_"):
                    action.help = SUPPRESS
                elif action.type is string_to_bool:
                    action.metavar = "true|false"

    def parse_given(self, argv: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The fields that a command line names, and their values; and what of it belongs to no flag."""
        not_given = object()
        names = Namespace(**{action.dest: not_given for action in self._actions})
        named, unused = self.parse_known_args(argv, names)
        return {name: value for name, value in vars(named).items() if value is not not_given}, unused

    def read(self, argv: list[str]) -> list[GivenFlag]:
        """The flags of a command line one by one, each as it is written and as it is meant.

        Raises:
            ValueError: a flag is unknown, or its value is not what it has to be.
        """
        parts = divided(argv)
        for name, arguments in parts.items():
            self.check_name(name)
            self.check_values(name, texts_of(arguments))
        return [self.read_flag(name, arguments) for name, arguments in parts.items()]

    def check_name(self, name: str) -> None:
        """Raises ValueError where there is no such flag; its name may be cut short, as argparse allows it."""
        if any(known.startswith(name) for known in self.flags):
            return
        close = get_close_matches(name, self.flags, n=1, cutoff=LIKE_BEFORE_IMPORTS if self.is_early else LIKE)
        if close or not self.is_early:
            meant = f"did you mean --{close[0]}? " if close else ""
            raise ValueError(f"there is no --{name}: {meant}--help shows the flags, --help_all the Trainer's too.")

    def check_values(self, name: str, texts: list[str]) -> None:
        """Raises ValueError where a flag's value is neither the number nor the JSON nor the folder that it has to be,
        or where a file of flags follows it."""
        action = self.flags.get(name)
        values = texts if action is not None and action.nargs == "+" else texts[:1]
        for text in texts[len(values) :]:
            if text.endswith(FILE_SUFFIXES):
                raise ValueError(f"{text}: a file of flags must be the first argument.")
        field = self.fields.get(action.dest) if action is not None else None
        check = field.metadata.get("check") if field is not None else None
        for text in values:
            if action is not None and action.type in (int, float):
                try:
                    action.type(text)
                except ValueError as error:
                    kind = action.type.__name__
                    raise ValueError(f"--{name} is {text!r}: give a number, of type {kind}.") from error
            if check is not None or text.startswith("{"):
                (check or json_object)(f"--{name}", text)

    def read_flag(self, name: str, arguments: list[str]) -> GivenFlag:
        """A flag from its part of a command line. One that may be the library's has its name in place of a field."""
        texts = texts_of(arguments)
        shown = " ".join([f"--{name}", *(texts if texts != ["true"] else [])])
        values, _ = self.parse_given(arguments)
        field, value = next(iter(values.items()), (name, likely_value(texts)))
        return GivenFlag(shown, field, value, arguments)


@cache
def early_parser() -> FlagParser:
    """The parser of this project's flags alone, which is there before the library is imported."""
    return FlagParser((ModelArguments, DataArguments, TrainingFlags), is_early=True)


def read_command_line(argv: list[str], parser: FlagParser | None = None) -> list[str]:
    """The flags of a command line whose first argument may be a JSON or YAML file of flags; those after it win.

    A name may be spelt with hyphens, `--batch-size`; it comes back with underscores. A flag of the file that says
    otherwise than one after it is left out, whatever the names of the two.

    Args:
        parser: of all flags; by default [`early_parser`], to find errors without the imports that take seconds.

    Raises:
        ValueError: the file or a flag's number or JSON can't be read, a flag is unknown, two flags contradict each
            other, or a folder does not exist.
    """
    parser = parser or early_parser()
    of_file: list[str] = []
    if argv and argv[0].endswith(FILE_SUFFIXES):
        of_file, argv = flags_of_file(Path(argv[0])), argv[1:]
    of_file, argv = ([flag_with_underscores(argument) for argument in part] for part in (of_file, argv))
    earlier, later = parser.read(of_file), parser.read(argv)
    check_agreement(earlier)
    check_agreement(later)
    kept = [argument for flag in earlier if not contradiction([flag, *later]) for argument in flag.arguments]
    return [*kept, *argv]


def flag_with_underscores(argument: str) -> str:
    """An argument; if it is a flag, `--name` or `--name=value`, its name is spelt with underscores."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{with_underscores(name)}{equals}{value}"


def flags_of_file(path: Path) -> list[str]:
    """The flags that a JSON or YAML file spells out, or that a run has written into its run.json.

    HfArgumentParser reads such files too, but takes no flags beside them, no second names such as `batch_size`, and
    no dict for a flag that is JSON.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}, the file of flags, does not exist.")
    try:
        given = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (ValueError, yaml.YAMLError) as error:  # ValueError: no JSON, or no text at all
        raise ValueError(f"{path}, the file of flags, can't be read: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path}, the file of flags, holds a {type(given).__name__}: give flags and their values.")
    return as_arguments({name: value for name, value in given.get("flags", given).items() if value is not None})


def as_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Flags and their values as a command line has them."""
    arguments = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{name}", *(item if isinstance(item, str) else json.dumps(item) for item in values)]
    return arguments


def given_flags(argv: list[str]) -> dict[str, str | list[str]]:
    """Name as written -> value of a command line, as a file of flags has them; "true" where it has none."""
    flags = {name: texts_of(arguments) for name, arguments in divided(argv).items()}
    return {name: texts if len(texts) > 1 else texts[0] if texts else "true" for name, texts in flags.items()}


def divided(argv: list[str]) -> dict[str, list[str]]:
    """Name as written -> the arguments of a command line that belong to the flag, its name among them."""
    parts: dict[str, list[str]] = {}
    name = ""
    for argument in argv:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0]
            parts.pop(name, None)  # the later one wins, over a second name before it too
            parts[name] = [argument]
        elif parts:
            parts[name].append(argument)
    return parts


def texts_of(arguments: list[str]) -> list[str]:
    """The values of a flag, from its part of a command line."""
    _, equals, value = arguments[0].partition("=")
    return [*([value] if equals else []), *arguments[1:]]


def likely_value(texts: list[str]) -> Any:
    """What the values of a flag of unknown type most likely mean: a number, true or false, else the text."""
    if len(texts) > 1:
        return texts
    text = texts[0] if texts else "true"
    with suppress(ValueError):
        return float(text)
    with suppress(ArgumentTypeError):
        return string_to_bool(text)
    return text
