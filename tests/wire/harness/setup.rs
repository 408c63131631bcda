//! The standard topology: a.test → B1, b.test → B2, mtls.test → B3 behind client certificates, clear and over TLS.

use super::{Backend, Client, Gateway, H2, TlsOptions};

/// A gateway with its three backends.
pub struct Stage {
    // Declared first, so that the gateway is gone before its backends are judged.
    pub gateway: Gateway,
    /// The configuration that it was started with.
    pub toml: String,
    pub b1: Backend,
    pub b2: Backend,
    pub b3: Backend,
    /// What every client of this stage sends first: a PROXY header.
    pub introduction: Vec<u8>,
}

impl Stage {
    pub async fn standard() -> Self {
        Setup::new().start()
    }

    pub async fn clear(&self) -> Client {
        let mut client = Client::clear(self.gateway.address("clear")).await;
        if !self.introduction.is_empty() {
            client.send(&self.introduction).await;
        }
        client
    }

    /// SNI a.test, HTTP/1.1.
    pub async fn tls(&self) -> Client {
        self.tls_as(&TlsOptions::new("a.test")).await
    }

    pub async fn tls_as(&self, options: &TlsOptions) -> Client {
        let introduction = if options.introduction.is_empty() { &self.introduction } else { &options.introduction };
        let options = TlsOptions { introduction: introduction.clone(), ..options.clone() };
        Client::tls(self.gateway.address("tls"), &options).await
    }

    pub async fn h2(&self) -> H2 {
        H2::connect(self).await
    }

    /// Reloads with a piece of the first configuration exchanged, and fails the test unless that is put in use.
    pub async fn reload_with(&self, old: &str, new: &str) -> serde_json::Value {
        assert!(self.toml.contains(old), "{old} is not in\n{}", self.toml);
        let event = self.gateway.reload_with(&self.toml.replace(old, new)).await;
        assert_eq!(event["message"], "reloaded", "{old} -> {new}");
        event
    }

    /// Fails unless a fresh connection gets its own answer.
    pub async fn assert_serving(&self) {
        let request = super::Request::get("/n");
        let answer = self.clear().await.ask(&request).await;
        assert_eq!((answer.status, answer.text()), (200, request.nonce));
    }
}

/// What a test changes in the standard configuration; every text is lines of TOML.
#[derive(Default)]
pub struct Setup {
    b1: Option<Backend>,
    server: String,
    listener: String,
    listener_timeouts: String,
    listener_limits: String,
    route_timeouts: String,
    plain_route: String,
    websocket: String,
    upstream: String,
    servers: String,
    more: String,
    descriptors: Option<u32>,
    optional_certificates: bool,
}

impl Setup {
    pub fn new() -> Self {
        Self { servers: "\"http://{B1}\"".to_owned(), ..Self::default() }
    }

    /// Another B1 than the standard one.
    pub fn b1(mut self, backend: Backend) -> Self {
        self.b1 = Some(backend);
        self
    }

    /// Keys of `[server]`.
    pub fn server(mut self, toml: &str) -> Self {
        self.server = toml.to_owned();
        self
    }

    /// Keys of both listeners.
    pub fn listener(mut self, toml: &str) -> Self {
        self.listener = toml.to_owned();
        self
    }

    /// `[listener.timeouts]` of both listeners.
    pub fn listener_timeouts(mut self, toml: &str) -> Self {
        self.listener_timeouts = toml.to_owned();
        self
    }

    /// `[listener.limits]` of both listeners.
    pub fn listener_limits(mut self, toml: &str) -> Self {
        self.listener_limits = toml.to_owned();
        self
    }

    /// `[route.timeouts]` of a.test's routes to B1.
    pub fn route_timeouts(mut self, toml: &str) -> Self {
        self.route_timeouts = toml.to_owned();
        self
    }

    /// Keys and sub-tables of a.test's plain route `/n`.
    pub fn plain_route(mut self, toml: &str) -> Self {
        self.plain_route = toml.to_owned();
        self
    }

    /// Keys of `[route.websocket]` of a.test's `/ws`; `origins` stands unless it is among them.
    pub fn websocket(mut self, toml: &str) -> Self {
        self.websocket = toml.to_owned();
        self
    }

    /// Keys of `[upstream.b1]`.
    pub fn upstream(mut self, toml: &str) -> Self {
        self.upstream = toml.to_owned();
        self
    }

