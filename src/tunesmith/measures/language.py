"""Which language a text is in, by its script and its commonest words: enough to tell groups of texts apart."""

from __future__ import annotations

import re
import unicodedata

STOP_WORDS = {
    "English": "the and is of to in that it for was with are this you not have",
    "German": "der die das und ist nicht ein eine mit auf von zu den dem für ich",
    "French": "le la les et est des un une dans pour que pas sur avec vous du",
    "Spanish": "el la los las y es una que en por con para no del se está",
    "Italian": "il la che di è e per un una non con sono del gli della si",
    "Portuguese": "o a os as e é que não uma um para com do da em se",
    "Dutch": "de het een en is van niet dat op te voor met zijn ik je wordt",
}


def language_of(text: str) -> str | None:
    """A language of ``STOP_WORDS``, the script where it is not Latin, or None where neither can be told.

    Two or more of a language's words are needed, and more than of any other's: short texts mostly give None.

    Example:
        >>> language_of("Der Mond ist nicht aus Käse"), language_of("Пчёлы делают мёд"), language_of("Rome")
        ('German', 'Cyrillic', None)
    """
    letters = [character for character in text if character.isalpha()]
    scripts = [unicodedata.name(character, "?").split()[0].capitalize() for character in letters]
    foreign = [script for script in scripts if script != "Latin"]
    if 2 * len(foreign) > len(letters):
        return max(sorted(set(foreign)), key=foreign.count)
    words = re.findall(r"\w+", text.lower())
    hits = {name: sum(word in stop.split() for word in words) for name, stop in STOP_WORDS.items()}
    first, second = sorted(hits.values(), reverse=True)[:2]
    return max(hits, key=hits.__getitem__) if first >= 2 and first > second else None
