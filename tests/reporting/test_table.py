import pytest
from echo import CharacterProcessor, EchoModel, echo_data

from mmjepa.evaluation.evaluate import evaluate_model
from mmjepa.reporting.table import answer_table, markdown_table


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


def test_the_table_shows_the_model_beside_each_control(data):
    metrics, _ = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=4)
    lines = answer_table(metrics).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["accuracy, %", "yes/no", "open", "overall"]
    assert cells[2] == ["model", "0.0", "50.0", "33.3"]
    assert cells[3] == ["shuffled images", "0.0", "0.0", "0.0"]
    assert cells[6][0] == "majority answer of the question" and cells[6][3] == "66.7"
    assert "+33.3 points" in lines[-1]


def test_the_table_has_a_dash_where_there_was_no_question_to_score():
    metrics = {"accuracy": 1.0, "yes_no_accuracy": 1.0, "image_gain": 0, "image_gain_low": 0, "image_gain_high": 0}
    assert [cell.strip() for cell in answer_table(metrics).splitlines()[2].split("|")[2:5]] == ["100.0", "-", "100.0"]
