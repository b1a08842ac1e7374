"""What the text encoder makes of a training's texts: it reads each of them once, and not again at the next start."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from transformers import BartTokenizer

from ..evaluation.answerer import evaluating
from ..evaluation.cache_files import NOT_OF_FEATURES, cache_folder, keep_newest, tensors_hash, text_hash, write_whole
from ..evaluation.shares import batches, from_first, in_shares
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor

TEXTS_A_FILE = 8192
TEXTS_A_BATCH = 256  # that the text encoder reads at once
MAX_BYTES = 2**32  # of all files
# What encodes. Raise the number when the code gives other embeddings.
MADE_BY = {"encoding": 1, "torch": torch.__version__, "transformers": transformers.__version__}

logger = logging.getLogger("mmjepa")


class TextEmbeddings:
    """The text encoder's pooled embeddings of texts, which are kept on disk. It has to be on `device`.

    The files lie in the folder mmjepa/texts of the Hugging Face home (HF_HOME). Each is named by a hash of the
    encoder's weights, the tokenizer, the kind of device and the texts. Those that were used longest ago are deleted.
    With torch.distributed all processes encode, and the first one alone reads and writes.
    """

    def __init__(self, model: MMJepaForConditionalGeneration, processor: MMJepaProcessor, device: torch.device):
        self.model, self.processor, self.device = model, processor, device
        self.encoder_name = from_first(self._name_encoder)
        self.can_write = True

    def _name_encoder(self) -> str:
        text_encoder = self.model.encoder.text_encoder
        fields = text_encoder.config.to_dict()
        return tensors_hash(
            text_encoder.state_dict(),
            {name: value for name, value in fields.items() if name not in NOT_OF_FEATURES},
            str(text_encoder.dtype),
            text_encoder.config._attn_implementation,
            tokenizer_settings(self.processor.tokenizer),
            self.device.type,
            MADE_BY,
        )

    def parts(self, texts: Iterable[str]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """The distinct `texts` in parts, with their embeddings (part, D) on the CPU.

        Their bits depend on all of `texts`, because those that are read together are padded together; they do not
        depend on the number of processes, nor on what else is on the disk.
        """
        distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
        for part in batches(distinct, TEXTS_A_FILE):
            yield part, self._read_or_encode(part)

    def _read_or_encode(self, texts: list[str]) -> torch.Tensor:
        path = cache_folder("texts") / f"{text_hash([self.encoder_name, *texts])}.safetensors"
        shape = (len(texts), self.model.config.text_config.d_model)
        pooled = from_first(lambda: read_embeddings(path, shape))
        if pooled is None:
            pooled = self._encode(texts)
            from_first(lambda: self._write(path, pooled))
        return pooled

    def _encode(self, texts: Sequence[str]) -> torch.Tensor:
        """The embeddings (T, D) of texts; each process encodes a share of the batches."""
        ids = self.processor(text=list(texts), padding=False)["input_ids"]
        order = sorted(range(len(texts)), key=lambda place: len(ids[place]))  # nearly no padding

        def encode_share(places: Sequence[Sequence[int]]) -> list[torch.Tensor]:
            return [self._encode_tokens([ids[place] for place in batch]) for batch in places]

        with evaluating(self.model):
            pooled = torch.cat(in_shares(list(batches(order, TEXTS_A_BATCH)), encode_share))
        return pooled[torch.tensor(order).argsort()]

    def _encode_tokens(self, ids: list[list[int]]) -> torch.Tensor:
        lengths = torch.tensor([len(tokens) for tokens in ids])  # (B,)
        padding = self.processor.tokenizer.pad_token_id
        input_ids = pad_sequence([torch.tensor(tokens) for tokens in ids], batch_first=True, padding_value=padding)
        attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()  # (B, L)
        return self.model.encoder.encode_texts(input_ids.to(self.device), attention_mask.to(self.device)).cpu()

    def _write(self, path: Path, pooled: torch.Tensor) -> None:
        """A training that can't keep its embeddings trains nevertheless."""
        if not self.can_write:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, {"pooled": pooled})
            keep_newest(path.parent, MAX_BYTES)
        except (OSError, SafetensorError) as error:
            self.can_write = False
            logger.warning("%s can't be written (%s): the next start encodes its texts again.", path.parent, error)


def read_embeddings(path: Path, shape: tuple[int, int]) -> torch.Tensor | None:
    """The embeddings of `shape` in a file, which counts as used now; None if there is no such file or it is broken."""
    try:
        pooled = load_file(path)["pooled"]
    except (OSError, SafetensorError, KeyError):
        return None
    with suppress(OSError):  # another user's file
        os.utime(path)
    return pooled if pooled.shape == shape else None


def tokenizer_settings(tokenizer: BartTokenizer) -> list:
    """What decides which tokens a text has."""
    # The settings of the last call are not of it.
    settings = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    return [settings, tokenizer.model_max_length]
