import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.websocket.api.Session;
import org.eclipse.jetty.websocket.api.WebSocketAdapter;
import org.eclipse.jetty.websocket.server.WebSocketHandler;
import org.eclipse.jetty.websocket.servlet.WebSocketServletFactory;

/** An echo endpoint on an embedded Jetty with its defaults, but for the idle time that the first argument names. */
public final class EchoServer {
    public static final class Echo extends WebSocketAdapter {
        @Override
        public void onWebSocketText(String text) {
            if (text.startsWith("please close ")) {
                String[] words = text.split(" ", 4);
                getSession().close(Integer.parseInt(words[2]), words[3]);
                return;
            }
            getRemote().sendString(text, null);
        }

        @Override
        public void onWebSocketBinary(byte[] bytes, int offset, int length) {
            getRemote().sendBytes(ByteBuffer.wrap(bytes, offset, length), null);
        }

        @Override
        public void onWebSocketClose(int code, String reason) {
            System.out.println("closed with " + code + " " + reason);
            super.onWebSocketClose(code, reason);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Server server = new Server(new InetSocketAddress("127.0.0.1", 0));
        server.setHandler(new WebSocketHandler() {
            @Override
            public void configure(WebSocketServletFactory factory) {
                if (arguments.length > 0) {
                    factory.getPolicy().setIdleTimeout(Long.parseLong(arguments[0]));
                }
                factory.setCreator((request, response) -> {
                    if (request.hasSubProtocol("chat.v2")) {
                        response.setAcceptedSubProtocol("chat.v2");
                    }
                    return new Echo();
                });
            }
        });
        server.start();
        System.out.println("listening on " + ((ServerConnector) server.getConnectors()[0]).getLocalPort());
        server.join();
    }
}
