"""The model card: the Hub shows and finds a model by it. It has the measured numbers beside their controls."""

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from yaml import YAMLError

from .plain_words import plain_words
from .table import TABLE_COLUMNS, TABLE_ROWS, answer_table

# What travels with a checkpoint.
CODE_FILES = sorted(Path(__file__).parents[1].glob("*_mmjepa.py"))
# Prefix of a split's numbers in all_results.json -> its name.
SPLITS = {"eval_": "validation", "test_": "test"}
MODEL_ROWS = {row: suffix for row, suffix in TABLE_ROWS.items() if row.startswith("model")}  # the others are controls
# What a training chooses on the validation split: a number -> what it is of; and the rows that it makes better.
CHOOSING = "validation"
CHOSEN = {
    "rank_threshold": "the probability from which answers are ranked",
    "truth_temperature": "the temperature of the probabilities of statements",
}
CHOSEN_ROWS = ("_ranked_or_decoded",)

# Parts whose licence is known. Another part's may bind the model that is made of it.
APACHE = {"facebook/dinov2-base", "facebook/bart-base"}

TEMPLATE = """---
{{ card_data }}
---

# {{ model_name }}

Answers a question about a pathology image in a few words: an image encoder, aligned with a frozen
[BART](https://huggingface.co/papers/1910.13461) encoder, is read beside the question by a BART decoder. {{ origin }}

For research on question answering. It is not a medical device; do not use it for diagnosis.
{% for split, measured in splits.items() %}
## Measured on the {{ split }} split

{{ measured.table }}

{% for sentence in measured.sentences %}{{ sentence }}
{% endfor %}{% if measured.chosen %}
† Chosen on these questions, so others may be answered less well: {{ measured.chosen }}.
{% endif %}{% endfor %}{% if splits %}
The controls are asked the same questions and are no results of this model's: each image exchanged for another, black
images, and the training set's most frequent answer to questions of the same first words, or to the same question. What
the model has over shuffled images, beyond chance, is due to the image itself.
{% endif %}
## Ask it

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{{ model_id }}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{{ model_id }}", trust_remote_code=True)

inputs = processor(images="slide.png", text="what is present?", return_tensors="pt")
print(processor.decode(model.generate(**inputs), skip_special_tokens=True)[0])
```

`images` are paths, URLs, PIL images, arrays or the bytes of image files. Several questions about one
image: `image_index=[0, 0, 0]` beside one image and three questions.
{% if adapter_base %}
## Its adapter

The folder `adapter` holds what LoRA trained. The weights of this repository have it merged in. To merge it yourself:

```python
from peft import PeftModel

base = {{ adapter_base }}
merged = PeftModel.from_pretrained(base, "{{ model_id }}", subfolder="adapter").merge_and_unload()
```
{% endif %}
## Limits

It gives an answer to every question, also where the image does not show one. Its probabilities are those of the
decoder and are only as right as they were measured to be. Images of other organs, stains or scanners, and questions
in other words than the training's, were not measured. Answers repeat the errors and the frequencies of the training
answers.

## Training data

{% for name, licence in data_licences.items() %}- {{ name }}. Its licence: {{ licence or "not known to this card" }}.
{% endfor %}{% if run %}
{% for split, data in run.data.items() %}{{ "{:,}".format(data.questions) }} questions of {{ split }}\
{{- ", " if not loop.last else "." }}{% endfor %}
{% endif %}
## Licences

The Python files of this repository are under the Apache License 2.0. The weights start from {{ start }}\
{{- weights_note }}. The terms of the training data stand above.
{% if run %}
## Recipe

Made by `run_pathvqa.py` with these flags; {{ made_with }}:

```json
{{ flags }}
```
{% endif %}
## The code

`trust_remote_code=True` runs the Python files of this repository. Their SHA-256 hashes (`sha256sum *.py`), to
compare with those of other copies, and a `revision` that names a commit keep them the ones that you have read:

{% for name, hash in code_hashes.items() %}    {{ hash }}  {{ name }}
{% endfor %}"""


def evaluation_results(metrics: dict[str, float], dataset_id: str) -> list[EvalResult]:
    """For each split in `metrics` the accuracies of the model, the first one that of all its answers; the image gain.

    The controls are not among them: the Hub would show them as results of the model.
    """
    results = []
    for prefix, split in SPLITS.items():
        names = {}
        for row, suffix in MODEL_ROWS.items():
            for column, score in reversed(TABLE_COLUMNS.items()):
                chosen = " (threshold chosen on this split)" if suffix in CHOSEN_ROWS and split == CHOOSING else ""
                names[score + suffix] = f"accuracy, {column}" + (f", {row}{chosen}" if suffix else "")
        names["image_gain"] = "image gain (accuracy - accuracy with shuffled images)"
        results += [
            EvalResult(
                task_type="image-text-to-text",
                task_name="visual question answering",
                dataset_type=dataset_id,
                dataset_name=dataset_id.split("/")[-1],
                dataset_split=split,
                metric_type="image_gain" if score == "image_gain" else "accuracy",
                metric_name=name,
                metric_value=round(metrics[prefix + score], 4),
            )
            for score, name in names.items()
            if prefix + score in metrics
        ]
    return results


