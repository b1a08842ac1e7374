"""Where images are: the bytes, base64 texts and paths of a column -> bytes and absolute paths."""

import glob
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
from datasets import Dataset, Features, Image
from datasets import Sequence as ListOf
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE

from ..processing_mmjepa import base64_image
from .columns import READ_BY, inner_feature, one_text
from .errors import DataError, shortened

logger = logging.getLogger("mmjepa")

FIRST_NAMES = 20  # images whose names say which folder they are in
# An image may be named by an id, without one of these.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".JPG", ".JPEG", ".PNG")
LONGEST_PATH = 4096  # characters; a longer text is no path of a file
MAY_BE_BASE64 = re.compile(r"data:image/|[A-Za-z0-9+/\s]{64}")


@dataclass(frozen=True)
class ImageRoots:
    """The folder that a data set's image paths start from, and the folders in which its images may lie.

    folder: absolute.
    allowed: without links; None allows every place.
    is_found: whether `folder` is where the images are; else `found_for` may find a folder in it.
    """

    folder: str
    allowed: tuple[str, ...] | None
    is_found: bool = False

    @classmethod
    def of(cls, folder: Path, allow_outside: bool, image_folder: str | None = None) -> "ImageRoots":
        """Images lie in `image_folder` or else in `folder`, or anywhere with `allow_outside`.

        Raises:
            DataError: there is no such image folder.
        """
        if image_folder is not None and not os.path.isdir(image_folder):
            raise DataError(f"--image_folder is {image_folder!r}, which is no folder: give the folder of the images.")
        # `datasets` leaves what it downloads and unpacks in the caches.
        places = (folder, *([image_folder] if image_folder else []), HF_DATASETS_CACHE, HF_HUB_CACHE)
        allowed = None if allow_outside else tuple(os.path.realpath(place) for place in places)
        return cls(os.path.abspath(image_folder or folder), allowed, image_folder is not None)

    def found_for(self, names: Iterable[str]) -> "ImageRoots":
        """The same with the folder that holds images of these relative names: this one, or the only one in it.

        If none in it holds them, the folders in these are looked at.

        Raises:
            DataError: two folders hold such images.
        """
        inner = [] if self.is_found else glob.glob("*/", root_dir=self.folder)
        if not inner:
            return self  # the names of a stream are not read in vain
        names = list(islice((name for name in names if not os.path.isabs(name)), FIRST_NAMES))
        if holds(self.folder, names):
            return self
        # An archive often unpacks to a folder in a folder of its name.
        for pattern in ("*/", "*/*/"):
            places = (str(Path(self.folder, place)) for place in glob.glob(pattern, root_dir=self.folder))
            folders = sorted(place for place in places if holds(place, names))
            if len(folders) > 1:
                raise DataError(
                    f"images such as {names[0]!r} are in {' and in '.join(folders)}: say which by --image_folder."
                )
            if folders:
                logger.info("Images are read from %s", folders[0])
                return replace(self, folder=folders[0], is_found=True)
        return self

    def absolute(self, path: str) -> str:
        """The file that `path` names: in the folder, or else in the working directory, where `datasets` would read it.

        Raises:
            DataError: the file lies outside of the allowed folders, by its path or by a link.
        """
        file = existing(self.folder, path) or str(Path(self.folder, path))
        if not os.path.exists(file) and os.path.exists(path):
            file = os.path.abspath(path)
        if self.allowed is not None and os.path.exists(file):
            place = Path(os.path.realpath(file))
            if not any(place.is_relative_to(root) for root in self.allowed):
                raise DataError(
                    f"the image {path!r} lies outside of the data set's folder {self.folder}. A table from elsewhere "
                    "could name any file of this machine: put the image into the folder, name the images' folder by "
                    "--image_folder, or allow such paths by --allow_outside_images."
                )
        return file


