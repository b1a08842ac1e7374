"""What a user gets from a saved folder with transformers alone: Auto classes, pipelines, training, saving again.

Each fixture is one process that cannot import this package; the tests read what it reported.
"""

import json

import numpy as np
import pytest
import torch
from fresh_process import run_fresh
from PIL import Image
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from mmjepa.modeling_mmjepa import MMJepaForConditionalGeneration
from mmjepa.processing_mmjepa import MMJepaProcessor

CODE_FILES = {"configuration_mmjepa.py", "modeling_mmjepa.py", "processing_mmjepa.py"}
MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors"}
PROCESSOR_FILES = {"processor_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
MODEL_CLASSES = ["AutoModel", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM"]
QUESTIONS = ["what is present?", "is necrosis seen?", "where is the tumour?", "in the liver?"]

LOAD_EVERYTHING = """
import json
import sys
import transformers

folder, image, *questions = sys.argv[1:]
names = ["AutoConfig", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor"]
names += ["AutoModel", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM"]
loaded = {
    name: getattr(transformers, name).from_pretrained(folder, trust_remote_code=True) for name in names
}
processor = loaded["AutoProcessor"]
inputs = processor(images=[image] * len(questions), text=questions, return_tensors="pt")
answers = {name: loaded[name].generate(**inputs).tolist() for name in names if name.startswith("AutoModel")}
answer = processor.batch_decode(answers["AutoModel"], skip_special_tokens=True)

pipeline = transformers.pipeline("image-text-to-text", model=folder, trust_remote_code=True)
chats = [
    [{"role": "user", "content": [{"type": "image", "path": image}, {"type": "text", "text": question}]}]
    for question in questions
]
said = {
    "one": [pipeline(images=image, text=questions[0], return_full_text=False)],
    "batch": pipeline(images=[image] * len(questions), text=questions, return_full_text=False),
    "shared image": pipeline(
        images=image, text=questions, image_index=[0] * len(questions), return_full_text=False
    ),
    "chat": [pipeline(chats[0], return_full_text=False)],
    "chats": pipeline(chats, return_full_text=False),
    "chats, two at a time": pipeline(chats, return_full_text=False, batch_size=2),
}
whole_chat = pipeline(chats[0])[0]["generated_text"]

print(json.dumps({
    "classes": {name: type(part).__name__ for name, part in loaded.items()},
    "answers": answers,
    "answer": answer,
    "ids": loaded["AutoTokenizer"](questions)["input_ids"],
    "pixels": loaded["AutoImageProcessor"](transformers.image_utils.load_image(image), return_tensors="pt")[
        "pixel_values"
    ].tolist(),
    "template": processor.apply_chat_template(chats[0]),
    "said": said,
    "whole_chat": whole_chat,
}))
"""
