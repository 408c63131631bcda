//! Sticky sessions: a cookie of the gateway's own says which server a client is with.
//!
//! Its value is the server's id and a MAC over it, in base64url: it shows nobody where the server is, cannot be made up,
//! and means the same to every gateway with the same secret. A secret is changed without moving anybody: the new key
//! goes first into the file and signs, the old ones still verify. Servers never see the cookie.

use std::path::PathBuf;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue};

use super::server::ServerId;
use crate::config::file;
use crate::config::model::{self, SameSite};
use crate::config::report::{Located, Report};
use crate::proto::cookie;

/// Of a secret file.
const MAX_FILE: u64 = 64 * 1024;

/// Of one key.
const SHORTEST_KEY: usize = 16;
const MOST_KEYS: usize = 16;

const ID: usize = size_of::<u64>();
/// Half of a SHA-256: what it guards is worth no more.
const TAG: usize = 16;

/// Cookies of the name that are looked at in a request.
const MOST_COOKIES: usize = 8;

/// Tells this use of a secret from any other.
const PURPOSE: &[u8] = b"portcullis sticky cookie 1\0";

/// Makes and reads the cookies of one upstream.
pub(super) struct Sticky {
    cookie: Box<str>,
    upstream: Box<str>,
    /// The first one signs.
    keys: Vec<hmac::Key>,
    /// The key is this process's own.
    is_random: bool,
    attributes: String,
    /// Pages of other sites send it too.
    crosses_sites: bool,
    /// It ends by itself, and so has to be given anew.
    has_age: bool,
}

