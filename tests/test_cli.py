"""The command `mmjepa`: its commands do what the script and the exports do."""

import ast
import csv
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from tiny import FAST, FROM_RANDOM
from typer.main import get_command
from typer.testing import CliRunner

import mmjepa
from mmjepa.cli import EXAMPLES, app
from mmjepa.training.arguments import flag_parser, parse_arguments
from mmjepa.training.command_line import read_command_line

ROOT = Path(__file__).parent.parent
OPTIONS = {
    name: [option for option in command.params if option.param_type_name == "option"]
    for name, command in get_command(app).commands.items()
}


@pytest.fixture
def call(monkeypatch):
    """A function that calls the command, and gives what it printed and its exit status."""
    monkeypatch.setattr(sys, "argv", ["mmjepa"])
    return lambda *words: CliRunner().invoke(app, list(map(str, words)), prog_name="mmjepa")


def test_help_shows_the_commands_in_the_order_in_which_they_are_used(call):
    shown = call("--help").output
    places = [
        shown.index(f"│ {name} ") for name in ("check", "train", "evaluate", "ask", "search", "score", "export", "app")
    ]
    assert places == sorted(places)


def test_without_a_command_five_steps_are_shown_in_their_order_each_with_an_example(call):
    run = call()
    assert run.exit_code == 0
    examples = [line.split() for line in run.output.splitlines() if line.startswith("   mmjepa ")]
    assert [words[1] for words in examples] == ["check", "train", "ask", "search", "score"]


def test_the_version_is_that_of_the_installed_package(call):
    assert call("--version").output == f"mmjepa {version('mmjepa')}\n"
    assert mmjepa.__version__ == version("mmjepa")


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_of_a_command_has_an_example_that_the_command_understands(call, name):
    shown = " ".join(call(name, "--help").output.split())
    assert f"Example: {EXAMPLES[name]}" in shown
    program, command, *words = shlex.split(EXAMPLES[name])
    assert (program, command) == ("mmjepa", name)
    if name == "train":
        read_command_line([str(ROOT / words[0]), *words[1:]])
    else:
        get_command(app).commands[name].make_context(name, words)
    if name == "evaluate":
        read_command_line(words[1:])


def test_a_model_is_trained_evaluated_and_exported(call, slides, tmp_path):
    model, again = tmp_path / "model", tmp_path / "again"
    data = [*FAST, "--dataset_name", slides, "--batch_size", "4"]
    run = call("train", *FROM_RANDOM, *data, "--fast_dev_run", "--output_dir", model)
    assert run.exit_code == 0, run.output
    (tmp_path / "flags.json").write_text(json.dumps({"max_val_samples": 5}))
    run = call("evaluate", model, tmp_path / "flags.json", *data, "--output_dir", again)
    assert run.exit_code == 0, run.output
    assert len((again / "eval_answers.jsonl").read_text().splitlines()) == 5
    assert not (again / "model.safetensors").exists()
    taught = json.loads(call("search", "--statements", "--model", model, "--json").output)
    assert sum(row["true"] + row["false"] for row in taught) == 8  # two steps of four questions
    assert "taught" not in call("search", slides, taught[0]["text"], "--model", model).output
    run = call("export", model, tmp_path / "parts")
    assert run.exit_code == 0, run.output
    assert (tmp_path / "parts" / "generator_bart" / "model.safetensors").exists()


def test_the_help_of_train_is_that_of_the_script_under_its_own_name(call):
    shown = call("train", "--help").output
    assert shown.startswith("usage: mmjepa train [flags.json]") and "--lr_img" in shown


