"""A gRPC server without generated code: messages are bytes. Each kind of call, an error, and one that never answers."""

import time
from concurrent import futures

import grpc


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-seen", metadata.get("x-sent", "nothing")),))
    context.set_trailing_metadata((("x-size", str(len(request))),))
    return request


def server_stream(request, _):
    for number in range(int(request)):
        yield b"%d" % number


def client_stream(requests, _):
    return b"%d" % sum(len(request) for request in requests)


def both(requests, _):
    for request in requests:
        yield request.upper()


def fail(_, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this")


def cut(_, context):
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "and no more")


def never(_, context):
    while context.is_active():
        time.sleep(0.05)
    print("a call was cancelled", flush=True)
    return b""


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Both": grpc.stream_stream_rpc_method_handler(both),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Cut": grpc.unary_stream_rpc_method_handler(cut),
    "Never": grpc.unary_unary_rpc_method_handler(never),
}
options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
print("listening on", server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
