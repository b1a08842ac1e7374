"""The command `mmjepa`. Each subcommand imports what it needs when it is called: `--help` is there at once."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

ORDER = ("check", "train", "evaluate", "ask", "score", "export", "app")


class InOrderOfUse(TyperGroup):
    """Shows the commands in the order in which they are used."""

    def list_commands(self, ctx):
        return sorted(self.commands, key=lambda name: (*ORDER, name).index(name))


app = typer.Typer(cls=InOrderOfUse, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def check_source(flag: str, value: str) -> None:
    """Ends the command where there is no such folder, before anything is imported that takes seconds."""
    from .training.command_line import check_value

    try:
        check_value(flag, value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.callback()
def main() -> None:
    """Trains and judges models that answer questions about pathology images."""


def flag_name(name: str) -> str:
    """A flag may be written with underscores, as the script's are, or with hyphens."""
    return name.replace("_", "-")


@app.command(context_settings={"token_normalize_func": flag_name})
def check(
    data: Annotated[str, typer.Argument(help="A folder, a table, or the Hub id of a data set.")],
    dataset_config_name: Annotated[str | None, typer.Option(help="The data set's configuration on the Hub.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Where it is not `image`.")] = None,
    question_column: Annotated[str | None, typer.Option(help="Where it is not `question`.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Where it is not `answer`.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Where it is not `caption`.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Where it is not `text`.")] = None,
    tokenizer_name: Annotated[
        str | None, typer.Option(help="A BART tokenizer or a saved model, to count tokens; else words are counted.")
    ] = None,
    preprocessing_num_workers: Annotated[int, typer.Option(help="Processes that decode the images.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is wrong with a data set, before training.

    Every image is decoded once. The page also says what the questions alone give, and how many steps a training takes.
    The exit status is 1 where training can't start. The flags are those of `mmjepa train`.
    """
    check_source("dataset_name", data)
    from .training.messages import hide_unhelpful_messages

    hide_unhelpful_messages()
    from .training.arguments import DataArguments
    from .training.checking import check_data, check_text

    arguments = DataArguments(
        dataset_name=data,
        dataset_config_name=dataset_config_name,
        image_column=image_column,
        question_column=question_column,
        answer_column=answer_column,
        caption_column=caption_column,
        text_column=text_column,
        preprocessing_num_workers=preprocessing_num_workers,
    )
    try:
        report = check_data(arguments, tokenizer_name)
    except (ValueError, OSError) as error:  # of the tokenizer; what is wrong with the data is in the report
        raise typer.BadParameter(str(error)) from error
    typer.echo(json.dumps(report, indent=2) if as_json else check_text(report))
    if not report["can_train"]:
        raise typer.Exit(1)


# The script parses the flags itself, --help too.
FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=FORWARDED, add_help_option=False, options_metavar="[flags.json] [--flag value ...]")
def train(context: typer.Context) -> None:
    """Train a model and evaluate it; --help shows all flags."""
    run_script(context, context.args)


@app.command(context_settings=FORWARDED, options_metavar="")
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder or Hub id.", metavar="MODEL [flags.json] [--flag value ...]")],
) -> None:
    """Evaluate a saved model on the validation split.

    The flags are those of `mmjepa train`.
    """
    if model.startswith("-"):
        raise typer.BadParameter(f"{model} stands where the model should: name it first, then the flags.")
    # Behind the given ones, of which a file of flags has to be the first.
    run_script(context, [*context.args, "--model_name_or_path", model, "--do_train", "false"])


def run_script(context: typer.Context, flags: list[str]) -> None:
    """Runs run_pathvqa.py; what is wrong with the flags is said before the imports that take seconds."""
    from .training.command_line import read_command_line
    from .training.messages import hide_unhelpful_messages

    hide_unhelpful_messages()
    try:
        read_command_line(flags)
    except ValueError as error:
        sys.exit(f"{context.command_path}: {error}")
    sys.argv = [context.command_path, *flags]  # its help shows the name
    from .run_pathvqa import main

    main(flags)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A folder or Hub id of a saved model.")],
    folder: Annotated[Path, typer.Argument(help="Where it is written.")],
    onnx: Annotated[
        bool,
        typer.Option("--onnx", help="As ONNX graphs, which run without PyTorch; else as parts for stock classes."),
    ] = False,
) -> None:
    """Write a saved model as stock parts or as ONNX graphs."""
    check_source("model_name_or_path", model)
    if onnx:
        from .training.command_line import check_onnx_packages

        try:
            check_onnx_packages("--onnx")
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        from .export.onnx import main
    else:
        from .export.parts import main
    main([model, str(folder)])


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="A table with the columns question, answer, prediction, image.")],
    other: Annotated[Path | None, typer.Argument(help="Predictions of another model for the same questions.")] = None,
    dataset_name: Annotated[
        str | None, typer.Option(help="The data set, for what its training questions give without images.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score anybody's predictions by every rule that published PathVQA numbers use."""
    from .data.loading import load_rows
    from .evaluation.score_text import report_text
    from .evaluation.scoring import read_predictions, score_report

    try:
        tables = [read_predictions(path) for path in (predictions, other) if path is not None]
        train = None
        if dataset_name is not None:
            train = load_rows(dataset_name, wanted=["train"])["train"].select_columns(["question", "answer"])
        report = score_report(tables[0], train, tables[1] if len(tables) > 1 else None)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(json.dumps(report, indent=2) if as_json else report_text(report))
