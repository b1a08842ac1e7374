"""Rules that score one answer: this project's, and those of published PathVQA numbers.

A rule takes a prediction and the right answer, and gives a score in [0, 1]; None where the published code does not
count the question. Two papers' "accuracy" or "exact match" may be two different rules. docs/rules.md lists them.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

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
# What MedEvalKit takes an answer from, and the words after which it begins, in the order in which they are looked for.
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
ANSWER_PHRASES = (
    "**answer**:",
    "**answer**",
    "*answer*:",
    "**answer:**",
    "answer is",
    "answer:",
    "答案:",
    "final answer",
    "final answer is",
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


@lru_cache(maxsize=2**16)
def vqa_normalize(answer: str) -> str:
    """The answer as VQA's evaluation normalises it (Antol et al. 2015, vqaEval.py), on which other rules build.

    The official code does so only where the ten right answers to a question differ. A punctuation mark beside a space
    goes. Within a word a space takes its place: "x-ray" becomes "x ray". With a comma between digits all marks go.
    Number words up to ten become digits, and "none" becomes 0.
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


def lower_case(answer: str) -> str:
    """The answer in lower case, without spaces around it."""
    return answer.lower().strip()


def on_one_line(answer: str) -> str:
    """The answer with spaces for line ends and tabs, and none around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def m2i2_normalize(answer: str) -> str:
    """As M2I2: VQA's normalisation of the answer on one line."""
    return vqa_normalize(on_one_line(answer))


def mevf_normalize(answer: str) -> str:
    """As MEVF and MMQ make labels of answers: VQA's normalisation, and "x ray" is one word.

    They drop commas too, but VQA's normalisation has left none.
    """
    return vqa_normalize(answer).replace("x ray", "xray")


@lru_cache(maxsize=2**16)
def mumc_normalize(answer: str) -> str:
    """As MUMC prepares answers: in lower case, without some marks; spaces around them stay."""
    answer = re.sub(r"[,.'!?\"()*#:;~]", "", answer.lower()).replace(" \t", " ")
    return answer.replace("x ray", "xray").replace("x-ray", "xray").replace(" - ", "-")


def lmms_eval_normalize(answer: str) -> str:
    """As lmms-eval's `EvalAIAnswerProcessor`: VQA's normalisation without commas, and 's is a word."""
    answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return m2i2_normalize(answer)


def letter_words(text: str) -> list[str]:
    """The words of the letters a to z, as PathVQA's evaluation script splits a text. Digits are deleted."""
    return re.sub(r"[^a-zA-Z ]", "", text).lower().split()


def boxed(text: str) -> str:
    """What the last LaTeX box holds; "None" without one."""
    found = BOXED.findall(text)
    return found[-1].strip() if found else "None"


def tagged(text: str) -> str:
    """What stands in tags <answer>; the whole text without any."""
    return " ".join(TAGGED.findall(text)).strip() or text


def medevalkit_reply(prediction: str) -> str:
    """The answer that MedEvalKit reads out of a reply, in lower case.

    A space after "answer is" stays, so that the open answer "the answer is liver" is not "liver".
    """
    reply = boxed(prediction)
    reply = lower_case(tagged(prediction) if reply == "None" else reply)
    reply = boxed(reply) if "boxed" in reply else tagged(reply)
    for phrase in ANSWER_PHRASES:
        reply = reply.split(phrase)[-1]
    return reply


@dataclass(frozen=True)
class Equal:
    """The score 1 if two answers are equal once they are normalised, otherwise 0."""

    normalize: Callable[[str], str]

    def __call__(self, prediction: str, reference: str) -> float:
        return float(self.normalize(prediction) == self.normalize(reference))


def part_of_answer(prediction: str, reference: str) -> float:
    """Whether the prediction is part of the right answer, even of a word. Nothing is part of every answer."""
    return float(mumc_normalize(prediction) in mumc_normalize(reference))


