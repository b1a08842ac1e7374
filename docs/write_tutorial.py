"""Writes docs/tutorial.ipynb and docs/tutorial.sh, the same steps as a script, from the steps below.

python docs/write_tutorial.py
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parent
TITLE = """# From a folder of images to an answer and its evidence

This notebook draws small slides, trains a model on them from random weights, and asks it. It takes about five minutes
on two cores and needs no GPU. Install first: `pip install -c constraints.txt -e '.[test]'` in the repository.
`docs/tutorial.sh` has the same steps as a script."""
# In a notebook the first cell goes from docs/ to the root of the repository. The script starts there.
START = "%cd .."

# Each step is a text, and shell commands (a str) or Python code (a tuple of one str).
STEPS: list[tuple[str, str | tuple[str]]] = [
    (
        "## 1. A folder of images\n\nA data set is a folder: images, and a table with the columns image, question and "
        "answer. This one is drawn. Your own folder works in the same way (`docs/own_images.md`).",
        "python -m mmjepa.data.drawn_slides runs/tutorial_slides --num_train 3000 --num_validation 150",
    ),
    (
        "## 2. Look at it before training\n\n`check` finds faulty images and rows. It also says how far the questions "
        "alone get: an accuracy is worth only what it adds to that.",
        "mmjepa check runs/tutorial_slides",
    ),
    (
        "## 3. Train\n\nThe last lines compare the model with shuffled images, black images, and the most frequent "
        "training answers.",
        "mmjepa train configs/demo.json --dataset_name runs/tutorial_slides --num_train_epochs 6 \\\n"
        "    --output_dir runs/tutorial --eval_strategy no --save_strategy no",
    ),
    (
        "## 4. Ask\n\nEach answer comes with its probability, and with the probability that the model gives it about "
        "a black image. If both are high, the answer says nothing about your image.",
        'mmjepa ask runs/tutorial_slides/example.png "is a gland seen?" "where is the gland?" --model runs/tutorial',
    ),
    (
        "## 5. The evidence\n\nA statement about the image gets a probability without the decoder, and the part of "
        "the image that was read for it.",
        (
            """from mmjepa.evaluation.asking import load_saved
from mmjepa.evaluation.judging import judge

model, processor = load_saved("runs/tutorial")
statements = ["is a gland seen?", "is necrosis seen?"]
for judgement in judge(model, processor, "runs/tutorial_slides/example.png", statements):
    print(f"{judgement.wording.asked} {judgement.probability:.0%}, of a black image {judgement.blank_probability:.0%}")
    print("read most:", judgement.place)""",
        ),
    ),
    (
        "## 6. Search\n\nThe same scores rank all images for a statement.",
        'mmjepa search runs/tutorial_slides "is necrosis seen?" --model runs/tutorial --split validation --top 5',
    ),
    (
        "## 7. The report\n\n`runs/tutorial/report.html` shows the numbers beside their controls, the curves, and the "
        "surest right and wrong answers. `mmjepa app runs/tutorial` opens a page that answers.\n\n"
        "Next: your own images (`docs/own_images.md`), all training recipes (`docs/recipes.md`).",
        "ls runs/tutorial",
    ),
]


def notebook() -> dict:
    """The steps as a notebook without outputs."""
    sources = [("markdown", TITLE), ("code", START)]
    for text, code in STEPS:
        sources += [("markdown", text), ("code", code[0] if isinstance(code, tuple) else f"!{code}")]
    cells = [
        {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
        | ({"execution_count": None, "outputs": []} if kind == "code" else {})
        for number, (kind, source) in enumerate(sources)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def script() -> str:
    """The steps as a script for bash, started in the root of the repository."""
    blocks = [
        "#!/usr/bin/env bash\n# The steps of docs/tutorial.ipynb. Start it in the root of the repository.\nset -e"
    ]
    for text, code in STEPS:
        heading = text.splitlines()[0].removeprefix("## ")
        commands = f"python - <<'END'\n{code[0]}\nEND" if isinstance(code, tuple) else code
        blocks.append(f"# {heading}\n{commands}")
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Writes both files."""
    (FOLDER / "tutorial.ipynb").write_text(json.dumps(notebook(), indent=1) + "\n")
    (FOLDER / "tutorial.sh").write_text(script())


if __name__ == "__main__":
    main()
