"""The alignment: how well a statement fits an image, by the image's vector and by what the statement reads of it.

Symbols in the shape comments: B rows of this process, G rows of all processes, K wrong statements of a row, S
statements, I images, M visual tokens, D the text encoder's width, d the width of a head.
"""

import math
from typing import TypedDict

import torch
from torch import distributed, nn
from torch.nn import functional as F

from .configuration_mmjepa import MMJepaConfig
from .losses_mmjepa import MAX_LOGIT_SCALE, gather_rows, is_distributed
from .targets_mmjepa import TargetSpace

NUM_HEADS = 4
# Weight of the image's vector alone in the contrast: it stays good for a search among images whose tokens take too
# much memory.
VECTOR_WEIGHT = 0.5
# Logarithm of the scale of truth at the start, that of SigLIP (arXiv 2303.15343).
INITIAL_TRUTH_SCALE = math.log(10)


class MMJepaStatements(TypedDict, total=False):
    """What the alignment loss reads of the statements of B rows.

    embeds (B, D): their unit targets, of `encode_texts`.
    ids (B,): a number for each distinct text, the same on every process; -1 where a row has no statement.
    signs (B,): 1 where the statement is true of the row's image, -1 where it is false; by default all are true.
    wrong_embeds (B, K, D), has_wrong (B, K): the targets of K statements that are false of the row's image, and which
        of them there are; by default there are none.
    """

    embeds: torch.Tensor
    ids: torch.Tensor
    signs: torch.Tensor
    wrong_embeds: torch.Tensor
    has_wrong: torch.Tensor


