"""RFC 8441 by hand, with the sans-IO package `h2`: PORT CA. Prints a line per fact; any surprise is an exception."""

import os
import socket
import ssl
import struct
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings

port, ca = int(sys.argv[1]), sys.argv[2]


class Client:
    def __init__(self):
        tls = ssl.create_default_context(cafile=ca)
        tls.set_alpn_protocols(["h2"])
        self.socket = tls.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10), server_hostname="gate.test")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()
        self.heads, self.data, self.ended, self.reset = {}, {}, set(), {}
        self.settings = {}
        self.until(lambda: self.settings)

    def flush(self):
        if out := self.h2.data_to_send():
            self.socket.sendall(out)

    def until(self, done):
        while not done():
            received = self.socket.recv(65536)
            assert received, "the gateway hung up"
            for event in self.h2.receive_data(received):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    self.settings.update({code: change.new_value for code, change in event.changed_settings.items()})
                elif isinstance(event, h2.events.ResponseReceived):
                    self.heads[event.stream_id] = dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended.add(event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    self.reset[event.stream_id] = event.error_code
                elif isinstance(event, h2.events.ConnectionTerminated):
                    raise AssertionError(f"GOAWAY {event.error_code}")
            self.flush()

    def request(self, headers, end=False):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=end)
        self.flush()
        self.until(lambda: stream in self.heads or stream in self.reset)
        assert stream in self.heads, f"reset with {self.reset[stream]}"
        return stream, self.heads[stream]

    def connect(self, origin, *more):
        return self.request([
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/ws?h2"),
            (":authority", f"gate.test:{port}"), ("sec-websocket-version", "13"), ("origin", origin), *more,
        ])

    def send(self, stream, payload):
        while payload:
            self.until(lambda: self.h2.local_flow_control_window(stream) > 0)
            size = min(len(payload), self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            self.h2.send_data(stream, payload[:size])
            self.flush()
            payload = payload[size:]

    def frame(self, stream):
        """The next server frame: opcode and payload."""
        def take():
            data = self.data.get(stream, b"")
            if len(data) < 2:
                return None
            assert not data[1] & 0x80, "a server frame with a mask"
            length, at = data[1], 2
            if length == 126:
                length, at = (struct.unpack(">H", data[2:4])[0], 4) if len(data) >= 4 else (1 << 62, 4)
            elif length == 127:
                length, at = (struct.unpack(">Q", data[2:10])[0], 10) if len(data) >= 10 else (1 << 62, 10)
            return (data[0] & 0x0F, data[0] & 0x80, data[at:at + length], at + length) if len(data) >= at + length else None
        self.until(take)
        opcode, _, payload, used = take()
        self.data[stream] = self.data[stream][used:]
        return opcode, payload

    def message(self, stream):
        return self.frame(stream)


def masked(opcode, payload):
    mask = os.urandom(4)
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
    elif length < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 0xFE, length)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0xFF, length)
    key = (mask * (length // 4 + 1))[:length]
    covered = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
    return head + mask + covered


client = Client()
assert client.settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL) == 1, client.settings
print("extended CONNECT is offered")

_, head = client.connect("https://evil.test")
assert head[":status"] == "403", head
print("foreign origin", head[":status"], head["x-portcullis-reason"])

stream, head = client.connect("https://app.test", ("sec-websocket-protocol", "chat.v2, chat.v1"))
assert head[":status"] == "200", head
assert head.get("sec-websocket-protocol") == "chat.v2", head
assert not {"sec-websocket-accept", "upgrade", "connection"} & set(head), head
print("tunnel with status", head[":status"], "and subprotocol", head["sec-websocket-protocol"])

big = os.urandom(200_000)
client.send(stream, masked(1, "Grüße".encode()))
assert client.message(stream) == (1, "Grüße".encode())
client.send(stream, masked(2, big))
got, opcode = b"", None
while len(got) < len(big):
    kind, part = client.message(stream)
    opcode, got = opcode or kind, got + part
assert (opcode, got) == (2, big)
client.send(stream, masked(9, b"knock"))
assert client.message(stream) == (10, b"knock")
print("echo and ping ok")

# A second tunnel and a plain request share the connection.
other, head = client.connect("https://app.test")
assert head[":status"] == "200", head
client.send(other, masked(1, b"second"))
assert client.message(other) == (1, b"second")
plain, head = client.request(
    [(":method", "GET"), (":scheme", "https"), (":path", "/ws"), (":authority", f"gate.test:{port}")], end=True)
assert head[":status"] == "426", head
print("second tunnel and plain request ok")

client.send(stream, masked(8, struct.pack(">H", 4001) + b"bye"))
assert client.message(stream) == (8, struct.pack(">H", 4001) + b"bye")
client.until(lambda: stream in client.ended or stream in client.reset)
assert stream in client.ended, "the tunnel was reset instead of ended"
client.send(other, masked(1, b"still here"))
assert client.message(other) == (1, b"still here")
print("close ok")
