"""Below pynetdicom's association: data sets of C-STORE requests stream from the socket to a sink.

pynetdicom gathers a whole data set in memory, in 4 KiB steps, and hands it from thread to thread
with two sleeps on the way. Here an association has one thread. While the data set of a C-STORE
request arrives, each fragment goes from the receive buffer straight to a sink that the application
opened for it, and which answers in the end; all else (negotiation, other and unusual commands,
release, abort, ARTIM) is pynetdicom's own, driven from that one thread.

    commands     a usual C-STORE request, and its usual answer, as bytes
    fragments    the body of a P-DATA-TF PDU, taken apart as it arrives; knows no socket
    transport    the socket: one large buffer, one wait for data and for other threads
    upper_layer  the DUL service provider without a thread of its own
    association  the acceptor that drives it, and the server that makes such acceptors
    requestor    what comes on associations that we ask for: data sets go to sinks there too

Nothing here knows the rest of the node.
"""

from node.streaming.association import (
    DataSetSink,
    OnEnd,
    OpenSink,
    StoreStatus,
    StreamingServer,
    completed,
)
from node.streaming.commands import StoreRequest
from node.streaming.requestor import StreamingDimse

__all__ = [
    "DataSetSink",
    "OnEnd",
    "OpenSink",
    "StoreRequest",
    "StoreStatus",
    "StreamingDimse",
    "StreamingServer",
    "completed",
]
