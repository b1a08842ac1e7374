"""Answers a set of questions, and says how good the answers are and what the image contributed to them."""

import json
import math
from collections.abc import Sequence
from typing import Any, TextIO

from datasets import Dataset
from torch import distributed
from tqdm.auto import tqdm

from ..data.images import VqaData
from ..encoder_mmjepa import MMJepaImageFeatures
from ..metrics.vqa_answers.rules import is_yes_no
from ..metrics.vqa_answers.vqa_answers import as_list, score_answers
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .alignment import score_alignment
from .answerer import Answerer
from .calibration import calibration_metrics
from .collapse import effective_rank, warn_of_collapse
from .controls import are_correct, right_answers_of, score_controls, score_shuffles, shuffled_images, with_answers
from .probe import score_probe
from .ranking import score_ranking, training_answers
from .sets import score_sets
from .shares import own_share
from .statements import score_statements

# Column of the rows -> its values, one per question.
Columns = dict[str, list]


def evaluate_model(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    data: VqaData,
    train_questions: Dataset | None,
    batch_size: int,
    seed: int = 0,
    answers_file: TextIO | None = None,
    show_progress: bool = False,
    with_probabilities: bool = False,
    train_data: VqaData | None = None,
    **generate_kwargs,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Answers every question of `data` and scores the answers, the controls and the alignment.

    Args:
        data: a row without a question counts only for the alignment. One with a question and no answer does not count.
            Where the questions have a column `answers`, an answer is right that equals any of a row's.
        train_questions: columns question and answer. The majority answers are learnt from them, and their answers are
            ranked; without a row neither is done. No row of `data` may be among them. With None each question is
            answered about its own and a shuffled image alone, as while training: only the image gain is measured
            beside the scores, no other controls, no ranking, no alignment.
        batch_size: questions, images or texts at once.
        seed: of the bootstrap, the simulated perfect model and the wrong answers that are drawn for statements. The
            shuffled images are always the same.
        answers_file: takes the rows of this process as lines of JSON while they are answered, without controls.
        show_progress: shows a bar of the first process's answers, those of the controls included.
        with_probabilities: gives the probabilities of the written answers, and `calibration_metrics`; with controls
            also the probabilities of the same answers about a black image.
        train_data: training rows with their images, to which probes of the image embeddings are fitted. No row of
            `data` may be among them.
        generate_kwargs: for `model.generate`, such as `max_new_tokens`.

    Returns:
        The numbers, and one row per question. With torch.distributed every process gets them all.

        The numbers are those of `score_answers`; for each control `accuracy_<control>`, `yes_no_accuracy_<control>`
        and `open_accuracy_<control>`, with the controls shuffled_images, blank_images, majority (of the question's
        first words) and majority_question; those of `score_shuffles`, with the gain image_gain, and num_shuffles;
        majority_lead with its 95 % interval (_low, _high); num_images, the number of images they were measured on;
        image_effective_rank, of the image embeddings; those of `score_alignment`; those of `score_ranking` if the
        model ranks answers; those of `score_statements` if it scores statements; those of `score_probe` if there is
        `train_data`; those of `score_sets` if there are several data sets. A single image can't be shuffled: then
        there are no numbers of shuffled images, and no image_gain.

        Every row has row (the question's place in `data`), image_id, question, answer (the right one), the other
        columns of `data`'s questions, such as answers (all right ones, where there are lists), and prediction. With
        controls: all_shuffled, the predictions about the other images of all shuffles; shuffled, the first of them;
        blank, the prediction about a black image; align_cosine and align_cosine_wrong of the row's own and of the
        first shuffle's image, None where the row has no alignment text or shares it with the other image. With
        ranking: ranked and ranked_probability. With statements: by_statements, the answer whose statement is most
        likely true. With probabilities: prediction_probability, and with controls blank_probability, that of the same
        prediction about a black image, and from_image, the first less the second.
    """
    answerer = Answerer(model, processor, batch_size, generate_kwargs)
    columns = columns_of_asked_rows(data)
    with_controls = train_questions is not None
    shuffles = shuffled_images(columns["image_id"])
    if not with_controls:
        shuffles = shuffles[:1]  # one is enough to see whether the images are read by now
    with answers_bar(columns, shuffles, with_controls, show_progress) as bar:
        features = answerer.encode_all_images(data.pixels)
        metrics = score_predictions(answerer, columns, features, bar, answers_file)
        metrics["image_effective_rank"] = effective_rank(features.image_embeds)
        if with_probabilities:
            metrics |= score_probabilities(answerer, columns, features, seed)
        if with_controls and columns["question"]:
            answer_controls(answerer, columns, features, data.image_shape, shuffles, bar)
            learnt_from = with_answers(train_questions)
            metrics |= score_controls(columns, learnt_from, seed)
            if model.config.predict_answer and len(learnt_from) > 0:
                metrics |= score_ranked_answers(answerer, columns, features, learnt_from)
            if model.config.truth_weight > 0:
                metrics |= score_statements(answerer, columns, features, learnt_from, shuffles, seed)
            if train_data is not None:
                metrics |= score_probe(answerer, columns, features.image_embeds, train_data, seed)
            metrics |= score_sets(columns, learnt_from, seed)
        elif shuffles:
            metrics |= score_image_gain(answerer, columns, features, shuffles, seed, bar)
    if with_controls:
        alignment, cosines = score_alignment(answerer, data, features)
        metrics |= alignment
        columns |= {name: [values.get(row) for row in columns["row"]] for name, values in cosines.items()}
    warn_of_collapse(model, features.visual_tokens, metrics)
    return metrics, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def columns_of_asked_rows(data: VqaData) -> Columns:
    """The columns of the rows that have a question and an answer, and `row`, their places in `data`."""
    texts = zip(data.questions["question"][:], data.questions["answer"][:], strict=True)
    rows = [row for row, (question, answer) in enumerate(texts) if question != "" and answer.strip() != ""]
    asked = data.questions.select(rows)
    names = dict.fromkeys(("image_id", "question", "answer", *asked.column_names))
    return {"row": rows} | {name: asked[name][:] for name in names}


def unanswered_pairs(columns: Columns, shuffles: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
    """The distinct pairs of a question and an image that the shuffles ask about and no row does.

    Many images are asked the same questions, so many of a shuffle's pairs are another row's own.
    """
    questions = columns["question"]
    shuffled = {pair for others in shuffles for pair in zip(questions, others, strict=True)}
    return sorted(shuffled - set(zip(questions, columns["image_id"], strict=True)))


def answers_bar(columns: Columns, shuffles: Sequence[Sequence[int]], with_controls: bool, show_progress: bool) -> tqdm:
    """The bar of the answers that this process gives. Only the first process shows it."""
    questions = columns["question"]
    asked: list[Sequence] = [questions, unanswered_pairs(columns, shuffles)]
    if with_controls:
        asked.append(list(set(questions)))  # about the black image
    return tqdm(
        total=sum(len(own_share(items)) for items in asked),
        desc="answers",
        leave=False,
        dynamic_ncols=True,
        disable=not show_progress or (distributed.is_initialized() and distributed.get_rank() > 0),
    )


def score_predictions(
    answerer: Answerer, columns: Columns, features: MMJepaImageFeatures, bar: tqdm, answers_file: TextIO | None
) -> dict[str, float]:
    """Adds prediction to `columns`, and gives its scores. Each answered batch is written to `answers_file` at once."""

    def on_batch(places: Sequence[int], predictions: list[str]) -> None:
        bar.update(len(places))
        if answers_file is not None:
            for place, prediction in zip(places, predictions, strict=True):
                row = {name: values[place] for name, values in columns.items()} | {"prediction": prediction}
                answers_file.write(json_line(row))
            answers_file.flush()

    questions = columns["question"]
    predictions = answerer.answer_questions(questions, features, columns["image_id"], on_batch)
    columns["prediction"] = predictions
    return score_answers(predictions, right_answers_of(columns), questions)


def json_line(row: dict[str, Any]) -> str:
    """A row as a line of JSON. A number that is none (NaN) becomes null, a date becomes text."""
    known = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
    return json.dumps(known, default=str) + "\n"


def score_probabilities(
    answerer: Answerer, columns: Columns, features: MMJepaImageFeatures, seed: int
) -> dict[str, float]:
    """Adds prediction_probability to `columns`, and says whether the probabilities can be trusted."""
    questions, predictions = columns["question"], columns["prediction"]
    probabilities = answerer.answer_probabilities(questions, predictions, features, columns["image_id"])
    columns["prediction_probability"] = probabilities
    if not questions:
        return {}
    truths = right_answers_of(columns)
    yes_no = [is_yes_no(as_list(truth)[0]) for truth in truths]
    return calibration_metrics(probabilities, are_correct(predictions, truths), yes_no, columns["image_id"], seed)


def answer_shuffles(
    answerer: Answerer, columns: Columns, features: MMJepaImageFeatures, shuffles: Sequence[Sequence[int]], bar: tqdm
) -> list[list[str]]:
    """For each row the answers about its other images, one per shuffle. No pair of texts and image is asked twice."""
    questions = columns["question"]
    pairs = unanswered_pairs(columns, shuffles)
    asked, about = [question for question, _ in pairs], [image_id for _, image_id in pairs]
    answers = answerer.answer_questions(asked, features, about, lambda places, _: bar.update(len(places)))
    own_pairs = zip(questions, columns["image_id"], strict=True)
    answer_of = dict(zip(own_pairs, columns["prediction"], strict=True)) | dict(zip(pairs, answers, strict=True))
    by_row = zip(questions, zip(*shuffles, strict=True), strict=True)
    return [[answer_of[question, other] for other in others] for question, others in by_row]


def score_image_gain(
    answerer: Answerer,
    columns: Columns,
    features: MMJepaImageFeatures,
    shuffles: Sequence[Sequence[int]],
    seed: int,
    bar: tqdm,
) -> dict[str, float]:
    """The image gain and its interval: whether the model reads the images by now."""
    by_shuffle = list(zip(*answer_shuffles(answerer, columns, features, shuffles, bar), strict=True))
    correct = are_correct(columns["prediction"], right_answers_of(columns))
    scores = score_shuffles("shuffled_images", "image_gain", by_shuffle, columns, correct, seed)
    return {name: value for name, value in scores.items() if name.startswith("image_gain")}


def answer_controls(
    answerer: Answerer,
    columns: Columns,
    features: MMJepaImageFeatures,
    image_shape: Sequence[int],
    shuffles: Sequence[Sequence[int]],
    bar: tqdm,
) -> None:
    """Adds to `columns` all_shuffled, shuffled and blank; with probabilities blank_probability and from_image too.

    Args:
        shuffles: for each shuffle the other image of each row. Without any, shuffled and all_shuffled are left out.
    """
    if shuffles:
        columns["all_shuffled"] = answer_shuffles(answerer, columns, features, shuffles, bar)
        columns["shuffled"] = [answers[0] for answers in columns["all_shuffled"]]
    questions = columns["question"]
    blank = answerer.encode_blank_image(image_shape)
    columns["blank"] = answerer.answer_without_image(questions, blank, lambda places, _: bar.update(len(places)))
    if "prediction_probability" in columns:
        seen = columns["prediction_probability"]
        unseen = answerer.probabilities_without_image(questions, columns["prediction"], blank)
        columns["blank_probability"] = unseen
        columns["from_image"] = [one - other for one, other in zip(seen, unseen, strict=True)]


def score_ranked_answers(
    answerer: Answerer, columns: Columns, features: MMJepaImageFeatures, train_questions: Dataset
) -> dict[str, float]:
    """Adds to `columns` ranked and ranked_probability, of the training answers, and gives their scores."""
    answers = training_answers(answerer, train_questions)
    ranked = answerer.rank_questions(columns["question"], features, columns["image_id"], answers)
    columns["ranked"], columns["ranked_probability"] = map(list, zip(*ranked, strict=True))
    return score_ranking(columns, answers.texts, answerer.model.config.rank_threshold)