def existing(folder: str, name: str) -> str | None:
    """The file of a relative path that may lack the suffix of an image, or be written as another system writes it.

    None if there is none.
    """
    names = chain([name], (name + suffix for suffix in IMAGE_SUFFIXES), spellings(name))
    return next((file for other in names if os.path.isfile(file := os.path.join(folder, other))), None)


def spellings(name: str) -> Iterator[str]:
    """A path as Windows (\\ for /), macOS (umlauts in two characters) and cameras (.JPG for .jpg) write it."""
    plain = name.strip().replace("\\", "/")
    for form in ("NFC", "NFD"):
        stem, suffix = os.path.splitext(unicodedata.normalize(form, plain))
        yield from (stem + suffix, stem + suffix.lower(), stem + suffix.upper())


def holds(folder: str, names: list[str]) -> bool:
    """Whether one of the images is in the folder."""
    return any(existing(folder, name) for name in names)


def is_address(path: str) -> bool:
    """Whether `path` is a web address; these are never fetched."""
    return "://" in path


def named_file(image: dict[str, Any] | None) -> str | None:
    """The path of an image that has no bytes; None if there is none, or if it is a web address."""
    if image is None or image["bytes"] or not image["path"] or is_address(image["path"]):
        return None
    return image["path"]


def with_absolute_paths(images: Dataset, roots: ImageRoots) -> Dataset:
    """Encoded `images` with absolute paths, where an image has a path and no bytes.

    Raises:
        DataError: an image lies outside of the allowed folders.
    """
    parts = images.flatten()
    if not parts.data["image.bytes"].null_count:
        return images  # a map would copy the bytes
    paths = [path for path in parts.unique("image.path") if path and not is_address(path)]
    roots = roots.found_for(paths)
    files = {path: roots.absolute(path) for path in paths}
    return images.map(
        with_file,
        # In the fingerprint: an image that was moved, replaced or repaired must not come from the cache.
        fn_kwargs={"files": files, "states": [file_state(Path(file)) for file in files.values()]},
        input_columns="image",
        features=images.features,
        desc="Finding images",
    )


def with_file(
    image: dict[str, Any] | None, files: dict[str, str], states: list[tuple[int, int] | None]
) -> dict[str, dict[str, Any] | None]:
    """An image with its path in `files`, if it has a path and no bytes. `states` is only for the fingerprint."""
    path = named_file(image)
    return {"image": image if image is None or path is None else {**image, "path": files[path]}}


