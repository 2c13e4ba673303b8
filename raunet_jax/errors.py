"""What a user's files, command line or machine can do wrong; every error of another kind is a mistake of ours."""

import os

Path = str | os.PathLike


class UserError(ValueError):
    """Something a user can put right: the message names the file or field, the value, and what to do."""


class NotFound(UserError, FileNotFoundError):
    """A file or folder is not where it should be."""


class FileError(UserError):
    """A file, or a folder of files, cannot be used.

    Attributes:
        path: the file or folder.
        problem: what is wrong with it, and the value that shows it; may be of several lines.
        remedy: what to do about it.
    """

    def __init__(self, path: Path, problem: str, remedy: str):
        super().__init__(path, problem, remedy)  # all of them, as pickle makes the error anew from its arguments
        self.path, self.problem, self.remedy = path, problem, remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}."
