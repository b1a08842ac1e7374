"""The command `mmjepa`. Each subcommand imports what it needs when it is called: `--help` is there at once."""

import json
import os
import sys
from importlib.util import find_spec
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
    from .training.messages import hide_unhelpful_messages

    hide_unhelpful_messages()


@app.command()
def check(
    dataset_name: Annotated[str, typer.Argument(help="A folder, a table or a Hub id, as for training.")],
    config_name: Annotated[str | None, typer.Option(help="Which configuration of a Hub data set.")] = None,
    image_column: Annotated[str | None, typer.Option(help="The column of images.")] = None,
    question_column: Annotated[str | None, typer.Option(help="The column of questions.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="The column of answers.")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="A column, such as a patient's name, whose rows belong in one split.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions a step of the run that is counted.")] = 16,
    epochs: Annotated[float, typer.Option(help="Epochs of that run.")] = 3,
    allow_outside_images: Annotated[
        bool, typer.Option("--allow-outside-images", help="Read images outside of the folder too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at a data set before training: what is wrong with it, and what the questions alone give.

    The exit status is 1 where training can't start.
    """
    check_source("dataset_name", dataset_name)
    from datasets import disable_progress_bars

    from .evaluation.checking import check_data, check_text

    if as_json:
        disable_progress_bars()
    given = {"image": image_column, "question": question_column, "answer": answer_column}
    columns = {name: column for name, column in given.items() if column}
    report = check_data(
        dataset_name, config_name, columns, allow_outside_images=allow_outside_images, group_column=group_column
    )
    typer.echo(json.dumps(report, indent=2) if as_json else check_text(report, batch_size, epochs))
    if report["errors"]:
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

    try:
        read_command_line(flags)
    except ValueError as error:
        sys.exit(f"{context.command_path}: {error}")
    sys.argv = [context.command_path, *flags]  # its help shows the name
    from .data.loading import DataError
    from .run_pathvqa import main

    try:
        main(flags)
    except DataError as error:
        sys.exit(f"{context.command_path}: {error.line}")


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
    from datasets import disable_progress_bars

    from .data.loading import check_splits, load_rows
    from .evaluation.score_text import report_text
    from .evaluation.scoring import read_predictions, score_report

    disable_progress_bars()
    try:
        tables = [read_predictions(path) for path in (predictions, other) if path is not None]
        splits = None if dataset_name is None else load_rows(dataset_name)
        if splits is not None:
            check_splits(dataset_name, splits, ["train"])
        report = score_report(tables[0], splits, tables[1] if len(tables) > 1 else None)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(json.dumps(report, indent=2) if as_json else report_text(report))


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    questions: Annotated[list[str], typer.Argument(help="One or more questions, each in quotes.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id of a saved model.")] = "runs/demo",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a question.")] = False,
) -> None:
    """Ask a model about an image: answers, how sure it is, and what it says about a black image."""
    if not os.path.isfile(image):  # a Path raises OSError where it is long
        raise typer.BadParameter(f"{str(image)[:200]} is no file: give an image file that exists.", param_hint="IMAGE")
    from .evaluation.asking import ask as ask_model
    from .evaluation.asking import load_saved

    try:
        replies = ask_model(*load_saved(model, revision), str(image), questions)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    for reply in replies:
        if as_json:
            known = {
                "question": reply.question,
                "prediction": reply.prediction,
                "prediction_probability": reply.probability,
                "blank": reply.blank,
                "blank_probability": reply.blank_probability,
                "from_image": reply.from_image,
                "candidates": dict(reply.candidates),
            }
            typer.echo(json.dumps(known))
        else:
            blank = "the same" if reply.is_same_without_image else reply.blank
            typer.echo(
                f"{reply.question}\n  {reply.prediction}  ({100 * reply.probability:.0f} %; with a black image "
                f"{100 * reply.blank_probability:.0f} %, and the answer is {blank})"
            )


@app.command("app")
def page(
    model: Annotated[
        str, typer.Argument(help="A folder or Hub id of a saved model.", envvar="MMJEPA_MODEL")
    ] = "runs/demo",
    port: Annotated[int | None, typer.Option(help="Where the page is; the first free port from 7860 on.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for other machines.")] = "127.0.0.1",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")] = None,
) -> None:
    """Serve a web page that asks a model about images."""
    if find_spec("gradio") is None:
        raise typer.BadParameter("the page needs gradio: pip install 'mmjepa[app]'.")
    check_source("model_name_or_path", model)
    from .app import serve

    try:
        serve(model, host, port, revision)
    except OSError as error:
        raise typer.BadParameter(str(error)) from error
