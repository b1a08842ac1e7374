import csv
import itertools
import json
import math
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Array3D, Dataset, Features
from PIL import Image
from tiny import DESCRIBED
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import BatchFeature, BitImageProcessorPil

from mmjepa.configuration_mmjepa import MMJepaConfig
from mmjepa.data.images import VqaData, normalize_pixels
from mmjepa.encoder_mmjepa import MMJepaImageFeatures
from mmjepa.evaluation.alignment import alignment_metrics, chance_of_hit
from mmjepa.evaluation.answering import answer_probabilities, answer_questions, encode_all_images, in_shares
from mmjepa.evaluation.controls import image_gain, majority_answers, other_images
from mmjepa.evaluation.evaluate import evaluate_model, score_majority
from mmjepa.evaluation.predicting import predict
from mmjepa.evaluation.report import answer_table, draw_answers, markdown_table
from mmjepa.metrics.vqa_answers.vqa_answers import score_answers

PATHVQA = Path(__file__).parents[3] / "shared" / "data" / "pathvqa"


class CharacterProcessor:
    """Tokens are the characters' codes, those below 3 are special; images are only divided by 255."""

    image_processor = BitImageProcessorPil(image_mean=[0.0] * 3, image_std=[1.0] * 3)

    def tokenizer(self, texts, **kwargs):
        return {"input_ids": [[ord(character) for character in text] for text in texts]}

    def __call__(self, text, return_tensors):
        rows = [torch.tensor(ids) for ids in self.tokenizer(text)["input_ids"]]
        input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return BatchFeature({"input_ids": input_ids, "attention_mask": (input_ids > 0).long()})

    def decode(self, ids, skip_special_tokens):
        return ["".join(chr(code) for code in row if code > 2) for row in ids.tolist()]


class EchoModel(nn.Module):
    """Answers with the grey value of the image and the question: "7 is it?". Counts what it encodes."""

    def __init__(self):
        super().__init__()
        self.device = torch.device("cpu")
        self.config = MMJepaConfig(**DESCRIBED)
        self.images_encoded, self.batches = [], []

    def get_image_features(self, pixel_values):
        assert not self.training and not torch.is_grad_enabled()
        grey = (pixel_values[:, 0, 0, 0] * 255).round()
        self.images_encoded += grey.int().tolist()
        return MMJepaImageFeatures(image_embeds=grey[:, None].expand(-1, 4), visual_tokens=grey[:, None, None])

    def encode_texts(self, input_ids, attention_mask):
        return F.one_hot(attention_mask.sum(dim=1) % 4, 4).float()

    def generate(self, input_ids, attention_mask, image_features, image_index):
        assert not self.training and not torch.is_grad_enabled()
        self.batches.append(attention_mask.sum(dim=1).tolist())
        greys = image_features.visual_tokens[image_index, 0, 0].int().tolist()
        prefixes = [torch.tensor([ord(character) for character in f"{grey} "]) for grey in greys]
        return nn.utils.rnn.pad_sequence([torch.cat(row) for row in zip(prefixes, input_ids, strict=True)], True)


def vqa_data(questions, answers, image_ids, pixels):
    features = Features({"pixels": Array3D(pixels.shape[1:], "uint8")})
    return VqaData(
        questions=Dataset.from_dict({"question": questions, "answer": answers, "image_id": image_ids}),
        pixels=Dataset.from_dict({"pixels": pixels}, features=features),
    )


@pytest.fixture
def data():
    questions = ["is it round?", "why?", "is it round?", "what is it?", "why?", "where?"]
    image_ids = [0, 0, 1, 1, 2, 2]
    # The model is right about the second and the fourth question.
    answers = ["yes", "10 why?", "no", "20 what is it?", "liver", "left"]
    greys = np.array([10, 20, 30], dtype=np.uint8)[:, None, None, None]
    return vqa_data(questions, answers, image_ids, pixels=greys.repeat(3, 1).repeat(2, 2).repeat(2, 3))


def test_answers_come_in_the_order_of_the_questions_and_each_about_its_image(data):
    model, processor = EchoModel(), CharacterProcessor()
    states = encode_all_images(model, processor.image_processor, data.pixels, batch_size=2)
    questions = data.questions["question"]
    answers = answer_questions(model, processor, questions, states, [2, 0, 1, 1, 2, 0], batch_size=2)
    greys = (30, 10, 20, 20, 30, 10)
    assert answers == [f"{grey} {question}" for grey, question in zip(greys, questions, strict=True)]


