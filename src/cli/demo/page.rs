//! The files of the demo's page, built into the binary, each with the Content-Security-Policy it lives under: nothing
//! from outside, no inline script or style. `/foreign` may be framed by the page from the neighbouring loopback name;
//! that is how the page shows what a foreign Origin gets.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderName, Response};
use http_body_util::Full;

pub struct File {
    pub media_type: &'static str,
    pub policy: &'static str,
    pub content: &'static str,
}

/// The file behind a path.
pub fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|(known, _)| *known == path).map(|(_, file)| file)
}

/// A 200 with the headers that every answer of the page's server carries.
pub fn answer(media_type: &'static str, policy: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body));
    for (name, value) in [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, policy),
        // The page belongs to this process; the next one may be another version on the same port.
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// For what is no document.
pub const PLAIN_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// `ws: wss:` because trying other servers is what the address field is for.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self' ws: wss:; \
    frame-src 'self' https://localhost:* https://127.0.0.1:* http://localhost:* http://127.0.0.1:*; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const FOREIGN_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src ws: wss:; \
    base-uri 'none'; form-action 'none'; \
    frame-ancestors 'self' https://localhost:* https://127.0.0.1:* http://localhost:* http://127.0.0.1:*";

static FILES: [(&str, File); 6] = [
    ("/", File { media_type: HTML, policy: PAGE_POLICY, content: include_str!("page.html") }),
    ("/page.css", File { media_type: CSS, policy: PLAIN_POLICY, content: include_str!("page.css") }),
    ("/page.js", File { media_type: SCRIPT, policy: PLAIN_POLICY, content: include_str!("page.js") }),
    ("/foreign", File { media_type: HTML, policy: FOREIGN_POLICY, content: include_str!("foreign.html") }),
    ("/foreign.js", File { media_type: SCRIPT, policy: PLAIN_POLICY, content: include_str!("foreign.js") }),
    ("/favicon.svg", File { media_type: "image/svg+xml", policy: PLAIN_POLICY, content: include_str!("favicon.svg") }),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
