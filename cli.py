"""The command `mmjepa`. Each subcommand imports what it needs when it is called: `--help` is there at once."""

import json
import os
import sys
from importlib.metadata import version
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .bars import calm_bars
from .cli_search import say, show_found_images, show_found_in_slides, show_taught
from .messages import WrongCall, checking_the_call, end_run, hide_unhelpful_messages
from .training.flags import with_underscores
from .training.values import check_extra, check_file, check_source, column_value

ORDER = ("check", "train", "evaluate", "ask", "search", "score", "export", "app")
# An example of each command, which its help shows.
EXAMPLES = {
    "check": "mmjepa check runs/drawn_slides",
    "train": "mmjepa train configs/demo.json --seed 1",
    "evaluate": "mmjepa evaluate runs/demo --dataset_name runs/drawn_slides --output_dir runs/evaluated",
    "ask": 'mmjepa ask runs/drawn_slides/example.png "is necrosis seen?"',
    "search": 'mmjepa search runs/drawn_slides "is necrosis seen?" --top 5',
    "score": "mmjepa score runs/demo/eval_answers.jsonl --dataset_name runs/drawn_slides",
    "export": "mmjepa export runs/demo runs/parts",
    "app": "mmjepa app runs/demo --images runs/drawn_slides",
}
# What most people do, in this order.
FIRST_STEPS = {
    "check": "look at a data set before training",
    "train": "train a model and measure it",
    "ask": "ask it about an image (in a browser: mmjepa app)",
    "search": "find the images of which a statement is true",
    "score": "score its answers, or anybody's, as papers do",
}
EXIT_CODES = (
    "Exit codes: 0 it is done, 1 the run failed, 2 the call was wrong and nothing was started, 130 interrupted by "
    "Ctrl-C, 143 ended by SIGTERM."
)
UsageError: Any = typer.BadParameter.__base__  # click's, or that of the copy of click in newer versions of typer


class Commands(TyperGroup):
    """The commands in the order in which they are used, with examples; an error that a user can fix is one line."""

    def get_command(self, ctx, cmd_name):
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.epilog = f"Example: {EXAMPLES[cmd_name]}"
        return command

    def list_commands(self, ctx):
        return sorted(self.commands, key=lambda name: (*ORDER, name).index(name))

    def invoke(self, ctx):
        try:
            with calm_bars():
                return super().invoke(ctx)
        except UsageError as error:
            # The error about an option without a value has no context.
            program = error.ctx.command_path if error.ctx else f"{ctx.command_path} {ctx.invoked_subcommand}"
            message = " ".join(error.format_message().split()).removesuffix(".")
            typer.echo(f"{program}: {message}; see {program} --help.", err=True)
            raise typer.Exit(error.exit_code) from error
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            end_run(f"{ctx.command_path} {ctx.invoked_subcommand}", error)


