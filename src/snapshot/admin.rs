//! The admin listener as it is to be served: its certificate and its token read, and checked, with everything else.
//!
//! A token is kept as its digest, so that comparing takes the same time whatever is said, and nothing shows it.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::{constant_time, digest};

use crate::config::file;
use crate::config::model::{Admin, ClientAuth, ListenerKey, ListenerTls, Protocols, TlsPolicy, TlsVersion};
use crate::config::report::{Digest, Located, Report};
use crate::tls::ServerPolicies;

/// Bytes of a file that may hold a token.
const TOKEN_FILE: u64 = 64 << 10;

/// Bytes of a token.
const LONGEST: usize = 4096;

/// A shorter token can be guessed.
const SHORT: usize = 16;

/// What the admin listener speaks: a command or a browser needs no more.
const PROTOCOLS: Protocols = Protocols { http1: true, http2: false };

/// The admin listener as it is to be served.
#[derive(Debug)]
pub struct AdminPlan {
    pub key: ListenerKey,
    /// `None`: whoever can connect is let in.
    pub token: Option<Token>,
    /// Host names under which it may be asked, beside those of the machine itself.
    pub hosts: Vec<String>,
    pub tls: Option<Arc<ServerPolicies>>,
    /// What its files hold.
    files: Box<[Digest]>,
}

impl AdminPlan {
    /// Reads its files. `previous`: what it was before a reload. `None`: there are errors in the report.
    pub(super) fn build(admin: &Admin, previous: Option<&Self>, report: &mut Report) -> Option<Arc<Self>> {
        let before = report.files_read();
        let tls = match &admin.tls {
            None => Some(None),
            Some(files) => {
                let default = TlsPolicy {
                    hosts: Vec::new(),
                    certificates: vec![files.clone()],
                    min_version: TlsVersion::Tls12,
                    client_auth: ClientAuth::None,
                    spot: admin.spot.clone(),
                };
                let tls = ListenerTls { default, policies: Vec::new() };
                let previous = previous.and_then(|previous| previous.tls.as_deref());
                ServerPolicies::build(&tls, PROTOCOLS, previous, report).map(|tls| Some(Arc::new(tls)))
            }
        };
        let token = match &admin.token_file {
            None => Some(None),
            Some(path) => Token::read(path, report).map(Some),
        };
        let files = report.read_since(before).into();
        Some(Arc::new(Self { key: admin.key(), token: token?, hosts: admin.hosts.clone(), tls: tls?, files }))
    }

    #[cfg(test)]
    pub fn for_tests(key: ListenerKey, token: Option<Token>, hosts: Vec<String>) -> Self {
        Self { key, token, hosts, tls: None, files: Box::default() }
    }

    /// Whether its files hold what they held before.
    pub(super) fn has_files_of(&self, before: &Self) -> bool {
        self.files == before.files
    }
}

/// What whoever asks has to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    pub fn new(text: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
        Self(hash)
    }

    /// Whether this is it. Takes the same time for everything of one length.
    pub fn is(&self, text: &[u8]) -> bool {
        text.len() <= LONGEST && constant_time::verify_slices_are_equal(&self.0, &Self::new(text).0).is_ok()
    }

    fn read(path: &Located<PathBuf>, report: &mut Report) -> Option<Self> {
        let text = file::read(path, "a file with a token", TOKEN_FILE, report)?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        let file = path.value.display();
        if line.is_empty() || line.len() > LONGEST || !line.iter().all(u8::is_ascii_graphic) {
            report
                .error("bad-token", &path.spot, format_args!("the first line of {file} is no token"))
                .help(format!("a token has 1 to {LONGEST} visible ASCII characters; `openssl rand -hex 32` makes one"));
            return None;
        }
        if line.len() < SHORT {
            report
                .warning("short-token", &path.spot, format_args!("the token in {file} is short enough to be guessed"))
                .help("`openssl rand -hex 32` makes one that is not");
        }
        if std::fs::metadata(&path.value).is_ok_and(|about| about.permissions().mode() & 0o004 != 0) {
            report
                .warning("token-for-everybody", &path.spot, format_args!("every user of this machine can read {file}"))
                .help("take that right away: `chmod o-r`");
        }
        Some(Self::new(line))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::Spot;

    fn read(text: &[u8]) -> (Option<Token>, Vec<&'static str>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        let mut report = Report::default();
        let token = Token::read(&Located::new(path, Spot::default()), &mut report);
        (token, report.problems.iter().map(|problem| problem.code).collect())
    }

    #[test]
    fn a_token_is_the_first_line_whatever_its_end() {
        for text in
            ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\nanother line\n", " 0123456789abcdef "]
        {
            let (token, problems) = read(text.as_bytes());
            let token = token.expect("a token");
            assert!(token.is(b"0123456789abcdef") && problems.is_empty(), "{text:?}: {problems:?}");
            for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
                assert!(!token.is(wrong.as_bytes()), "{wrong}");
            }
            assert!(!token.is(&[b'a'; LONGEST + 1]));
            assert!(!format!("{token:?}").contains("0123"));
        }
    }

    #[test]
    fn a_file_without_a_token_is_refused_and_a_token_that_can_be_guessed_warned_of() {
        for text in [&b""[..], b"\n", b"\nsecond line", b"two words", b"\xff\xfe", "t\u{f6}ken".as_bytes()] {
            assert_eq!(read(text), (None, vec!["bad-token"]), "{text:?}");
        }
        assert_eq!(read(&vec![b'a'; LONGEST + 1]).1, ["bad-token"]);
        assert_eq!(read(b"secret").1, ["short-token"]);
    }
}
