//! A request as handlers see it: its query, and its body as JSON, both held to what is known there.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http::StatusCode;
use http_body::Body as _;
use serde::de::DeserializeOwned;

use super::answer::ApiError;
use crate::config;
use crate::http::InboundBody;

/// Bytes of a body.
pub const BODY: u64 = 64 << 10;
/// For all of it, and for silence within it.
const BODY_TIME: Duration = Duration::from_secs(10);

/// What was asked.
#[derive(Debug, Default)]
pub struct Ask {
    query: BTreeMap<String, String>,
    body: Vec<u8>,
    /// What stands in the place of `{…}` in the route's path.
    pub tail: String,
    /// Who asks, for the log.
    pub peer: String,
}

impl Ask {
    pub fn new(query: BTreeMap<String, String>, body: Vec<u8>, tail: String, peer: String) -> Self {
        Self { query, body, tail, peer }
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// A number in a range; `None` where it is not said.
    pub fn number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.query(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let help = format!("write a number from {} to {}", range.start(), range.end());
                Err(ApiError::bad_request("bad-query", format!("`{name}` cannot be `{text}`")).help(help))
            }
        }
    }

    /// The body as what it has to be. An empty one is an object without keys.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let body = if self.body.is_empty() { b"{}" } else { &*self.body };
        // A list would be read as well, by the order of keys that nobody has promised.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(ApiError::bad_request("bad-body", "the body is no JSON object")
                .help("`GET /api/v1/openapi.json` says what it has to be"));
        }
        serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request("bad-body", format!("the body is not what it has to be: {error}"))
                .help("`GET /api/v1/openapi.json` says what it has to be")
        })
    }
}

/// The pairs of a query, of which only these are known.
pub fn query(text: Option<&str>, known: &[&str]) -> Result<BTreeMap<String, String>, ApiError> {
    let mut pairs = BTreeMap::new();
    for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = |what: &str| ApiError::bad_request("bad-query", format!("the query has {what}"));
        let (Some(name), Some(value)) = (decode(name), decode(value)) else {
            return Err(
                bad("escapes that are none").help("`%` is followed by two hexadecimal digits, and all of it is UTF-8")
            );
        };
        if !known.contains(&&*name) {
            let help = match config::nearest(&name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if known.is_empty() => "nothing can be asked here but the path".to_owned(),
                None => format!("known: {}", known.join(", ")),
            };
            return Err(bad(&format!("an unknown `{name}`")).help(help));
        }
        if pairs.insert(name, value).is_some() {
            return Err(bad("a name that stands twice").help("say everything once"));
        }
    }
    Ok(pairs)
}

/// Percent-decoding as forms do it: `+` is a space.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                let digits =
                    std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after;
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// All of a body, if it comes in time and is no longer than it may be.
pub async fn body(mut inbound: InboundBody) -> Result<Vec<u8>, ApiError> {
    inbound.bound(BODY_TIME, Some(BODY));
    let fault = inbound.fault();
    let mut bytes = Vec::new();
    let read = async {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut inbound).poll_frame(cx)).await {
            let Ok(frame) = frame else { return Err(()) };
            if let Ok(data) = frame.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        Ok(())
    };
    let is_whole = tokio::time::timeout(BODY_TIME, read).await;
    match (is_whole, fault.get()) {
        (Ok(Ok(())), _) => Ok(bytes),
        (_, Some(crate::types::RequestBodyFault::TooLarge)) => {
            let message = format!("a body has at most {BODY} bytes");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", message))
        }
        (Ok(Err(())), Some(crate::types::RequestBodyFault::Broken) | None) => {
            Err(ApiError::bad_request("broken-body", "the body broke off"))
        }
        _ => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow-body", "the body took too long")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_held_to_what_is_known() {
        let known = ["filter", "sort"];
        let pairs = query(Some("filter=age%3E1h+route%3D%C3%A9&&sort="), &known).expect("good");
        assert_eq!((pairs["filter"].as_str(), pairs["sort"].as_str()), ("age>1h route=é", ""));
        assert!(query(None, &known).expect("good").is_empty());
        for (text, help) in [
            ("fliter=x", "did you mean `filter`?"),
            ("nothing=1", "known: filter, sort"),
            ("sort=a&sort=b", "say everything once"),
            ("filter=%", "hexadecimal"),
            ("filter=%4", "hexadecimal"),
            ("filter=%+1", "hexadecimal"),
            ("filter=%ff", "UTF-8"),
        ] {
            let error = query(Some(text), &known).expect_err(text);
            assert!(error.help.as_deref().is_some_and(|words| words.contains(help)), "{text}: {error:?}");
        }
        assert!(query(Some("x=1"), &[]).is_err());
    }
}
