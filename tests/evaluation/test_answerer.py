"""Answers come in order, each about its image, as of one question at a time, whatever is batched or shared."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from echo import CharacterProcessor, EchoModel, echo_data, vqa_data

from mmjepa.data.pixels import normalize_pixels
from mmjepa.evaluation.answerer import Answerer
from mmjepa.evaluation.shares import in_shares


@pytest.fixture
def data():
    return echo_data()


def test_answers_come_in_the_order_of_the_questions_and_each_about_its_image(data):
    answerer = Answerer(EchoModel(), CharacterProcessor(), batch_size=2)
    states = answerer.encode_all_images(data.pixels)
    questions = data.questions["question"]
    answers = answerer.answer_questions(questions, states, [2, 0, 1, 1, 2, 0])
    greys = (30, 10, 20, 20, 30, 10)
    assert answers == [f"{grey} {question}" for grey, question in zip(greys, questions, strict=True)]


def test_the_answers_equal_those_of_one_question_and_its_image_at_a_time(make_model):
    model, processor = make_model(), CharacterProcessor()
    pixels = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
    questions, image_ids = ["is it round?", "why?", "where?", "is it?", "why?"], [0, 2, 1, 0, 1]
    data = vqa_data(questions, questions, image_ids, pixels.numpy())

    images_encoded = []
    hook = model.encoder.image_encoder.register_forward_pre_hook(lambda _, args: images_encoded.append(len(args[0])))
    answerer = Answerer(model, processor, 2, {"max_new_tokens": 6})
    answers = answerer.answer_questions(questions, answerer.encode_all_images(data.pixels), image_ids)
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
    answerer = Answerer(EchoModel(), CharacterProcessor(), batch_size=2)
    states = answerer.encode_all_images(data.pixels)
    answerer.answer_questions(data.questions["question"], states, data.questions["image_id"])
    assert answerer.model.batches == [[4, 4], [6, 11], [12, 12]]


def test_equal_questions_are_answered_together(data):
    answerer = Answerer(EchoModel(), CharacterProcessor(), batch_size=2)
    questions, image_ids = ["is it?", "is he?", "is it?", "is he?"], [0, 1, 2, 0]
    together = answerer.map_questions(
        questions,
        answerer.encode_all_images(data.pixels),
        image_ids,
        lambda rows, inputs: [{questions[other] for other in rows}] * len(rows),
    )
    assert together == [{question} for question in questions]


def test_an_answers_probability_is_that_of_the_decoder_for_it_alone(make_model, processor):
    model = make_model()
    pixels = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    questions, answers, image_ids = ["is it?", "what is present?", "where?"], ["yes", "in the liver", ""], [1, 0, 1]
    data = vqa_data(questions, answers, image_ids, pixels.numpy())
    answerer = Answerer(model, processor, batch_size=2)
    found = answerer.answer_probabilities(questions, answers, answerer.encode_all_images(data.pixels), image_ids)
    for question, answer, image_id, probability in zip(questions, answers, image_ids, found, strict=True):
        inputs = processor(text=question, return_tensors="pt") | {
            "pixel_values": normalize_pixels(pixels[[image_id]], processor.image_processor)
        }
        labels = processor(answers=answer, return_tensors="pt")["labels"]
        expected = model.answer_log_likelihoods(labels, **inputs).exp().item()
        assert probability == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_two_processes_answer_each_question_once_and_both_get_all_answers(tmp_path):
    script = textwrap.dedent(
        """
        import json, sys
        from pathlib import Path
        from torch import distributed
        from mmjepa.evaluation.shares import in_shares

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
