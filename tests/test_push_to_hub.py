"""Pushed to a Hub and loaded back by id: the run's own push, and a model and a processor pushed by hand.

The Hub is `hub_server`, on loopback. Its clients are processes of their own: they read HF_ENDPOINT when they start.
"""

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from fresh_process import run_fresh
from hub_server import TOKEN, running_hub
from huggingface_hub import ModelCard
from tiny import FAST, FROM_RANDOM

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor

ROOT = Path(__file__).parent.parent
QUESTIONS = ["what is present?", "is necrosis seen?"]

PUSH_A_COPY = """
import json
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModel, AutoProcessor

image, *questions = sys.argv[1:]

def load(name):
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
    inputs = processor(images=image, text=questions, image_index=[0] * len(questions), return_tensors="pt")
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    return model, processor, model.generate(**inputs).tolist()

model, processor, answers = load("somebody/slides")
model.push_to_hub("copy")
processor.push_to_hub("copy")
report = {"slides": answers, "copy": load("somebody/copy")[2]}
try:
    model.push_to_hub("refused", token="hf_wrong")
except HfHubHTTPError as error:
    report["refused"] = error.response.status_code
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture(scope="module")
def run_folder(hub, slides, tmp_path_factory) -> Path:
    """The output folder of a run of the script that pushed to the Hub."""
    folder = tmp_path_factory.mktemp("run")
    flags = [*FROM_RANDOM, *FAST, "--fast_dev_run", "--push_to_hub", "--hub_model_id", "slides", "--hub_token", TOKEN]
    flags += ["--dataset_name", slides, "--ckpt_dir", folder / "output", "--log_dir", folder / "logs"]
    process = subprocess.run(
        [sys.executable, ROOT / "run_pathvqa.py", *map(str, flags)],
        env=os.environ | hub.environment | {"HF_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    (folder / "printed").write_text(process.stdout + process.stderr)
    return folder / "output"


@pytest.fixture(scope="module")
def copied(hub, run_folder, image_file, tmp_path_factory) -> dict:
    """A process without this package loads the run's model by id, pushes it under another and loads that."""
    home = tmp_path_factory.mktemp("home")
    return json.loads(run_fresh(PUSH_A_COPY, image_file, *QUESTIONS, HF_HOME=home, **hub.environment))


def test_the_run_pushes_its_model_processor_code_numbers_and_card(hub, run_folder):
    files = hub.files("somebody/slides")
    names = ["model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "all_results.json"]
    for name in [*names, "taught_statements.json"]:
        assert files[name] == (run_folder / name).read_bytes()
    code = {name for name in files if name.endswith(".py")}
    assert code == {path.name for path in ROOT.glob("*_mmjepa.py")}
    assert not any(name.startswith("checkpoint-") for name in files)


def test_the_token_is_in_no_file_and_no_line_that_the_run_leaves(hub, run_folder):
    files = hub.files("somebody/slides") | {
        str(path): path.read_bytes()
        for place in ("output", "logs", "printed")
        for path in [run_folder.parent / place, *(run_folder.parent / place).rglob("*")]
        if path.is_file()
    }
    assert len(files) > 20 and not [name for name, content in files.items() if TOKEN.encode() in content]


def test_the_hashes_of_the_pushed_card_are_those_of_the_pushed_code(hub):
    files = hub.files("somebody/slides")
    hashes = {name: sha256(content).hexdigest() for name, content in files.items() if name.endswith(".py")}
    assert len(hashes) == 10
    assert all(f"{value}  {name}" in files["README.md"].decode() for name, value in hashes.items())


def test_the_pushed_card_has_the_measured_numbers_and_the_controls(hub, run_folder):
    card = ModelCard(hub.files("somebody/slides")["README.md"].decode())
    results = json.loads((run_folder / "all_results.json").read_text())
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert measured["accuracy, overall"] == round(results["eval_accuracy"], 4)
    (blank,) = (line for line in card.text.splitlines() if line.startswith("| blank images "))
    assert f" {100 * results['eval_accuracy_blank_images']:.1f} |" in blank
    assert not any(control in name for name in measured for control in ("blank", "majority", ", shuffled"))
    assert card.data.pipeline_tag == "image-text-to-text"
    assert "generated_from_trainer" not in (card.data.tags or [])


def test_a_model_loaded_by_id_answers_as_the_saved_one_and_so_does_its_pushed_copy(copied, run_folder, image_file):
    model = MMJepaForConditionalGeneration.from_pretrained(run_folder)
    processor = MMJepaProcessor.from_pretrained(run_folder)
    inputs = processor(images=[image_file] * 2, text=QUESTIONS, return_tensors="pt")
    assert copied["slides"] == copied["copy"] == model.generate(**inputs).tolist()


def test_the_copy_names_its_own_code_and_not_the_repository_it_came_from(hub, copied):
    files = hub.files("somebody/copy")
    for name in ("config.json", "processor_config.json"):
        assert b"--" not in json.dumps(json.loads(files[name])["auto_map"]).encode()
    for path in ROOT.glob("*_mmjepa.py"):
        assert files[path.name] == path.read_bytes()


def test_the_code_of_the_pushed_card_runs_as_it_stands(hub, run_folder, image_file, tmp_path):
    card = hub.files("somebody/slides")["README.md"].decode()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert '"somebody/slides"' in code
    (tmp_path / "slide.png").write_bytes(Path(image_file).read_bytes())
    run_fresh(code, folder=tmp_path, HF_HOME=tmp_path / "home", **hub.environment)


def test_without_the_right_token_nothing_is_pushed(hub, copied):
    assert copied["refused"] == 401
    assert "somebody/refused" not in hub.repos