    /// The URL of `[upstream.b1]`; `{B1}` stands for its address and `{P1}` for its port.
    pub fn upstream_url(self, url: &str) -> Self {
        self.upstream_servers(&format!("\"{url}\""))
    }

    /// All servers of `[upstream.b1]`, as they stand in the list.
    pub fn upstream_servers(mut self, toml: &str) -> Self {
        self.servers = toml.to_owned();
        self
    }

    /// Further tables; `{B1}` to `{B3}` stand for the backends' addresses.
    pub fn more(mut self, toml: &str) -> Self {
        self.more += toml;
        self
    }

    /// `ulimit -n` for the gateway.
    /// mtls.test only asks for client certificates, so that requests without one arrive at its routes.
    pub fn optional_certificates(mut self) -> Self {
        self.optional_certificates = true;
        self
    }

    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    pub fn start(mut self) -> Stage {
        let b1 = self.b1.take().unwrap_or_else(Backend::standard);
        let (b2, b3) = (Backend::standard(), Backend::standard());
        let toml = self
            .toml()
            .replace("{B1}", &b1.address.to_string())
            .replace("{P1}", &b1.address.port().to_string())
            .replace("{B2}", &b2.address.to_string())
            .replace("{B3}", &b3.address.to_string());
        Stage { gateway: Gateway::start_with(&toml, self.descriptors), toml, b1, b2, b3, introduction: Vec::new() }
    }

    fn toml(&self) -> String {
        // One worker, so that a second client meets the pool that the first one left.
        let workers = if self.server.contains("workers") { "" } else { "workers = 1\n" };
        let origins = if self.websocket.contains("origins") { "" } else { "origins = [\"https://app.example\"]\n" };
        let timeouts = &self.route_timeouts;
        let mut out = format!("[server]\n{workers}{}\n\n", self.server);
        let tls = if self.optional_certificates { TLS.replace("required", "optional") } else { TLS.to_owned() };
        for (name, tls) in [("clear", ""), ("tls", tls.as_str())] {
            out += &format!("[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n{}\n", self.listener);
            out += &format!("[listener.timeouts]\n{}\n", self.listener_timeouts);
            out += &format!("[listener.limits]\n{}\n{tls}\n", self.listener_limits);
        }
        out += &format!(
            "[[route]]\nname = \"ws\"\nhosts = [\"a.test\"]\npath = \"/ws\"\nupstream = \"b1\"\n\
             [route.timeouts]\n{timeouts}\n[route.websocket]\n{origins}{}\n\n\
             [[route]]\nname = \"n\"\nhosts = [\"a.test\"]\npath = \"/n\"\nupstream = \"b1\"\n{}\n\
             [route.timeouts]\n{timeouts}\n\n{ROUTES}\n\
             [upstream.b1]\nservers = [{}]\n{}\n\n{}\n",
            self.websocket, self.plain_route, self.servers, self.upstream, self.more
        );
        out
    }
}

const TLS: &str = r#"
[listener.tls]
certificates = [ { cert = "a.pem", key = "a.key" }, { cert = "b.pem", key = "b.key" }, { cert = "mtls.pem", key = "mtls.key" } ]
[[listener.tls.policy]]
hosts = ["mtls.test"]
client_ca = "clients.pem"
client_auth = "required"
"#;

/// There is no route for everything: what no test sends on purpose (`/SMUGGLED`) must reach no backend.
const ROUTES: &str = r#"
[[route]]
name = "denied"
hosts = ["a.test"]
path = "/denied"
respond = { status = 403, body = "denied\n" }

[[route]]
name = "admin"
hosts = ["a.test"]
path = "/admin"
respond = { status = 403, body = "admin\n" }

[[route]]
name = "public"
hosts = ["a.test"]
path = "/public"
upstream = "b1"

[[route]]
name = "b-ws"
hosts = ["b.test"]
path = "/ws"
upstream = "http://{B2}"
websocket = { origins = ["https://app.example"] }

[[route]]
name = "b"
hosts = ["b.test"]
upstream = "http://{B2}"

[[route]]
name = "mtls-ws"
hosts = ["mtls.test"]
path = "/ws"
listeners = ["tls"]
client_certificate = true
upstream = "http://{B3}"
websocket = { origins = ["https://app.example"] }

[[route]]
name = "mtls"
hosts = ["mtls.test"]
listeners = ["tls"]
client_certificate = true
upstream = "http://{B3}"
"#;
