//! One request to the admin listener and its answer, with deadlines: over TCP, TLS or a unix socket.
//!
//! TLS is that towards servers, always verified. The answer is JSON, of a size that the API's own answers have.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;
use super::whereabouts::{Place, Target};
use crate::config;
use crate::config::report::Report;
use crate::lifecycle;
use crate::tls::{ClientTls, Offer, SystemRoots};
use crate::transport::Socket;

/// For a connection, its TLS handshake included.
const CONNECT: Duration = Duration::from_secs(5);
/// For an answer. A reload may take two minutes by itself.
const ANSWER: Duration = Duration::from_secs(130);
/// Bytes of an answer.
const LARGEST: usize = 256 << 20;

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// `null` where it is no JSON.
    pub json: Value,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status) && !self.json.is_null()
    }
}

/// Asks, and waits for the answer.
pub fn ask(target: &Target, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let answer = runtime.block_on(async {
        let socket = within(CONNECT, target, connect(target)).await?;
        match &target.tls {
            None => within(ANSWER, target, exchange(target, socket, method, path, body)).await,
            Some(tls) => {
                let client = client_tls(target, tls.ca.as_deref())?;
                let stream = async {
                    let connected = client.connect(&target.host, Offer::Http1, socket).await;
                    connected.map_err(|error| {
                        let why = std::error::Error::source(&error).map(|why| format!(": {why}")).unwrap_or_default();
                        let help = "--ca names who vouches for the certificate, --admin https://NAME:PORT its name";
                        Failure::Failed(format!("no TLS with {target}: {error}{why}\n  {help}"))
                    })
                };
                let stream = within(CONNECT, target, stream).await?;
                within(ANSWER, target, exchange(target, stream, method, path, body)).await
            }
        }
    });
    // A name that is still being looked up holds nobody up.
    runtime.shutdown_background();
    answer
}

async fn within<T>(
    limit: Duration,
    target: &Target,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| Err(Failure::Failed(format!("{target} has not answered within {limit:?}"))))
}

async fn connect(target: &Target) -> Result<Socket, Failure> {
    let connected = match &target.place {
        Place::Unix(path) => tokio::net::UnixStream::connect(path).await.map(Socket::Unix),
        Place::Tcp(host, port) => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            tokio::net::TcpStream::connect((bare, *port)).await.map(Socket::Tcp)
        }
    };
    connected.map_err(|error| unreachable(target, &error))
}

fn unreachable(target: &Target, error: &io::Error) -> Failure {
    let help = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            "\n  does the gateway run, and with an [admin] in its configuration?"
        }
        io::ErrorKind::PermissionDenied => "\n  the socket is its owner's: ask as the user that the gateway runs as",
        _ => "",
    };
    Failure::Failed(format!("cannot reach {target}: {error}{help}"))
}

async fn exchange<S>(
    target: &Target,
    stream: S,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let failed = |error: &dyn Display| Failure::Failed(format!("{target} has not answered: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let _driven = lifecycle::spawn_held("admin client", async move {
        // What goes wrong with it, whoever waits for the answer hears.
        let _ = connection.await;
    });
    let request = request(target, method, path, body)?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let bytes = body.map_err(|error| failed(&error))?.to_bytes();
    Ok(Answer { status, json: serde_json::from_slice(&bytes).unwrap_or_default() })
}

fn request(target: &Target, method: Method, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, Failure> {
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let host = match &target.place {
        Place::Unix(_) => target.host.clone(),
        Place::Tcp(_, port) => format!("{}:{port}", target.host),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")));
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(token) = &target.token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Failure::Failed("the token cannot be sent".into()))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Full::new(bytes)).map_err(|error| Failure::Failed(format!("this cannot be asked: {error}")))
}

/// TLS as it is towards a server that stands in a configuration.
fn client_tls(target: &Target, ca: Option<&Path>) -> Result<ClientTls, Failure> {
    let quoted = |text: &str| Value::from(text).to_string();
    let ca = ca.map(|ca| format!(", ca = {}", quoted(&ca.display().to_string()))).unwrap_or_default();
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nupstream = \"a\"\n[upstream.a]\nservers = [{{ url = {}{ca} }}]\n",
        quoted(&format!("https://{}", target.host))
    );
    let (config, mut report) = config::read_text("(command line)", &text, Path::new(""));
    let upstream = config.as_ref().and_then(|config| config.upstreams.first());
    let built = upstream.and_then(|upstream| ClientTls::build(upstream, &mut SystemRoots::default(), &mut report));
    built.and_then(|mut built| built.pop().flatten()).ok_or_else(|| Failure::Usage(first_problem(&report)))
}

fn first_problem(report: &Report) -> String {
    let problem = report.problems.first();
    problem.map_or_else(|| "TLS cannot be set up".to_owned(), |problem| problem.message.clone())
}