@pytest.mark.parametrize("words", [[], *([name] for name in OPTIONS), ["evaluate", "a model"]], ids=" ".join)
def test_help_is_there_before_the_libraries_are_imported(words):
    code = (
        "import atexit, sys; from mmjepa.cli import app\n"
        "atexit.register(lambda: print('imported:', *sys.modules))\n"
        "sys.argv[0] = 'mmjepa'; app()"
    )
    run = subprocess.run([sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    shown, imported = run.stdout.split("imported: ")
    assert "usage" in shown.lower() and "mmjepa.cli" in imported.split()
    assert not set(imported.split()) & {"torch", "transformers", "datasets", "numpy", "PIL", "gradio"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--batchsize", "3"], "mmjepa train: there is no --batchsize: did you mean --batch_size"),
        (["evaluate", "./nothing"], "mmjepa evaluate: --model_name_or_path is './nothing': there is no such folder"),
        (["evaluate", "--batch_size", "3"], "name it first, then the flags"),
        (["export", "./nothing", "out"], "'./nothing': there is no such folder"),
        (["app", "./nothing"], "'./nothing': there is no such folder"),
        (["app", ".", "--images", "./nothing"], "mmjepa app: --images is './nothing': there is no such folder"),
        (["check", "./nothing"], "'./nothing': there is no such folder"),
        (["ask", __file__], "there is nothing to ask: give questions, or statements after --statements"),
        (["search", "./nothing", "is it?"], "mmjepa search: the folder is './nothing': there is no such folder"),
        (["search"], "there is nothing to search: give a folder of images, and statements or --like"),
        (["search", ".", "--like", "none.png"], "--like is none.png, which is no file"),
        (["search", ".", "is it?", "--csv", "none/found.csv"], "there is no folder none for found.csv"),
    ],
)
def test_what_is_wrong_is_said_before_pytorch_is_imported(tmp_path, words, message):
    """A module named torch that can't be imported stands in the way of the one that can."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    code = "import sys; sys.argv[0] = 'mmjepa'; from mmjepa.cli import app; app()"
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "COLUMNS": "200"}
    run = subprocess.run([sys.executable, "-c", code, *words], env=os.environ | environment, capture_output=True)
    assert run.returncode != 0 and message in run.stderr.decode()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"image": ["a.png", "b.png"], "question": "?", "answer": "yes"}],
            "train: 1 of 1 rows have several images, such as row 0",
        ),
        ([{"picture": "a.png", "question": "?", "answer": "yes"}], "train has no column 'image'"),
        ([{"image": "a.png", "question": "?", "answer": ""}], "none of the 1 rows has an answer"),
        ([{"image": f"{name}.png", "question": "?", "answer": "a"} for name in "ab"], "train: 2 of 2 images"),
        (None, "holds no data: give a folder of"),
    ],
)
@pytest.mark.parametrize("command", ["train", "script", "check"])
def test_what_is_wrong_with_the_data_is_one_line(call, tmp_path, monkeypatch, rows, message, command):
    if rows is not None:
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [*FROM_RANDOM, *FAST, "--dataset_name", str(tmp_path), "--fast_dev_run", "--do_eval", "false"]
    flags += ["--output_dir", str(tmp_path / "out")]
    if command == "script":
        monkeypatch.setattr(sys, "argv", ["run_pathvqa.py", *flags])
        with pytest.raises(SystemExit, match=re.escape(message)) as error:
            runpy.run_module("mmjepa.run_pathvqa", run_name="__main__")
        lines = [str(error.value)]
    else:
        run = call("check", tmp_path) if command == "check" else call("train", *flags)
        assert run.exit_code == 1
        lines = [line for line in run.output.splitlines() if message in line]
        assert "Traceback" not in run.output
    assert len(lines) == 1 and "\n" not in lines[0]


def test_an_image_in_base64_is_no_path_and_is_not_shown_as_a_whole(call):
    run = call("ask", "A" * 100_000, "what is it?")
    assert run.exit_code == 2 and "is no file" in run.output and len(run.output) < 2000


def test_an_export_without_its_packages_says_how_to_install_them(call, saved_folder, monkeypatch):
    monkeypatch.setattr("mmjepa.training.values.find_spec", lambda name: None)
    run = call("export", saved_folder, "onnx", "--onnx")
    assert run.exit_code == 1
    assert run.output == "mmjepa export: --onnx needs onnx, onnxruntime, onnxscript: pip install 'mmjepa[onnx]'.\n"


@pytest.fixture
def found(call, saved_folder, slides, tmp_path):
    """A function that searches the drawn slides, and gives what was printed and the written files."""

    def search(*words):
        files = ["--csv", tmp_path / "found.csv", "--html", tmp_path / "found.html"]
        run = call("search", slides, *words, "--model", saved_folder, *files)
        assert run.exit_code == 0, run.output
        with open(tmp_path / "found.csv", newline="") as file:
            return run, list(csv.DictReader(file)), (tmp_path / "found.html").read_text()

    return search


def test_search_shows_the_best_images_and_writes_a_table_of_all(found):
    run, table, page = found("is it <b>round</b>?", "what is it? pink", "--not", "is it a gland?", "--top", "3")
    statements = ["is it <b>round</b>?", "what is it? pink", "is it a gland?"]
    assert list(table[0]) == ["image", "combined", *statements] and len(table) == 15
    for row in table:
        first, second, third = (float(row[statement]) for statement in statements)
        assert float(row["combined"]) == pytest.approx(first * second * (1 - third), abs=1e-5)
    lines = [line.split(maxsplit=9) for line in run.stdout.splitlines() if re.match(r" *\d+ ", line)]
    shown = [line[-1].strip() for line in lines if ".png" in line[-1]]
    assert shown == [row["image"] for row in table[:3]]
    assert run.stdout.startswith("is it <b>round</b>? and what is it? pink and not: is it a gland?\n")
    assert page.count('<img src="data:image/jpeg;base64,') == 3 and "&lt;b&gt;round" in page and "<b>round" not in page
    assert not re.search(r"https?://", page)
    assert re.search(r"^findings: .*found\.csv\npage: .*found\.html$", run.stderr, re.MULTILINE)


def test_search_takes_one_split_and_prints_json_with_notes_apart(found):
    run, table, _ = found("is it?", "--split", "validation", "--json", "--top", "2")
    said = json.loads(run.stdout)
    assert len(table) == said["num_images"] == 4 and len(said["images"]) == 2
    assert said["images"][0]["image"] == table[0]["image"]
    assert said["images"][0]["probabilities"] == {"is it?": said["images"][0]["probability"]}
    assert len(said["notes"]) == 2 and run.stderr.splitlines()[:2] == said["notes"]
    assert "was not measured: its probabilities may be chance" in said["notes"][0]


def test_search_by_image_shows_cosines(found, image_file):
    run, table, page = found("--like", image_file, "--top", "1")
    cosines = [float(row["cosine"]) for row in table]
    assert cosines == sorted(cosines, reverse=True) and max(cosines) <= 1.001
    assert "cosine" in run.stdout and "probabl" not in run.stdout and "cosine" in page


def test_an_interrupted_command_ends_with_a_line_and_130(call, slides, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmjepa.evaluation.checking.check_data", stop)
    run = call("check", slides)
    assert (run.exit_code, run.output) == (130, "mmjepa check: interrupted.\n")


def test_a_stopped_search_says_that_it_can_go_on(call, saved_folder, slides, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmjepa.evaluation.searching.encode_images", stop)
    run = call("search", slides, "is it?", "--model", saved_folder)
    assert run.exit_code == 130 and "the same command goes on from there" in run.output


@pytest.fixture
def slide(tmp_path):
    """A slide of 5 x 4 squares of 56 pixels, one with tissue and one with glands."""
    pytest.importorskip("openslide", reason="slides are read by openslide-python, the extra [slides]")
    pytest.importorskip("tifffile", reason="the tests write slides with tifffile, of the extra [test]")
    from written_slides import drawn_slide, smaller, write_pyramid

    (tmp_path / "scans").mkdir()
    pixels = drawn_slide(5, 4, 56, [(1, 1)], [(3, 2)])
    write_pyramid(tmp_path / "scans" / "one.tif", [pixels, smaller(pixels, 4)])
    return tmp_path / "scans" / "one.tif"


def test_search_ranks_the_tiles_of_slides_and_writes_tables_pictures_and_shapes(call, saved_folder, slide, tmp_path):
    shutil.copy(slide, slide.with_name("two.tif"))
    words = ["is it?", "--not", "is it pink?", "--model", saved_folder, "--csv", tmp_path / "found.csv"]
    words += ["--html", tmp_path / "found.html", "--heat_map", tmp_path / "maps", "--geojson", tmp_path / "shapes"]
    run = call("search", slide, slide.with_name("two.tif"), *words)
    assert run.exit_code == 0, run.output
    with open(tmp_path / "found.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["slide", "tile", "x", "y", "width", "combined", "is it?", "is it pink?"]
    assert [(row["x"], row["y"]) for row in table] == 2 * [("56", "56"), ("168", "112")]
    best = max(table[:2], key=lambda row: float(row["combined"]))
    first = next(line.split() for line in run.stdout.splitlines() if line.split()[:1] == ["1"])
    assert first[-5:-1] == [best["tile"], best["x"], best["y"], "56"] and first[-1].endswith("one.tif")
    assert run.stdout.count("2 tiles of tissue, 28 pixels wide at 0.5 µm per pixel") == 2
    for name in ("one", "two"):
        assert (tmp_path / "maps" / f"{name}.png").exists() and (tmp_path / "shapes" / f"{name}.geojson").exists()
    assert (tmp_path / "found.html").exists()
    assert re.search(r"^findings: .*\npage: .*\nheat maps: .*maps\ngeojson: .*shapes$", run.stderr, re.MULTILINE)


def test_jobs_of_an_array_share_the_slides_of_a_folder_or_a_list(call, saved_folder, slide, tmp_path):
    for name in ("two", "three"):
        shutil.copy(slide, slide.with_name(f"{name}.tif"))
    Image.new("RGB", (30, 30)).save(slide.with_name("label.jpg"))
    (tmp_path / "all.txt").write_text("".join(f"scans/{name}.tif\n" for name in ("one", "two", "three")))
    found = []
    for source, shard in [(slide.parent, "1/2"), (tmp_path / "all.txt", "2/2"), (slide.parent, "4/4")]:
        run = call("search", source, "is it?", "--model", saved_folder, "--json", "--shard", shard)
        assert run.exit_code == 0, run.output
        found.append([Path(one["slide"]).stem for one in json.loads(run.stdout)["slides"]] if run.stdout else [])
    assert found == [["one", "two"], ["two"], []]
    assert "there are 3 slides, and none of them is of the shard 4/4" in run.stderr
    assert "scans holds 1 images beside its slides: they are not searched" in run.stderr


def test_slides_without_their_package_say_how_to_install_it(call, saved_folder, monkeypatch, tmp_path):
    (tmp_path / "one.svs").write_bytes(b"")
    monkeypatch.setattr("mmjepa.training.values.find_spec", lambda name: None)
    run = call("search", tmp_path / "one.svs", "is it?", "--model", saved_folder)
    assert run.exit_code == 1
    assert run.output.endswith("one.svs needs openslide: pip install 'mmjepa[slides]'.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{slide} is? --split test", "--split is for images, and {slide} holds slides"),
        ("{slides} is? --geojson {tmp}/out", "--geojson is for slides, and {slides} holds no slide"),
        ("{slides} is? --heat_map none/out", "there is no folder none for out"),
        ("{slide} is? --shard 3/2", "the shard is '3/2': give the number of this job and of all jobs, such as 2/8"),
        ("{slide} {tmp}/none.svs is?", "there is no file {tmp}/none.svs"),
        ("{slide}", "give at least one"),
    ],
)
def test_what_is_wrong_with_a_search_of_slides_is_one_line(
    call, saved_folder, slides, slide, tmp_path, words, message
):
    names = {"slide": slide, "slides": slides, "tmp": tmp_path}
    run = call("search", *words.format(**names).split(), "--model", saved_folder)
    assert run.exit_code in (1, 2) and message.format(**names) in run.output and "Traceback" not in run.output


@pytest.mark.parametrize("name", ["scan.svs", "scan.MRXS"])
def test_a_slide_is_asked_about_and_trained_on_by_its_regions_only(call, saved_folder, image_file, tmp_path, name):
    shutil.copy(image_file, tmp_path / name)  # the file .mrxs of a slide is a small picture of it
    run = call("ask", tmp_path / name, "is it?", "--model", saved_folder)
    said = "it is a slide: search its tiles by `mmjepa search`, or cut out regions"
    assert run.exit_code == 1 and said in run.output and "Traceback" not in run.output
    (tmp_path / "train.csv").write_text(f"image,question,answer\n{name},is it?,yes\n")
    run = call("check", tmp_path)
    assert run.exit_code == 1 and said in run.output


def test_the_page_without_gradio_says_how_to_install_it(call, saved_folder, monkeypatch):
    monkeypatch.setattr("mmjepa.cli.find_spec", lambda name: None)
    run = call("app", saved_folder)
    assert (run.exit_code, run.output) == (1, "mmjepa app: the page needs gradio: pip install 'mmjepa[app]'.\n")


def test_the_page_is_served_where_it_is_asked_for(call, saved_folder, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs gradio, the extra [app]")
    launched = {}
    monkeypatch.setattr("gradio.Blocks.launch", lambda page, **options: launched.update(options))
    run = call("app", saved_folder, "--port", "7999", "--host", "0.0.0.0")
    assert run.exit_code == 0, run.output
    assert (launched["server_name"], launched["server_port"], launched["share"]) == ("0.0.0.0", 7999, False)


@pytest.mark.parametrize(("command", "option"), [(name, option) for name in OPTIONS for option in OPTIONS[name]])
def test_an_option_is_shown_with_underscores_and_taken_with_hyphens_too(call, command, option):
    value = [] if option.is_flag else ["1"]
    for name in option.opts:
        assert "-" not in name[2:]
        for spelt in (name, "--" + name[2:].replace("_", "-")):
            assert call(command, spelt, *value, "--help").exit_code == 0


def test_each_flag_of_training_may_be_spelt_with_hyphens_on_the_command_line_and_in_a_file(tmp_path):
    for flag, action in flag_parser().flags.items():
        if flag == "help":  # ends the program
            continue
        value = {"where": "column=1"}.get(flag, "{}" if flag.endswith(("_config", "yes_no_words")) else "1")
        values = [] if action.nargs == 0 else [value]
        assert read_command_line([f"--{flag.replace('_', '-')}", *values]) == [f"--{flag}", *values]
    (tmp_path / "flags.yaml").write_text("max-epochs: 7")
    flags = [str(tmp_path / "flags.yaml"), "--batch-size=3", "--use-cpu", "--lr-img", "1"]
    _, _, training_args = parse_arguments(flags)
    given = (training_args.per_device_train_batch_size, training_args.num_train_epochs, training_args.lr_img)
    assert given == (3, 7, 1)


def messages_of(path: Path, without: tuple[str, ...] = ()) -> list[str]:
    """The texts of more than a word in a file's functions but those named, a value in one as `column`."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) not in without]
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return [text for text in texts if " " in text]


def flags_named(path: Path, without: tuple[str, ...] = ()) -> set[str]:
    texts = messages_of(path, without)
    return {flag.replace("-", "_") for text in texts for flag in re.findall(r"--(\w[\w-]*)", text)}


FOLDERS = ("data", "training", "evaluation", "export")


@pytest.mark.parametrize(
    "name", [str(path.relative_to(ROOT)) for folder in FOLDERS for path in sorted(ROOT.joinpath(folder).glob("*.py"))]
)
def test_each_flag_that_a_message_of_a_run_names_is_one_of_train_and_evaluate(name):
    others = {"nproc_per_node"} if name.endswith("arguments.py") else set()  # torchrun's
    others |= {"flag", "name"}  # any flag
    command = {"data/slides.py": "search", "evaluation/scoring.py": "score"}.get(name)  # the only one that calls it
    if command is not None:
        others |= {flag[2:] for option in OPTIONS[command] for flag in option.opts}
    assert flags_named(ROOT / name) - others <= flag_parser().flags.keys()


@pytest.mark.parametrize("command", ["check", "score"])
def test_each_flag_that_a_message_about_data_names_is_taken_by_the_commands_that_read_data(command):
    # These check what a training asks for: wanted splits, rows that are left, streams; and what check alone takes.
    of_training = ("check_splits", "drop_unanswered", "hold_out", "single_texts")
    of_training += ("groups_of",) if command == "score" else ()
    modules = [ROOT / "data" / f"{name}.py" for name in ("tables", "columns", "paths", "rows")]
    named = {flag for module in modules for flag in flags_named(module, of_training)}
    named |= {f"{name}_column" for name in ("image", "question", "answer")}
    if command == "check":
        # It names a flag of the training that comes after the check.
        named |= flags_named(ROOT / "evaluation" / "checking.py", ("warn_of_other_words",))
    taken = {name[2:] for option in OPTIONS[command] for name in option.opts}
    assert named and named <= taken


def test_a_column_that_check_asks_for_can_be_named_in_check(call, tmp_path, image_file):
    (tmp_path / "train.csv").write_text(f"picture,prompt,answer\n{image_file},what?,it\n")
    shown = call("check", tmp_path)
    assert shown.exit_code == 1 and "--image_column" in shown.output
    named = ["--image_column", "picture", "--question-column", "prompt"]
    shown = call("check", tmp_path, *named)
    assert shown.exit_code == 1 and "--allow_outside_images" in shown.output
    assert call("check", tmp_path, *named, "--allow-outside-images").exit_code == 0


def test_score_takes_the_columns_and_the_images_of_a_data_set_as_check_does(call, tmp_path, image_file):
    (tmp_path / "train.csv").write_text(f"picture,prompt,answer\n{image_file},what?,it\n")
    (tmp_path / "answers.csv").write_text("image,question,answer,prediction\n0,what?,it,it\n")
    words = ["score", tmp_path / "answers.csv", "--dataset_name", tmp_path]
    assert "--image_column" in call(*words).output
    words += ["--image_column", "picture", "--question_column", "prompt"]
    assert "--allow_outside_images" in call(*words).output
    assert call(*words, "--allow_outside_images").exit_code == 0
    (tmp_path / "train.csv").rename(tmp_path / "test.csv")
    shown = call(*words, "--allow_outside_images").output
    assert shown.startswith(f"mmjepa score: {tmp_path} has no train split")


@pytest.fixture
def wrong(tmp_path, saved_folder, slides, image_file, checkpoints):
    """What commands may be given that is wrong, by name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("image,question,answer\nnone.png,what?,it\nneither.png,is it?,no\n")
    (tmp_path / "few.csv").write_text("question,answer\nis it?,yes\n")
    (tmp_path / "no.jsonl").write_text("no json")
    (tmp_path / "no.png").write_bytes(b"")
    (tmp_path / "no.yaml").write_bytes(b"\xff\xfe\x00")
    paths = {path.name: str(path) for path in tmp_path.iterdir()} | {"old": str(ROOT / "tests/checkpoints/0.1.0")}
    return paths | {"model": saved_folder, "slides": slides, "png": image_file, "bart": checkpoints["text"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check ./nothing", "there is no such folder"),
        ("check {slides} --epochs", "mmjepa check: Option '--epochs' requires an argument"),
        ("check {slides} --epochs many", "mmjepa check: Invalid value for '--epochs': "),
        ("check {slides} --image_colum x", "No such option: --image_colum (Possible options: "),
        ("check", "Missing argument 'dataset_name'; see mmjepa check --help"),
        ("ask {no.png} what? --model {model}", "can't read"),
        ("ask none.png what? --model {model}", "none.png, which is no file"),
        ("ask {png} what? --model {empty}", "empty has no config.json"),
        ("ask {png} what? --model {bart}", "is of model type 'bart', not 'mmjepa'"),
        ("ask {png} what? --model ./nothing", "'./nothing': there is no such folder"),
        ("ask {png} {} --model {model}", "at least one, and none that is empty"),
        (
            "ask {png} --statements {} --model {model}",
            "statements are ['']: give at least one, and none that is empty",
        ),
        ("ask {png} --statements is? --model {old}", "was not trained to tell true statements from false ones"),
        ("ask {png} what? --statements", "mmjepa ask: Option '--statements' requires an argument"),
        ("search {empty} is? --model {model}", "empty holds no image"),
        ("search none is? --model {model}", "there is no folder none"),
        ("search {data} is? --model {model}", "none of the 2 images can be read, such as "),
        ("search {png} {} --model {model}", "give at least one, and none that is empty"),
        ("search {png} --model {model}", "give at least one"),
        ("search {png} is? --like {png} --model {model}", "both statements and an image to be like are given"),
        ("search {slides} is? --split half --model {model}", "has no split 'half': there are train, validation, test"),
        ("search {png} is? --model {old}", "was not trained to tell true statements from false ones"),
        ("search {png} is? --model {bart}", "is of model type 'bart', not 'mmjepa'"),
        ("search {png} is? --top 0", "mmjepa search: Invalid value for '--top': "),
        ("search --statements --model {model}", "has no taught_statements.json: it is not known which"),
        ("score {few.csv}", "lacks prediction"),
        ("score {no.jsonl}", "no.jsonl can't be read"),
        ("score none.csv", "the predictions are none.csv, which is no file"),
        ("export {bart} {empty}", "is of model type 'bart', not 'mmjepa'"),
        ("export {empty} out", "empty has no config.json"),
        ("export {model} {png}", "Not a directory"),
        ("app {empty}", "empty has no config.json"),
        ("app {old} --images {slides}", "was not trained to tell true statements from false ones"),
        ("app {model} --images {data}", "none of the 2 images can be read, such as "),
        ("app {model} --port many", "mmjepa app: Invalid value for '--port': "),
        ("train {no.yaml}", "no.yaml, the file of flags, can't be read"),
        ("train --batchsize 3", "there is no --batchsize: did you mean --batch_size"),
        ("train --lr_scheduler_type steep", "invalid choice: 'steep' (choose from "),
        ("train {fast} --dataset_name {slides} --report_to paper", "mmjepa train: paper is not supported, only "),
        (
            "train {fast} --dataset_name {slides} --adam_beta1 2",
            "mmjepa train: Invalid beta parameter at index 0: 2.0",
        ),
        (
            "train {fast} --dataset_name {slides} --attn_implementation x",
            'mmjepa train: Specified `attn_implementation="x"`',
        ),
        ("train {fast} --dataset_name {slides} --num_image_tokens 0", "mmjepa train: num_image_tokens is 0"),
        (
            "train {fast} --dataset_name {slides} --max_answer_tokens 99",
            "--max_answer_tokens is 99: the text model has 32",
        ),
        (
            "train {cpu} --dataset_name {slides} --text_config {odd} --vision_config {odd}",
            "no model can be made of --vision",
        ),
        ("ask {png} what? --model {png}", "noise.png is a file: give the folder"),
        ("app {model} --port 99999999", "mmjepa app: Invalid value for '--port': "),
        ("train --save_strategy daily", "daily is not a valid SaveStrategy"),
        ("train --precision", "argument --precision: expected one argument"),
        ("train {fast} --dataset_name {data}", "are missing or can't be decoded"),
        ("train {fast} --dataset_name {slides} --question_column x", "has no column 'x'"),
        ("train {fast} --dataset_name {empty}", "holds no data"),
        ("train {cpu} --model_name_or_path {bart} --dataset_name {slides}", "is of model type 'bart', not 'mmjepa'"),
        ("evaluate {empty} {cpu} --dataset_name {slides}", "empty has no config.json"),
        ("evaluate {model} {cpu} --dataset_name {data} --validation_split_percentage 100", "can't be decoded"),
        ("nothing", "No such command 'nothing'"),
    ],
)
def test_what_a_user_can_mend_is_one_line_that_names_the_command(call, wrong, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    cpu = [*FAST, "--output_dir", str(tmp_path / "out")]
    named = {
        "{fast}": [*FROM_RANDOM, *cpu],
        "{cpu}": cpu,
        "{}": [""],
        "{odd}": ['{"activation_function": "x", "hidden_act": "x"}'],
    }
    named |= {f"{{{name}}}": [path] for name, path in wrong.items()}
    run = call(*[part for word in words.split() for part in named.get(word, [word])])
    assert run.exit_code in (1, 2) and isinstance(run.exception, SystemExit)
    last = run.output.rstrip("\n").split("\n")[-1]
    assert last.startswith("mmjepa") and message in last
    assert "Traceback" not in run.output


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ValueError("x"), RuntimeError("x")])
def test_a_bug_keeps_its_traceback(call, monkeypatch, slides, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mmjepa.evaluation.checking.check_data", fail)
    assert call("check", slides).exception is error


def test_an_operation_that_fails_in_this_project_is_a_bug(call, monkeypatch, slides):
    monkeypatch.setattr("mmjepa.evaluation.checking.find_columns", lambda *_: {})
    monkeypatch.setattr("mmjepa.reporting.check_text.check_text", lambda *_: int("x"))
    assert isinstance(call("check", slides).exception, ValueError)


def test_the_script_says_in_one_line_what_a_user_can_mend_and_keeps_the_traceback_of_a_bug(
    wrong, monkeypatch, tmp_path
):
    script, flags = str(ROOT / "run_pathvqa.py"), [*FROM_RANDOM, *FAST, "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [script, *flags, "--dataset_name", wrong["empty"]])
    with pytest.raises(SystemExit, match=f"^{script}: .*holds no data"):
        runpy.run_path(script, run_name="__main__")
    monkeypatch.setattr("mmjepa.training.reading.read_rows", {})
    with pytest.raises(TypeError):
        runpy.run_path(script, run_name="__main__")
