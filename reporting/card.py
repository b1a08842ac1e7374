"""The model card: the Hub shows and finds a model by it. It has the measured numbers beside their controls."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .plain_words import plain_words
from .table import TABLE_COLUMNS, TABLE_ROWS, answer_table

# What travels with a checkpoint.
CODE_FILES = sorted(Path(__file__).parents[1].glob("*_mmjepa.py"))
# Prefix of a split's numbers in all_results.json -> its name.
SPLITS = {"eval_": "validation", "test_": "test"}

# Parts whose licence is known. Another part's may bind the model that is made of it.
APACHE = {"facebook/dinov2-base", "facebook/bart-base"}

TEMPLATE = """---
{{ card_data }}
---

# {{ model_name }}

Answers a question about a pathology image in a few words: an image encoder, aligned with a frozen
[BART](https://huggingface.co/papers/1910.13461) encoder, is read beside the question by a BART decoder. {{ origin }}

For research on question answering. It is not a medical device; do not use it for diagnosis.

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
{% endif %}{% for split, table in tables.items() %}
## Measured on the {{ split }} split

{{ table }}

{% for sentence in sentences[split] %}{{ sentence }}
{% endfor %}{% endfor %}{% if tables %}
The controls are asked the same questions: the model with each image exchanged for another, the model with black
images, and the training set's most frequent answer to questions of the same first words, or to the same question. What
the model has over shuffled images, beyond chance, is due to the image itself.
{% endif %}
## The code

`trust_remote_code=True` runs the Python files of this repository. Their SHA-256 hashes (`sha256sum *.py`), to
compare with those of other copies, and a `revision` that names a commit keep them the ones that you have read:

{% for name, hash in code_hashes.items() %}    {{ hash }}  {{ name }}
{% endfor %}"""


def evaluation_results(metrics: dict[str, float], dataset_id: str) -> list[EvalResult]:
    """For each split in `metrics` the accuracies of the model and its controls, and the image gain."""
    results = []
    for prefix, split in SPLITS.items():
        names = {"image_gain": "image gain (accuracy - accuracy with shuffled images)"}
        for row, suffix in TABLE_ROWS.items():
            for column, score in TABLE_COLUMNS.items():
                names[score + suffix] = f"accuracy, {column}" + (f", {row}" if suffix else "")
        results += [
            EvalResult(
                task_type="image-text-to-text",
                task_name="visual question answering",
                dataset_type=dataset_id,
                dataset_name=dataset_id.split("/")[-1],
                dataset_split=split,
                metric_type="accuracy",
                metric_name=name,
                metric_value=round(metrics[prefix + score], 4),
            )
            for score, name in names.items()
            if prefix + score in metrics
        ]
    return results


def numbers_by_split(metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """The numbers of each split that was evaluated with controls, by their names without a prefix."""
    return {
        split: {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
        for prefix, split in SPLITS.items()
        if f"{prefix}accuracy_blank_images" in metrics
    }


def shown_name(name: str) -> str:
    """A Hub id as it is. Of a local folder, which nobody else has, the last part of its path."""
    return Path(name).absolute().name if Path(name).exists() else name


def model_card(
    model_id: str,
    metrics: dict[str, float],
    dataset_names: Sequence[str],
    base_models: list[str],
    fine_tuned: bool = False,
    adapter_base: str | None = None,
) -> ModelCard:
    """The card of a model.

    Args:
        model_id: Hub id or folder. The card's code loads the model from it.
        metrics: the run's numbers as in `all_results.json`, with their splits' prefixes.
        dataset_names, base_models: Hub ids or folders. Folders stand only in the text: the Hub can't link to them.
        fine_tuned: the base model is an MMJepa that was trained further; else the base models are parts of a new one.
        adapter_base: of a model with an adapter beside it, the Python that makes the model which the adapter changes.
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
    numbers = numbers_by_split(metrics)
    start = " and ".join(map(shown_name, base_models)) or "random weights"
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        model_name=model_name,
        model_id=model_id,
        code_hashes={path.name: sha256(path.read_bytes()).hexdigest() for path in CODE_FILES},
        adapter_base=adapter_base,
        origin=f"{'Fine-tuned' if fine_tuned else 'Trained'} from {start} on {dataset}.",
        tables={split: answer_table(of_split) for split, of_split in numbers.items()},
        sentences={split: plain_words(of_split) for split, of_split in numbers.items()},
    )
