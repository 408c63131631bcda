//! Several servers behind one upstream, which is all that the gateway has.

use super::{Answer, Backend, Client, Gateway, Handshake, Request, eventually};

pub struct Cluster {
    // Declared first, so that the gateway is gone before its servers are judged.
    pub gateway: Gateway,
    pub servers: Vec<Backend>,
}

/// What a test says of the upstream; every text is lines of TOML.
pub struct ClusterSetup {
    servers: Vec<Backend>,
    further: Vec<String>,
    scheme: String,
    upstream: String,
    route: String,
    workers: usize,
}

impl Cluster {
    pub fn of(servers: Vec<Backend>) -> ClusterSetup {
        ClusterSetup {
            servers,
            further: Vec::new(),
            scheme: "http".to_owned(),
            upstream: String::new(),
            route: String::new(),
            workers: 1,
        }
    }

    pub async fn client(&self) -> Client {
        Client::clear(self.gateway.address("clear")).await
    }

    /// A request on a connection of its own.
    pub async fn ask(&self, request: &Request) -> Answer {
        self.client().await.ask(request).await
    }

    /// The status of a GET of `/n` on a connection of its own.
    pub async fn status(&self) -> u16 {
        self.ask(&Request::get("/n")).await.status
    }

    /// The status of a handshake on a connection of its own.
    pub async fn shake(&self) -> u16 {
        let mut client = self.client().await;
        client.send(Handshake::to("/ws").to_h1()).await;
        client.head().await.status()
    }

    /// Whether the event log has such a line.
    pub fn said(&self, text: &str) -> bool {
        self.count_said(text) > 0
    }

    /// Waits until the event log has as many of such lines, and fails the test if there are more.
    pub async fn tells(&self, text: &str, times: usize) {
        let what = format!("{times} times {text:?}");
        eventually(&what, || self.count_said(text) >= times).await;
        assert_eq!(self.count_said(text), times, "{text:?}: {}", self.gateway.stderr());
    }

    pub fn count_said(&self, text: &str) -> usize {
        self.gateway.stderr().lines().filter(|line| line.contains(text)).count()
    }

    /// How many requests for this path a server has had.
    pub fn requests(&self, server: usize, path: &str) -> usize {
        self.servers[server].requests().iter().filter(|head| head.target().starts_with(path)).count()
    }

    /// As it stands in log lines.
    pub fn url(&self, server: usize) -> String {
        format!("://{}", self.servers[server].address)
    }
}

impl ClusterSetup {
    /// Of the servers' URLs.
    pub fn scheme(mut self, scheme: &str) -> Self {
        self.scheme = scheme.to_owned();
        self
    }

    /// One more server, which is none of the backends.
    pub fn further(mut self, url: &str) -> Self {
        self.further.push(url.to_owned());
        self
    }

    /// Keys of the upstream.
    pub fn upstream(mut self, toml: &str) -> Self {
        self.upstream = toml.to_owned();
        self
    }

    /// Keys and sub-tables of the only route.
    pub fn route(mut self, toml: &str) -> Self {
        self.route = toml.to_owned();
        self
    }

    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    pub fn start(self) -> Cluster {
        let backends = self.servers.iter().map(|server| format!("{}://{}", self.scheme, server.address));
        let urls: Vec<_> = backends.chain(self.further).map(|url| format!("\"{url}\"")).collect();
        let toml = format!(
            "[server]\nworkers = {}\n[[listener]]\nname = \"clear\"\naddress = \"127.0.0.1:0\"\n\
             [[route]]\nhosts = [\"a.test\"]\nupstream = \"many\"\n\
             websocket = {{ origins = [\"https://app.example\"] }}\n{}\n\
             [upstream.many]\nservers = [{}]\n{}\n",
            self.workers,
            self.route,
            urls.join(", "),
            self.upstream
        );
        Cluster { gateway: Gateway::start_with(&toml, None), servers: self.servers }
    }
}
