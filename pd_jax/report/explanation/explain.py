"""Says what the rules find, in a language."""

from __future__ import annotations

import os
from types import ModuleType

from pd_jax.report.explanation import english, japanese
from pd_jax.report.explanation.facts import Facts, read_facts
from pd_jax.report.explanation.remarks import SECTIONS, Count, Duration, Names, Percent, Remark, Score, Times, Value
from pd_jax.report.explanation.rules import remarks, spell_command
from pd_jax.system.text import printable

LANGUAGES = {"en": english, "ja": japanese}


def explain(path: str | os.PathLike[str], language: str = "en") -> list[str]:
    """The lines of ``pd-jax explain``.

    Args:
      path: of a run.
      language: ``en`` or ``ja``.

    Raises:
      UserError: it is no run that can be explained, or it is damaged.
    """
    return say(read_facts(path), language)


def say(facts: Facts, language: str) -> list[str]:
    """What there is to say of some facts, under four titles; those with nothing below them are left out."""
    words = LANGUAGES[language]
    found = list(remarks(facts))
    told = [f"{printable(facts.path)} (pd-jax {facts.command})"]
    for section in SECTIONS:
        own = [remark for remark in found if remark.section == section]
        if own:
            told += ["", words.TITLES[section]]
        for remark in own:
            told.append(f"- {spell(remark, words)}")
            if remark.command:
                told.append(f"      {spell_command(remark.command)}")
    return told


def spell(remark: Remark, words: ModuleType) -> str:
    """A remark's sentence, with its values."""
    values = {name: spell_value(value, words) for name, value in remark.values.items()}
    sentence: str = words.SENTENCES[remark.key].format(**values)
    return sentence


def spell_value(value: Value, words: ModuleType) -> str:
    """A value as it stands in a sentence."""
    match value:
        case Score(number):
            return _without_minus_of_zero(f"{number:,.1f}")
        case Percent(number):
            # What is not quite all, or not quite nothing, does not look like it.
            return _without_minus_of_zero(
                f"{number:,.1f}" if 99 < number < 100 or 0 < abs(number) < 1 else f"{number:,.0f}"
            )
        case Times(number):
            return f"{number:,.1f}"
        case Count(number):
            return f"{number:,}"
        case Duration(seconds):
            return _spell_duration(seconds, words)
        case Names(names):
            *first, last = [printable(name) for name in names] or ["?"]
            return str(words.AND.join(filter(None, [words.COMMA.join(first), last])))
        case _:
            raise TypeError(value)


def _spell_duration(seconds: float, words: ModuleType) -> str:
    if seconds < 100:
        return str(words.DURATIONS["seconds"].format(f"{seconds:.0f}"))
    if seconds < 100 * 60:
        return str(words.DURATIONS["minutes"].format(f"{seconds / 60:.1f}"))
    return str(words.DURATIONS["hours"].format(f"{seconds / 3600:,.1f}"))


def _without_minus_of_zero(text: str) -> str:
    return text.removeprefix("-") if not text.strip("-0.") else text
