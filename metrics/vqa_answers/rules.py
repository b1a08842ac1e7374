"""Rules that score one answer: this project's, and those of published PathVQA numbers.

A rule takes a prediction and the right answer, and gives a score in [0, 1]; None where the published code does not
count the question. Two papers' "accuracy" or "exact match" may be two different rules.
"""

import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

NUMBERS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
ARTICLES = ("a", "an", "the")
# From VQA's list. A word that lacks one of the apostrophes is read as the word here.
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
WITHOUT_APOSTROPHE = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTIONS
    for place, letter in enumerate(word)
    if letter == "'"
}
VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PUNCTUATION = re.escape(string.punctuation)
# Marks that mean the same. A minus that counts becomes U+2212, to tell it from a hyphen.
SAME_MARKS = str.maketrans({dash: "-" for dash in "\u2010\u2011\u2012\u2013\u2014"} | {"\u2264": "<=", "\u2265": ">="})
MINUS = "\u2212"
MARKS = re.compile(
    rf"""
    (?P<inside> (?<=\d)[{PUNCTUATION}{MINUS}]+(?=\d) | (?<=\de)[-+{MINUS}](?=\d) )  # 2.5, 5-10, 3/4, 1:40, 1e-5
    | (?<=[^\W_])-+(?=[^\W_])                                                     # the hyphen of x-ray
    | (?<!\S)-+(?=\s+[^\W\d_])                                                   # a dash before a word
    | (?P<apart> [<>]=? | =[<>] | [-+%~{MINUS}] )                                  # <10 %, CD20-, +++, -5
    | [{PUNCTUATION}]
    """,
    re.VERBOSE,
)
# "a" at the start, or after a word that no name follows; and what stands before it.
ARTICLE_A = re.compile(
    r"(^|(?<!\S)(?:about|after|and|as|at|be|been|being|by|for|from|has|have|having|in|into|is|like|of|on|or|shows?|to"
    r"|with|without) )(?:a )+(?=\w)"
)
VERBS = frozenset("is are was were do does did has have had can could will would shall should may might must".split())


def squad_normalize(answer: str) -> str:
    """The answer in lower case, without ASCII punctuation, articles and needless spaces (SQuAD's rule).

    Punctuation goes before articles, as SQuAD has it: "x-ray" becomes "xray", "a." becomes empty.
    """
    answer = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer).split())


@lru_cache(maxsize=2**16)  # a data set has few distinct answers, and each is compared many times
def normalize_answer(answer: str) -> str:
    """The answer in lower case, without meaningless punctuation, articles and spaces.

    Like SQuAD's rule, but it keeps what tells answers apart: signs (CD20+ and CD20-, -5 and 5), comparisons (<10 % and
    >10 %), per cent, and each mark between two digits (2.5, 5-10, 3/4) except the comma of thousands. An article goes
    where a word follows it. "a" also names things, such as hepatitis A: it goes only at the start and after a word
    such as "by". An answer that would become empty stays.
    """
    text = " ".join(answer.lower().translate(SAME_MARKS).split())
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<![\w.])\.(?=\d)", "0.", text)
    text = re.sub(r"(?<=\d)\s*([-/:^])\s*(?=\d)", r"\1", text)
    words = " ".join(MARKS.sub(counted_mark, text).split())
    words = re.sub(r"(?<!\S)(?:an|the) (?=\w)", "", words)
    return ARTICLE_A.sub(r"\1", words) or text


def counted_mark(mark: re.Match) -> str:
    """What is left of one of `MARKS`: nothing if it does not count."""
    kept = f" {mark['apart']} " if mark["apart"] else mark["inside"] or ""
    return kept.replace("-", MINUS)


def vqa_normalize(answer: str) -> str:
    """The answer as the official evaluation of VQA reads it (Antol et al. 2015, vqaEval.py).

    A punctuation mark beside a space goes. Within a word a space takes its place: "x-ray" becomes "x ray". With a
    comma between digits all marks go. Number words up to ten become digits, and "none" becomes 0.
    """
    has_number_comma = re.search(r"\d,\d", answer) is not None
    marked = answer
    for mark in VQA_PUNCTUATION:
        beside_space = mark + " " in answer or " " + mark in answer
        marked = marked.replace(mark, "" if beside_space or has_number_comma else " ")
    # The published pattern means to spare points between digits, and spares those before a digit. Its third argument
    # is meant to be a flag and is a count.
    marked = re.sub(r"\.(?!\d)", "", marked, count=int(re.UNICODE))
    words = [NUMBERS.get(word, word) for word in marked.lower().split()]
    return " ".join(WITHOUT_APOSTROPHE.get(word, word) for word in words if word not in ARTICLES)


