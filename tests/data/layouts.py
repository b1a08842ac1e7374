"""Tiny remakes of published data sets: the publishers' names of files and columns, and their quirks; own sentences."""

import base64
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from data_sets import encoded, noise
from datasets import Dataset, Features, Image, Value

ASKED = [("is the stain pink?", "yes"), ("what is seen at the left?", "a gland"), ("how many nuclei are there?", "4")]
LETTERS = "ABCD"
CHOICES = ["a gland", "a vessel", "fat, mostly", "nothing"]


class Remake(NamedTuple):
    """A remade data set.

    write: writes it into an empty folder.
    layout: what `mmjepa check` calls it.
    rows: by split how many rows it has.
    answers: of the first rows of train.
    flags: of the docs' line, with {} for the folder; the first is the data set's name.
    """

    write: Callable[[Path], None]
    layout: str
    rows: dict[str, int]
    answers: list[str]
    flags: tuple[str, ...] = ("{}",)


def write_images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(noise(number), "JPEG"))


def write_json(path: Path, rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def write_vqa_rad(folder):
    """One JSON; ids and answers are numbers or texts; the readme and the images are beside it."""
    names = [f"synpic{number}.jpg" for number in (100, 101, 102, 103)]
    write_images(folder / "VQA_RAD Image Folder", *names)
    kinds = ["freeform", "para", "freeform", "test_freeform", "test_para"] * 3
    write_json(
        folder / "VQA_RAD Dataset Public.json",
        [
            {
                "qid": str(number) if number % 2 else number,
                "phrase_type": kind,
                "qid_linked_id": "03f451ca",
                "image_case_url": "https://medpix.nlm.nih.gov/case?id=1",
                "image_name": names[number % 4],
                "image_organ": "CHEST",
                "evaluation": "not evaluated",
                "question": ASKED[number % 3][0],
                "question_rephrase": "NULL",
                "question_relation": "NULL",
                "question_frame": "NULL",
                "question_type": "PRES",
                "answer": 4 if number % 3 == 2 else ASKED[number % 3][1],
                "answer_type": "CLOSED" if number % 3 == 0 else "OPEN ",
            }
            for number, kind in enumerate(kinds)
        ],
    )


def write_mevf(folder):
    """trainset.json and testset.json, and the number of each image."""
    names = [f"synpic{number}.jpg" for number in (100, 101, 102)]
    write_images(folder / "images", *names)
    write_json(folder / "imgid2idx.json", {name: number for number, name in enumerate(names)})
    for file, kind, count in (("trainset", "freeform", 8), ("testset", "test_freeform", 3)):
        write_json(
            folder / f"{file}.json",
            [
                {
                    "qid": number,
                    "image_name": names[number % 3],
                    "image_organ": "HEAD",
                    "answer": ASKED[number % 3][1],
                    "answer_type": "OPEN",
                    "question_type": "PRES",
                    "question": ASKED[number % 3][0],
                    "phrase_type": kind,
                }
                for number in range(count)
            ],
        )


def write_slake(folder):
    """Each image is source.jpg in a folder of its own, beside other JSON; half of the questions are Chinese."""
    for number in (1, 2, 3):
        write_images(folder / "imgs", f"xmlab{number}/source.jpg", f"xmlab{number}/mask.png")
        (folder / "imgs" / f"xmlab{number}" / "source.jpg").write_bytes(encoded(noise(number), "JPEG"))
        write_json(folder / "imgs" / f"xmlab{number}" / "question.json", [{"qid": number}])
    (folder / "mask.txt").write_text("1:Liver\n2:Kidney\n")
    for split, count in (("train", 6), ("validate", 2), ("test", 2)):
        rows = []
        for number in range(count):
            question, answer = ASKED[number % 3]
            for language in ("en", "zh"):
                rows.append(
                    {
                        "img_id": number % 3 + 1,
                        "img_name": f"xmlab{number % 3 + 1}/source.jpg",
                        "question": question if language == "en" else "图中有什么？",
                        "answer": answer if language == "en" else "腺体",
                        "q_lang": language,
                        "location": "Abdomen",
                        "modality": "MRI",
                        "answer_type": "OPEN",
                        "base_type": "vqa",
                        "content_type": "Organ",
                        "triple": ["vhead", "_", "_"],
                        "qid": len(rows),
                    }
                )
        write_json(folder / f"{split}.json", rows)


def write_pmc_vqa(folder):
    """train.csv has the answer's text and its letter, test.csv the letter alone; choices begin with " A:"."""
    names = [f"PMC1064097_F{number}.jpg" for number in range(4)]
    write_images(folder / "images", *names)
    choices = {f"Choice {letter}": f" {letter}:{text} " for letter, text in zip(LETTERS, CHOICES, strict=True)}
    rows = [
        {
            "Figure_path": names[number % 4],
            "Question": " What is at the arrow?",
            "Answer": f" {CHOICES[number % 4]} ",
            **choices,
            "Answer_label": LETTERS[number % 4],
        }
        for number in range(8)
    ]
    pd.DataFrame(rows).to_csv(folder / "train.csv", index=False)
    test = [
        {"index": number, "Figure_path": names[number], "Caption": "Cells.", "Question": " What is it?", **choices}
        | {"Answer": LETTERS[number], "split": "test"}
        for number in range(3)
    ]
    pd.DataFrame(test).to_csv(folder / "test.csv", index=False)


def write_omni_med_vqa(folder):
    """A JSON for each source, none named after a split; a row has two to four choices, and one another key."""
    for source in ("ACRIMA", "Chest CT Scan"):
        images = [f"Images/{source}/Im{number}.png" for number in range(3)]
        write_images(folder, *images)
        rows = []
        for number in range(4):
            options = CHOICES[: 2 + number % 3]
            rows.append(
                {
                    "dataset": source,
                    "question_id": f"{source}_{number:04}",
                    "question_type": "Modality Recognition",
                    "question": "What does this picture show?",
                    "gt_answer": options[number % 2],
                    "image_path": images[number % 3],
                    **{f"option_{letter}": text for letter, text in zip(LETTERS, options, strict=False)},
                    "modality" if source.startswith("Chest") and number == 3 else "modality_type": "CT",
                }
            )
        write_json(folder / "QA_information" / "Open-access" / f"{source}.json", rows)


def write_quilt_vqa(folder):
    rows = [
        {
            "image": {"bytes": encoded(noise(number), "JPEG"), "path": f"{number}.jpg"},
            "question": ASKED[number % 3][0],
            "answer": ASKED[number % 3][1],
            "answer_type": "OPEN" if number % 3 else "CLOSED",
            "context": "The pathologist speaks of a gland.",
        }
        for number in range(6)
    ]
    texts = {name: Value("string") for name in ("question", "answer", "answer_type", "context")}
    (folder / "data").mkdir()
    rows_as_parquet = Dataset.from_list(rows, features=Features({"image": Image(), **texts}))
    rows_as_parquet.to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def kvasir_rows() -> list[dict]:
    return [
        {
            "source": "HyperKvasir",
            "question": ASKED[number % 3][0],
            "answer": ASKED[number % 3][1],
            "img_id": f"cl8k2u1pm1dw708320{number // 2}",
        }
        for number in range(8)
    ]


def write_kvasir_vqa(folder):
    """metadata.csv names images by ids without a suffix."""
    pd.DataFrame(kvasir_rows()).to_csv(folder / "metadata.csv", index=False)
    write_images(folder / "images", *sorted({f"{row['img_id']}.jpg" for row in kvasir_rows()}))


def write_kvasir_vqa_on_the_hub(folder):
    """Numbered parquet files with the images' bytes; README.md calls their only split raw."""
    (folder / "data").mkdir()
    readme = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: raw\n    path: data/*.parquet\n---\n"
    (folder / "README.md").write_text(readme)
    rows = [{"image": {"bytes": encoded(noise(n // 2)), "path": None}, **row} for n, row in enumerate(kvasir_rows())]
    texts = {name: Value("string") for name in kvasir_rows()[0]}
    for part in (0, 1):
        shard = Dataset.from_list(rows[part::2], features=Features({"image": Image(), **texts}))
        shard.to_parquet(folder / "data" / f"{part:05}.parquet")


def write_vqa_med(folder):
    """Lines of image|question|answer without a header; lists of ids and categories beside them; the test has a column
    more, and its questions alone in another file."""
    parts = [("ImageClef-2019-VQA-Med-Training", "train", 6), ("ImageClef-2019-VQA-Med-Validation", "val", 3)]
    for name, split, count in parts:
        ids = [f"synpic{split}{number}" for number in range(count)]
        write_images(folder / name / f"{split.title()}_images", *(f"{image}.jpg" for image in ids))
        lines = [f"{image}|{'|'.join(ASKED[number % 3])}" for number, image in enumerate(ids)]
        (folder / name / f"All_QA_Pairs_{split}.txt").write_text("\n".join(lines) + "\n")
        (folder / name / f"{split}_ImageIDs.txt").write_text("\n".join(ids) + "\n")
        (folder / name / "QAPairsByCategory").mkdir()
        (folder / name / "QAPairsByCategory" / f"C1_Modality_{split}.txt").write_text(lines[0] + "\n")
    test = folder / "VQAMed2019Test"
    write_images(test / "VQAMed2019_Test_Images", "synpictest0.jpg")
    (test / "README-VQA-Med-2019-TestSet.txt").write_text("The test set\n")
    (test / "VQAMed2019_Test_Questions.txt").write_text('synpictest0|what is the "line"?\n')
    (test / "VQAMed2019_Test_Questions_w_Ref_Answers.txt").write_text('synpictest0|plane|what is the "line"?|axial\n')


def turns(number: int, images: int = 1) -> list[dict]:
    """Two questions and their answers; the first has the marks of its images before or after it."""
    first = "<image>\n" * images + ASKED[0][0] if number % 2 else f"{ASKED[0][0]}\n" + "<image>" * images
    said = [first, ASKED[0][1], ASKED[1][0], ASKED[1][1]]
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(said)]


def write_llava_med(folder):
    """The images are away from the table, whose column is spelt as it was published."""
    names = [f"2566487{number}_Fig1_ABC.jpg" for number in range(3)]
    write_images(folder / "images", *names)
    rows = [
        {
            "id": name.removesuffix(".jpg"),
            "image": name,
            "domain": {"chest_xray": False, "mri": False, "histology": True, "gross": False, "ct_scan": False},
            "conversatons": turns(number),
        }
        for number, name in enumerate(names)
    ]
    write_json(folder / "instruct" / "llava_med_instruct_60k.json", rows)


def write_pubmed_vision(folder, images: int = 1):
    """The image of a row is a list; `images` of the last row are several or one."""
    names = [f"images/pmc_{number}_0.jpg" for number in range(4)]
    write_images(folder, *names)
    rows = [
        {
            "image": names[:images] if number == 3 else [name],
            "conversations": turns(number, images if number == 3 else 1),
            "id": f"pmc_{number}",
            "modality": "Microscopy Images",
            "body_part": "Skin",
        }
        for number, name in enumerate(names)
    ]
    write_json(folder / "PubMedVision_Alignment_VQA.json", rows)


def write_vlm_eval_kit(folder):
    """Images as base64, each once: another row about it has the index of the first. Some rows have two choices."""
    rows = []
    for number in range(6):
        image = str(number - 1) if number % 2 else base64.b64encode(encoded(noise(number), "JPEG")).decode()
        options = CHOICES[: 4 if number % 2 else 2]
        row = {"index": number, "image": image, "question": f'What is "{number}"?', **dict.fromkeys(LETTERS, "")}
        row |= dict(zip(LETTERS, options, strict=False)) | {"answer": LETTERS[number % len(options)]}
        rows.append({**row, "category": "organ", "split": "test"})
    pd.DataFrame(rows).to_csv(folder / "Pathology_MCQ.tsv", sep="\t", index=False, quoting=csv.QUOTE_MINIMAL)


REMAKES = {
    "vqa_rad": Remake(write_vqa_rad, "VQA-RAD", {"train": 9, "test": 6}, ["yes", "a gland", "4"]),
    "vqa_rad_mevf": Remake(write_mevf, "VQA-RAD", {"train": 8, "test": 3}, ["yes", "a gland", "4"]),
    "slake": Remake(
        write_slake,
        "SLAKE",
        {"train": 6, "validation": 2, "test": 2},
        ["yes", "a gland", "4"],
        ("{}", "--where", "q_lang=en"),
    ),
    "pmc_vqa": Remake(write_pmc_vqa, "PMC-VQA", {"train": 8, "test": 3}, CHOICES),
    "omni_med_vqa": Remake(
        write_omni_med_vqa,
        "OmniMedVQA",
        {"train": 8},
        ["a gland", "a vessel"],
        ("{}/QA_information/Open-access", "--image_folder", "{}"),
    ),
    "quilt_vqa": Remake(write_quilt_vqa, "Quilt-VQA", {"train": 6}, ["yes", "a gland", "4"]),
    "kvasir_vqa": Remake(write_kvasir_vqa, "Kvasir-VQA", {"train": 8}, ["yes", "a gland", "4"]),
    "kvasir_vqa_hub": Remake(
        write_kvasir_vqa_on_the_hub, "Kvasir-VQA", {"train": 8}, ["yes", "4"], ("{}", "--train_split", "raw")
    ),
    "vqa_med": Remake(
        write_vqa_med,
        "VQA-Med, lines of image|question|answer",
        {"train": 6, "validation": 3, "test": 1},
        ["yes", "a gland", "4"],
    ),
    "llava_med": Remake(
        write_llava_med,
        "LLaVA-Med",
        {"train": 6},
        ["yes", "a gland", "yes"],
        ("{}/instruct/llava_med_instruct_60k.json", "--image_folder", "{}/images"),
    ),
    "pubmed_vision": Remake(write_pubmed_vision, "PubMedVision", {"train": 8}, ["yes", "a gland", "yes"]),
    "vlm_eval_kit": Remake(
        write_vlm_eval_kit,
        "VLMEvalKit",
        {"train": 6},
        ["a gland", "a vessel", "a gland", "nothing"],
        ("{}/Pathology_MCQ.tsv", "--train_split", "test"),
    ),
}
