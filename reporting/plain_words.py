"""What an evaluation's numbers say, in sentences. Few images allow no conclusion: then the sentences draw none."""

from ..evaluation.intervals import MIN_IMAGES

MAX_WIDTH = 0.2  # a wider 95 % interval allows no conclusion
SMALL = 0.05  # "no difference" is said only where the whole interval is smaller than this
TOO_FEW = "too few images to tell"
TO_LOOK_AT = "To do: look with `mmjepa check` whether each question stands beside its own image."
KINDS = {"yes_no": "yes/no", "open": "open"}  # prefix of the numbers of a kind of question -> its name
TO_TRY = (
    "To try: train longer, look at the images with `mmjepa check`, use --visual_prefix patches, and look at the "
    "learning rate of the image encoder, --lr_img."
)


def plain_words(metrics: dict[str, float]) -> list[str]:
    """Sentences on what the alignment finds, what the image contributes to answers, and how sure the model may be.

    With fewer than 30 images, or a 95 % interval wider than 20 points, a sentence tells the numbers and concludes
    nothing. "No difference" is concluded only where the whole interval lies within 5 points of 0.

    Args:
        metrics: the numbers of `evaluate_model`, by their names without a prefix. A sentence without its numbers is
            left out.
    """
    sentences = [tell(metrics) for name, tell in SENTENCES.items() if name in metrics]
    if "calibration_error" in metrics:
        sentences += [calibration_sentence(metrics), surest_sentence(metrics), *kind_sentences(metrics)]
    return sentences


def advice(metrics: dict[str, float]) -> list[str]:
    """What to do about a model that does not read its images: for those who train it, not for its card.

    Args:
        metrics: as for `plain_words`.
    """
    if "image_gain" not in metrics:
        return []
    low, high = metrics["image_gain_low"], metrics["image_gain_high"]
    if not allows_conclusion(metrics.get("num_images", 0), low, high):
        return []
    if high < 0:
        return [TO_LOOK_AT]
    return [TO_TRY] if max(-low, high) <= SMALL and low <= 0 else []


def allows_conclusion(num_images: float, low: float, high: float) -> bool:
    """Whether enough images were asked about, and the 95 % interval from `low` to `high` is narrow enough."""
    return num_images >= MIN_IMAGES and high - low <= MAX_WIDTH


def is_open(num_images: float, low: float, high: float, floor: float) -> bool:
    """Whether nothing is concluded: the interval from `low` to `high` is wide, or has `floor` in it and much above."""
    return not allows_conclusion(num_images, low, high) or low <= floor < high - SMALL


def image_sentence(metrics: dict[str, float]) -> str:
    """What shuffling the images costs, and whether the model reads them."""
    gain, low, high = (metrics[f"image_gain{end}"] for end in ("", "_low", "_high"))
    measured = f"Shuffling the images costs {100 * gain:.1f} points of accuracy ({interval_text(low, high)})"
    if not allows_conclusion(metrics.get("num_images", 0), low, high):
        return f"{measured}: {TOO_FEW} whether the model reads them."
    if low > 0:
        return f"{measured}: the model reads them."
    if high < 0:
        return (
            f"The model answers better about the wrong images, by {-100 * gain:.1f} points "
            f"({interval_text(low, high)})."
        )
    if max(-low, high) > SMALL:
        return f"{measured}: {TOO_FEW} whether the model reads them."
    return (
        f"Shuffling the images costs next to nothing ({100 * gain:.1f} points, {interval_text(low, high)}): what the "
        "model answers rightly follows from the question."
    )


def majority_sentence(metrics: dict[str, float]) -> str:
    """Whether the model is better than the most frequent training answers."""
    lead, low, high = (metrics[f"majority_lead{end}"] for end in ("", "_low", "_high"))
    measured = (
        "The most frequent training answer to a question, without any image, is right in "
        f"{100 * metrics['accuracy_majority_question']:.1f} % of cases, the model in {100 * metrics['accuracy']:.1f} %"
    )
    if not allows_conclusion(metrics.get("num_images", 0), low, high) or low <= 0 <= high:
        return f"{measured}: {TOO_FEW} which is better ({100 * lead:+.1f} points, {interval_text(low, high)})."
    judgement = "better" if low > 0 else "worse"
    return f"{measured}: it is {100 * abs(lead):.1f} points {judgement} ({interval_text(low, high)})."


def retrieval_sentence(metrics: dict[str, float]) -> str:
    """Whether the alignment tells images apart."""
    recall, low, high, chance, popular = (
        metrics[f"retrieval_recall_at_1{end}"] for end in ("", "_low", "_high", "_chance", "_popular")
    )
    if is_open(metrics.get("retrieval_images", 0), low, high, chance):
        judgement = f"{TOO_FEW} whether the alignment tells images apart"
    elif low <= chance:
        judgement = "the alignment tells images apart no better than chance"
    elif high < popular:
        judgement = "the alignment tells images apart, but naming the text that most images share finds more"
    elif low <= popular:
        judgement = "the alignment tells images apart, but perhaps no better than the text that most images share"
    else:
        judgement = "the alignment tells images apart"
    return (
        f"An image finds a text of its own first in {100 * recall:.1f} % of cases ({interval_text(low, high)}), by "
        f"chance in {100 * chance:.1f} %, by the text that most images share in {100 * popular:.1f} %: {judgement}."
    )


