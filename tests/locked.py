"""Files and folders that cannot be read, as they are to a user without the right; root, who runs tests, has all."""

import builtins
import errno
import io
import os


def lock(monkeypatch, *names):
    """Let files and folders of these names be unreadable."""

    def refusing(function):
        def refuse(path, *arguments, **options):
            if not isinstance(path, int) and os.path.basename(path) in names:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path, *arguments, **options)

        return refuse

    for module, name in ((os, "scandir"), (io, "open"), (builtins, "open")):
        monkeypatch.setattr(module, name, refusing(getattr(module, name)))
