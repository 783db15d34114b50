"""What can go wrong in the node, split by what the caller does about it."""

from __future__ import annotations

import errno


class NodeError(Exception):
    """Base of every error the node raises on purpose."""


class Retry(NodeError):
    """It may work later, unchanged: a destination that is down, a database that is busy."""


class NoSpace(Retry):
    """The disk is full; it may work once somebody has made room."""

    @staticmethod
    def is_cause(error: OSError) -> bool:
        """Whether this is what the system says when a disk, a quota or a file size is used up."""
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Refuse(NodeError):
    """The peer or the operator asked for something we will not do; the message says why."""


class Stop(NodeError):
    """This process cannot go on: a missing folder, a schema from another version."""


class Fenced(NodeError):
    """This process was declared dead and another one has its work; it must end. Nothing changed."""


class IllegalMove(Refuse):
    """A state was asked to move where the table of legal moves does not lead. Nothing changed."""


class LostRace(Refuse):
    """A conditional update found another state: somebody else moved first. Nothing changed."""