def medevalkit_accuracy(prediction: str, reference: str) -> float:
    """Whether the reply has the right one of "yes" and "no" and not the other; of open answers, whether it is equal.

    "no" is also found in "normal" and in "not".
    """
    reply, right = medevalkit_reply(prediction), lower_case(reference)
    if right not in ("yes", "no"):
        return float(reply == right)
    reply = reply.replace("\n", "").replace(".", "")
    return float(("yes" in reply) != ("no" in reply) and right in reply)


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words of two answers, both normalised as SQuAD does.

    If one of them is empty: 1 if both are, else 0.
    """
    predicted, right = squad_normalize(prediction).split(), squad_normalize(reference).split()
    if not predicted or not right:
        return float(predicted == right)
    common = sum((Counter(predicted) & Counter(right)).values())
    return 2 * common / (len(predicted) + len(right))


def found_and_missed(predicted: Sequence[str], right: Sequence[str]) -> tuple[int, int]:
    """How many predicted words are right ones, and how many right words are not predicted; repeated ones count."""
    found = sum(word in right for word in predicted)
    return found, sum(word not in predicted for word in right)


def found_share(predicted: Sequence[str], right: Sequence[str]) -> float:
    """Distinct right words that are predicted, over the number of predicted words; 0 without any."""
    return len(set(predicted) & set(right)) / len(predicted) if predicted else 0.0


def f1_of_found(predicted: Sequence[str], right: Sequence[str]) -> float:
    """F1 of the words by `found_and_missed`: a right word counts as often as it is predicted."""
    found, missed = found_and_missed(predicted, right)
    return 2 * found / (len(predicted) + found + missed) if found else 0.0


def word_overlap(prediction: str, reference: str) -> float:
    """Distinct words of the right answer that are predicted, over the number of predicted words.

    Only the letters a to z count: a right "2" scores 0. One right word of ten, predicted alone, scores 1.
    """
    return found_share(letter_words(prediction), letter_words(reference))


def word_f1(prediction: str, reference: str) -> float:
    """F1 of the words of letters. A right word that is predicted twice is found twice."""
    return f1_of_found(letter_words(prediction), letter_words(reference))


def sentence_bleu(prediction: str, reference: str, length: int) -> float:
    """BLEU of one answer, with n-grams of letters up to `length`, as PathVQA's script computes it.

    The penalty for brevity compares characters, not words. A precision of 0 is skipped: an answer without a right word
    scores 1 if it is longer than the right one. 0 if the prediction has fewer words than `length`.
    """
    predicted, right = letter_words(prediction), letter_words(reference)
    if len(predicted) < length:
        return 0.0
    logs = 0.0
    for size in range(1, length + 1):
        grams, right_grams = (
            Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))
            for words in (predicted, right)
        )
        found = (grams & right_grams).total()
        logs += math.log(found / grams.total()) if found else 0.0
    longer = len(prediction) > len(reference)
    return (1.0 if longer else math.exp(1 - len(reference) / len(prediction))) * math.exp(logs / length)


def token_recall(prediction: str, reference: str) -> float:
    """Share of the right answer's words that are predicted. A repeated right word counts as often as predicted."""
    found, missed = found_and_missed(vqa_normalize(prediction).split(), vqa_normalize(reference).split())
    return found / (found + missed) if found else 0.0


def llava_med_f1(prediction: str, reference: str) -> float:
    """F1 of the words, normalised as VQA does. A right word that is predicted twice is found twice."""
    return f1_of_found(vqa_normalize(prediction).split(), vqa_normalize(reference).split())


def llava_med_exact_match(prediction: str, reference: str) -> float:
    """As `word_overlap`, of words normalised as VQA does: digits count."""
    return found_share(vqa_normalize(prediction).split(), vqa_normalize(reference).split())


def contains_answer(prediction: str, reference: str) -> float:
    """Whether the right answer is part of the prediction, even within a word."""
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
    "accuracy": Rule(
        "accuracy", "this project: as SQuAD, but signs, numbers and comparisons count", Equal(normalize_answer)
    ),
    "exact_match": Rule("accuracy", "BiomedGPT, utils/eval_utils.py; here in lower case", Equal(lower_case)),
    "squad_exact_match": Rule("exact match", "SQuAD (arXiv 1606.05250)", Equal(squad_normalize)),
    "vqa_exact_match": Rule("accuracy", "M2I2, vqaTools/vqaEval.py", Equal(m2i2_normalize)),
    "mevf_exact_match": Rule("accuracy", "MEVF and MMQ, tools/compute_softscore.py", Equal(mevf_normalize)),
    "mumc_containment": Rule("accuracy", "MUMC, vqaTools/vqaEval.py", part_of_answer),
    "medevalkit_accuracy": Rule(
        "accuracy", "MedEvalKit, utils/utils.py (of a public copy), without a judge", medevalkit_accuracy
    ),
    "lmms_eval_exact_match": Rule(
        "exact match", "lmms-eval, vqa_eval_metric.py, by path_vqa of a public copy", Equal(lmms_eval_normalize)
    ),
    "token_f1": Rule("F1", "SQuAD (arXiv 1606.05250)", token_f1),
    "word_overlap": Rule("exact match", "PathVQA, evaluation_script.py", word_overlap),
    "word_f1": Rule("F1", "PathVQA, evaluation_script.py", word_f1),
    **{
        f"sentence_bleu_{length}": Rule(
            f"BLEU-{length}", "PathVQA, evaluation_script.py", partial(sentence_bleu, length=length)
        )
        for length in (1, 2, 3)
    },
    "token_recall": Rule("open, recall", "LLaVA-Med (arXiv 2306.00890), run_eval.py", token_recall, "open"),
    "llava_med_f1": Rule("F1", "LLaVA-Med, run_eval.py", llava_med_f1, "open"),
    "llava_med_exact_match": Rule("exact match", "LLaVA-Med, run_eval.py", llava_med_exact_match, "open"),
    "contains_answer": Rule("accuracy", "LLaVA-Med, run_eval_batch.py", contains_answer),
    "contains_answer_as_published": Rule(
        "closed, accuracy", "LLaVA-Med, run_eval.py, as published", contains_answer_as_published, "yes_no"
    ),
}
