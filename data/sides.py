"""Words of sides: what a text about an image says of the image's mirror image."""

import re
from functools import cache, lru_cache
from typing import NamedTuple


class SideWords(NamedTuple):
    """A language's words of sides, in lower case.

    horizontal: the pairs of words that a mirror from left to right swaps, with a stroke between the two.
    vertical: the pairs that a mirror from top to bottom swaps. A diagonal has a pair in both.
    either: what stands between the two words of a pair whose order says nothing, as in "left or right".
    fixed: a regular expression of words that name a side, but not whether a mirror changes it, nor into what.
    """

    horizontal: str
    vertical: str
    either: str
    fixed: str


ENGLISH = SideWords(
    horizontal="left/right leftmost/rightmost leftward/rightward leftwards/rightwards lefthand/righthand west/east "
    "westward/eastward westwards/eastwards northwest/northeast southwest/southeast",
    vertical="top/bottom topmost/bottommost upper/lower uppermost/lowermost above/below upward/downward "
    "upwards/downwards north/south northward/southward northwards/southwards northwest/southwest northeast/southeast",
    either="or",
    fixed="|".join(
        (
            # Directions of the body and of layers of tissue; the image may show them turned.
            r"((super|infer|anter|poster)ior|dorsal|ventral|caudal|rostral)(ly)?|(sub|supra)jacent",
            r"beneath|under|underneath|over|(under|over)-?(lies|lie|lying|lain)",
            # A mirror turns these round, two mirrors don't.
            r"(anti|counter)?-?clockwise|o['’]?clock",
            # A Western blot has no side; "upside down" is neither.
            r"(up|down)side|(north|south|east|west)ern",
            # Parts of the body: the mirror image of a left ventricle is no right one.
            r"(left|right|upper|lower)(\s+\w+){0,2}\s+(ventric\w+|atri(um|a|al)|coronar(y|ies)|arter(y|ies|ial)|veins?"
            r"|lungs?|lobes?|bronch\w+|kidneys?|ovar(y|ies|ian)|breasts?|eyes?|legs?|arms?|foot|feet|extremit(y|ies))",
        )
    ),
)
SIDE_WORDS = {"en": ENGLISH}  # by language
NO_WORDS = "none"  # in place of a language: nothing is swapped
# From left to right, from top to bottom; in the order of the flips 0 to 3 of [`augment`].
MIRRORS = ((False, False), (True, False), (False, True), (True, True))
WORD = re.compile(r"\w+")


@lru_cache(maxsize=2**16)  # each epoch has the same texts
def mirrored_text(text: str, horizontal: bool, vertical: bool, language: str = "en") -> str:
    """The text that says of the mirrored image what `text` says of the image; capital letters stay.

    Args:
        horizontal: the image is mirrored from left to right.
        vertical: it is mirrored from top to bottom.
        language: of [`SIDE_WORDS`]; "none" swaps nothing.
    """
    if language == NO_WORDS:
        return text
    words = SIDE_WORDS[language]
    for is_mirrored, pairs in ((horizontal, words.horizontal), (vertical, words.vertical)):
        if is_mirrored:
            text = swapped_text(text, *swapping(pairs, words.either))
    return text


def keeps_sides(text: str, language: str = "en") -> bool:
    """Whether the text would be wrong for a mirrored image and [`mirrored_text`] can't put it right.

    Args:
        language: of [`SIDE_WORDS`]; with "none" this is any text that names a side, in any of the languages.
    """
    return unswappable(language).search(text) is not None


def add_mirrored(numbers: dict[str, int], language: str) -> list[list[int]]:
    """Adds what T texts become in mirror images to `numbers`, text -> number, where they are not there yet.

    Returns:
        The number of each text (4, T) where the image is as it is, mirrored from left to right, from top to bottom,
        and both.
    """
    mirrored = [list(numbers.values()) for _ in MIRRORS]
    # Looking a text's words up is ten times as fast as searching the text for all words of sides.
    sides = words_of_sides(language)
    sided = [(place, text) for place, text in enumerate(numbers) if not sides.isdisjoint(WORD.findall(text.lower()))]
    for mirror, row in zip(MIRRORS, mirrored, strict=True):
        for place, text in sided:
            row[place] = numbers.setdefault(mirrored_text(text, *mirror, language), len(numbers))
    return mirrored


@cache
def words_of_sides(language: str) -> frozenset[str]:
    """The words without which [`mirrored_text`] changes no text, in lower case."""
    if language == NO_WORDS:
        return frozenset()
    words = SIDE_WORDS[language]
    return frozenset(WORD.findall(f"{words.horizontal} {words.vertical}"))


@cache
def swapping(pairs: str, either: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """A pattern that finds the words of `pairs`, and each word's partner.

    The pattern also finds "left or right" as a whole, which has no partner: it asks the same about the mirrored image.
    """
    swaps: dict[str, str] = {}
    for first, second in (pair.split("/") for pair in pairs.split()):
        swaps |= {first: second, second: first}
    both = [rf"{word}\s+{re.escape(either)}\s+{partner}" for word, partner in swaps.items()]
    return whole_words("|".join([*both, *map(re.escape, swaps)])), swaps


@cache
def unswappable(language: str) -> re.Pattern[str]:
    """What [`keeps_sides`] looks for."""
    if language != NO_WORDS:
        return whole_words(SIDE_WORDS[language].fixed)
    found = []
    for words in SIDE_WORDS.values():
        found += [words.fixed, *map(re.escape, re.findall(r"[^/\s]+", f"{words.horizontal} {words.vertical}"))]
    return whole_words("|".join(found))


def whole_words(pattern: str) -> re.Pattern[str]:
    """`pattern` where neither letters nor digits stand next to it, in any case."""
    return re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)


def swapped_text(text: str, pattern: re.Pattern[str], swaps: dict[str, str]) -> str:
    """The text with the partner of each word that `pattern` finds and that has one, in the word's capital letters."""

    def partner(match: re.Match[str]) -> str:
        word = match[0]
        other = swaps.get(word.lower(), word)
        if word.isupper():
            return other.upper()
        return other[0].upper() + other[1:] if word[0].isupper() else other

    return pattern.sub(partner, text)