def test_the_answers_equal_those_of_one_question_and_its_image_at_a_time(make_model):
    model, processor = make_model(), CharacterProcessor()
    pixels = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
    questions, image_ids = ["is it round?", "why?", "where?", "is it?", "why?"], [0, 2, 1, 0, 1]
    data = vqa_data(questions, questions, image_ids, pixels.numpy())

    images_encoded = []
    hook = model.encoder.image_encoder.register_forward_pre_hook(lambda _, args: images_encoded.append(len(args[0])))
    states = encode_all_images(model, processor.image_processor, data.pixels, batch_size=2)
    answers = answer_questions(model, processor, questions, states, image_ids, batch_size=2, max_new_tokens=6)
    hook.remove()
    assert sum(images_encoded) == 3

    alone = []
    for question, image_id in zip(questions, image_ids, strict=True):
        text = processor([question], return_tensors="pt")
        output = model.generate(**text, pixel_values=pixels[[image_id]] / 255, max_new_tokens=6)
        alone += [answer.strip() for answer in processor.decode(output, skip_special_tokens=True)]
    assert answers == alone
    assert len(set(alone)) > 2


def test_questions_of_like_length_are_answered_together(data):
    model, processor = EchoModel(), CharacterProcessor()
    states = encode_all_images(model, processor.image_processor, data.pixels, batch_size=2)
    answer_questions(model, processor, data.questions["question"], states, data.questions["image_id"], batch_size=2)
    assert model.batches == [[4, 4], [6, 11], [12, 12]]


def test_a_stopped_evaluation_leaves_the_answers_it_gave(data, tmp_path):
    class BreakingModel(EchoModel):
        def generate(self, **inputs):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().generate(**inputs)

    with open(tmp_path / "answers.jsonl", "w") as file, pytest.raises(KeyboardInterrupt):
        evaluate_model(BreakingModel(), CharacterProcessor(), data, data.questions, batch_size=2, answers_file=file)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    _, rows = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=2)
    assert [row["row"] for row in rows] == list(range(6))
    # The two batches of the shortest questions, with what was known of them.
    assert [line["row"] for line in lines] == [1, 4, 5, 3]
    for line in lines:
        whole = rows[line["row"]]
        later = ("shuffled", "blank", "align_cosine", "align_cosine_wrong")
        assert line == {name: value for name, value in whole.items() if name not in later}
        assert line["question"] == data.questions["question"][line["row"]]


def test_an_evaluation_encodes_each_image_once_and_the_blank_one_once(data):
    model = EchoModel()
    evaluate_model(model, CharacterProcessor(), data, data.questions, batch_size=2)
    assert sorted(model.images_encoded) == [0, 10, 20, 30]


def test_without_training_questions_the_same_answers_are_scored_without_controls(data):
    metrics, rows = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=2)
    model = EchoModel()
    scores, answers = evaluate_model(model, CharacterProcessor(), data, None, batch_size=2)
    assert 0 not in model.images_encoded and sum(map(len, model.batches)) == len(data)
    assert answers == [
        {name: row[name] for name in ("row", "image_id", "question", "answer", "prediction")} for row in rows
    ]
    assert scores == {name: metrics[name] for name in scores} and "accuracy" in scores
    assert not any("shuffled" in name or "gain" in name or "align" in name for name in scores)


def test_the_bar_counts_the_answers_of_the_controls_too(data, capsys, monkeypatch):
    monkeypatch.setattr("mmjepa.evaluation.evaluate.tqdm", partial(tqdm, mininterval=0))  # shows each change
    distinct = len(set(data.questions["question"]))
    for train_questions, total in ((None, len(data)), (data.questions, 2 * len(data) + distinct)):
        evaluate_model(EchoModel(), CharacterProcessor(), data, train_questions, batch_size=2, show_progress=True)
        assert f"answers: 100%|██████████| {total}/{total} " in capsys.readouterr().err
    evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=2)
    assert capsys.readouterr().err == ""


def test_an_evaluation_leaves_the_model_in_the_mode_it_was_in(data):
    model = EchoModel().train()
    evaluate_model(model, CharacterProcessor(), data, data.questions, batch_size=2)
    assert model.training


