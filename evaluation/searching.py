"""Ranks images by how probably statements are true of them, or by another image."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch.nn import functional as F

from ..configuration_mmjepa import MMJepaConfig
from ..data.image_files import FoundImages
from ..encoder_mmjepa import MMJepaImageFeatures
from ..modeling_mmjepa import MMJepaForConditionalGeneration
from ..processing_mmjepa import MMJepaProcessor
from .answerer import Answerer, evaluating
from .feature_cache import FeatureCache, encode_images, open_cache
from .judging import check_statements, statement_notes
from .taught import TaughtStatement, Wording, nearest_taught, taught_to

TOKEN_LIMIT = 2 * 1024**3  # bytes of visual tokens that are read to rank images; more images are shortlisted

logger = logging.getLogger("mmjepa")


@dataclass
class SearchResult:
    """Which of N images show what was asked, and how sure that is.

    title: what was asked, in one line.
    places: number of each of the N images among those that were searched. Images that can't be read, copies of others,
        and images that the shortlist left out are not among them.
    names: of these images.
    scores (N,): the probability that all, or any, of the statements are true; with an image, the cosine with it.
    statements: the S distinct statements in the wording that the model was asked; those of `negated` should be false.
    probabilities (N, S): that a statement is true of an image.
    unreadable: name of an image that can't be read -> what is wrong with it.
    num_copies: how many images are copies of others.
    notes: what people should know before they read the result, each in one line.
    wordings: how each of the given statements is asked, and the nearest taught ones.
    """

    title: str
    places: list[int]
    names: list[str]
    scores: torch.Tensor
    statements: list[str]
    negated: set[str]
    probabilities: torch.Tensor
    unreadable: dict[str, str] = field(default_factory=dict)
    num_copies: int = 0
    notes: list[str] = field(default_factory=list)
    wordings: list[Wording] = field(default_factory=list)

    @property
    def score_name(self) -> str:
        """What `scores` are."""
        return "probability" if self.statements else "cosine"

    @property
    def ranking(self) -> list[int]:
        """The rows of the images, the best first."""
        return self.scores.argsort(descending=True, stable=True).tolist()


def search(
    model: MMJepaForConditionalGeneration,
    processor: MMJepaProcessor,
    found: FoundImages,
    statements: Sequence[str] = (),
    negated: Sequence[str] = (),
    any_of: bool = False,
    like: Image.Image | str | None = None,
    taught: Sequence[TaughtStatement] | None = None,
    every_image: bool = False,
    cache: FeatureCache | None = None,
    batch_size: int = 32,
    show_progress: bool = False,
    say: Callable[[str], None] = logger.warning,
) -> SearchResult:
    """Searches images for what statements say, or for what looks like another image.

    Each image is encoded once: its features are kept on disk (see `feature_cache`).

    Args:
        found: of `find_images`.
        statements: that should be true, in the words of the training where they are known.
        negated: statements that should be false.
        any_of: one of them is enough, else all count: the probabilities are combined as if they were independent.
        like: an image, or its file, in place of statements.
        taught: what the model was taught; by default what was kept in the folder that it was loaded from.
        every_image: scores every image, also where the tokens of all take more than `TOKEN_LIMIT` to read. By default
            the images' vectors then choose the images that are scored.
        cache: where the features of images are kept; by default the model's own on this machine.
        say: is called at once with each of the notes.

    Raises:
        ValueError: there is nothing to search for, a statement is empty, the model can't score statements, or no image
            can be read.
    """
    check_asked(model.config, [*statements, *negated], like)
    answerer = Answerer(model, processor, batch_size)
    query = make_query(answerer, statements, negated, any_of, like, taught, show_progress)
    for note in query.notes:
        say(note)

    cache = open_cache(model, processor) if cache is None else cache
    faults = encode_images(answerer, found, cache, show_progress)
    first_places: dict[str, int] = {}
    for place, key in enumerate(found.keys):
        if place not in faults:
            first_places.setdefault(cache.images[key], place)
    images, places = list(first_places), list(first_places.values())
    num_copies = len(found) - len(faults) - len(images)

    limit = TOKEN_LIMIT // (2 * model.config.num_image_tokens * model.config.text_config.d_model)
    if query.statements and not every_image and len(images) > limit:
        kept = shortlist(vector_cosines(cache, images, query.embeds), query.is_negated, any_of, limit)
        images, places = [images[row] for row in kept], [places[row] for row in kept]
    unreadable = {found.names[number]: fault for number, fault in faults.items()}
    names = [found.names[place] for place in places]
    return search_result(model, query, cache, images, names, places, unreadable, num_copies)


@dataclass
class Query:
    """What is searched for.

    title: in one line.
    embeds: the targets (S, D) of the S statements, or the vector (1, D) of an image.
    any_of: one of the statements is enough, else all count.
    statements, negated, notes, wordings: as of [`SearchResult`]; there are none with an image.
    """

    title: str
    embeds: torch.Tensor
    any_of: bool = False
    statements: list[str] = field(default_factory=list)
    negated: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    wordings: list[Wording] = field(default_factory=list)

    @property
    def is_negated(self) -> torch.Tensor:
        """(S,), whether a statement should be false."""
        return torch.tensor([text in self.negated for text in self.statements])


def make_query(
    answerer: Answerer,
    statements: Sequence[str],
    negated: Sequence[str],
    any_of: bool,
    like: Image.Image | str | None,
    taught: Sequence[TaughtStatement] | None,
    show_progress: bool = False,
) -> Query:
    """Encodes what is searched for; the arguments are those of `search`. ValueError: it contradicts itself."""
    model = answerer.model
    if like is not None:
        pixel_values = answerer.processor(images=like, return_tensors="pt")["pixel_values"]  # (1, 3, H, W)
        with evaluating(model):
            features = model.get_image_features(pixel_values.to(model.device))
        return Query(f"images like {like}", features.image_embeds.float())
    taught = taught_to(model) if taught is None else taught
    wordings = nearest_taught(answerer, [*statements, *negated], taught, show_progress)
    asked = list(dict.fromkeys(wording.asked for wording in wordings))
    unwanted = {wording.asked for wording in wordings[len(statements) :]}
    if both := unwanted & {wording.asked for wording in wordings[: len(statements)]}:
        raise ValueError(f"{both.pop()!r} can't be both true and false: give it once.")
    return Query(
        title=search_title(asked, unwanted, any_of),
        embeds=answerer.encode_all_texts(asked, model.encode_texts),
        any_of=any_of,
        statements=asked,
        negated=unwanted,
        notes=statement_notes(model.config, wordings),
        wordings=wordings,
    )


def search_result(
    model: MMJepaForConditionalGeneration,
    query: Query,
    cache: FeatureCache,
    images: Sequence[str],
    names: list[str],
    places: list[int],
    unreadable: dict[str, str],
    num_copies: int = 0,
) -> SearchResult:
    """Scores N `images` of a cache by a query; the other arguments are as of [`SearchResult`]."""
    if query.statements:
        probabilities = truth_probabilities(model, cache, images, query.embeds)  # (N, S)
        scores = combined(probabilities, query.is_negated, query.any_of)  # (N,)
    else:
        scores = vector_cosines(cache, images, query.embeds)[:, 0]  # (N,)
        probabilities = scores.new_zeros(len(images), 0)
    return SearchResult(
        title=query.title,
        places=places,
        names=names,
        scores=scores,
        statements=query.statements,
        negated=query.negated,
        probabilities=probabilities,
        unreadable=unreadable,
        num_copies=num_copies,
        notes=query.notes,
        wordings=query.wordings,
    )


def check_asked(config: MMJepaConfig, statements: Sequence[str], like: Image.Image | str | None) -> None:
    """Raises ValueError where there is nothing to search for, or the model can't search for it."""
    if like is not None:
        if statements:
            raise ValueError("both statements and an image to be like are given: give one of them.")
        return
    check_statements(config, statements)