class MMJepaStatementReader(nn.Module):
    """Compares statements with images by what they read of the images' visual tokens.

    A statement t attends to the tokens, and what it reads is added to the image's vector p. This sum is compared with
    t: cos(p + read, t). FLAIR (arXiv 2412.03561) lets captions pool the patches in this way. The statement decides
    only where to look: the values are the image's alone, so the statement can't write itself into the sum.

    A tensor (I, S, D) is not made of many statements. The cosine needs read . t, read . p and |read|^2, which follow
    from the attention weights and from products of an image's values with t, with p and with each other.
    """

    def __init__(self, width: int):
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)

    def attention(self, visual_tokens: torch.Tensor, statements: torch.Tensor) -> torch.Tensor:
        """How much of each visual token (I, M, D) each head of each statement (S, D) reads -> (I, heads, M, S).

        M before S: a CPU normalises over a short last axis number by number, many times more slowly.
        """
        query = self._heads(self.q_proj, statements)  # (S, heads, d)
        key = self._heads(self.k_proj, visual_tokens)  # (I, M, heads, d)
        return (torch.einsum("shd,imhd->ihms", query, key) / query.shape[-1] ** 0.5).softmax(dim=2)

    def forward(
        self, image_vectors: torch.Tensor, visual_tokens: torch.Tensor, statements: torch.Tensor
    ) -> torch.Tensor:
        """Cosines (I, S), float32, of unit vectors (I, D), their tokens (I, M, D), and unit statements (S, D)."""
        if self._has_plain_weights and len(statements) < visual_tokens.shape[1]:
            return self._few_cosines(image_vectors, visual_tokens.float(), statements)
        weights = self.attention(visual_tokens, statements)  # (I, heads, M, S)
        values = self._heads(self.v_proj, visual_tokens).transpose(1, 2)  # (I, heads, M, d)
        statement_parts = statements.unflatten(-1, (NUM_HEADS, -1))  # (S, heads, d)
        vector_parts = image_vectors.unflatten(-1, (NUM_HEADS, -1))  # (I, heads, d)
        read_statement = (weights * torch.einsum("ihmd,shd->ihms", values, statement_parts)).sum(dim=(1, 2))  # (I, S)
        read_vector = torch.einsum("ihms,ihm->is", weights, torch.einsum("ihmd,ihd->ihm", values, vector_parts))
        read_read = (values @ values.mT @ weights * weights).sum(dim=(1, 2))  # (I, S)
        length = (1 + 2 * read_vector + read_read).clamp(min=1e-6).sqrt()  # of p + read, (I, S)
        return (image_vectors @ statements.T + read_statement) / length

    @property
    def _has_plain_weights(self) -> bool:
        """Whether the weights alone decide what the projections give, as with no adapter, and nothing learns them.

        A graph that is compiled or exported stays the same for any number of statements.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        layers = (self.k_proj, self.v_proj)
        return all(type(layer) is nn.Linear and type(layer.weight) is nn.Parameter for layer in layers)

    def _few_cosines(
        self, image_vectors: torch.Tensor, visual_tokens: torch.Tensor, statements: torch.Tensor
    ) -> torch.Tensor:
        """The same with fewer statements than an image has tokens, as in a search: the tokens are not projected.

        The query goes through the weights of the keys instead, which add the same to all tokens' scores by their bias.
        The values' weights see the mean of the tokens that a head reads.
        """
        query = self._heads(self.q_proj, statements)  # (S, heads, d)
        key_weight = self.k_proj.weight.float().unflatten(0, (NUM_HEADS, -1))  # (heads, d, D)
        value_weight = self.v_proj.weight.float().unflatten(0, (NUM_HEADS, -1))
        token_query = torch.einsum("shd,hdw->shw", query, key_weight).flatten(0, 1)  # (S * heads, D)
        scores = token_query @ visual_tokens.mT / query.shape[-1] ** 0.5  # (I, S * heads, M)
        read_tokens = (scores.softmax(dim=-1) @ visual_tokens).unflatten(1, (-1, NUM_HEADS))  # (I, S, heads, D)
        read = torch.einsum("ishw,hdw->ishd", read_tokens, value_weight).flatten(-2) + self.v_proj.bias  # (I, S, D)
        seen = image_vectors[:, None] + read
        # `forward` has the same limit of the length.
        length = seen.square().sum(dim=-1).clamp(min=1e-6).sqrt()
        return (seen * statements).sum(dim=-1) / length  # (I, S)

    def _heads(self, projection: nn.Linear, states: torch.Tensor) -> torch.Tensor:
        return projection(states.to(projection.weight.dtype)).float().unflatten(-1, (NUM_HEADS, -1))


class MMJepaAlignment(nn.Module):
    """Scores statements about images, and the loss of these scores, one number per row.

    The loss compares images with the statements of all processes, as open_clip does: under torch.distributed every
    process has to compute it. Accumulated batches are not compared with each other.
    """

    def __init__(self, config: MMJepaConfig):
        super().__init__()
        width = config.text_config.d_model
        self.loss = config.alignment_loss
        self.truth_weight = config.truth_weight
        self.targets = TargetSpace(config.alignment_target, width)
        # Vectors of one number: FSDP can't divide a tensor without dimensions.
        if self.loss == "infonce":
            self.logit_scale = nn.Parameter(torch.empty(1))
        if self.truth_weight > 0:
            self.truth_scale = nn.Parameter(torch.empty(1))
            self.truth_bias = nn.Parameter(torch.empty(1))
        self.reader = MMJepaStatementReader(width) if config.alignment_reads == "tokens" else None

    def cosines(
        self, image_embeds: torch.Tensor, visual_tokens: torch.Tensor, statements: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines of images and unit statements (S, D), with what the statements read and by the vectors alone.

        Both are (I, S) in float32, and the same where statements read nothing.

        Args:
            image_embeds, visual_tokens: of the images, (I, D) and (I, M, D).
        """
        # A model may lie on several devices.
        device = self.logit_scale.device
        # Autocast would compute a product of float32 in bfloat16.
        with torch.autocast(device.type, enabled=False):
            vectors = F.normalize(image_embeds.to(device).float(), dim=-1)  # (I, D)
            statements = statements.to(device).float()
            by_vector = vectors @ statements.T  # (I, S)
            if self.reader is None:
                return by_vector, by_vector
            return self.reader(vectors, visual_tokens.to(device), statements), by_vector

    def truth_logits(self, cosines: torch.Tensor) -> torch.Tensor:
        """Logits of being true, of the cosines of images and statements."""
        return self.truth_scale.float().exp() * cosines + self.truth_bias.float()

    def forward(
        self,
        image_embeds: torch.Tensor,
        visual_tokens: torch.Tensor,
        image_index: torch.Tensor,
        statements: MMJepaStatements,
        image_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Losses (B,), one per row; 0 where a row has no statement.

        "cosine": 1 - cos of image and statement. "infonce": of a true statement among all statements of the batch and
        the wrong ones of its own row. A statement that is false of the same image is a wrong one too. Not counted are
        what else is true of the image, and equal texts. To this `truth_weight` adds the binary loss of each row's
        statements being true or false.

        Args:
            image_embeds, visual_tokens: of images, (I, D) and (I, M, D).
            image_index: the image (B,) of each row.
            image_ids: a number for each image (I,), the same on every process; negative for a stand-in that is no
                image. By default, images of different processes are different.
        """
        embeds, ids = statements["embeds"].float(), statements["ids"]
        has_text = ids >= 0  # (B,)
        if self.loss == "cosine":
            vectors = F.normalize(image_embeds.float(), dim=-1)[image_index]  # (B, D)
            return (1 - (vectors * embeds.to(vectors.device)).sum(dim=-1)) * has_text.to(vectors.device)
        signs = statements.get("signs", torch.ones_like(ids))
        if image_ids is None:
            process = distributed.get_rank() if is_distributed() else 0
            image_ids = torch.arange(len(image_embeds), device=ids.device) + (process << 32)
        (texts, *of_rows), own = gather_rows(embeds, ids, signs, image_ids[image_index])  # (G, D), (G,) each
        num_wrong = statements["wrong_embeds"].shape[1] if "wrong_embeds" in statements else 0
        wrong = statements["wrong_embeds"].flatten(0, 1).float() if num_wrong else embeds[:0]  # (B*K, D)
        wrong_counts = statements["has_wrong"] if num_wrong else has_text.new_zeros(len(ids), 0)  # (B, K)
        counts = torch.cat([comparable(own, *of_rows), own_wrong(wrong_counts)], dim=1)  # (B, G+B*K)
        rows = torch.arange(len(ids), device=ids.device)

        cosines = self.cosines(image_embeds, visual_tokens, torch.cat([texts, wrong]))  # (I, G+B*K) each
        read, by_vector = (values.to(ids.device)[image_index] for values in cosines)  # (B, G+B*K)
        if self.training:
            with torch.no_grad():
                self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        contrast = self._contrast(read, counts, own.start + rows)
        if self.reader is not None:
            contrast = contrast + VECTOR_WEIGHT * self._contrast(by_vector, counts, own.start + rows)
        losses = contrast * (signs > 0)
        if self.truth_weight > 0:
            own_wrong_cosines = read[:, len(texts) :].unflatten(1, (len(ids), num_wrong))[rows, rows]  # (B, K)
            own_cosines = torch.cat([read[rows, own.start + rows, None], own_wrong_cosines], dim=1)  # (B, 1+K)
            own_signs = torch.cat([signs[:, None], -wrong_counts.to(signs)], dim=1)  # (B, 1+K), 0 for none
            losses = losses + self.truth_weight * self._truth_loss(own_cosines, own_signs)
        return losses * has_text

    def _contrast(self, cosines: torch.Tensor, counts: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Losses (B,) of the `right` (B,) columns of `cosines` (B, N) among those that count."""
        logits = self.logit_scale.float().exp().to(cosines.device) * cosines
        log_shares = logits.masked_fill(~counts, float("-inf")).log_softmax(dim=-1)
        return -log_shares.gather(1, right[:, None])[:, 0]

    def _truth_loss(self, cosines: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        """Mean losses (B,) of each row's statements with their cosines and signs (B, 1+K); 0 is no statement."""
        logits = self.truth_logits(cosines.to(self.truth_bias.device)).to(cosines.device)
        losses = F.softplus(-signs * logits) * signs.abs()
        return losses.sum(dim=1) / signs.abs().sum(dim=1).clamp(min=1)


def comparable(own: slice, ids: torch.Tensor, signs: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Which of the G rows of all processes count in the contrast of this process's rows -> (B, G).

    Those are a row itself, and rows with another text that is not true of its image. A row always counts for itself,
    or its softmax would have no column.

    Args:
        own: which of the G rows are this process's.
        ids, signs, images: of the G rows, (G,).
    """
    same_text = ids[own, None] == ids
    true_of_image = (images[own, None] == images) & (signs > 0)
    is_statement = (ids >= 0) & (images >= 0)  # (G,)
    places = torch.arange(len(ids), device=ids.device)
    return (is_statement & ~same_text & ~true_of_image) | (places[own, None] == places)


def own_wrong(has_wrong: torch.Tensor) -> torch.Tensor:
    """Which of the B*K wrong statements of all rows count for each row: its own, of `has_wrong` (B, K) -> (B, B*K)."""
    is_own = torch.eye(len(has_wrong), dtype=torch.bool, device=has_wrong.device)  # (B, B)
    return (is_own[:, :, None] & has_wrong[:, None].bool()).flatten(1)
