//! What this build is, as `--version` prints it: the number, what was compiled in, and for which machine.

use std::env::consts::{ARCH, OS};
use std::sync::LazyLock;

/// Without the program's name, which stands before it.
pub(super) static LONG: LazyLock<String> = LazyLock::new(|| {
    let features: Vec<_> =
        FEATURES.iter().map(|(name, is_there)| format!("{}{name}", if *is_there { '+' } else { '-' })).collect();
    format!(
        "{}\nfeatures:  {}\nprotocols: HTTP/1.1, HTTP/2, WebSocket over both (RFC 6455, RFC 8441)\n\
         tls:       rustls with aws-lc-rs, TLS 1.2 and 1.3\nallocator: {}\nbuilt for: {ARCH}-{OS}-{}\ncommit:    {}",
        env!("CARGO_PKG_VERSION"),
        features.join(" "),
        if cfg!(all(target_os = "linux", target_env = "gnu")) { "jemalloc" } else { "the system's" },
        if cfg!(target_env = "musl") { "musl" } else { "gnu" },
        COMMIT.unwrap_or("unknown"),
    )
});

/// What Cargo was asked for; `-` is left out.
const FEATURES: [(&str, bool); 2] = [("demo", cfg!(feature = "demo")), ("otel", cfg!(feature = "otel"))];

/// Said by whoever builds a release.
const COMMIT: Option<&str> = option_env!("PORTCULLIS_COMMIT");