def question_kind(question: str) -> str:
    """The question's kind by its first words: what, where, how, how_many, is_are or other."""
    first, second = (re.findall(r"\w+", question.lower()) + ["", ""])[:2]
    if first == "how":
        return "how_many" if second in ("many", "much") else "how"
    if first in ("what", "where"):
        return first
    return "is_are" if first in VERBS else "other"


def is_yes_no(answer: str) -> bool:
    """Whether a right answer makes its question a yes/no question."""
    return normalize_answer(answer) in ("yes", "no")


def exact_match(prediction: str, reference: str) -> float:
    """1 if the answers are equal in lower case, otherwise 0."""
    return float(prediction.strip().lower() == reference.strip().lower())


def same_answer(prediction: str, reference: str) -> float:
    """1 if the answers are equal by this project's normalisation, otherwise 0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def squad_exact_match(prediction: str, reference: str) -> float:
    """1 if the answers are equal by SQuAD's normalisation, otherwise 0."""
    return float(squad_normalize(prediction) == squad_normalize(reference))


def vqa_exact_match(prediction: str, reference: str) -> float:
    """1 if the answers are equal by VQA's normalisation, otherwise 0."""
    return float(vqa_normalize(prediction) == vqa_normalize(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words of two answers, both normalised as SQuAD does.

    If one of them is empty: 1 if both are, else 0.
    """
    predicted, right = squad_normalize(prediction).split(), squad_normalize(reference).split()
    if not predicted or not right:
        return float(predicted == right)
    common = sum((Counter(predicted) & Counter(right)).values())
    return 2 * common / (len(predicted) + len(right))


def word_overlap(prediction: str, reference: str) -> float:
    """Distinct words of the right answer that are predicted, over the number of predicted words.

    Only the letters a to z count: a right "2" scores 0. One right word of ten, predicted alone, scores 1.
    """
    predicted, right = (re.sub(r"[^a-z ]", "", text.lower()).split() for text in (prediction, reference))
    return len(set(predicted) & set(right)) / len(predicted) if predicted else 0.0


def token_recall(prediction: str, reference: str) -> float:
    """Share of the right answer's words that are predicted. A repeated right word counts as often as predicted."""
    predicted, right = Counter(vqa_normalize(prediction).split()), Counter(vqa_normalize(reference).split())
    found = sum(count for word, count in predicted.items() if word in right)
    missed = sum(count for word, count in right.items() if word not in predicted)
    return found / (found + missed) if found else 0.0


def contains_answer(prediction: str, reference: str) -> float:
    """Whether the right one of "yes" and "no" is part of the prediction, even within a word."""
    return float(vqa_normalize(reference) in vqa_normalize(prediction))


def contains_answer_as_published(prediction: str, reference: str) -> float | None:
    """As the published code counts: a prediction with the wrong one of yes and no is not counted."""
    right = contains_answer(prediction, reference)
    predicted = vqa_normalize(prediction)
    return None if not right and ("yes" in predicted or "no" in predicted) else right


@dataclass(frozen=True)
class Rule:
    """A rule of scoring.

    Args:
        printed_as: the name under which papers print it.
        source: where it is defined.
        score: takes a prediction and the right answer, as they are written.
        questions: the questions it is for: "all", "yes_no" or "open".
    """

    printed_as: str
    source: str
    score: Callable[[str, str], float | None]
    questions: str = "all"


RULES = {
    "accuracy": Rule("accuracy", "this project: as SQuAD, but signs, numbers and comparisons count", same_answer),
    "exact_match": Rule("accuracy, exact match", "lower case, as in MEVF, MMQ, AMAM", exact_match),
    "squad_exact_match": Rule("exact match", "SQuAD (arXiv 1606.05250)", squad_exact_match),
    "vqa_exact_match": Rule("accuracy", "VQA (arXiv 1505.00468), for one right answer", vqa_exact_match),
    "token_f1": Rule("F1", "SQuAD (arXiv 1606.05250)", token_f1),
    "word_overlap": Rule("exact match", "evaluation script of the PathVQA repository", word_overlap),
    "token_recall": Rule("open, recall", "LLaVA-Med (arXiv 2306.00890), run_eval.py", token_recall, "open"),
    "contains_answer": Rule("closed, accuracy", "LLaVA-Med, with wrong answers counted", contains_answer, "yes_no"),
    "contains_answer_as_published": Rule(
        "closed, accuracy", "LLaVA-Med, run_eval.py, as published", contains_answer_as_published, "yes_no"
    ),
}
