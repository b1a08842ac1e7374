"""A small data set in every form that can be loaded, and tables with rows of a test's choice."""

import json
from io import BytesIO

import numpy as np
import pandas as pd
import PIL.Image
from datasets import Dataset, DatasetDict, Features, Image, Value

SPLIT_ROWS = {"train": 6, "validation": 3, "test": 2}


def noise(seed: int, height: int = 40, width: int = 50) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: PIL.Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pathvqa_split(split: str) -> Dataset:
    """A split in the schema of flaviagiammarino/path-vqa, where each row holds the bytes of its image."""
    rows = [
        {
            "image": {"bytes": encoded(noise(row // 2)), "path": f"{split}_{row}.png"},
            "question": f"what is in {split} {row}?",
            "answer": ("yes", "no", "a liver")[row % 3],
        }
        for row in range(SPLIT_ROWS[split])
    ]
    return Dataset.from_list(
        rows, features=Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    )


def write_parquet(folder, table):
    (folder / "data").mkdir()
    for split in SPLIT_ROWS:
        pathvqa_split(split).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def write_saved_to_disk(folder, table):
    DatasetDict({split: pathvqa_split(split) for split in SPLIT_ROWS}).save_to_disk(folder)


def write_csv(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_csv(folder / f"{split}.csv", index=False)


def write_csv_with_row_numbers_and_byte_order_mark(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_csv(folder / f"{split}.csv", encoding="utf-8-sig")


def write_jsonl(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_json(folder / f"{split}.jsonl", orient="records", lines=True)


def write_json(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_json(folder / f"{split}.json", orient="records", indent=1)


def write_parquet_of_paths(folder, table):
    (folder / "data").mkdir()
    for split in SPLIT_ROWS:
        rows = table(split)
        paths = [{"bytes": None, "path": path} for path in rows["image"]]
        rows_of(paths, question=list(rows["question"]), answer=list(rows["answer"])).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet", batch_size=10
        )


def write_csv_under_other_split_names(folder, table):
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        table(split).to_csv(folder / f"{name}.csv", index=False)


def write_tsv(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_csv(folder / f"{split}.tsv", index=False, sep="\t")


def write_semicolon_csv_in_utf16(folder, table):
    for split in SPLIT_ROWS:
        table(split).to_csv(folder / f"{split}.csv", index=False, sep=";", encoding="utf-16")


def write_csv_whose_validation_is_eval(folder, table):
    for split, name in (("train", "train"), ("validation", "eval"), ("test", "test")):
        table(split).to_csv(folder / f"{name}.csv", index=False)


def write_image_folder_with_metadata_csv(folder, table):
    write_image_folder(folder, table, lambda rows, path: rows.to_csv(path / "metadata.csv", index=False))


def write_image_folder_with_metadata_jsonl(folder, table):
    def write(rows, path):
        rows.to_json(path / "metadata.jsonl", orient="records", lines=True)

    write_image_folder(folder, table, write)


def write_image_folder(folder, table, write_metadata):
    """Each split's images are in a folder named after it, beside the metadata that name them."""
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = table(split)
        (folder / name / "images").mkdir(parents=True)
        for path in rows["image"]:
            (folder / path).rename(folder / name / path)
        write_metadata(rows.rename(columns={"image": "file_name"}), folder / name)


def write_conversations(folder, table):
    for split in SPLIT_ROWS:
        rows = [
            {
                "id": number,
                "image": row["image"],
                "conversations": [
                    {"from": "human", "value": f"<image>\n{row['question']}"},
                    {"from": "gpt", "value": row["answer"]},
                ],
            }
            for number, row in enumerate(table(split).to_dict("records"))
        ]
        (folder / f"{split}.json").write_text(json.dumps(rows))


def write_saved_to_disk_under_other_split_names(folder, table):
    names = {"train": "train", "val": "validation", "test": "test"}
    DatasetDict({name: pathvqa_split(split) for name, split in names.items()}).save_to_disk(folder)


def write_csv_with_absolute_paths(folder, table):
    for split in SPLIT_ROWS:
        rows = table(split)
        rows["image"] = [str(folder / path) for path in rows["image"]]
        rows.to_csv(folder / f"{split}.csv", index=False)


WRITERS = [
    writer for name, writer in sorted(globals().items()) if name.startswith("write_") and name != "write_image_folder"
]


def image_table(folder):
    """A function that writes a split's images into `folder` and gives its rows with their paths."""
    (folder / "images").mkdir()

    def table(split: str) -> pd.DataFrame:
        rows = list(pathvqa_split(split).cast_column("image", Image(decode=False)))
        for row in rows:
            path = f"images/{row['image']['path']}"
            (folder / path).write_bytes(row["image"]["bytes"])
            row["image"] = path
        return pd.DataFrame(rows)

    return table


def write_table(folder, rows: list[dict], name: str = "train.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def rows_of(images: list, **texts: list[str]) -> Dataset:
    rows = {"image": images, "question": ["what?"] * len(images), "answer": ["yes"] * len(images), **texts}
    features = Features({"image": Image(decode=False), "question": Value("string"), "answer": Value("string")})
    return Dataset.from_dict(rows, features=features)
