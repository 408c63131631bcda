"""gRPC calls through the gateway: PORT CA. Prints a line per fact; any surprise is an exception."""

import queue
import sys

import grpc

port, ca = sys.argv[1], sys.argv[2]
with open(ca, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
options = [
    ("grpc.ssl_target_name_override", "gate.test"),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options)
TIMEOUT = 20

call = channel.unary_unary("/test.Echo/Unary")
answer, made = call.with_call(b"hello", timeout=TIMEOUT, metadata=(("x-sent", "this"),))
assert answer == b"hello"
assert dict(made.initial_metadata())["x-seen"] == "this", made.initial_metadata()
assert dict(made.trailing_metadata())["x-size"] == "5", made.trailing_metadata()
print("unary ok")

large = bytes(range(256)) * 16 * 1024
assert call(large, timeout=TIMEOUT) == large
print("4 MiB ok")

answers = list(channel.unary_stream("/test.Echo/ServerStream")(b"2000", timeout=TIMEOUT))
assert answers == [b"%d" % number for number in range(2000)]
print("server stream ok")

assert channel.stream_unary("/test.Echo/ClientStream")(iter([b"x" * 1000] * 500), timeout=TIMEOUT) == b"500000"
print("client stream ok")

# Each message is sent only when the one before has been answered.
requests = queue.Queue()
answers = channel.stream_stream("/test.Echo/Both")(iter(requests.get, None), timeout=TIMEOUT)
for word in [b"one", b"two", b"three"]:
    requests.put(word)
    assert next(answers) == word.upper()
requests.put(None)
assert list(answers) == []
print("both ways ok")


def error_of(make):
    try:
        make()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError("no error")


assert error_of(lambda: channel.unary_unary("/test.Echo/Fail")(b"", timeout=TIMEOUT)) == (
    "FAILED_PRECONDITION",
    "not like this",
)
assert error_of(lambda: list(channel.unary_stream("/test.Echo/Cut")(b"", timeout=TIMEOUT))) == ("DATA_LOSS", "and no more")
assert error_of(lambda: channel.unary_unary("/test.Echo/None")(b"", timeout=TIMEOUT))[0] == "UNIMPLEMENTED"
print("errors ok")

assert error_of(lambda: channel.unary_unary("/test.Echo/Never")(b"", timeout=0.5))[0] == "DEADLINE_EXCEEDED"
assert call(b"still here", timeout=TIMEOUT) == b"still here"
print("deadline ok")