app = typer.Typer(
    cls=Commands,
    context_settings={"token_normalize_func": with_underscores},  # of the names of options, in all commands
    epilog=EXIT_CODES,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Options of several commands; errors name them.
ConfigName = Annotated[
    str | None, typer.Option("--dataset_config_name", "--config_name", help="Which configuration of a Hub data set.")
]
ImageColumn = Annotated[str | None, typer.Option("--image_column", help="The column of images.")]
QuestionColumn = Annotated[str | None, typer.Option("--question_column", help="The column of questions.")]
AnswerColumn = Annotated[str | None, typer.Option("--answer_column", help="The column of answers.")]
SavedModel = Annotated[str, typer.Option("--model", help="Folder or Hub id of a saved model.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of the model on the Hub.")]
OutsideImages = Annotated[
    bool, typer.Option("--allow_outside_images", help="Read images outside of the data set's folder too.")
]
ImageFolder = Annotated[
    str | None, typer.Option("--image_folder", help="The folder that image paths are relative to.")
]
TrainSplit = Annotated[
    str | None, typer.Option("--train_split", help="The split to train on, where it is not named train.")
]
Where = Annotated[
    list[str] | None, typer.Option("--where", help="COLUMN=VALUE of the rows to read; may be given several times.")
]


def show_version(is_asked: bool) -> None:
    """Prints the version and ends, for --version."""
    if is_asked:
        typer.echo(f"mmjepa {version('mmjepa')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    asks_version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Trains and judges models that answer questions about pathology images."""
    hide_unhelpful_messages()
    if context.invoked_subcommand is None:
        typer.echo(first_steps())


def first_steps() -> str:
    """What most people do with the command, each with an example."""
    steps = [f"{number}. {step}\n   {EXAMPLES[name]}" for number, (name, step) in enumerate(FIRST_STEPS.items(), 1)]
    more = "mmjepa --help lists all commands, mmjepa COMMAND --help the options of one."
    return "\n".join([f"{main.__doc__}", "", *steps, "", more])


@app.command()
def check(
    dataset_name: Annotated[str, typer.Argument(help="A folder, a table or a Hub id, as for training.")],
    config_name: ConfigName = None,
    image_column: ImageColumn = None,
    question_column: QuestionColumn = None,
    answer_column: AnswerColumn = None,
    group_column: Annotated[
        str | None,
        typer.Option("--group_column", help="A column, such as a patient's name, whose rows belong in one split."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch_size", help="Questions per step of the run whose steps are counted.", min=1)
    ] = 16,
    epochs: Annotated[float, typer.Option(help="Epochs of that run.")] = 3,
    allow_outside_images: OutsideImages = False,
    image_folder: ImageFolder = None,
    train_split: TrainSplit = None,
    where: Where = None,
    majority_answers: Annotated[
        Path | None,
        typer.Option(
            "--majority_answers",
            help="Writes the most frequent training answer to each validation question to this .jsonl file, for "
            "mmjepa score.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at a data set before training: what is wrong with it, and how far the questions alone get.

    The exit status is 1 where training can't start.
    """
    with checking_the_call():
        check_source("dataset_name", dataset_name)
        read = reading(allow_outside_images, image_folder, train_split, where)
    from .data.rows import load_rows
    from .evaluation.checking import check_data
    from .evaluation.floors import majority_predictions
    from .reporting.check_text import check_text

    columns = named_columns(image_column, question_column, answer_column)
    report = check_data(dataset_name, config_name, columns, group_column=group_column, **read)
    typer.echo(json.dumps(report, indent=2) if as_json else check_text(report, batch_size, epochs))
    if report["errors"]:
        raise typer.Exit(1)
    if majority_answers is not None:
        rows = majority_predictions(load_rows(dataset_name, config_name, columns, **read))
        majority_answers.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def named_columns(image: str | None, question: str | None, answer: str | None) -> dict[str, str]:
    """The columns that flags name."""
    given = {"image": image, "question": question, "answer": answer}
    return {name: column for name, column in given.items() if column}


def reading(
    allow_outside_images: bool, image_folder: str | None, train_split: str | None, where: list[str] | None
) -> dict[str, Any]:
    """What `load_rows` is told of images and rows."""
    return {
        "allow_outside_images": allow_outside_images,
        "image_folder": image_folder,
        "train_split": train_split,
        "where": dict(column_value("--where", text) for text in where or ()),
    }


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
        raise WrongCall(f"{model} is in the place of the model: name it first, then the flags.")
    # After the given flags, because a file of flags must be the first argument.
    run_script(context, [*context.args, "--model_name_or_path", model, "--do_train", "false"])


def run_script(context: typer.Context, flags: list[str]) -> None:
    """Runs run_pathvqa.py; errors about flags come before the imports that take seconds."""
    from .training.command_line import read_command_line

    sys.argv = [context.command_path, *flags]  # its help shows the name
    with checking_the_call():
        read_command_line(flags)
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
    with checking_the_call():
        check_source("the model", model)
    if onnx:
        check_extra("--onnx", "onnx")
        from .export.onnx import main
    else:
        from .export.parts import main
    main([model, str(folder)])


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="A table with the columns question, answer, prediction, image.")],
    other: Annotated[Path | None, typer.Argument(help="Predictions of another model for the same questions.")] = None,
    dataset_name: Annotated[
        str | None,
        typer.Option("--dataset_name", help="The data set, to score what its training questions give without images."),
    ] = None,
    config_name: ConfigName = None,
    image_column: ImageColumn = None,
    question_column: QuestionColumn = None,
    answer_column: AnswerColumn = None,
    allow_outside_images: OutsideImages = False,
    image_folder: ImageFolder = None,
    train_split: TrainSplit = None,
    where: Where = None,
    without_copies: Annotated[
        bool, typer.Option("--without_copies", help="Score rows of the same image, question and answer once.")
    ] = False,
    any_listed_answer: Annotated[
        bool,
        typer.Option(
            "--any_listed_answer", help="An answer is right if any row of the same image and question has it."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score anybody's predictions by rules that published PathVQA numbers use."""
    paths = [path for path in (predictions, other) if path is not None]
    with checking_the_call():
        for path in paths:
            check_file("the predictions are", path)
        if dataset_name is not None:
            check_source("--dataset_name", dataset_name)
        read = reading(allow_outside_images, image_folder, train_split, where)
    from .data.rows import load_rows
    from .evaluation.scoring import read_predictions, score_report
    from .reporting.score_text import report_text

    tables = [read_predictions(path) for path in paths]
    splits = None
    if dataset_name is not None:
        columns = named_columns(image_column, question_column, answer_column)
        splits = load_rows(dataset_name, config_name, columns, **read)
        if "train" not in splits:
            raise ValueError(f"{dataset_name} has no train split, from whose questions and answers floors are learnt.")
    others = tables[1] if len(tables) > 1 else None
    report = score_report(tables[0], splits, others, without_copies, any_listed_answer)
    typer.echo(json.dumps(report, indent=2) if as_json else report_text(report))


class StatementsCommand(TyperCommand):
    """Takes all texts up to the next option as --statements, where an option has one value."""

    def parse_args(self, ctx, args):
        spread: list[str] = []
        is_statement = False
        for arg in args:
            if arg.startswith("-"):
                is_statement = arg == "--statements"
            if arg != "--statements":
                spread += ["--statements", arg] if is_statement else [arg]
        if "--statements" in args and "--statements" not in spread:
            spread.append("--statements")  # without a text, which is an error
        return super().parse_args(ctx, spread)


@app.command(cls=StatementsCommand)
def ask(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    questions: Annotated[list[str] | None, typer.Argument(help="Questions, each in quotes.")] = None,
    statements: Annotated[
        list[str] | None,
        typer.Option(
            "--statements",
            metavar="TEXT ...",
            help='Statements, each in quotes, such as "is necrosis seen?": how probably each is true.',
        ),
    ] = None,
    model: SavedModel = "runs/demo",
    revision: Revision = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each question or statement.")
    ] = False,
) -> None:
    """Ask a model about an image: answers, how sure it is, and what it says about a black image.

    Statements get the probability of being true, and the part of the image that was read for it.
    """
    with checking_the_call():
        check_file("the image is", image)
        check_source("--model", model)
    if not questions and not statements:
        raise WrongCall("there is nothing to ask: give questions, or statements after --statements.")
    # Threads that wait for each other sleep: on a busy machine they would take seconds from what they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .evaluation.asking import ask as ask_model
    from .evaluation.asking import encode_image, load_saved
    from .evaluation.judging import check_statements, judge, statement_notes
    from .reporting.reply_text import judgement_json, judgement_text, reply_json, reply_text

    loaded, processor = load_saved(model, revision)
    if statements:
        check_statements(loaded.config, statements)
    encoded = encode_image(loaded, processor, str(image))
    for reply in ask_model(loaded, processor, encoded, questions) if questions else []:
        typer.echo(json.dumps(reply_json(reply)) if as_json else reply_text(reply))
    judgements = judge(loaded, processor, encoded, statements) if statements else []
    if judgements:
        for note in statement_notes(loaded.config, [judgement.wording for judgement in judgements]):
            say(note)
    for judgement in judgements:
        typer.echo(json.dumps(judgement_json(judgement)) if as_json else judgement_text(judgement))


@app.command()
def search(
    folder: Annotated[
        str | None,
        typer.Argument(help="A folder of images, or a data set: a folder, a table or a Hub id. Or slides, see below."),
    ] = None,
    statements: Annotated[
        list[str] | None, typer.Argument(help='What the images should show, each in quotes: "is necrosis seen?".')
    ] = None,
    model: SavedModel = "runs/demo",
    revision: Revision = None,
    any_of: Annotated[
        bool, typer.Option("--any/--all", help="One of the statements is enough, or all count.")
    ] = False,
    negated: Annotated[
        list[str] | None, typer.Option("--not", help="A statement that should be false; may be given several times.")
    ] = None,
    like: Annotated[Path | None, typer.Option("--like", help="An image to be like, in place of statements.")] = None,
    top: Annotated[int, typer.Option(help="How many images are shown.", min=1)] = 20,
    csv: Annotated[
        Path | None, typer.Option(help="Writes every image's probability for each statement to this file.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Writes a page of the best images to this file.")] = None,
    split: Annotated[str | None, typer.Option(help="One split of a data set.")] = None,
    config_name: ConfigName = None,
    image_column: ImageColumn = None,
    allow_outside_images: OutsideImages = False,
    image_folder: ImageFolder = None,
    list_statements: Annotated[
        bool, typer.Option("--statements", help="List the statements that the model was taught, and search nothing.")
    ] = False,
    mpp: Annotated[float, typer.Option(help="Of slides: micrometres per pixel of the tiles.", min=0.01)] = 0.5,
    slide_mpp: Annotated[
        float | None,
        typer.Option(
            "--slide_mpp",
            help="Micrometres per pixel of the slides' finest level, where the files don't say.",
            min=0.01,
        ),
    ] = None,
    tissue_share: Annotated[
        float,
        typer.Option(
            "--tissue_share", help="Of slides: how much of a tile must be tissue; 0 takes all tiles.", min=0, max=1
        ),
    ] = 0.1,
    heat_map: Annotated[
        Path | None,
        typer.Option("--heat_map", help="Writes a picture of each slide with its tiles in colour to this folder."),
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Writes the tiles of each slide to this folder, for QuPath.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Searches a part of the slides: 2/8 is the second job of eight.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the images of which statements are true; --statements lists those that a model knows.

    In place of the folder there may be whole slides, folders of slides, or .txt files that list slides: their tiles
    are then searched.
    """
    with checking_the_call():
        check_source("--model", model)
    if list_statements:
        show_taught(model, revision, as_json)
        return
    if folder is None:
        raise WrongCall("there is nothing to search: give a folder of images, and statements or --like.")
    with checking_the_call():
        check_source("the folder", folder)
        if like is not None:
            check_file("--like is", like)
    for file in (csv, html, heat_map, geojson):
        if file is not None and not file.absolute().parent.is_dir():
            raise WrongCall(f"there is no folder {file.parent} for {file.name}: make it first.")
    from .data.slide_files import names_slides

    query = None if like is None else str(like)
    of_images = {"--split": split, "--config_name": config_name, "--image_column": image_column}
    of_slides = {"--heat_map": heat_map, "--geojson": geojson, "--shard": shard, "--slide_mpp": slide_mpp}
    is_slides = names_slides(folder)
    for name, value in (of_images if is_slides else of_slides).items():
        if value is not None:
            kind, other = ("images", "slides") if is_slides else ("slides", "no slide")
            raise WrongCall(f"{name} is for {kind}, and {folder} holds {other}: leave it out.")
    if is_slides:
        check_extra(folder, "slides")
        words = list(takewhile(names_slides, statements or []))
        asked = {"statements": (statements or [])[len(words) :], "negated": negated or [], "any_of": any_of}
        asked |= {"like": query, "mpp": mpp, "slide_mpp": slide_mpp, "tissue_share": tissue_share}
        files = {"table": csv, "page": html, "heat_maps": heat_map, "shapes": geojson}
        show_found_in_slides([folder, *words], shard, (model, revision), asked, files, top, as_json)
        return
    columns = named_columns(image_column, None, None)
    source = (folder, split, config_name, columns, allow_outside_images, image_folder)
    asked = {"statements": statements or [], "negated": negated or [], "any_of": any_of, "like": query}
    show_found_images(source, (model, revision), asked, csv, html, top, as_json)


@app.command("app")
def page(
    model: Annotated[
        str, typer.Argument(help="A folder or Hub id of a saved model.", envvar="MMJEPA_MODEL")
    ] = "runs/demo",
    port: Annotated[
        int | None,
        typer.Option(help="Port of the page; by default the first free one from 7860 on.", min=0, max=65535),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for other machines.")] = "127.0.0.1",
    revision: Revision = None,
    images: Annotated[
        str | None, typer.Option(help="A folder of images, or a data set, that people may search on the page.")
    ] = None,
) -> None:
    """Serve a web page that asks a model about images, and searches images."""
    if find_spec("gradio") is None:
        raise ValueError("the page needs gradio: pip install 'mmjepa[app]'.")
    with checking_the_call():
        check_source("the model", model)
        if images is not None:
            check_source("--images", images)
    from .app import serve

    serve(model, host, port, revision, images)
