//! `[log]`: what is logged, how much and where, and where spans go.

use std::path::PathBuf;

use crate::config::report::Spot;

#[derive(Clone, Debug)]
pub struct Log {
    pub level: LogLevel,
    pub access: AccessTarget,
    /// Where that is written.
    pub access_spot: Spot,
    pub format: LogFormat,
    /// Lines of the access log for refusals in a second; `None`: for all. Default 1,000.
    pub refusals_per_second: Option<u32>,
    /// Where spans go. `None`, and always so without the feature `otel`: nowhere.
    pub otlp: Option<Otlp>,
}

/// An OpenTelemetry collector, spoken to over HTTP in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    pub path: String,
    /// What the gateway is called there.
    pub service: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessTarget {
    Stderr,
    File(PathBuf),
    Syslog(SyslogTarget),
    /// The systemd journal.
    Journald,
    Off,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogTarget {
    /// The machine's own, at `/dev/log`.
    Local,
    Unix(PathBuf),
    /// `host`: a name, or an address without brackets.
    Udp {
        host: String,
        port: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text where stderr is a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}
