"""Words of sides: what they become in texts about mirror images, and which texts forbid a mirror."""

import pytest

from mmjepa.data.sides import MIRRORS, NO_WORDS, SIDE_WORDS, SideWords, add_mirrored, keeps_sides, mirrored_text

WORDS = [
    (word, language)
    for language, lists in SIDE_WORDS.items()
    for word in f"{lists.horizontal} {lists.vertical}".replace("/", " ").split()
]


@pytest.mark.parametrize(
    ("text", "left_to_right", "top_to_bottom", "both"),
    [
        ("upper left", "upper right", "lower left", "lower right"),
        ("to the left of it", "to the right of it", "to the left of it", "to the right of it"),
        ("at the top", "at the top", "at the bottom", "at the bottom"),
        ("Left, RIGHT, Below", "Right, LEFT, Below", "Left, RIGHT, Above", "Right, LEFT, Above"),
        (
            "the left-sided, leftmost",
            "the right-sided, rightmost",
            "the left-sided, leftmost",
            "the right-sided, rightmost",
        ),
        ("northwest", "northeast", "southwest", "southeast"),
        ("North-east", "North-west", "South-east", "South-west"),
        ("left or right? left", "left or right? right", "left or right? left", "left or right? right"),
        ("left and right", "right and left", "left and right", "right and left"),
        ("pushed downward", "pushed downward", "pushed upward", "pushed upward"),
        ("a bright leftover of clefts", *["a bright leftover of clefts"] * 3),
    ],
)
def test_a_text_about_a_mirror_image_names_the_other_side(text, left_to_right, top_to_bottom, both):
    assert [mirrored_text(text, *mirror) for mirror in MIRRORS] == [text, left_to_right, top_to_bottom, both]
    assert mirrored_text(text, True, True, NO_WORDS) == text


@pytest.mark.parametrize(("word", "language"), WORDS)
def test_a_text_that_is_mirrored_twice_is_the_text(word, language):
    either = SIDE_WORDS[language].either
    for text in (word, word.capitalize(), word.upper(), f"is it {word}, {word}?", f"{word} {either} {word}-sided"):
        for mirror in MIRRORS:
            assert mirrored_text(mirrored_text(text, *mirror, language), *mirror, language) == text


@pytest.mark.parametrize(("word", "language"), WORDS)
def test_a_word_that_can_be_swapped_keeps_no_image_as_it_is(word, language):
    assert mirrored_text(word, True, True, language) != word
    assert not keeps_sides(f"is it {word}?", language) and keeps_sides(f"is it {word}?", NO_WORDS)


@pytest.mark.parametrize(
    "place",
    "beneath underneath under over underlying under-lying overlying overlies subjacent superior Inferiorly anterior "
    "posterior dorsal northern western counter-clockwise anticlockwise CLOCKWISE upside".split()
    + ["at 3 o'clock", "in the left ventricle", "right middle cerebral artery", "the upper lobe"],
)
def test_an_image_keeps_its_sides_where_it_is_not_known_what_a_mirror_changes(place):
    assert keeps_sides(f"what is seen {place}?") and keeps_sides(f"what is seen {place}?", NO_WORDS)
    assert not keeps_sides(f"what is seen x{place.replace(' ', '')}s?")


@pytest.mark.parametrize(
    "text",
    ["leftover", "bright", "cleft", "topical", "made up of", "covered", "overload", "undergo", "side", "wright"],
)
def test_words_that_only_hold_one_of_place_are_none(text):
    assert not keeps_sides(f"is it {text}?") and not keeps_sides(f"is it {text}?", NO_WORDS)


def test_the_mirrored_texts_of_a_list_are_numbered_after_it():
    numbers = {"upper left": 0, "no": 1, "lower left": 2}
    assert add_mirrored(numbers, "en") == [[0, 1, 2], [3, 1, 4], [2, 1, 0], [4, 1, 3]]
    assert list(numbers) == ["upper left", "no", "lower left", "upper right", "lower right"]
    assert add_mirrored(numbers, NO_WORDS) == [[0, 1, 2, 3, 4]] * 4 and len(numbers) == 5


@pytest.mark.parametrize("language", [*SIDE_WORDS, NO_WORDS])
def test_the_mirrored_texts_of_a_list_are_those_of_each_text(language):
    words = {word.title() for word, _ in WORDS}
    texts = [*sorted(words), "East-West", "leaſt, eaſt", "rİght", "upper2", "is it?left", "", "or"]
    numbers = {text: number for number, text in enumerate(texts)}
    mirrored = add_mirrored(numbers, language)
    text_of = list(numbers)
    for mirror, row in zip(MIRRORS, mirrored, strict=True):
        assert [text_of[number] for number in row] == [mirrored_text(text, *mirror, language) for text in texts]


def test_another_language_is_another_list(monkeypatch):
    german = SideWords("links/rechts linke/rechte", "oben/unten obere/untere", "oder", "vorne|hinten")
    monkeypatch.setitem(SIDE_WORDS, "de", german)
    assert mirrored_text("Links oben, im linken Drittel", True, True, "de") == "Rechts unten, im linken Drittel"
    assert mirrored_text("links oder rechts? links", True, False, "de") == "links oder rechts? rechts"
    assert keeps_sides("ist es vorne?", "de") and not keeps_sides("ist es links?", "de")
