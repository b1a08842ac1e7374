import pytest
from echo import CharacterProcessor, EchoModel, echo_data

from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.reporting.table import (
    SET_COLUMNS,
    STATEMENT_ROWS,
    TABLE_COLUMNS,
    TABLE_ROWS,
    answer_table,
    fitted,
    markdown_table,
    terminal_width,
)


@pytest.fixture
def data():
    return echo_data()


def test_a_table_is_aligned_by_its_widest_cells():
    table = markdown_table([{"name": "a", "x": "1"}, {"name": "longer", "x": "12.5"}])
    assert table.splitlines() == [
        "| name   |    x |",
        "| ------ | ---: |",
        "| a      |    1 |",
        "| longer | 12.5 |",
    ]


WIDE = [{"name of the row": f"row {row}", **{f"column {name}": "12.5" for name in "abcdef"}} for row in range(2)]


def cells_of(text):
    """The cells of each of several tables, without the rule."""
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
        for part in text.split("\n\n")
    ]
    return [[table[0], *table[2:]] for table in tables]


@pytest.mark.parametrize("width", [30, 45, 80, 100])
def test_a_table_that_is_too_wide_goes_on_in_tables_below_that_fit(width):
    text = markdown_table(WIDE, width)
    assert max(map(len, text.splitlines())) <= width
    shown = [cells for table in cells_of(text) for cells in zip(*table, strict=True)]
    first = ("name of the row", "row 0", "row 1")
    assert shown.count(first) == len(cells_of(text))
    assert [cells[0] for cells in shown if cells != first] == [f"column {name}" for name in "abcdef"]


def test_the_widest_tables_of_an_evaluation_fit_100_columns():
    numbers = {name: -0.1234 for names in STATEMENT_ROWS.values() for name in names if name}
    numbers |= {f"{name}_{end}": 0.1234 for name in numbers for end in ("low", "high")}
    numbers |= {name + suffix: 1.0 for name in TABLE_COLUMNS.values() for suffix in TABLE_ROWS.values()}
    for name in ("drawn slides", "microscopy"):
        numbers |= {f"num_questions_of_{name}": 32799, f"num_images_of_{name}": 4998}
        numbers |= {f"{score}_of_{name}": 1.0 for score in SET_COLUMNS.values()}
    text = answer_table(numbers)
    assert len(cells_of(text)) == 4 and max(map(len, text.splitlines())) <= 100


def test_a_terminal_narrows_what_is_shown_and_a_file_does_not(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert terminal_width() is None and fitted("word " * 30, terminal_width()) == "word " * 30
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert terminal_width() == 60 and max(map(len, fitted("word " * 30, 60).splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "400")
    assert terminal_width() == 100


def test_the_table_shows_the_model_beside_each_control(data):
    metrics, _ = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=4)
    lines = answer_table(metrics).split("\n\n", 1)[1].splitlines()  # below the table of what needs no decoder
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["accuracy, %", "yes/no", "open", "overall"]
    assert cells[2] == ["model", "0.0", "50.0", "33.3"]
    assert cells[3] == ["shuffled images", "0.0", "0.0", "0.0"]
    assert cells[6][0] == "majority answer of the question" and cells[6][3] == "66.7"
    assert "+33.3 points" in lines[-2]
    assert lines[-1] == "shuffled images: mean of 2 shuffles, the worst 0.0, the best 0.0"


def test_the_first_table_shows_what_needs_no_decoder_beside_the_vector_shuffled_images_and_chance():
    gain = dict.fromkeys(("image_gain", "image_gain_low", "image_gain_high"), 0.0)
    metrics = gain | {"accuracy": 0.5, "accuracy_statements": 0.4, "truth_accuracy": 0.9}
    metrics |= {"truth_accuracy_shuffled": 0.6, "truth_accuracy_low": 0.8, "truth_accuracy_high": 0.95}
    metrics |= {"search_map": 0.7, "search_map_vector": 0.5, "search_map_chance": 0.3}
    metrics |= {"text_retrieval_recall_at_1": 0.12, "text_retrieval_recall_at_1_shuffled": 0.02}
    metrics |= {"text_retrieval_recall_at_1_popular": 0.01, "probe_linear_accuracy": 0.88}
    metrics |= {"probe_linear_accuracy_low": 0.86, "probe_linear_accuracy_high": 0.89}
    metrics |= {"probe_linear_accuracy_shuffled": 0.47, "probe_accuracy_majority": 0.51}
    parts = answer_table(metrics).split("\n\n")
    alone, accuracies = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()] for part in parts[:2]
    )
    assert accuracies[3] == ["model, by statements", "-", "-", "40.0"] and parts[2].startswith("image gain")
    columns = ["model", "vector alone", "shuffled", "floor", "95 % interval"]
    assert alone[0] == ["without the decoder, %", *columns]
    assert alone[2:] == [
        ["yes/no, accuracy", "90.0", "-", "60.0", "-", "80.0 to 95.0"],
        ["search, mean average precision", "70.0", "50.0", "-", "30.0", "-"],
        ["text of one image finds it first", "12.0", "-", "2.0", "1.0", "-"],
        ["yes/no, linear probe", "-", "88.0", "47.0", "51.0", "86.0 to 89.0"],
    ]


def test_the_table_has_a_dash_where_there_was_no_question_to_score():
    metrics = {"accuracy": 1.0, "yes_no_accuracy": 1.0, "image_gain": 0, "image_gain_low": 0, "image_gain_high": 0}
    assert [cell.strip() for cell in answer_table(metrics).splitlines()[2].split("|")[2:5]] == ["100.0", "-", "100.0"]
