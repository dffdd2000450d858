"""Published names of weights as ours, by rules that a stream states beside its layers."""

import dataclasses
import re
from collections.abc import Callable

from torch import Tensor

CLASSIFIER = r"(head|fc|stem\.fc)\.(weight|bias)|fc1000(\.weight|_b)"


class Names:
    """Names of a publisher's tensors and ours, by their beginnings; the first rule that fits wins.

    `{1}` in a publisher's name is a number counted from 1, `{0}` from 0 and `{2}` from 2; the
    number is counted from 0 at the `{}` in ours.
    """

    def __init__(self, *rules: tuple[str, str]) -> None:
        self.rules = rules

    def to_ours(self, name: str) -> str | None:
        """Our name; None where no rule fits."""
        for theirs, ours in self.rules:
            pattern = re.sub(r"\\{\d\\}", r"(\\d+)", re.escape(theirs))
            if found := re.match(pattern, name):
                starts = re.findall(r"\{(\d)\}", theirs)
                numbers = [int(n) - int(s) for n, s in zip(found.groups(), starts, strict=True)]
                return ours.format(*numbers) + name[found.end() :]
        return None

    def to_theirs(self, name: str) -> str | None:
        """The publisher's name; None where no rule fits."""
        for theirs, ours in self.rules:
            if found := re.match(re.escape(ours).replace(r"\{\}", r"(\d+)"), name):
                starts = re.findall(r"\{(\d)\}", theirs)
                numbers = [int(n) + int(s) for n, s in zip(found.groups(), starts, strict=True)]
                template = re.sub(r"\{\d\}", "{}", theirs)
                return template.format(*numbers) + name[found.end() :]
        return None


@dataclasses.dataclass(frozen=True)
class Publisher:
    """Whose files fit a stream.

    Args:
        title: of the publisher's network, for logs and errors.
        names: their names and ours.
        mark: a name that only this publisher's files have.
        prepare: changes the tensors by their names before they are matched.
        author: what the file must state as its `__author__`, where names alone do not tell.
        classifier: regular expression of the names that belong to the classifier, which no stream
            has.
    """

    title: str
    names: Names
    mark: str
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    author: str | None = None
    classifier: str = CLASSIFIER


# Of the blocks that MSCAN and MiT have alike.
SHARED_RULES = (
    ("patch_embed{1}.proj.", "stages.{}.embed.0."),
    ("patch_embed{1}.norm.", "stages.{}.embed.1."),
    ("norm{1}.", "stages.{}.norm."),
    ("block{1}.{0}.mlp.fc1.", "stages.{}.blocks.{}.mlp.expand."),
    ("block{1}.{0}.mlp.dwconv.dwconv.", "stages.{}.blocks.{}.mlp.depthwise."),
    ("block{1}.{0}.mlp.dwconv.", "stages.{}.blocks.{}.mlp.depthwise."),  # OpenMMLab's copies
    ("block{1}.{0}.mlp.fc2.", "stages.{}.blocks.{}.mlp.reduce."),
    ("block{1}.{0}.", "stages.{}.blocks.{}."),
)
