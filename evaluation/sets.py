"""What the answers are worth in each of several data sets."""

from datasets import Dataset

from ..data.columns import SET_COLUMN
from ..metrics.vqa_answers.vqa_answers import score_answers
from .controls import right_answers_of, score_controls

SET_SCORES = (
    *("accuracy", "yes_no_accuracy", "open_accuracy", "accuracy_shuffled_images", "accuracy_majority_question"),
    *("image_gain", "image_gain_low", "image_gain_high", "num_images"),
)


def score_sets(columns: dict[str, list], train_questions: Dataset, seed: int) -> dict[str, float]:
    """`<score>_of_<set>` for each data set and each of `SET_SCORES`, and num_questions_of_<set>.

    There is nothing to score where the rows don't know their data set, because there is only one. Shuffled images are
    those of the whole evaluation: an image's other ones may be of another set.

    Args:
        columns: as for `score_controls`, with the data set of each row.
        train_questions: each set's majority answers are learnt from its own rows.
    """
    metrics: dict[str, float] = {}
    for name in dict.fromkeys(columns.get(SET_COLUMN, ())):
        rows = [row for row, other in enumerate(columns[SET_COLUMN]) if other == name]
        of_set = {column: [values[row] for row in rows] for column, values in columns.items()}
        train_rows = [row for row, other in enumerate(train_questions[SET_COLUMN][:]) if other == name]
        scores = score_answers(of_set["prediction"], right_answers_of(of_set), of_set["question"])
        scores |= score_controls(of_set, train_questions.select(train_rows), seed)
        metrics |= {f"{score}_of_{name}": scores[score] for score in SET_SCORES if score in scores}
        metrics[f"num_questions_of_{name}"] = len(rows)
    return metrics