def test_the_controls_see_another_image_and_no_image(data):
    metrics, answers = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=4)
    for row in answers:
        own = f"{10 * (row['image_id'] + 1)} {row['question']}"
        assert row["prediction"] == own
        assert row["shuffled"] != own and row["shuffled"].endswith(row["question"])
        assert row["blank"] == f"0 {row['question']}"
    assert [row["answer"] for row in answers] == data.questions["answer"]
    assert metrics["accuracy"] == pytest.approx(2 / 6)
    assert metrics["yes_no_accuracy"] == 0 and metrics["open_accuracy"] == pytest.approx(2 / 4)
    assert metrics["accuracy_shuffled_images"] == metrics["accuracy_blank_images"] == 0
    assert metrics["image_gain"] == pytest.approx(2 / 6)
    # Learnt on the same rows: only one of "yes" and "no" and one of the two answers to "why?" can be the majority.
    assert metrics["accuracy_majority_question"] == pytest.approx(4 / 6)


def test_no_image_stands_in_for_itself_and_all_its_rows_get_the_same_other_one():
    image_ids = [5, 5, 2, 9, 9, 9, 0]
    for seed in range(20):
        other_of = dict(zip(image_ids, other_images(image_ids, seed), strict=True))
        assert other_images(image_ids, seed) == [other_of[image_id] for image_id in image_ids]
        assert sorted(other_of.values()) == [0, 2, 5, 9]
        assert all(image_id != other for image_id, other in other_of.items())


def test_the_majority_answer_falls_back_to_fewer_first_words():
    rows = [("is it red now?", "yes"), ("is it red here?", "yes"), ("is it big?", "no"), ("is that so?", "no")]
    train = Dataset.from_dict({"question": [row[0] for row in rows], "answer": [row[1] for row in rows]})
    questions = ["Is it red today?", "is it old?", "is this new?", "where?"]
    # "is it red": yes 2 of 2; "is it": yes 2 of 3; "is" and all: 2 yes, 2 no, and yes came first.
    assert majority_answers(train, questions) == ["yes", "yes", "yes", "yes"]
    assert majority_answers(train, ["is that right?"]) == ["no"]


def test_the_majority_answer_of_the_whole_question_beats_that_of_its_start():
    rows = [("is it a b?", "yes"), ("is it a b?", "yes"), ("is it a?", "no")]
    train = Dataset.from_dict({"question": [row[0] for row in rows], "answer": [row[1] for row in rows]})
    whole = (None, 3, 2, 1, 0)
    assert majority_answers(train, ["is it a b?", "is it a?", "is it a c?"], whole) == ["yes", "no", "yes"]


@pytest.mark.skipif(not PATHVQA.is_dir(), reason="PathVQA is not on this machine")
def test_the_majority_answers_of_pathvqa_score_as_its_description_says():
    splits = {}
    for split in ("train", "validation"):
        with open(PATHVQA / f"{split}.csv", newline="", encoding="utf-8") as file:
            splits[split] = Dataset.from_list(list(csv.DictReader(file)))
    questions, truths = list(splits["validation"]["question"]), list(splits["validation"]["answer"])
    scores = score_answers(majority_answers(splits["train"], questions), truths, questions)
    assert scores["accuracy"] == pytest.approx(0.453, abs=0.003)
    assert scores["yes_no_accuracy"] == pytest.approx(0.814, abs=0.003)
    assert scores["open_accuracy"] == pytest.approx(0.092, abs=0.003)


def test_the_interval_of_the_image_gain_draws_whole_images():
    # One image of 50 questions, all gained, and one of 150, none gained. A resample has the first 0, 1 or 2 times,
    # which makes the gain 0, 1/4 or 1; 0 and 1 come up a quarter of the time each. Drawing rows gives 0.2 to 0.3.
    correct, shuffled = [True] * 50 + [False] * 150, [False] * 200
    gain = image_gain(correct, shuffled, image_ids=[3] * 50 + [8] * 150, seed=0)
    assert gain == {"image_gain": 0.25, "image_gain_low": 0.0, "image_gain_high": 1.0}


