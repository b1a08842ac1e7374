#!/usr/bin/env bash
# The steps of docs/tutorial.ipynb. Start it in the root of the repository.
set -e

# 1. A folder of images
python -m mmjepa.data.drawn_slides runs/tutorial_slides --num_train 3000 --num_validation 150

# 2. Look at it before training
mmjepa check runs/tutorial_slides

# 3. Train
mmjepa train configs/demo.json --dataset_name runs/tutorial_slides --num_train_epochs 6 \
    --output_dir runs/tutorial --eval_strategy no --save_strategy no

# 4. Ask
mmjepa ask runs/tutorial_slides/example.png "is a gland seen?" "where is the gland?" --model runs/tutorial

# 5. The evidence
python - <<'END'
from mmjepa.evaluation.asking import load_saved
from mmjepa.evaluation.judging import judge

model, processor = load_saved("runs/tutorial")
statements = ["is a gland seen?", "is necrosis seen?"]
for judgement in judge(model, processor, "runs/tutorial_slides/example.png", statements):
    print(f"{judgement.wording.asked} {judgement.probability:.0%}, of a black image {judgement.blank_probability:.0%}")
    print("read most:", judgement.place)
END

# 6. Search
mmjepa search runs/tutorial_slides "is necrosis seen?" --model runs/tutorial --split validation --top 5

# 7. The report
ls runs/tutorial
