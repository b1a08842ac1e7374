"""What a model says without writing an answer: features of images and texts, and scores of statements and answers.

Symbols in the shape comments: B questions, I distinct images, S statements, K answers of a closed list, L tokens of
width D, M visual tokens, A answer tokens, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.bart.modeling_bart import BartDecoder, shift_tokens_right
from transformers.utils.generic import can_return_tuple

from .alignment_mmjepa import MMJepaAlignment
from .configuration_mmjepa import MMJepaConfig
from .encoder_mmjepa import MMJepaEncoder, MMJepaEncoderOutput, MMJepaImageFeatures, MMJepaPreTrainedModel
from .losses_mmjepa import MMJepaAnswerPrediction
from .targets_mmjepa import TargetSpace


def check_tells_truth(config: MMJepaConfig) -> None:
    """Raises ValueError where a model can't tell whether a statement is true."""
    if not config.truth_weight > 0:
        raise ValueError(
            "truth_weight is 0: this model was not trained to tell true statements from false ones; train a new one "
            "with alignment_loss 'infonce' and a truth_weight above 0."
        )


class MMJepaScoringModel(MMJepaPreTrainedModel):
    """The parts of the model, and what they say of images, statements and answers without writing anything."""

    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}

    def __init__(self, config: MMJepaConfig):
        super().__init__(config)
        self.encoder = MMJepaEncoder(config)
        self.decoder = BartDecoder(config.text_config)
        self.lm_head = nn.Linear(config.text_config.d_model, config.text_config.vocab_size, bias=False)
        # BART's own buffer: without it a BART checkpoint's scores could not be reproduced or exported.
        self.register_buffer("final_logits_bias", torch.zeros(1, config.text_config.vocab_size))
        self.alignment = MMJepaAlignment(config)
        if config.predict_answer:
            self.answer_prediction = MMJepaAnswerPrediction(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if module is self.lm_head:
            init.normal_(module.weight, std=self.config.text_config.init_std)
        elif module is self:
            init.zeros_(self.final_logits_bias)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Decoder inputs (B, A) that predict `labels` (B, A): shifted right, -100 made padding."""
        text_config = self.config.text_config
        return shift_tokens_right(labels, text_config.pad_token_id, text_config.decoder_start_token_id)

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> MMJepaImageFeatures:
        """Encodes images (I, 3, H, W) once, for any number of later `forward` or `generate(image_features=...)`."""
        return self.encoder.get_image_features(pixel_values, **kwargs)

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """The targets of texts (B, L) as `pooler_output` (B, D), as CLIP gives them; see `encode_texts`."""
        return BaseModelOutputWithPooling(pooler_output=self.encode_texts(input_ids, attention_mask))

    @torch.no_grad()
    def fit_targets(
        self,
        processor: Callable[..., Mapping[str, torch.Tensor]],
        texts: Iterable[str],
        answers: Iterable[str] = (),
        batch_size: int = 256,
    ) -> None:
        """Fits a new model's targets to the texts before it trains. As they are, different texts are nearly equal.

        The targets of the alignment, by `alignment_target`, become the distance to the mean embedding of the distinct
        `texts`, whitened or not. The targets of the predicted answers are fitted to the distinct `answers` in the same
        way, centred at least. Both are saved with the model: a loaded model keeps what it was trained with.

        Args:
            processor: a [`MMJepaProcessor`] or its tokenizer.
            texts: the texts that the training images are aligned to; `alignment_text` of the configuration says which
                text of a row that is. Empty texts are ignored; without any text the targets stay as they are.
            answers: the training answers, as `texts`.
            batch_size: texts at once.
        """

        def pooled(texts: Iterable[str]) -> Iterator[torch.Tensor]:
            distinct = sorted({text for text in texts if text}, key=lambda text: (len(text), text))  # little padding
            device = self.encoder.text_encoder.device
            for start in range(0, len(distinct), batch_size):
                batch = distinct[start : start + batch_size]
                tokens = processor(text=batch, padding=True, truncation=True, return_tensors="pt")
                yield self.encoder.encode_texts(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))

        for targets, given in zip(self.target_spaces(), (texts, answers), strict=False):
            targets.fit(pooled(given))

    def target_spaces(self) -> list[TargetSpace]:
        """Of the alignment's texts, and of the answers if they are predicted."""
        return [self.alignment.targets, *([self.answer_prediction.targets] if self.config.predict_answer else [])]

    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The unit alignment targets (B, D) of texts (B, L), to compare with the images' `image_embeds`."""
        return self.alignment.targets(self.encoder.encode_texts(input_ids, attention_mask))

    @torch.no_grad()
    def score_statements(
        self,
        statement_embeds: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_features: MMJepaImageFeatures | None = None,
    ) -> torch.Tensor:
        """How probably each of S statements is true of each of I images -> (I, S), float32. No decoder runs.

        Args:
            statement_embeds: (S, D) of `encode_texts`. Compute them once, and give them with any number of images.
            pixel_values, image_features: the images (I, 3, H, W), or what `get_image_features` made of them, of which
                image_embeds and visual_tokens are read.

        Example:
            >>> statements = model.encode_texts(**processor(text=["is necrosis seen?"], return_tensors="pt"))
            >>> model.score_statements(statements, processor(image, return_tensors="pt")["pixel_values"])

        Raises:
            ValueError: the model can't tell true statements from false ones, or there are no images.
        """
        logits = self.statement_logits(statement_embeds, pixel_values, image_features)
        return (logits / (self.config.truth_temperature or 1.0)).sigmoid()

    @torch.no_grad()
    def statement_logits(
        self,
        statement_embeds: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_features: MMJepaImageFeatures | None = None,
    ) -> torch.Tensor:
        """The logits of `score_statements`, before `truth_temperature` divides them."""
        check_tells_truth(self.config)
        if image_features is None:
            image_features = self.get_image_features(pixel_values)
        return self._truth_logits(image_features, statement_embeds)

    @torch.no_grad()
    def statement_attentions(
        self, statement_embeds: torch.Tensor, image_features: MMJepaImageFeatures
    ) -> torch.Tensor | None:
        """How much of each patch each statement reads -> (I, S, P), by way of the visual tokens, the mean over heads.

        It adds up to less than 1 where a statement reads the image's vector. None if statements read no tokens, or
        these no patches.
        """
        reader, read_by_tokens = self.alignment.reader, image_features.visual_token_attentions  # (I, M, P)
        if reader is None or read_by_tokens is None:
            return None
        weights = reader.attention(image_features.visual_tokens, statement_embeds).mean(dim=1).mT  # (I, S, M)
        return weights @ read_by_tokens.to(weights)

    def encode_answers(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The unit targets (K, D) of K answers (K, A). Compute them once, and give them to `rank_answers`.

        Raises:
            ValueError: the model does not predict embeddings of answers.
        """
        return self._answer_prediction().targets(self.encoder.encode_texts(input_ids, attention_mask))

    @torch.no_grad()
    def rank_answers(self, answer_embeds: torch.Tensor, **inputs) -> torch.Tensor:
        """Scores (B, K), float32, of K answers to B questions about I images, in one step of the decoder.

        A score says how much more likely the image and the question make an answer than it is in the training data.
        To compare rare answers with frequent ones, add the logarithms of the answers' frequencies; the softmax then
        gives probabilities.

        Args:
            answer_embeds: (K, D) of `encode_answers`.
            inputs: questions and images as for `forward`: input_ids, attention_mask, pixel_values, image_index,
                image_features or encoder_outputs.

        Example:
            >>> answer_embeds = model.encode_answers(**processor(text=answers, return_tensors="pt"))
            >>> scores = model.rank_answers(answer_embeds, **processor(image, questions, return_tensors="pt"))
            >>> best = [answers[row] for row in scores.argmax(dim=-1)]

        Raises:
            ValueError: the model does not predict embeddings of answers.
        """
        prediction = self._answer_prediction()
        encoder_outputs = inputs.get("encoder_outputs") or self.encoder(**inputs)
        states = self._decode_start(encoder_outputs)  # (B, D)
        return prediction.scores(states, answer_embeds)

    @torch.no_grad()
    def answer_log_likelihoods(self, answer_labels: torch.Tensor, batch_size: int = 256, **inputs) -> torch.Tensor:
        """The decoder's log-likelihoods (B, K), float32, of K answers to B questions: the exact, slow score.

        Args:
            answer_labels: (K, A), -100 where there is no token, as the processor's `labels`.
            batch_size: pairs of question and answer at once.
            inputs: questions and images as for `rank_answers`.
        """
        encoder_outputs = inputs.get("encoder_outputs") or self.encoder(**inputs)
        states = encoder_outputs.last_hidden_state  # (B, M+L, D)
        answer_labels = answer_labels.to(states.device)
        count, num_answers = len(states), len(answer_labels)
        pairs = torch.cartesian_prod(torch.arange(count), torch.arange(num_answers)).to(states.device)
        likelihoods = []
        for rows, answers in (chunk.unbind(dim=1) for chunk in pairs.split(batch_size)):
            labels = answer_labels[answers]  # (pairs, A)
            outputs = self.decoder(
                self.prepare_decoder_input_ids_from_labels(labels),
                encoder_hidden_states=states[rows],
                encoder_attention_mask=encoder_outputs.attention_mask[rows],
                use_cache=False,
            )
            logits = self._score(outputs.last_hidden_state).float()  # (pairs, A, V)
            labels = labels.to(logits.device)
            tokens = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # (pairs, A), 0 at -100
            likelihoods.append(-tokens.sum(dim=1))
        return torch.cat(likelihoods).view(count, num_answers)

    def _answer_prediction(self) -> MMJepaAnswerPrediction:
        if not self.config.predict_answer:
            raise ValueError(
                f"predict_answer is False, lambda_answer is {self.config.lambda_answer}: this model has no weights "
                "that predict embeddings of answers; start a new one with a lambda_answer above 0, or leave it at 0 "
                "and compare answers by `answer_log_likelihoods`."
            )
        return self.answer_prediction

    def _decode_start(self, encoder_outputs: MMJepaEncoderOutput) -> torch.Tensor:
        """The decoder's state (B, D) at its first position, which every answer starts with."""
        states, start = encoder_outputs.last_hidden_state, self.config.text_config.decoder_start_token_id
        return self.decoder(
            torch.full((len(states), 1), start, device=states.device),
            encoder_hidden_states=states,
            encoder_attention_mask=encoder_outputs.attention_mask,
            use_cache=False,
        ).last_hidden_state[:, 0]

    def _truth_logits(
        self, images: MMJepaImageFeatures | MMJepaEncoderOutput, statement_embeds: torch.Tensor
    ) -> torch.Tensor:
        """Logits (I, S) of S statements, of targets (S, D), being true of images."""
        read, _ = self.alignment.cosines(images.image_embeds, images.visual_tokens, statement_embeds)  # (I, S)
        return self.alignment.truth_logits(read)

    def _score(self, answer_states: torch.Tensor) -> torch.Tensor:
        logits = self.lm_head(answer_states)
        return logits + self.final_logits_bias.to(logits.device)
