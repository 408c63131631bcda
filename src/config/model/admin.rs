//! The admin listener.

use std::path::PathBuf;

use super::{CertificateFiles, ListenAddress, ListenerKey};
use crate::config::report::{Located, Spot};

/// The listener of those who run the gateway.
#[derive(Clone, Debug)]
pub struct Admin {
    pub address: Located<ListenAddress>,
    /// Its first line has to come with every request. `None`: whoever can connect is let in, which only the machine's own
    /// users can.
    pub token_file: Option<Located<PathBuf>>,
    /// Host names under which it may be asked, beside those of the machine itself: lower case, IPv6 in brackets.
    pub hosts: Vec<String>,
    /// `None`: in the clear.
    pub tls: Option<CertificateFiles>,
    /// The `[admin]` table.
    pub spot: Spot,
}

impl Admin {
    /// What makes it the same one after a reload, with the same socket.
    pub fn key(&self) -> ListenerKey {
        ListenerKey { address: self.address.value.clone(), name: None }
    }
}
