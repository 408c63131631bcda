// An echo server with WebSocket++ on Asio.
#include <cstdlib>
#include <iostream>
#include <websocketpp/config/asio_no_tls.hpp>
#include <websocketpp/server.hpp>

using Server = websocketpp::server<websocketpp::config::asio>;
using websocketpp::connection_hdl;

int main() {
    Server server;
    server.clear_access_channels(websocketpp::log::alevel::all);
    server.set_error_channels(websocketpp::log::elevel::fatal);
    server.init_asio();
    server.set_reuse_addr(true);
    server.set_validate_handler([&](connection_hdl handle) {
        auto connection = server.get_con_from_hdl(handle);
        for (const auto& offered : connection->get_requested_subprotocols()) {
            if (offered == "chat.v2") connection->select_subprotocol(offered);
        }
        return true;
    });
    server.set_message_handler([&](connection_hdl handle, Server::message_ptr message) {
        const std::string asked = "please close ";
        const std::string& text = message->get_payload();
        if (message->get_opcode() == websocketpp::frame::opcode::text && text.compare(0, asked.size(), asked) == 0) {
            char* reason = nullptr;
            auto code = static_cast<websocketpp::close::status::value>(
                std::strtol(text.c_str() + asked.size(), &reason, 10));
            server.close(handle, code, *reason == ' ' ? reason + 1 : reason);
            return;
        }
        server.send(handle, text, message->get_opcode());
    });
    server.listen(websocketpp::lib::asio::ip::tcp::endpoint(websocketpp::lib::asio::ip::address_v4::loopback(), 0));
    server.start_accept();
    websocketpp::lib::asio::error_code error;
    std::cout << "listening on " << server.get_local_endpoint(error).port() << std::endl;
    server.run();
}