def test_the_interval_of_the_image_gain_is_that_of_the_normal_approximation_for_many_images():
    random = np.random.default_rng(0)
    correct, shuffled = random.random(4000) < 0.7, random.random(4000) < 0.4
    gain = image_gain(correct, shuffled, image_ids=np.arange(4000), seed=0)
    difference = correct.astype(float) - shuffled
    half = 1.96 * difference.std() / math.sqrt(4000)
    assert gain["image_gain"] == pytest.approx(difference.mean())
    assert gain["image_gain_low"] == pytest.approx(difference.mean() - half, abs=0.003)
    assert gain["image_gain_high"] == pytest.approx(difference.mean() + half, abs=0.003)


def test_the_image_gain_pairs_the_two_answers_of_a_row():
    # Equal answers are no gain and no uncertainty, however uncertain each accuracy is.
    correct = [True, False] * 20
    gain = image_gain(correct, correct, image_ids=list(range(40)), seed=0)
    assert gain == {"image_gain": 0.0, "image_gain_low": 0.0, "image_gain_high": 0.0}


@pytest.mark.parametrize("own, texts, k", [(1, 6, 1), (2, 6, 1), (2, 6, 3), (3, 6, 5), (1, 3, 5), (4, 5, 2)])
def test_the_chance_of_a_hit_equals_counting_all_draws(own, texts, k):
    draws = list(itertools.combinations(range(texts), min(k, texts)))
    hits = sum(any(text < own for text in draw) for draw in draws)
    assert chance_of_hit(own, texts, k) == pytest.approx(hits / len(draws))


def test_alignment_numbers_equal_a_computation_by_hand():
    generator = torch.Generator().manual_seed(0)
    images = 3 * torch.randn(5, 8, generator=generator)
    texts = F.normalize(torch.randn(12, 8, generator=generator), dim=-1)
    image_ids, text_ids, other_ids = [0, 0, 1, 2, 4, 4, 4], [0, 3, 3, 5, 6, 7, 0], [1, 1, 2, 4, 0, 0, 0]
    metrics = alignment_metrics(images, texts, image_ids, text_ids, other_ids)

    def cosine(image, text):
        return F.cosine_similarity(images[image], texts[text], dim=0).item()

    assert metrics["align_cosine"] == pytest.approx(np.mean([*map(cosine, image_ids, text_ids)]), abs=1e-6)
    # Text 3 belongs to images 0 and 1 and text 0 to images 0 and 4: neither is wrong there.
    wrong = [(1, 0), (2, 3), (4, 5), (0, 6), (0, 7)]
    assert metrics["align_cosine_wrong"] == pytest.approx(np.mean([cosine(*pair) for pair in wrong]), abs=1e-6)

    own_texts = {0: {0, 3}, 1: {3}, 2: {5}, 4: {6, 7, 0}}
    for k in (1, 5, 10):
        hits, chances = [], []
        for image, own in own_texts.items():
            nearest = sorted(range(12), key=lambda text, image=image: -cosine(image, text))[:k]
            hits.append(bool(own & set(nearest)))
            draws = list(itertools.combinations(range(12), k))
            chances.append(np.mean([bool(own & set(draw)) for draw in draws]))
        assert metrics[f"retrieval_recall_at_{k}"] == pytest.approx(np.mean(hits))
        assert metrics[f"retrieval_recall_at_{k}_chance"] == pytest.approx(np.mean(chances))


def test_retrieval_in_blocks_equals_retrieval_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(9, 4, generator=generator), torch.randn(20, 4, generator=generator)
    pairs = (images, texts, list(range(9)), list(range(3, 12)), [*range(1, 9), 0])
    at_once = alignment_metrics(*pairs)
    monkeypatch.setattr("mmjepa.evaluation.alignment.IMAGES_PER_BLOCK", 2)
    assert alignment_metrics(*pairs) == at_once


def test_retrieval_stands_beside_the_texts_that_most_images_share():
    """Of six images four have text 0, two have text 1, and each has one of its own."""
    image_ids = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    text_ids = [0, 0, 0, 0, 1, 1, 10, 11, 12, 13, 14, 15]
    metrics = alignment_metrics(torch.randn(6, 4), torch.randn(20, 4), image_ids, text_ids, [*range(1, 6), 0] * 2)
    assert metrics["retrieval_recall_at_1_popular"] == pytest.approx(4 / 6)
    assert metrics["retrieval_recall_at_5_popular"] == 1.0


