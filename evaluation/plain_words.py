"""What an evaluation's numbers say, in sentences."""

TO_TRY = (
    "To try: train longer, look at the images with `mmjepa check`, use --visual_prefix patches, and look at the "
    "learning rate of the image encoder, --lr_img."
)


def plain_words(metrics: dict[str, float]) -> list[str]:
    """Sentences on what the image contributes, what the alignment finds and how far probabilities can be trusted.

    Args:
        metrics: the numbers of `evaluate_model`, by their names without prefix. What has no numbers has no sentence.
    """
    sentences = []
    if "image_gain" in metrics:
        sentences.append(image_sentence(metrics))
    if "accuracy_majority_question" in metrics:
        lead = 100 * (metrics["accuracy"] - metrics["accuracy_majority_question"])
        sentences.append(
            f"The most frequent training answer to a question, without any image, is right in "
            f"{100 * metrics['accuracy_majority_question']:.1f} % of cases; the model is {abs(lead):.1f} points "
            f"{'better' if lead >= 0 else 'worse'}."
        )
    if "retrieval_recall_at_1" in metrics:
        sentences.append(retrieval_sentence(metrics))
    if "calibration_error" in metrics:
        sentences.append(
            f"Its probabilities are off by {100 * metrics['calibration_error']:.1f} points on average; of the half of "
            f"the answers that it is surest of, {100 * metrics['accuracy_at_coverage_50']:.1f} % are right."
        )
    return sentences


def image_sentence(metrics: dict[str, float]) -> str:
    gain, low, high = (100 * metrics[f"image_gain{end}"] for end in ("", "_low", "_high"))
    interval = f"95 % interval {low:.1f} to {high:.1f}"
    if low > 0:
        return f"Shuffling the images costs {gain:.1f} points of accuracy ({interval}): the model reads them."
    if high < 0:
        return (
            f"The model answers better about the wrong images, by {-gain:.1f} points ({interval}): look with `mmjepa "
            "check` whether each question stands beside its own image."
        )
    return (
        f"Shuffling the images costs nothing that can be told from chance ({gain:.1f} points, {interval}): the model "
        f"answers from the question. {TO_TRY}"
    )


def retrieval_sentence(metrics: dict[str, float]) -> str:
    recall, low, high, chance, popular = (
        metrics[f"retrieval_recall_at_1{end}"] for end in ("", "_low", "_high", "_chance", "_popular")
    )
    if low <= chance:
        judgement = "the alignment tells images apart no better than chance"
    elif low <= popular:
        judgement = "the alignment tells images apart, but naming the text that most images share finds more"
    else:
        judgement = "the alignment tells images apart"
    return (
        f"An image finds a text of its own first in {100 * recall:.1f} % of cases (95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f}), by chance in {100 * chance:.1f} %, "
        f"by the text that most images share in {100 * popular:.1f} %: {judgement}."
    )
