"""A gRPC server: CERTIFICATE KEY ECHO_KEY DANGER_KEY; prints its port, then a line of JSON for each call that it got."""

import json
import sys
import threading
from concurrent import futures

import grpc

certificate, key, echo_key, danger_key = sys.argv[1:]
lock = threading.Lock()


def seen(method, context, **more):
    metadata = dict(context.invocation_metadata())
    authorization = metadata.get("authorization", "")
    with lock:
        print(json.dumps({"method": method, "authorization": authorization, "deadline": context.time_remaining(),
                          "metadata": {k: v for k, v in metadata.items() if isinstance(v, str)}, **more}), flush=True)
    wanted = danger_key if method.startswith("/test.Danger/") else echo_key
    if authorization != f"Bearer {wanted}":
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key, no service")
    context.send_initial_metadata((("x-initial", "yes"),))
    context.set_trailing_metadata((("x-final", "yes"), ("x-final-bin", b"\x00\x01")))


def unary(request, context):
    seen("/test.Echo/Unary", context)
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing is here: \u00e9")
    if request == b"leak":
        return b"the key is " + echo_key.encode()
    return b"echo " + request


def client_stream(requests, context):
    seen("/test.Echo/ClientStream", context)
    return b",".join(requests)


def server_stream(request, context):
    seen("/test.Echo/ServerStream", context)
    for turn in range(3):
        yield request + b" %d" % turn


def bidi(requests, context):
    seen("/test.Echo/Bidi", context)
    for request in requests:
        yield b"reply to " + request


def delete(request, context):
    seen("/test.Danger/Delete", context, request=request.decode())
    return b"deleted " + request


METHODS = {
    "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
    "/test.Echo/ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "/test.Echo/ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "/test.Echo/Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "/test.Danger/Delete": grpc.unary_unary_rpc_method_handler(delete),
}


class Methods(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method)


with open(certificate, "rb") as file:
    chain = file.read()
with open(key, "rb") as file:
    private = file.read()
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), handlers=(Methods(),))
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(private, chain)]))
server.start()
print(port, flush=True)
server.wait_for_termination()
