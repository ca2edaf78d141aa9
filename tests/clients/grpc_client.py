"""gRPC behind the edge, by what `countersign env` printed: HOST AUTHORIZATION METHOD [REQUEST]; METHOD is `all` for the four
kinds of calls, or the path of a unary one. Prints what came of it as JSON."""

import json
import queue
import sys

import grpc

host, authorization, method, *request = sys.argv[1:]
channel = grpc.secure_channel(f"{host}:443", grpc.ssl_channel_credentials())
metadata = (("authorization", authorization),)
DEADLINE = 60


def texts(pairs):
    return {key: value.hex() if isinstance(value, bytes) else value for key, value in pairs or ()}


def one(path, payload):
    """A unary call, whatever comes of it."""
    try:
        reply, call = channel.unary_unary(path).with_call(payload, timeout=DEADLINE, metadata=metadata)
        return {"reply": reply.decode(), "initial": texts(call.initial_metadata()), "trailing": texts(call.trailing_metadata())}
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details(), "trailing": texts(error.trailing_metadata()),
                "initial": texts(error.initial_metadata())}


def every():
    said = {name: one("/test.Echo/Unary", name.encode()) for name in ("hello", "fail", "leak")}
    pieces = iter([b"one", b"two", b"three"])
    said["client_stream"] = channel.stream_unary("/test.Echo/ClientStream")(pieces, timeout=DEADLINE, metadata=metadata).decode()
    stream = channel.unary_stream("/test.Echo/ServerStream")(b"turn", timeout=DEADLINE, metadata=metadata)
    said["server_stream"] = [reply.decode() for reply in stream]
    # One after the other: what is said next depends on what came.
    turns = queue.Queue()
    replies = channel.stream_stream("/test.Echo/Bidi")(iter(turns.get, None), timeout=DEADLINE, metadata=metadata)
    said["bidi"] = []
    turns.put(b"echo_0per")
    for reply in replies:
        said["bidi"].append(reply.decode())
        turns.put(reply if len(said["bidi"]) < 3 else None)
    said["bidi_code"] = replies.code().name
    said["bidi_trailing"] = texts(replies.trailing_metadata())
    return said


print(json.dumps(every() if method == "all" else one(method, request[0].encode())))