def search_title(statements: Sequence[str], negated: Collection[str], any_of: bool) -> str:
    """Statements in one line, as they are combined."""
    parts = [f"not: {text}" if text in negated else text for text in statements]
    return (" or " if any_of else " and ").join(parts)


def vector_cosines(cache: FeatureCache, images: Sequence[str], others: torch.Tensor) -> torch.Tensor:
    """Cosines (N, S), float32, of N images' vectors with other vectors (S, D)."""
    others = F.normalize(others.cpu().float(), dim=-1)
    cosines = torch.empty(len(images), len(others))
    for rows, (image_embeds,) in cache.read(images, "image_embeds"):
        cosines[rows] = F.normalize(image_embeds.float(), dim=-1) @ others.T
    return cosines


def truth_probabilities(
    model: MMJepaForConditionalGeneration, cache: FeatureCache, images: Sequence[str], embeds: torch.Tensor
) -> torch.Tensor:
    """The probabilities (N, S), float32, that statements, of targets (S, D), are true of images."""
    probabilities = torch.empty(len(images), len(embeds))
    with evaluating(model):
        for rows, features in cache.read(images, "image_embeds", "visual_tokens"):
            image_embeds, visual_tokens = (states.to(model.device, model.dtype) for states in features)
            known = MMJepaImageFeatures(image_embeds=image_embeds, visual_tokens=visual_tokens)
            probabilities[rows] = model.score_statements(embeds, image_features=known).cpu()
    return probabilities


def combined(probabilities: torch.Tensor, is_negated: torch.Tensor, any_of: bool) -> torch.Tensor:
    """The probabilities (N,), float64, that all statements hold, or any of them.

    Args:
        probabilities: of the statements, (N, S).
        is_negated: (S,), whether a statement should be false.
    """
    wanted = probabilities.double()
    wanted = torch.where(is_negated, 1 - wanted, wanted)
    return 1 - (1 - wanted).prod(dim=1) if any_of else wanted.prod(dim=1)


def shortlist(cosines: torch.Tensor, is_negated: torch.Tensor, any_of: bool, count: int) -> list[int]:
    """The rows of `count` images, by cosines (N, S) of their vectors with statements, each in its own deviations."""
    wanted = (cosines - cosines.mean(dim=0)) / cosines.std(dim=0).clamp(min=1e-6)
    wanted = torch.where(is_negated, -wanted, wanted)
    best = wanted.amax(dim=1) if any_of else wanted.amin(dim=1)  # (N,)
    return best.topk(count).indices.sort().values.tolist()