def chosen_values(metrics: dict[str, float], chosen_by: str | None) -> list[str]:
    """What was chosen by the answers to the questions that `metrics` are of: it makes these numbers look better.

    Args:
        metrics: of the split that values are chosen on, by their names without a prefix.
        chosen_by: the number by which the best checkpoint was chosen, if it was.
    """
    values = [] if chosen_by is None else [f"the checkpoint, by {chosen_by.removeprefix('eval_')}"]
    for name, text in CHOSEN.items():
        if name in metrics:
            values.append(f"{text} ({metrics[name]:.3g})")
    return values


def measured_splits(metrics: dict[str, float], chosen_by: str | None) -> dict[str, dict[str, Any]]:
    """Of each split that was evaluated with controls the table, the sentences, and what was chosen on it."""
    splits: dict[str, dict[str, Any]] = {}
    for split, numbers in numbers_by_split(metrics).items():
        table, chosen = answer_table(numbers, is_accuracy_first=True), ""
        if split == CHOOSING:
            chosen = ", ".join(chosen_values(numbers, chosen_by))
            for row, suffix in MODEL_ROWS.items():
                if suffix in CHOSEN_ROWS:
                    table = table.replace(f"| {row} ", f"| {row}†")
        splits[split] = {"table": table, "sentences": plain_words(numbers), "chosen": chosen}
    return splits


def stated_licence(dataset_name: str) -> str | None:
    """The licence that a data set, a Hub id or a folder, states in its card; None if it has none that can be read.

    Nothing is downloaded: `datasets` keeps the card of a data set that it loads from the Hub.
    """
    if Path(dataset_name).exists():
        card: Any = Path(dataset_name, "README.md")
    else:
        card = try_to_load_from_cache(dataset_name, "README.md", repo_type="dataset")
    if not isinstance(card, str | Path) or not Path(card).is_file():
        return None
    try:
        licence = DatasetCard.load(card).data.get("license")
    except (ValueError, YAMLError):  # a header that is none
        return None
    return ", ".join(licence) if isinstance(licence, list) else licence


def shown_flag(value: str | list[str]) -> str | list[str]:
    """The value of a flag. Of a path on this machine, which nobody else has, the last part."""
    if isinstance(value, list):
        return [str(shown_flag(part)) for part in value]
    return Path(value).name if os.path.isabs(value) else shown_name(value)


def numbers_by_split(metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """The numbers of each split that was evaluated with controls, by their names without a prefix."""
    return {
        split: {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
        for prefix, split in SPLITS.items()
        if f"{prefix}accuracy_blank_images" in metrics
    }


def shown_name(name: str) -> str:
    """A Hub id as it is. Of a local folder, which nobody else has, the last part of its path."""
    return Path(name).absolute().name if os.path.exists(name) else name


def model_card(
    model_id: str,
    metrics: dict[str, float],
    dataset_names: Sequence[str],
    base_models: list[str],
    fine_tuned: bool = False,
    adapter_base: str | None = None,
    run: dict[str, Any] | None = None,
    chosen_by: str | None = None,
) -> ModelCard:
    """The card of a model.

    Args:
        model_id: Hub id or folder. The card's code loads the model from it.
        metrics: the run's numbers as in `all_results.json`, with their splits' prefixes.
        dataset_names, base_models: Hub ids or folders. Folders stand only in the text: the Hub can't link to them.
        fine_tuned: the base model is an MMJepa that was trained further; else the base models are parts of a new one.
        adapter_base: of a model with an adapter beside it, the Python that makes the model which the adapter changes.
        run: how it was trained, as run.json says.
        chosen_by: the number by which the best checkpoint was chosen on the validation split, if it was.
    """
    dataset, model_name = " and ".join(map(shown_name, dataset_names)), shown_name(model_id)
    results = evaluation_results(metrics, dataset)
    data = ModelCardData(
        model_name=model_name if results else None,
        language="en",
        license="apache-2.0" if set(base_models) <= APACHE else None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["visual-question-answering", "pathology"],
        base_model=[name for name in base_models if not Path(name).exists()] or None,
        datasets=[name for name in dataset_names if not Path(name).exists()] or None,
        metrics=["accuracy"],
        eval_results=results or None,
    )
    start = " and ".join(map(shown_name, base_models)) or "random weights"
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        model_name=model_name,
        model_id=model_id,
        code_hashes={path.name: sha256(path.read_bytes()).hexdigest() for path in CODE_FILES},
        adapter_base=adapter_base,
        origin=f"{'Fine-tuned' if fine_tuned else 'Trained'} from {start} on {dataset}.",
        splits=measured_splits(metrics, chosen_by),
        data_licences={shown_name(name): stated_licence(name) for name in dataset_names},
        start=start,
        weights_note=weights_note(base_models),
        run=run,
        **({} if run is None else recipe(run)),
    )


def recipe(run: dict[str, Any]) -> dict[str, str]:
    """What run.json says of flags, versions and processes, as the card's text has it."""
    versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items() if version)
    commit = f"commit {run['git_commit']}, " if run["git_commit"] else ""
    return {
        "flags": json.dumps({name: shown_flag(value) for name, value in run["flags"].items()}, indent=2),
        "made_with": f"{commit}{versions}, processes: {run['processes']}",
    }


def weights_note(base_models: Sequence[str]) -> str:
    """What is known of the licence of the parts that a model is made of."""
    if not base_models:
        return ""
    if set(base_models) <= APACHE:
        return ", which are under it too"
    return ", whose own licence binds them too"
