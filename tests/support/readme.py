"""Takes a README apart: its snippets, their shell commands, and what its text names in passing."""

import re
import shlex
from typing import NamedTuple

_FENCE = re.compile(r"( *)```(.*)")
_HIDDEN = re.compile(r" {4}|\t|~~~|.*<pre", re.IGNORECASE)  # other ways to write a snippet
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_CONTINUED = ("\\", "|", "&&", "||")


class Command(NamedTuple):
    """A command of a shell snippet: its text, and the words of that without NAME=VALUE in front."""

    text: str
    words: list[str]


class Snippet(NamedTuple):
    """A fenced block.

    Attributes:
        line: of the file, where its text begins.
        language: as the fence names it, "" where it names none.
        text: without the indentation of the list that it is in.
    """

    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.language or 'text'}-line{self.line}"

    def commands(self):
        """Yields each `Command` of a shell snippet; comments are left out."""
        pending = ""
        for line in self.text.splitlines():
            if not pending and (not line.strip() or line.startswith("#")):
                continue
            pending += line
            if line.endswith(_CONTINUED):
                pending += "\n"
                continue
            words = shlex.split(pending.replace("\\\n", ""), comments=True)
            while re.match(r"\w+=", words[0]):
                del words[0]
            yield Command(pending, words)
            pending = ""
        if pending:
            raise ValueError(f"A command goes on where its block ends: {pending}")


def take_apart(text):
    """Returns the snippets of a README, in order, and the code spans of the text around them.

    Raises:
        ValueError: a block that never ends, or one that is no fence of three backticks.
    """
    snippets, prose, block, start, indentation, language = [], [], None, 0, "", ""
    for number, line in enumerate(text.splitlines(), start=1):
        fence = _FENCE.match(line)
        if block is not None:
            if fence:
                snippets.append(Snippet(start, language, "\n".join(block) + "\n"))
                block = None
            else:
                block.append(line.removeprefix(indentation))
        elif fence:
            (indentation, language), block, start = fence.groups(), [], number + 1
        elif _HIDDEN.match(line):
            raise ValueError(f"Line {number}: wanted fences of three backticks only, got {line!r}.")
        else:
            prose.append(line)
    if block is not None:
        raise ValueError(f"The block that begins in line {start} never ends.")
    spans = [" ".join(span.split()) for span in _SPAN.findall("\n".join(prose))]
    return snippets, spans