def file_state(path: Path) -> tuple[int, int] | None:
    """Size (bytes) and time of change (ns) of a file; None if there is no such file."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # ValueError: no path at all, such as text with a null character
        return None
    return state.st_size, state.st_mtime_ns


def rows_of_images(rows: Dataset, column: str) -> Sequence[int]:
    """The row that has each row's image: its own, but where the column holds the `index` of a row with a base64 text.

    VLMEvalKit's tables write an image once.
    """
    index = next((name for name in rows.column_names if name.lower() == "index"), None)
    if index is None or not is_text(rows.features.arrow_schema.field(column).type):
        return range(len(rows))
    numbers = {one_text(value): row for row, value in enumerate(rows[index][:])}
    places: list[int] = []
    is_encoded: list[bool] = []
    for batch in rows.with_format("arrow").select_columns(column).iter(100):
        for text in batch[column].to_pylist():
            is_encoded.append(bool(text and MAY_BE_BASE64.match(text)))
            places.append(len(places) if is_encoded[-1] else numbers.get(text, len(places)))
    return [place if is_encoded[place] else row for row, place in enumerate(places)]


def encoded_images(rows: Dataset, split: str) -> Dataset:
    """The column `image` of `rows` as bytes and paths: a list of one image is that image, base64 text its bytes.

    Raises:
        DataError: a row has several images, or something else.
    """
    feature, kind = rows.features["image"], rows.features.arrow_schema.field("image").type
    if isinstance(inner_feature(feature), Image):
        rows = rows.cast_column("image", ListOf(Image(decode=False)))
    elif not needs_reading(kind, feature):
        try:
            rows = rows.cast_column("image", Image(decode=False))
        except (TypeError, ValueError, pyarrow.ArrowException) as error:
            raise DataError(
                f"{split}: images of the type {shortened(str(kind))} can't be read: give paths or image files, or "
                "name another column by --image_column."
            ) from error
        paths = rows.flatten().unique("image.path")
        if not any(path and MAY_BE_BASE64.match(path) for path in paths):
            return rows  # a map would copy the bytes
    return rows.map(
        read_image,
        with_indices=True,
        fn_kwargs={"split": split, "read_by": READ_BY},
        features=Features({"image": Image(decode=False)}),
        desc="Reading images",
    )


def check_one_each(rows: Dataset, column: str, split: str) -> None:
    """Raises DataError where rows have lists of several images in a column; it says how many rows there are."""
    numbers: list[int] = []
    kind = rows.features.arrow_schema.field(column).type
    if is_list(kind) and not (is_list(kind.value_type) or is_number(kind.value_type)):  # pixels are no such lists
        for batch in rows.with_format("arrow").select_columns(column).iter(1000):
            numbers += pyarrow.compute.list_value_length(batch[column]).fill_null(0).to_pylist()
    elif type(rows.features[column]).__name__ == "Json":
        numbers = [len(value) if isinstance(value, list) else 1 for value in rows[column][:]]
    several = [row for row, number in enumerate(numbers) if number > 1]
    if several:
        raise DataError(
            f"{split}: {len(several)} of {len(rows)} rows have several images, such as row {several[0]} with "
            f"{numbers[several[0]]}: a question is about one image. Give each image a row of its own, put an image's "
            "tiles together into a montage, or take these rows out."
        )


def needs_reading(kind: pyarrow.DataType, feature: Any) -> bool:
    """Whether a column of images holds lists, JSON, or dicts of something else than bytes and a path.

    Pixels are lists of numbers and not such lists.
    """
    if is_list(kind):
        return not (is_list(kind.value_type) or is_number(kind.value_type))
    if pyarrow.types.is_struct(kind):
        types = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
        return not {"bytes", "path"} & set(types) or is_text(types.get("bytes"))
    return type(feature).__name__ == "Json"


def is_list(kind: pyarrow.DataType) -> bool:
    """Whether a column's type is a list of any length."""
    types = pyarrow.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def is_number(kind: pyarrow.DataType) -> bool:
    """Whether a column's type is an integer or a float."""
    return pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)


def is_text(kind: pyarrow.DataType | None) -> bool:
    """Whether a column's type is a string; False for no column."""
    return kind is not None and (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def read_image(row: dict[str, Any], number: int, split: str, read_by: int) -> dict[str, Any]:
    """The image of a row. `read_by` is only for the fingerprint."""
    try:
        return {"image": one_image(row["image"])}
    except DataError as error:
        raise DataError(f"{split}, row {number}: {error}") from error


def one_image(value: Any) -> dict[str, Any] | None:
    """Bytes and path of an image that is given as path, bytes, base64 text, dict, or list of one of these.

    Raises:
        DataError: there are several images, or `value` is no image.
    """
    if value is None or value == []:
        return None
    if isinstance(value, list):
        if len(value) > 1:
            raise DataError(f"a question is about one image, and there are {len(value)}: give each a row of its own.")
        return one_image(value[0])
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, str):
        encoded = base64_image(value) if MAY_BE_BASE64.match(value) else None
        return {"bytes": encoded, "path": value if encoded is None else None}
    if not isinstance(value, dict) or not {"bytes", "path"} & set(value):
        raise DataError(f"{shortened(repr(value))} is no image: give a path, an image file, or `bytes` and `path`.")
    encoded, path = value.get("bytes"), value.get("path")
    if isinstance(encoded, str):
        encoded = base64_image(encoded) or bytes(encoded, "utf-8")
    return {"bytes": encoded, "path": path} if encoded or not path else one_image(path)
