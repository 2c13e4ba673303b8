"""What came of one trial."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """A trial that is over.

    Attributes:
        what: was tried, so that a reader knows.
        failure: a sentence, or "": it held.
        count: as how many it counts, such as of kills.
        note: what is to be said of one that held: "unseen" of damage that no reader could have seen.
    """

    what: str
    failure: str = ""
    count: int = 1
    note: str = ""
