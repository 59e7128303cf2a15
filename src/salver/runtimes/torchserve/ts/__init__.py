"""What handlers import as ``ts``: the parts of TorchServe's Python package that they usually use.

The names and their meaning are those of https://github.com/pytorch/serve. Handlers find it where TorchServe isn't
installed, and where it is, too: theirs starts a server's worker.
"""
