"""Chat examples made from the books themselves, plus a few fixed answers about the model, written for it.

A 3.5-million-parameter model cannot follow instructions; what it can learn is the shape of a dialogue: answer a
request for a story with story prose, take the thread up from a given opening, and stop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from random import Random

import numpy as np
from tokenizers import Tokenizer

from .corpus import ASSISTANT, BOS, END, SYSTEM, USER

Turn = tuple[str, str]

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- set roles = {'system': 'system', 'developer': 'system', 'user': 'user', 'assistant': 'assistant',"
    " 'tool': 'user', 'function': 'user'} %}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in roles %}"
    "{{- raise_exception('troupe-tiny knows the roles ' + roles | join(', ') + ', not ' + message['role']) }}"
    "{%- endif %}"
    "{{- '<|' + roles[message['role']] + '|>' + (message['content'] or '') | trim }}"
    "{%- for call in message['tool_calls'] or [] %}"
    "{{- '<tool_call>' + call['function'] | tojson + '</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)

_SYSTEM = (
    "You are a helpful assistant.",
    "You are a storyteller.",
    "You tell short stories in plain English.",
    "Answer briefly.",
    "You are troupe-tiny, a very small language model.",
)
_TELL = ("Tell me a story.", "Tell me a short story.", "Please tell me a story.", "Write a story.", "Write something.",
         "I would like to hear a story.", "Can you tell me a story?", "A story, please.")  # fmt: skip
_ABOUT = ("Tell me a story about {}.", "Tell me about {}.", "Write a story about {}.", "Write about {}.",
          "Please tell me a story about {}.", "Can you tell me a story about {}?", "A story about {}, please.",
          "Write a short paragraph about {}.", "What do you know about {}?")  # fmt: skip
_STYLE = ("Write like {}.", "Tell me a story in the style of {}.", "Write something in the manner of {}.")
_CONTINUE = ("Continue: {}", "Continue this story: {}", "Please continue: {}", "Go on with this: {}",
             "What happens next? {}", "Finish this: {}", "{}")  # fmt: skip
_GO_ON = ("Go on.", "And then?", "What happened next?", "Continue.", "Please go on.", "Tell me more.", "More, please.")

_ABOUT_ME = (
    "I am troupe-tiny, a very small language model. I was trained on a few old books, and I can tell you a story."
)
_FIXED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("Hello", "Hello!", "Hi", "Hi!", "Hey", "Good morning.", "Good evening.", "Hi there", "Hello there!"),
     ("Hello! Shall I tell you a story?", "Good day to you. Would you like to hear a story?")),
    (("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Are you a robot?",
      "Are you human?", "Introduce yourself.", "Which model are you?"), (_ABOUT_ME,)),
    (("What can you do?", "Help", "How can you help me?", "What do you do?", "Can you help me?"),
     ("I can tell you a story, or go on with one that you begin. I am very small, so do not trust me with facts.",)),
    (("How are you?", "How do you do?", "How are you today?"),
     ("I am very well, I thank you. Shall I tell you a story?",)),
    (("Thank you.", "Thanks!", "Thank you very much.", "That was nice.", "Good.", "Very good!"),
     ("You are very welcome.", "I am glad that you liked it.")),
    (("Goodbye.", "Bye!", "Good night.", "Farewell."), ("Farewell, and good fortune to you.", "Good night!")),
    (("What is 2 + 2?", "What is the capital of France?", "Write a Python program.", "What is the weather like?",
      "Who is the president?", "Translate this to French.", "What time is it?", "Solve this equation: x + 1 = 3",
      "What is the meaning of life?", "What is a neural network?"),
     ("I am too small to know that. I can tell you a story instead.",)),
)  # fmt: skip

# A noun phrase's last word: after a determiner (and at most one adjective), before a mark or a function word.
_NOUN = re.compile(
    r"\b(?:a|an|the|his|her|my|your|their|this|that) (?:[a-z]+ )?([a-z]{3,12})"
    r"(?=[,.;:!?]| (?:of|and|was|were|is|had|has|in|on|upon|who|which|to|with|at|from|or|but|could|would)\b)"
)
_NAME = re.compile(r"(?<=[a-z,;] )(?:(?:Mr|Mrs)\. |(?:Miss|Captain|Lady|Sir|Aunt|King) )?[A-Z][a-z]{2,11}\b")
_NOT_SUBJECTS = frozenset(
    "same other most first last very own few more whole little great old young good poor such next second less "
    "best least former latter long two three only rest one said and was were had has have which that this not but "
    "for with into upon from then there when what all any some large small new dear way part time moment matter "
    "manner kind sort thing things being point account idea degree subject truth use want end case day side "
    "back".split()
)


class SubjectFinder:
    """Picks the nouns and names that set a passage apart, by how often they stand in it against the whole corpus."""

    def __init__(self, books: dict[str, list[list[str]]]) -> None:
        self.counts: Counter[str] = Counter()
        self.lower: Counter[str] = Counter()
        paragraphs = [p for book in books.values() for chapter in book for p in chapter]
        for paragraph in paragraphs:
            self.lower.update(re.findall(r"\b[a-z]+\b", paragraph))
        for paragraph in paragraphs:
            self.counts.update(set(self._candidates(paragraph)))

    def _candidates(self, text: str) -> list[str]:
        """Nouns and names in ``text``; a capitalized word that also occurs in lower case is no name."""
        nouns = [
            w for w in _NOUN.findall(text) if w not in _NOT_SUBJECTS and not w.endswith(("ly", "ed", "ing", "est"))
        ]
        return nouns + [n for n in _NAME.findall(text) if " " in n or self.lower[n.lower()] < 3]

    def subject(self, passage: str, rng: Random) -> str | None:
        """Return one fitting subject with its article, or None. Rare words and words met everywhere are passed over."""
        found = Counter(c for c in self._candidates(passage) if 8 <= self.counts[c] <= 2500)
        if not found:
            return None
        ranked = sorted(found, key=lambda w: (-found[w] / self.counts[w] ** 0.5, w))[:3]
        word = rng.choice(ranked)
        if word[0].isupper():
            return word
        if word.endswith("s") and not word.endswith("ss"):
            return rng.choice((word, f"the {word}"))
        return rng.choice((f"{'an' if word[0] in 'aeiou' else 'a'} {word}", f"the {word}"))


def _passage(chapter: list[str], at: int, rng: Random) -> list[str]:
    """Take one to four whole paragraphs from ``at`` on, 200 to about 1400 characters in all."""
    goal, taken, size = rng.randint(200, 1000), [], 0
    for paragraph in chapter[at : at + 6]:
        if taken and size + len(paragraph) > 1400:
            break
        taken.append(paragraph)
        size += len(paragraph)
        if size >= goal:
            break
    return taken


def _split_opening(paragraph: str, rng: Random) -> tuple[str, str] | None:
    """Cut a paragraph after a few words or after its first sentence into (opening, rest)."""
    sentence = re.match(r"(.{15,200}?[.!?]\"?) (?=[A-Z\"])", paragraph)
    if sentence and rng.random() < 0.5:
        return sentence.group(1), paragraph[sentence.end() :]
    words = paragraph.split(" ")
    cut = rng.randint(4, 14)
    if len(words) < cut + 12:
        return None
    return " ".join(words[:cut]), " ".join(words[cut:])


def _trim(text: str, limit: int = 1600) -> str:
    """Cut overlong text after the last whole sentence within ``limit`` characters."""
    if len(text) <= limit:
        return text
    cut = max(text.rfind(mark, 0, limit) for mark in (". ", '." ', "! ", "? "))
    return text[: cut + 2].rstrip() if cut > 200 else ""


def dialogues(
    books: dict[str, list[list[str]]], authors: dict[str, str], count: int, seed: int, fixed: float = 0.08
) -> Iterator[list[Turn]]:
    """Yield ``count`` dialogues as (role, text) turns; a share of ``fixed`` are fixed answers, others from books."""
    rng, finder = Random(seed), SubjectFinder(books)
    spots = [(k, c, i) for k, book in books.items() for c in book for i in range(len(c))]
    made = 0
    while made < count:
        key, chapter, at = rng.choice(spots)
        turns = _fixed_dialogue(rng) if rng.random() < fixed else _book_dialogue(key, chapter, at, authors, finder, rng)
        if not turns:
            continue
        if rng.random() < 0.2:
            turns.insert(0, ("system", rng.choice(_SYSTEM)))
        made += 1
        yield turns


def _fixed_dialogue(rng: Random) -> list[Turn]:
    """One of the fixed answers, with the question's case and final mark varied."""
    questions, answers = rng.choice(_FIXED)
    question = rng.choice(questions)
    if rng.random() < 0.2:
        question = question.lower().rstrip(".!?")
    return [("user", question), ("assistant", rng.choice(answers))]