def truth_sentence(metrics: dict[str, float]) -> str:
    """Whether statements alone tell yes from no."""
    accuracy, gain, low, high = (
        metrics[name] for name in ("truth_accuracy", "truth_gain", "truth_gain_low", "truth_gain_high")
    )
    if is_open(metrics["truth_images"], low, high, 0):
        judgement = f"{TOO_FEW} whether statements read the image"
    elif low > 0:
        judgement = "statements read the image"
    else:
        judgement = "the right image adds next to nothing"
    return (
        f"Without the decoder, statements alone tell yes from no in {100 * accuracy:.1f} % of cases, with shuffled "
        f"images in {100 * (accuracy - gain):.1f} %: {judgement} ({100 * gain:+.1f} points, "
        f"{interval_text(low, high)})."
    )


def text_retrieval_sentence(metrics: dict[str, float]) -> str:
    """Whether a text finds the one image that it is true of."""
    recall, low, high, popular = (
        metrics[f"text_retrieval_recall_at_10{end}"] for end in ("", "_low", "_high", "_popular")
    )
    rank, middle = (metrics[f"text_retrieval_median_rank{end}"] for end in ("", "_chance"))
    if is_open(metrics["text_retrieval_images"], low, high, popular):
        judgement = f"{TOO_FEW} whether texts find their images"
    else:
        judgement = "texts find their images" if low > popular else "texts do not find their images"
    return (
        f"A text that is true of one image alone has it among the first 10 in {100 * recall:.1f} % of cases "
        f"({interval_text(low, high)}), where the best fixed order gives {100 * popular:.1f} %; the median rank is "
        f"{rank:.0f}, by chance {middle:.0f}: {judgement}."
    )


def probe_sentence(metrics: dict[str, float]) -> str:
    """Whether yes/no answers can be read of the image embeddings."""
    accuracy, lead, low, high = (
        metrics[f"probe_linear_{name}"] for name in ("accuracy", "lead", "lead_low", "lead_high")
    )
    if is_open(metrics["probe_images"], low, high, 0):
        judgement = f"{TOO_FEW} whether the embedding tells them"
    else:
        judgement = "the embedding tells " + ("them" if low > 0 else "no more than the question")
    return (
        f"A linear probe of the frozen image embedding answers {metrics['probe_questions']:.0f} yes/no questions "
        f"rightly in {100 * accuracy:.1f} % of cases, the most frequent training answer in "
        f"{100 * metrics['probe_accuracy_majority']:.1f} %: {judgement} ({100 * lead:+.1f} points, "
        f"{interval_text(low, high)})."
    )


def rank_sentence(metrics: dict[str, float]) -> str:
    """How many dimensions the embeddings share out among them."""
    return (
        f"The embeddings of the images fill about {metrics['image_effective_rank']:.0f} dimensions, those of the "
        f"texts about {metrics['text_effective_rank']:.0f} (effective rank)."
    )


def search_sentence(metrics: dict[str, float]) -> str:
    """Whether a statement finds the images that show it."""
    precision, low, high, chance, shuffled = (
        metrics[f"search_map{end}"] for end in ("", "_low", "_high", "_chance", "_shuffled")
    )
    floor = max(chance, shuffled)
    if is_open(metrics.get("num_images", 0), low, high, floor):
        judgement = f"{TOO_FEW} whether a statement finds the images that show it"
    elif low > floor:
        judgement = "a statement finds the images that show it"
    else:
        judgement = "a statement finds the images that show it no better than chance"
    return (
        f"Images ranked for a statement have a mean average precision of {100 * precision:.1f} % "
        f"({interval_text(low, high)}), shuffled ones {100 * shuffled:.1f} %, by chance {100 * chance:.1f} %: "
        f"{judgement}."
    )


def calibration_sentence(metrics: dict[str, float]) -> str:
    """How far probabilities are from accuracies, beside what chance alone would show."""
    error, low, high, perfect, limit = (
        metrics[f"calibration_error{end}"] for end in ("", "_low", "_high", "_if_perfect", "_if_perfect_high")
    )
    if metrics.get("num_images", 0) < MIN_IMAGES:
        judgement = f"{TOO_FEW} how far they can be trusted"
    elif error > limit:
        judgement = "this is more than chance"
    else:
        judgement = "chance explains this"
    return (
        f"Over {metrics['calibration_answers']:,.0f} answers its probabilities are off by {100 * error:.1f} points on "
        f"average ({interval_text(low, high)}); those of a perfectly calibrated model would be by "
        f"{100 * perfect:.1f}, by chance alone: {judgement}."
    )


def surest_sentence(metrics: dict[str, float]) -> str:
    """How often the model is right where it is surest."""
    right = f"{100 * metrics['accuracy_at_coverage_50']:.1f} % are right"
    return f"Of the half of the answers that it is surest of, {right}."


def kind_sentences(metrics: dict[str, float]) -> list[str]:
    """The same of yes/no questions and of open ones, where there are both."""
    sentences = []
    for prefix, name in KINDS.items():
        if f"{prefix}_calibration_error" in metrics:
            error, perfect, right = (
                100 * metrics[f"{prefix}_{number}"]
                for number in ("calibration_error", "calibration_error_if_perfect", "accuracy_at_coverage_50")
            )
            sentences.append(
                f"Of {name} questions alone, probabilities are off by {error:.1f} points (perfectly calibrated ones "
                f"by {perfect:.1f}), and {right:.1f} % of the surest half are right."
            )
    return sentences if len(sentences) > 1 else []


def interval_text(low: float, high: float) -> str:
    """A 95 % interval of shares, in percent."""
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f}"


# The number that a sentence needs -> what makes it. What needs no decoder comes first.
SENTENCES = {
    "truth_gain": truth_sentence,
    "search_map": search_sentence,
    "text_retrieval_recall_at_10": text_retrieval_sentence,
    "probe_linear_lead": probe_sentence,
    "retrieval_recall_at_1": retrieval_sentence,
    "text_effective_rank": rank_sentence,
    "image_gain": image_sentence,
    "majority_lead": majority_sentence,
}