impl Sticky {
    /// A key of this process's own is that of `previous`. `None` after an error was reported.
    pub(super) fn build(
        upstream: &str,
        sticky: &model::Sticky,
        previous: Option<&Self>,
        report: &mut Report,
    ) -> Option<Self> {
        let keys = match (&sticky.secret, previous) {
            (Some(path), _) => read_keys(path, report)?,
            (None, Some(previous)) if previous.is_random => previous.keys.clone(),
            (None, _) => vec![random_key(sticky, report)?],
        };
        let mut attributes = format!("; Path={}; HttpOnly; SameSite=", sticky.path);
        attributes.push_str(match sticky.same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        });
        if let Some(domain) = &sticky.domain {
            attributes.push_str("; Domain=");
            attributes.push_str(domain);
        }
        if let Some(age) = sticky.max_age {
            attributes.push_str(&format!("; Max-Age={}", age.as_secs().max(1)));
        }
        Some(Self {
            cookie: (&*sticky.cookie).into(),
            upstream: upstream.into(),
            keys,
            is_random: sticky.secret.is_none(),
            attributes,
            crosses_sites: sticky.same_site == SameSite::None,
            has_age: sticky.max_age.is_some(),
        })
    }

    /// The servers that a client says it is with, if the gateway has told it so. Usually one: who has been told for
    /// several paths or domains, or by somebody else of the site, sends more than one, and which is first says nothing
    /// (RFC 6265 5.4).
    pub(super) fn find<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = ServerId> + 'a {
        cookie::all(headers, &self.cookie).take(MOST_COOKIES).filter_map(|value| self.read(value))
    }

    fn read(&self, value: &[u8]) -> Option<ServerId> {
        let mut bytes = [0; ID + TAG];
        if URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()? != bytes.len() {
            return None;
        }
        let (id, tag) = bytes.split_first_chunk::<ID>()?;
        let is_ours = |key: &hmac::Key| {
            aws_lc_rs::constant_time::verify_slices_are_equal(&self.sign(key, id)[..TAG], tag).is_ok()
        };
        self.keys.iter().any(is_ours).then(|| ServerId(u64::from_be_bytes(*id)))
    }

    /// Takes the cookie out of what goes upstream.
    pub(super) fn remove(&self, headers: &mut HeaderMap) {
        if cookie::find(headers, &self.cookie).is_some() {
            cookie::remove(headers, &self.cookie);
        }
    }

    /// Tells the client where it is from now on, unless it knows. `secure`: the client came over TLS.
    pub(super) fn tell(&self, answer: &mut HeaderMap, server: ServerId, known: Option<ServerId>, secure: bool) {
        if known == Some(server) && !self.has_age {
            return;
        }
        let id = server.0.to_be_bytes();
        let tag = self.sign(&self.keys[0], &id);
        let mut value = [0; ID + TAG];
        value[..ID].copy_from_slice(&id);
        value[ID..].copy_from_slice(&tag[..TAG]);
        // Browsers that block third-party cookies take one that is kept apart for each site that embeds this one, which
        // costs nothing here: it is a place, not a person. Others ignore the word, and none takes it without `Secure`.
        let secure = match (secure, self.crosses_sites) {
            (true, true) => "; Secure; Partitioned",
            (true, false) => "; Secure",
            (false, _) => "",
        };
        let text = format!("{}={}{}{secure}", self.cookie, URL_SAFE_NO_PAD.encode(value), self.attributes);
        if let Ok(line) = HeaderValue::from_str(&text) {
            answer.append(SET_COOKIE, line);
        }
    }

    fn sign(&self, key: &hmac::Key, id: &[u8; ID]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(key);
        context.update(PURPOSE);
        context.update(self.upstream.as_bytes());
        context.update(&[0]);
        context.update(id);
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

fn read_keys(path: &Located<PathBuf>, report: &mut Report) -> Option<Vec<hmac::Key>> {
    let text = file::read(path, "a file of secrets", MAX_FILE, report)?;
    let lines: Vec<_> =
        text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect();
    let name = path.value.display();
    if lines.is_empty() || lines.len() > MOST_KEYS {
        report.error("bad-secret", &path.spot, format_args!("{name} holds {} secrets", lines.len())).help(format!(
            "write 1 to {MOST_KEYS} of them, one a line; the first one signs: openssl rand -hex 32 > {name}"
        ));
        return None;
    }
    if let Some(number) = lines.iter().position(|line| line.len() < SHORTEST_KEY) {
        report
            .error("bad-secret", &path.spot, format_args!("secret {} in {name} is too short", number + 1))
            .help(format!("a secret has at least {SHORTEST_KEY} characters: openssl rand -hex 32"));
        return None;
    }
    Some(lines.into_iter().map(|line| hmac::Key::new(hmac::HMAC_SHA256, line)).collect())
}

fn random_key(sticky: &model::Sticky, report: &mut Report) -> Option<hmac::Key> {
    let mut bytes = [0; 32];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        report.error("no-randomness", &sticky.spot, "the system gives no random bytes").help("name a `secret_file`");
        return None;
    }
    Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use http::header::COOKIE;

    use super::*;
    use crate::config::report::Spot;

    fn sticky(upstream: &str, secrets: &str) -> Sticky {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets");
        std::fs::write(&path, secrets).expect("written");
        let model = model::Sticky {
            cookie: "pcl".into(),
            secret: Some(Located::new(path, Spot::default())),
            same_site: SameSite::Lax,
            max_age: None,
            path: "/".into(),
            domain: None,
            spot: Spot::default(),
        };
        let mut report = Report::default();
        Sticky::build(upstream, &model, None, &mut report).unwrap_or_else(|| panic!("{:?}", report.problems))
    }

    /// What the client is told, as it will send it back.
    fn told(sticky: &Sticky, server: ServerId) -> HeaderMap {
        let mut answer = HeaderMap::new();
        sticky.tell(&mut answer, server, None, true);
        let line = answer[SET_COOKIE].to_str().expect("text");
        let (pair, attributes) = line.split_once("; ").expect("attributes");
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Secure");
        HeaderMap::from_iter([(COOKIE, format!("a=b; {pair}; c=d").parse().expect("a value"))])
    }

    const OLD: &str = "0123456789abcdef-old";
    const NEW: &str = "0123456789abcdef-new";

    #[test]
    fn every_gateway_with_the_secret_understands_the_cookie_and_no_other_upstream_does() {
        let server = ServerId(0x0123_4567_89ab_cdef);
        let request = told(&sticky("chat", OLD), server);
        assert_eq!(sticky("chat", OLD).find(&request).next(), Some(server));
        assert_eq!(
            sticky("chat", &format!("\n{NEW}\r\n\n {OLD} \n")).find(&request).next(),
            Some(server),
            "a rotation"
        );
        assert_eq!(sticky("chat", NEW).find(&request).next(), None);
        assert_eq!(sticky("shop", OLD).find(&request).next(), None);
        let rotated = told(&sticky("chat", &format!("{NEW}\n{OLD}")), server);
        assert_eq!(sticky("chat", NEW).find(&rotated).next(), Some(server), "the first one signs");
    }

    #[test]
    fn who_knows_is_not_told_again() {
        let sticky = sticky("chat", OLD);
        let mut answer = HeaderMap::new();
        sticky.tell(&mut answer, ServerId(1), Some(ServerId(1)), true);
        assert!(answer.is_empty());
        sticky.tell(&mut answer, ServerId(1), Some(ServerId(2)), false);
        assert!(!answer[SET_COOKIE].to_str().expect("text").contains("Secure"));
    }

    #[test]
    fn of_several_cookies_those_are_believed_that_the_gateway_has_given() {
        let sticky = sticky("chat", OLD);
        let cookie = |server| told(&sticky, ServerId(server))[COOKIE].to_str().expect("text").to_owned();
        let both = format!("pcl=; pcl={}; {}; {}", "A".repeat(32), cookie(1), cookie(2));
        let request = HeaderMap::from_iter([(COOKIE, both.parse().expect("a value"))]);
        assert_eq!(sticky.find(&request).collect::<Vec<_>>(), [ServerId(1), ServerId(2)]);
        let many = HeaderMap::from_iter([(
            COOKIE,
            format!("{}{}", "pcl=x; ".repeat(99), cookie(1)).parse().expect("a value"),
        )]);
        assert_eq!(sticky.find(&many).next(), None, "nobody has that many");
    }

    #[test]
    fn servers_do_not_see_the_cookie_and_see_the_others() {
        let sticky = sticky("chat", OLD);
        let mut request = told(&sticky, ServerId(1));
        sticky.remove(&mut request);
        assert_eq!(request[COOKIE], "a=b; c=d");
    }

    proptest! {
        #[test]
        fn no_cookie_that_was_changed_is_believed(position in 0..32_usize, change in 1..=255_u8) {
            let sticky = sticky("chat", OLD);
            let request = told(&sticky, ServerId(77));
            let mut value = request[COOKIE].as_bytes().to_vec();
            value["a=b; pcl=".len() + position] ^= change;
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let request = HeaderMap::from_iter([(COOKIE, value)]);
                prop_assert_eq!(sticky.find(&request).next(), None);
            }
        }

        #[test]
        fn no_cookie_of_a_clients_own_is_believed(value in "[ -:<-~]{0,80}") {
            let request = HeaderMap::from_iter([(COOKIE, format!("pcl={value}").parse().expect("a value"))]);
            prop_assert_eq!(sticky("chat", OLD).find(&request).next(), None);
        }
    }
}