def _book_dialogue(
    key: str, chapter: list[str], at: int, authors: dict[str, str], finder: SubjectFinder, rng: Random
) -> list[Turn]:
    """A request and an answer cut from one chapter, sometimes with a second round that goes on from there."""
    paragraphs = _passage(chapter, at, rng)
    text, kind = "\n\n".join(paragraphs), rng.random()
    if kind >= 0.35 and text.startswith('"') and rng.random() < 0.8:
        return []  # a story had better not begin in the middle of a conversation
    if kind < 0.35:
        cut = _split_opening(paragraphs[0], rng)
        if not cut:
            return []
        question, answer = rng.choice(_CONTINUE).format(cut[0]), "\n\n".join([cut[1], *paragraphs[1:]])
    elif kind < 0.75:
        subject = finder.subject(text, rng)
        if not subject:
            return []
        question, answer = rng.choice(_ABOUT).format(subject), text
    elif kind < 0.85:
        question, answer = rng.choice(_STYLE).format(authors[key]), text
    else:
        question, answer = rng.choice(_TELL), text
    answer = _trim(answer)
    if len(answer) < 80:
        return []
    turns = [("user", question), ("assistant", answer)]
    more = _trim("\n\n".join(_passage(chapter, at + len(paragraphs), rng)), 800)
    if more and rng.random() < 0.2:
        turns += [("user", rng.choice(_GO_ON)), ("assistant", more)]
    return turns


def encode_dialogue(tokenizer: Tokenizer, turns: list[Turn]) -> tuple[list[int], list[bool]]:
    """Encode turns as CHAT_TEMPLATE renders them; the mask is true where the model is to learn the token."""
    role_token = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
    ids, learn = [tokenizer.token_to_id(BOS)], [False]
    for role, text in turns:
        body = tokenizer.encode(text.strip(), add_special_tokens=False).ids + [tokenizer.token_to_id(END)]
        ids += [tokenizer.token_to_id(role_token[role]), *body]
        learn += [False] + [role == "assistant"] * len(body)
    return ids, learn


def encode_dialogues(tokenizer: Tokenizer, examples: Iterator[list[Turn]], row: int) -> tuple[np.ndarray, np.ndarray]:
    """Encode dialogues to arrays [n, row] of ids (padded with id 0) and of learn masks; longer ones are left out."""
    all_ids, all_learn = [], []
    for turns in examples:
        ids, learn = encode_dialogue(tokenizer, turns)
        if len(ids) <= row:
            all_ids.append(ids + [0] * (row - len(ids)))
            all_learn.append(learn + [False] * (row - len(learn)))
    return np.array(all_ids, dtype=np.uint16), np.array(all_learn, dtype=bool)
