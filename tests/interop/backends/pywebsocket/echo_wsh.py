"""The two functions that pywebsocket asks of a handler: every message comes back."""

from pywebsocket3 import msgutil


def web_socket_do_extra_handshake(request):
    offered = request.ws_requested_protocols
    if offered:
        request.ws_protocol = offered[0]


def web_socket_transfer_data(request):
    while True:
        message = msgutil.receive_message(request)
        if message is None:
            print("closed with", request.ws_close_code, request.ws_close_reason, flush=True)
            return
        if isinstance(message, str) and message.startswith("please close "):
            _, _, code, reason = message.split(" ", 3)
            request.ws_stream.close_connection(int(code), reason)
            return
        msgutil.send_message(request, message, binary=isinstance(message, bytes))
