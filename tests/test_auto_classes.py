"""What a user gets from a saved folder with transformers alone: Auto classes, pipelines, training, saving again.

Two processes that cannot import this package load, answer and train; the tests read what they reported.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from fresh_process import run_fresh
from transformers.image_utils import load_image

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor

PARTS = ("configuration", "encoder", "fetching", "loading", "losses", "alignment", "targets", "modeling", "processing")
CODE_FILES = {f"{part}_mmjepa.py" for part in PARTS}
MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors"}
PROCESSOR_FILES = {"processor_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
MODEL_CLASSES = [
    "AutoModel",
    "AutoModelForImageTextToText",
    "AutoModelForSeq2SeqLM",
    "AutoModelForVisualQuestionAnswering",
    "AutoModelForZeroShotImageClassification",
]
QUESTIONS = ["what is present?", "is necrosis seen?", "where is the tumour?", "in the liver?"]

LOAD_AND_ASK = """
import json
import transformers

folder, image, *questions = sys.argv[1:]
names = ["AutoConfig", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor"]
names += ["AutoModel", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM", "AutoModelForVisualQuestionAnswering"]
names += ["AutoModelForZeroShotImageClassification"]
loaded = {name: getattr(transformers, name).from_pretrained(folder, trust_remote_code=True) for name in names}
processor = loaded["AutoProcessor"]
inputs = processor(images=image, text=questions, image_index=[0] * len(questions), return_tensors="pt")
answers = {
    name: processor.decode(loaded[name].generate(**inputs), skip_special_tokens=True)
    for name in names
    if name.startswith("AutoModel")
}

pipeline = transformers.pipeline("image-text-to-text", model=folder, trust_remote_code=True)
chats = [
    [{"role": "user", "content": [{"type": "image", "path": image}, {"type": "text", "text": question}]}]
    for question in questions
]
images, shared = [image] * len(questions), {"image_index": [0] * len(questions)}
replies = {
    "one by one": [pipeline(image, question, return_full_text=False) for question in questions],
    "as a batch": pipeline(images=images, text=questions, return_full_text=False),
    "about one image": pipeline(images=image, text=questions, return_full_text=False, **shared),
    "chat by chat": [pipeline(chat, return_full_text=False) for chat in chats],
    "chats two at a time": pipeline(chats, return_full_text=False, batch_size=2),
}
classifier = transformers.pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)
shares = classifier([image, image], candidate_labels=questions, hypothesis_template="{}")
second_turn = [*pipeline(chats[0])[0]["generated_text"], {"role": "user", "content": questions[1]}]
tokenized = processor.apply_chat_template(chats[0], tokenize=True, return_dict=True, return_tensors="pt")
print(json.dumps({
    "classes": {name: type(part).__name__ for name, part in loaded.items()},
    "modules": sorted({type(part).__module__.split(".")[0] for part in loaded.values()}),
    "answers": answers,
    "replies": replies,
    "shares": shares,
    "whole chat": pipeline(chats[0])[0]["generated_text"],
    "second turn": pipeline(second_turn, return_full_text=False)[0]["generated_text"],
    "tokens": loaded["AutoTokenizer"](questions)["input_ids"],
    "pixels": loaded["AutoImageProcessor"](transformers.image_utils.load_image(image))["pixel_values"][0].tolist(),
    "template": processor.apply_chat_template(chats[0]),
    "chat_inputs": {name: list(value.shape) for name, value in tokenized.items()},
}))
"""

TRAIN_AND_SAVE = """
import json
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

folder, image, again, output, *questions = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

def answers(model):
    inputs = processor(images=image, text=questions, image_index=[0] * len(questions), return_tensors="pt")
    return model.eval().generate(**inputs).tolist()

def collate(rows):
    return processor(
        images=[image] * len(rows), text=[row["question"] for row in rows], answers=["yes"] * len(rows),
        return_tensors="pt",
    )

model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(again)
processor.save_pretrained(again)
reloaded = AutoModel.from_pretrained(again, trust_remote_code=True)
report = {"before": answers(model), "again": answers(reloaded)}

start = {name: parameter.clone() for name, parameter in reloaded.named_parameters()}
arguments = Seq2SeqTrainingArguments(
    output, max_steps=1, learning_rate=0.001, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
    remove_unused_columns=False, per_device_train_batch_size=len(questions), eval_strategy="steps", eval_steps=1,
    predict_with_generate=True, label_names=["labels"],
)
rows = [{"question": question} for question in questions]
trainer = Seq2SeqTrainer(
    reloaded, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collate, processing_class=processor
)
trainer.train()
report["moved"] = [
    name for name, parameter in reloaded.named_parameters() if not (parameter == start[name]).all()
]
checkpoint = AutoModel.from_pretrained(output + "/checkpoint-1", trust_remote_code=True)
report["trained"], report["checkpoint"] = answers(reloaded), answers(checkpoint)
report["eval_loss"] = trainer.state.log_history[0]["eval_loss"]
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def trained(saved_folder, image_file, tmp_path_factory) -> dict:
    """A process loads the folder, saves it `again`, and trains that copy for a step with the stock trainer."""
    folder = tmp_path_factory.mktemp("trained")
    printed = run_fresh(
        TRAIN_AND_SAVE,
        saved_folder,
        image_file,
        folder / "again",
        folder / "output",
        *QUESTIONS,
        HF_MODULES_CACHE=folder / "modules",
    )
    return json.loads(printed) | {
        "folders": {"again": folder / "again", "checkpoint": folder / "output" / "checkpoint-1"}
    }


@pytest.fixture(scope="module", params=["saved", "checkpoint"])
def folder(request) -> Path:
    """What `save_pretrained` wrote, and the checkpoint that the stock trainer wrote without this package."""
    if request.param == "saved":
        return Path(request.getfixturevalue("saved_folder"))
    return request.getfixturevalue("trained")["folders"]["checkpoint"]


@pytest.fixture(scope="module")
def loaded(folder, image_file, tmp_path_factory) -> dict:
    """A process loads the folder with every Auto class and as a pipeline, and asks."""
    modules = tmp_path_factory.mktemp("modules")
    return json.loads(run_fresh(LOAD_AND_ASK, folder, image_file, *QUESTIONS, HF_MODULES_CACHE=modules))


@pytest.fixture(scope="module")
def expected(folder, image_file) -> list[str]:
    """The answers of the same folder with this package's own classes."""
    model, processor = MMJepaForConditionalGeneration.from_pretrained(folder), MMJepaProcessor.from_pretrained(folder)
    inputs = processor(images=[image_file] * len(QUESTIONS), text=QUESTIONS, return_tensors="pt")
    answers = processor.decode(model.generate(**inputs), skip_special_tokens=True)
    assert len(set(answers)) > 1 and any(len(answer) > 3 for answer in answers)
    return answers


def test_every_auto_class_gives_a_working_object(loaded, expected, processor, image_file):
    assert loaded["modules"] == ["transformers", "transformers_modules"]
    assert loaded["classes"]["AutoConfig"] == "MMJepaConfig"
    assert loaded["classes"]["AutoProcessor"] == "MMJepaProcessor"
    for name in MODEL_CLASSES:
        assert loaded["classes"][name] == "MMJepaForConditionalGeneration"
        assert loaded["answers"][name] == expected
    assert loaded["tokens"] == processor.tokenizer(QUESTIONS)["input_ids"]
    pixels = processor.image_processor(load_image(image_file))["pixel_values"][0]
    assert loaded["pixels"] == pixels.tolist()


@pytest.mark.parametrize("how", ["one by one", "as a batch", "about one image", "chat by chat", "chats two at a time"])
def test_the_pipeline_gives_the_whole_answers(loaded, expected, how):
    records = [reply[0] if isinstance(reply, list) else reply for reply in loaded["replies"][how]]
    assert [record["generated_text"] for record in records] == expected


def test_the_pipeline_of_zero_shot_classification_shares_out_statements_by_their_truth(folder, loaded, image_file):
    model, processor = MMJepaForConditionalGeneration.from_pretrained(folder), MMJepaProcessor.from_pretrained(folder)
    embeds = model.encode_texts(**processor(text=QUESTIONS, return_tensors="pt"))
    pixel_values = processor(images=image_file, return_tensors="pt")["pixel_values"]
    shares = model.statement_logits(embeds, pixel_values)[0].softmax(dim=-1).tolist()
    expected = sorted(zip(shares, QUESTIONS, strict=True), reverse=True)
    for rows in loaded["shares"]:
        assert [row["label"] for row in rows] == [question for _, question in expected]
        assert [row["score"] for row in rows] == pytest.approx([share for share, _ in expected], abs=1e-4)


def test_the_pipeline_continues_a_chat_with_the_answer(loaded, expected, image_file):
    user, assistant = loaded["whole chat"]
    assert user["role"] == "user"
    assert assistant == {"role": "assistant", "content": expected[0]}


def test_the_second_turn_of_a_chat_is_answered_as_if_asked_first(loaded, expected):
    assert loaded["second turn"] == expected[1] != expected[0]


def test_a_chat_of_an_image_and_a_question_is_the_question(loaded):
    assert loaded["template"] == QUESTIONS[0]
    assert loaded["chat_inputs"]["pixel_values"] == [1, 3, 28, 28]
    assert loaded["chat_inputs"]["input_ids"] == [1, len(loaded["tokens"][0])]


def test_a_saved_folder_holds_exactly_the_model_the_processor_and_the_code_files(saved_folder, trained):
    for folder in (Path(saved_folder), trained["folders"]["again"]):
        assert {path.name for path in folder.iterdir()} == MODEL_FILES | PROCESSOR_FILES | CODE_FILES
    checkpoint = {path.name for path in trained["folders"]["checkpoint"].iterdir()}
    assert checkpoint >= MODEL_FILES | PROCESSOR_FILES
    assert {name for name in checkpoint if name.endswith(".py")} == CODE_FILES


def test_every_saved_folder_names_all_of_its_auto_classes(saved_folder, trained):
    for folder in (Path(saved_folder), *trained["folders"].values()):
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        model = dict.fromkeys(MODEL_CLASSES, "modeling_mmjepa.MMJepaForConditionalGeneration")
        assert auto_map == {"AutoConfig": "configuration_mmjepa.MMJepaConfig"} | model
        auto_map = json.loads((folder / "processor_config.json").read_text())["auto_map"]
        assert auto_map == {"AutoProcessor": "processing_mmjepa.MMJepaProcessor"}


def test_the_code_that_travels_is_the_code_of_this_package(saved_folder, trained):
    for folder in (Path(saved_folder), *trained["folders"].values()):
        for name in CODE_FILES:
            assert (folder / name).read_text() == (Path(__file__).parent.parent / name).read_text()


def test_a_model_loaded_with_remote_code_and_saved_again_answers_the_same(trained):
    assert trained["again"] == trained["before"]


def test_the_stock_trainer_trains_all_but_the_text_encoder_and_its_checkpoint_answers_the_same(trained):
    parts = {name.split(".")[1] if name.startswith("encoder.") else name.split(".")[0] for name in trained["moved"]}
    # All answers are "yes": there is none to tell apart, and nothing that predicts their embeddings moves.
    assert parts == {"image_encoder", "image_projector", "visual_prefix", "prefix_norm", "decoder", "alignment"}
    assert trained["checkpoint"] == trained["trained"] != trained["before"]
    assert 0 < trained["eval_loss"] < 100


def test_with_the_package_imported_auto_classes_need_no_remote_code_and_ask_nothing(saved_folder, monkeypatch):
    def asked(prompt):
        pytest.fail(prompt)

    monkeypatch.setattr("builtins.input", asked)
    for name in MODEL_CLASSES:
        assert type(getattr(transformers, name).from_pretrained(saved_folder)) is MMJepaForConditionalGeneration
    for processor_class in (transformers.AutoProcessor, MMJepaProcessor):
        assert type(processor_class.from_pretrained(saved_folder)) is MMJepaProcessor


def test_importing_the_package_imports_no_pytorch_until_a_class_is_used():
    code = "import mmjepa, sys; assert 'torch' not in sys.modules; mmjepa.MMJepaConfig; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["mmjepa.MMJepaProcessor", "mmjepa.MMJepaForConditionalGeneration"])
def test_the_first_class_that_is_used_makes_all_of_them_known(name):
    code = f"import mmjepa; {name}; from transformers.models.auto.processing_auto import PROCESSOR_MAPPING as known; "
    code += "assert mmjepa.MMJepaConfig in known; from transformers import MODEL_MAPPING as known; "
    code += "assert mmjepa.MMJepaConfig in known"
    subprocess.run([sys.executable, "-c", code], check=True)
