"""Compares greedy answering by this project, by its row-by-row form and by two stock models.

python benchmarks/bench_answering.py [--size tiny] [--steps 3] [--json]
"""

from collections.abc import Sequence
from functools import partial

import torch
from measuring import DEVICE, autocast, environment, interleaved_seconds, parse_arguments, show
from peers import (
    BLIP,
    PROJECT,
    ROW_BY_ROW,
    SHARING_ENCODER_DECODER,
    SIZES,
    VISION_ENCODER_DECODER,
    Size,
    make_answering,
    make_models,
    random_batch,
)

QUESTIONS_PER_IMAGE = 8
NEW_TOKENS = 4  # <s>, yes, </s> are three; every model writes this many, whatever its random weights prefer
EQUAL_QUESTIONS = 2.3  # PathVQA's 6,259 validation questions are 2,713 distinct ones
QUESTION_TOKENS = 12  # of every question: evaluation sorts by length, so that a batch has no padding


def measure(size_name: str, rounds: int) -> dict:
    """Speed-ups at 8 questions per image, and a table by questions per image and tokens per answer."""
    size = SIZES[size_name]
    models = {name: model.eval() for name, model in make_models(size).items()}
    peers = answering_rows(size, models, QUESTIONS_PER_IMAGE, NEW_TOKENS, rounds)
    own = {name: models[name] for name in (PROJECT, ROW_BY_ROW)}
    scaling = []
    for questions_per_image, new_tokens in ((1, NEW_TOKENS), (size.questions, NEW_TOKENS), (QUESTIONS_PER_IMAGE, 16)):
        fast, slow = answering_rows(size, own, questions_per_image, new_tokens, rounds)
        shape = {"questions per image": questions_per_image, "tokens per answer": new_tokens}
        scaling.append(shape | {"answers/s": fast["answers/s"], "speedup": fast["answers/s"] / slow["answers/s"]})
    ranking = [
        {"equal questions": equal, **row}
        for equal in (1, EQUAL_QUESTIONS)
        for row in ranking_rows(size, models[PROJECT], (NEW_TOKENS, 16), equal, rounds)
    ]
    rate = {row["peer"]: row["answers/s"] for row in peers}
    return {
        "environment": environment(size_name),
        "speedup_vs_row_by_row": rate[PROJECT] / rate[ROW_BY_ROW],
        "speedup_vs_sharing_encoder_decoder": rate[PROJECT] / rate[SHARING_ENCODER_DECODER],
        "speedup_vs_vision_encoder_decoder": rate[PROJECT] / rate[VISION_ENCODER_DECODER],
        "speedup_vs_blip": rate[PROJECT] / rate[BLIP],
        "answers_per_second": rate[PROJECT],
        "ranking_speedup_vs_decoding": ranking[0]["speedup"],
        "peers": peers,
        "scaling": scaling,
        "ranking": ranking,
    }


def answering_rows(
    size: Size, models: dict[str, torch.nn.Module], questions_per_image: int, new_tokens: int, rounds: int
) -> list[dict]:
    """One row per model; all answer the same questions."""
    batch = random_batch(size, questions_per_image, question_lengths=(QUESTION_TOKENS, QUESTION_TOKENS))
    answering = {name: make_answering(name, model, batch, new_tokens) for name, model in models.items()}
    for answer in answering.values():
        answer()  # warm
    medians = interleaved_seconds(answering, rounds)
    return [
        {"peer": name, "seconds per batch": medians[name], "answers/s": size.questions / medians[name]}
        for name in models
    ]


def ranking_rows(
    size: Size, model: torch.nn.Module, answer_tokens: Sequence[int], equal: float, rounds: int
) -> list[dict]:
    """How much faster choosing an answer from a list is than writing one, for each number of written tokens.

    The images and the list are encoded before, because all questions share them.

    Args:
        equal: how often each question is asked, of different images or the same.
    """
    batch = random_batch(size, QUESTIONS_PER_IMAGE, question_lengths=(QUESTION_TOKENS, QUESTION_TOKENS))
    texts = (torch.arange(size.questions, device=DEVICE) / equal).long()  # (B,), the number of each question's text
    batch |= {name: batch[name][texts] for name in ("input_ids", "attention_mask")}
    answer_embeds = batch["answers"]["targets"]
    with torch.inference_mode(), autocast():
        questions = {name: batch[name] for name in ("input_ids", "attention_mask", "image_index")}
        questions["image_features"] = model.get_image_features(batch["pixel_values"])

        def write(tokens: int) -> torch.Tensor:
            return model.generate(**questions, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)

        def choose() -> torch.Tensor:
            return model.rank_answers(answer_embeds, **questions).argmax(dim=-1)

        ways = {"choose": choose} | {str(tokens): partial(write, tokens) for tokens in answer_tokens}
        for way in ways.values():
            way()  # warm
        medians = interleaved_seconds(ways, rounds)
    return [
        {
            "tokens per answer": tokens,
            "rankings/s": size.questions / medians["choose"],
            "speedup": medians[str(tokens)] / medians["choose"],
        }
        for tokens in answer_tokens
    ]


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    arguments = parse_arguments("Answering by this project and its peers.", argv)
    show(measure(arguments.size, arguments.steps), arguments.json)


if __name__ == "__main__":
    main()
