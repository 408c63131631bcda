//! Every key of the configuration file, with its default, as one table.
//!
//! The reader takes its list of known keys from here, and so do the suggestions for misspelt ones; tests hold
//! `docs/config.md` and `conf/full.toml` to it in both directions. What the keys mean is in `docs/config.md`.

/// One kind of table in the file.
#[derive(Debug)]
pub struct Section {
    /// As `docs/config.md` writes it: `listener.tls`, `upstream.NAME`; empty for the file's top.
    pub path: &'static str,
    /// As the file writes its header: `[[listener]]`; for messages.
    pub header: &'static str,
    pub keys: &'static [Key],
    /// Keys that a later release will have; refused like unknown ones, with better words.
    pub later: &'static [&'static str],
}

impl Section {
    pub fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|known| known.name == key)
    }
}

#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub default: Default,
}

/// What holds where the key is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// The key has to be there.
    Required,
    /// The same as this TOML value.
    Value(&'static str),
    /// No value stands for it; these words say what happens.
    Words(&'static str),
}

use self::Default::{Required, Value, Words};

const fn key(name: &'static str, default: Default) -> Key {
    Key { name, default }
}

pub static ROOT: Section = Section {
    path: "",
    header: "the file",
    keys: &[
        key("server", Words("every key at its default")),
        key("log", Words("every key at its default")),
        key("admin", Words("no admin listener")),
        key("listener", Required),
        key("route", Required),
        key("upstream", Words("no named upstream")),
    ],
    later: &[],
};

pub static SERVER: Section = Section {
    path: "server",
    header: "[server]",
    keys: &[
        key("workers", Value("\"auto\"")),
        key("drain_timeout", Value("\"30s\"")),
        key("drain_rate", Value("\"none\"")),
        key("upgrade_timeout", Value("\"1m\"")),
        key("upgrade_drain_timeout", Value("\"24h\"")),
        key("max_connections", Value("100000")),
        key("trusted_proxies", Value("[]")),
        key("nameservers", Words("those of the system (`/etc/resolv.conf`)")),
        key("forwarded", Value("false")),
        key("trace", Value("\"pass\"")),
        key("include", Value("[]")),
        key("watch", Value("false")),
    ],
    later: &[],
};

pub static LOG: Section = Section {
    path: "log",
    header: "[log]",
    keys: &[
        key("level", Value("\"info\"")),
        key("access", Value("\"stderr\"")),
        key("format", Value("\"auto\"")),
        key("refusals_per_second", Value("1000")),
        key("otlp", Words("no spans are exported")),
    ],
    later: &[],
};

pub static OTLP: Section = Section {
    path: "log.otlp",
    header: "`otlp`",
    keys: &[key("endpoint", Required), key("service", Value("\"portcullis\""))],
    later: &[],
};

pub static ADMIN: Section = Section {
    path: "admin",
    header: "[admin]",
    keys: &[
        key("address", Required),
        key("token_file", Words("whoever can connect is let in")),
        key("hosts", Value("[]")),
        key("tls", Words("a clear listener")),
    ],
    later: &[],
};

pub static ADMIN_TLS: Section = Section {
    path: "admin.tls",
    header: "[admin.tls]",
    keys: &[key("cert", Required), key("key", Required)],
    later: &[],
};

pub static LISTENER: Section = Section {
    path: "listener",
    header: "[[listener]]",
    keys: &[
        key("name", Words("the address as written")),
        key("address", Required),
        key("protocols", Words("`[\"h2\", \"http/1.1\"]` with TLS, `[\"http/1.1\"]` without")),
        key("websocket_over_h2", Value("true")),
        key("redirect_https", Value("false")),
        key("proxy_protocol", Words("no PROXY header is read")),
        key("tls", Words("a clear listener")),
        key("timeouts", Words("every key at its default")),
        key("limits", Words("every key at its default")),
    ],
    later: &[],
};

pub static PROXY_PROTOCOL: Section =
    Section { path: "listener.proxy_protocol", header: "`proxy_protocol`", keys: &[key("from", Required)], later: &[] };

pub static TLS: Section = Section {
    path: "listener.tls",
    header: "[listener.tls]",
    keys: &[
        key("cert", Words("none; either this and `key`, or `certificates`")),
        key("key", Words("none; either this and `cert`, or `certificates`")),
        key("certificates", Words("none; either this, or `cert` and `key`")),
        key("min_version", Value("\"1.2\"")),
        key("client_auth", Value("\"none\"")),
        key("client_ca", Words("none; required where clients are asked for a certificate")),
        key("policy", Words("one policy for every name")),
    ],
    later: &["acme"],
};

pub static CERTIFICATE: Section = Section {
    path: "listener.tls.certificates",
    header: "an entry of `certificates`",
    keys: &[key("cert", Required), key("key", Required)],
    later: &[],
};

pub static POLICY: Section = Section {
    path: "listener.tls.policy",
    header: "[[listener.tls.policy]]",
    keys: &[
        key("hosts", Required),
        key("cert", Words("the certificates of `listener.tls`")),
        key("key", Words("the certificates of `listener.tls`")),
        key("certificates", Words("the certificates of `listener.tls`")),
        key("min_version", Words("that of `listener.tls`")),
        key("client_auth", Words("that of `listener.tls`")),
        key("client_ca", Words("that of `listener.tls`")),
    ],
    later: &[],
};

pub static LISTENER_TIMEOUTS: Section = Section {
    path: "listener.timeouts",
    header: "[listener.timeouts]",
    keys: &[
        key("tls_handshake", Value("\"10s\"")),
        key("request_head", Value("\"10s\"")),
        key("keep_alive", Value("\"60s\"")),
    ],
    later: &[],
};

pub static LISTENER_LIMITS: Section = Section {
    path: "listener.limits",
    header: "[listener.limits]",
    keys: &[
        key("head_size", Value("\"16KiB\"")),
        key("fields", Value("100")),
        key("target_size", Words("`\"8KiB\"`, or `head_size` where that is less")),
    ],
    later: &[],
};

pub static ROUTE: Section = Section {
    path: "route",
    header: "[[route]]",
    keys: &[
        key("name", Words("hosts and path as written")),
        key("hosts", Words("any host")),
        key("path", Value("\"/\"")),
        key("listeners", Words("all listeners")),
        key("client_certificate", Value("false")),
        key("strip_prefix", Words("the path goes upstream as it came")),
        key("upstream", Words("none; exactly one of `upstream`, `redirect`, `respond`")),
        key("redirect", Words("none; exactly one of `upstream`, `redirect`, `respond`")),
        key("respond", Words("none; exactly one of `upstream`, `redirect`, `respond`")),
        key("timeouts", Words("every key at its default")),
        key("limits", Words("every key at its default")),
        key("websocket", Words("this route never upgrades")),
    ],
    later: &[],
};

pub static REDIRECT: Section = Section {
    path: "route.redirect",
    header: "`redirect`",
    keys: &[key("to", Required), key("status", Value("308"))],
    later: &[],
};

pub static RESPOND: Section = Section {
    path: "route.respond",
    header: "`respond`",
    keys: &[key("status", Required), key("body", Value("\"\""))],
    later: &[],
};

pub static ROUTE_TIMEOUTS: Section = Section {
    path: "route.timeouts",
    header: "[route.timeouts]",
    keys: &[
        key("response", Value("\"60s\"")),
        key("request_body_idle", Value("\"30s\"")),
        key("response_body_idle", Value("\"10m\"")),
        key("client_stall", Value("\"30s\"")),
    ],
    later: &[],
};

pub static ROUTE_LIMITS: Section = Section {
    path: "route.limits",
    header: "[route.limits]",
    keys: &[key("body_size", Value("\"none\""))],
    later: &[],
};

pub static WEBSOCKET: Section = Section {
    path: "route.websocket",
    header: "[route.websocket]",
    keys: &[
        key("origins", Value("[\"same-origin\"]")),
        key("allow_missing_origin", Value("true")),
        key("subprotocols", Words("every offer passes")),
        key("extensions", Value("\"pass\"")),
        key("idle_timeout", Value("\"10m\"")),
        key("max_lifetime", Value("\"none\"")),
        key("ping_interval", Value("\"none\"")),
        key("ping_upstream", Value("false")),
        key("frames", Value("\"checked\"")),
        key("max_frame_size", Value("\"none\"")),
        key("max_message_size", Value("\"none\"")),
        key("messages_per_second", Value("\"none\"")),
        key("bytes_per_second", Value("\"none\"")),
        key("on_excess", Value("\"delay\"")),
        key("max_tunnels", Value("\"none\"")),
        key("max_tunnels_per_address", Value("\"none\"")),
        key("close_removed", Value("false")),
    ],
    later: &[],
};

pub static SUBPROTOCOLS: Section = Section {
    path: "route.websocket.subprotocols",
    header: "`subprotocols`",
    keys: &[key("allow", Words("every offer passes")), key("require", Value("false"))],
    later: &[],
};

pub static UPSTREAM: Section = Section {
    path: "upstream.NAME",
    header: "[upstream.NAME]",
    keys: &[
        key("servers", Required),
        key("balance", Value("\"round-robin\"")),
        key("hash", Words("by the client's address, where `balance` is `\"hash\"`")),
        key("slow_start", Value("\"none\"")),
        key("drain_rate", Value("\"none\"")),
        key("sticky", Words("a client may get another server with every request")),
        key("health", Words("servers are not checked")),
        key("ejection", Words("every key at its default")),
        key("panic", Value("\"all\"")),
        key("host", Value("\"preserve\"")),
        key("via", Value("true")),
        key("retries", Value("1")),
        key("retry_budget", Words("every key at its default")),
        key("max_connections", Value("\"none\"")),
        key("queue", Words("every key at its default")),
        key("connect_timeout", Value("\"5s\"")),
        key("source", Words("the kernel's choice")),
        key("proxy_protocol", Words("servers get no PROXY header")),
        key("protocols", Value("[\"http/1.1\"]")),
        key("websocket_over_h2", Value("true")),
        key("ca", Words("the system's roots")),
        key("client_cert", Words("no client certificate")),
        key("client_key", Words("no client certificate")),
    ],
    later: &[],
};

pub static UPSTREAM_SERVER: Section = Section {
    path: "upstream.NAME.servers",
    header: "an entry of `servers`",
    keys: &[
        key("url", Required),
        key("weight", Value("1")),
        key("backup", Value("false")),
        key("max_connections", Words("that of the upstream")),
        key("resolve", Value("\"one\"")),
        key("tls_name", Words("the host in the URL")),
        key("ca", Words("the upstream's `ca`")),
        key("client_cert", Words("the upstream's `client_cert`")),
        key("client_key", Words("the upstream's `client_key`")),
    ],
    later: &[],
};

pub static STICKY: Section = Section {
    path: "upstream.NAME.sticky",
    header: "`sticky`",
    keys: &[
        key("cookie", Required),
        key("secret_file", Words("a secret of this process: a restart moves clients")),
        key("same_site", Value("\"lax\"")),
        key("max_age", Value("\"none\"")),
        key("path", Value("\"/\"")),
        key("domain", Words("the host that answered, and no other")),
    ],
    later: &[],
};

pub static QUEUE: Section = Section {
    path: "upstream.NAME.queue",
    header: "`queue`",
    keys: &[key("size", Value("100")), key("timeout", Value("\"5s\""))],
    later: &[],
};

pub static RETRY_BUDGET: Section = Section {
    path: "upstream.NAME.retry_budget",
    header: "`retry_budget`",
    keys: &[key("percent", Value("20")), key("min_per_second", Value("10"))],
    later: &[],
};

pub static HASH: Section = Section {
    path: "upstream.NAME.hash",
    header: "`hash`",
    keys: &[
        key("by", Value("\"address\"")),
        key("name", Words("required where `by` is `\"header\"` or `\"cookie\"`")),
        key("load", Value("125")),
    ],
    later: &[],
};

pub static HEALTH: Section = Section {
    path: "upstream.NAME.health",
    header: "`health`",
    keys: &[
        key("tcp", Words("none; exactly one of `tcp`, `http`, `websocket`")),
        key("http", Words("none; exactly one of `tcp`, `http`, `websocket`")),
        key("websocket", Words("none; exactly one of `tcp`, `http`, `websocket`")),
        key("status", Words("`[200]`, where `http` stands")),
        key("body", Words("the body is not looked at")),
        key("host", Words("the server's own, from its URL")),
        key("origin", Words("no `Origin`")),
        key("interval", Value("\"5s\"")),
        key("timeout", Value("\"2s\"")),
        key("rise", Value("2")),
        key("fall", Value("3")),
    ],
    later: &[],
};

pub static EJECTION: Section = Section {
    path: "upstream.NAME.ejection",
    header: "`ejection`",
    keys: &[
        key("failures", Value("5")),
        key("duration", Value("\"2s\"")),
        key("max_duration", Words("`\"1m\"`, or `duration` where that is more")),
        key("max_ejected_percent", Value("50")),
    ],
    later: &[],
};

/// In the order of `docs/config.md`.
pub static SECTIONS: &[&Section] = &[
    &ROOT,
    &SERVER,
    &LOG,
    &OTLP,
    &ADMIN,
    &ADMIN_TLS,
    &LISTENER,
    &PROXY_PROTOCOL,
    &TLS,
    &CERTIFICATE,
    &POLICY,
    &LISTENER_TIMEOUTS,
    &LISTENER_LIMITS,
    &ROUTE,
    &REDIRECT,
    &RESPOND,
    &ROUTE_TIMEOUTS,
    &ROUTE_LIMITS,
    &WEBSOCKET,
    &SUBPROTOCOLS,
    &UPSTREAM,
    &UPSTREAM_SERVER,
    &HASH,
    &STICKY,
    &RETRY_BUDGET,
    &QUEUE,
    &HEALTH,
    &EJECTION,
];