def test_texts_that_all_look_alike_are_not_retrieved():
    images, texts = torch.ones(3, 4), torch.ones(20, 4)
    metrics = alignment_metrics(images, texts, [0, 1, 2], [0, 1, 2], [1, 2, 0])
    assert metrics["retrieval_recall_at_10"] == 0.0


@pytest.mark.slow
def test_two_processes_answer_each_question_once_and_both_get_all_answers(tmp_path):
    script = textwrap.dedent(
        """
        import json, sys
        from pathlib import Path
        from torch import distributed
        from mmjepa.evaluation.answering import in_shares

        rank, folder = int(sys.argv[1]), Path(sys.argv[2])
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
        worked_on = []
        def work(items):
            worked_on.extend(items)
            return [item * item for item in items]
        results = in_shares(list(range(7)), work)
        (folder / f"{rank}.json").write_text(json.dumps([worked_on, results, in_shares([5], work)]))
        distributed.destroy_process_group()
        """
    )
    commands = [[sys.executable, "-c", script, str(rank), str(tmp_path)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert sorted(first[0] + second[0]) == [0, 1, 2, 3, 4, 5, 5, 6]
    assert first[1] == second[1] == in_shares(range(7), lambda items: [item * item for item in items])
    assert first[2] == second[2] == [25]


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


def test_the_picture_shows_answers_that_hold_formula_signs(data, tmp_path):
    _, answers = evaluate_model(EchoModel(), CharacterProcessor(), data, data.questions, batch_size=4)
    answers = [{**row, "prediction": "$^^$"} for row in answers]
    draw_answers(tmp_path / "answers.png", data, answers, image_count=2)
    with Image.open(tmp_path / "answers.png") as picture:
        assert picture.width > 300 and len(picture.convert("RGB").getcolors(1 << 24)) > 2


def test_an_answers_probability_is_that_of_the_decoder_for_it_alone(make_model, processor):
    model = make_model()
    pixels = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    questions, answers, image_ids = ["is it?", "what is present?", "where?"], ["yes", "in the liver", ""], [1, 0, 1]
    data = vqa_data(questions, answers, image_ids, pixels.numpy())
    features = encode_all_images(model, processor.image_processor, data.pixels, batch_size=2)
    found = answer_probabilities(model, processor, questions, answers, features, image_ids, batch_size=2)
    for question, answer, image_id, probability in zip(questions, answers, image_ids, found, strict=True):
        inputs = processor(text=question, return_tensors="pt") | {
            "pixel_values": normalize_pixels(pixels[[image_id]], processor.image_processor)
        }
        labels = processor(answers=answer, return_tensors="pt")["labels"]
        expected = model.answer_log_likelihoods(labels, **inputs).exp().item()
        assert probability == pytest.approx(expected, rel=1e-4)


def test_a_prediction_about_an_image_that_cannot_be_read_is_none(make_model, processor):
    pixels = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    data = vqa_data(["is it?", "is it?"], ["yes", ""], [0, 1], pixels.numpy())
    data.unreadable = {1: "lost.png"}
    read, lost = predict(make_model(), processor, data, batch_size=2, max_new_tokens=4)
    assert isinstance(read["prediction"], str) and 0 < read["prediction_probability"] < 1
    assert all(lost[name] is None for name in ("prediction", "prediction_probability", "blank", "blank_probability"))


def test_rows_without_an_answer_are_not_scored_and_not_learnt_from(data):
    questions = data.questions.to_dict()
    for name, texts in (("question", ["why?", ""]), ("answer", [" ", ""]), ("image_id", [0, 1])):
        questions[name] += texts
    more = VqaData(Dataset.from_dict(questions | {"caption": [""] * 7 + ["red"]}), data.pixels)
    processor = CharacterProcessor()
    whole, rows = evaluate_model(EchoModel(), processor, data, data.questions, batch_size=2)
    scores, answers = evaluate_model(EchoModel(), processor, more, more.questions, batch_size=2)
    assert [row["row"] for row in answers] == list(range(6)) and len(rows) == 6
    of_answers = {name: value for name, value in whole.items() if not name.startswith(("align", "retrieval"))}
    assert {name: scores[name] for name in of_answers} == of_answers
    only_captions = Dataset.from_dict({"question": ["", ""], "answer": ["", ""]})
    assert score_majority(only_captions, ["why?"], ["yes"]) == {}
    assert score_majority(more.questions, ["how?"], ["yes"]) == score_majority(data.questions, ["how?"], ["yes"])
