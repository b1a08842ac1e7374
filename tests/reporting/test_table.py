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
    columns = ["model", "vector alone", "shuffled images", "majority or chance", "95 % interval"]
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
