//! Every metric that the gateway has: name, kind, unit, what it says, labels. `docs/metrics.md` is the same table for
//! people, and a test compares the two with the text that is really produced.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// What is measured in it, as its name's last part says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    None,
    Seconds,
    Bytes,
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Of the family: without the suffixes of its samples.
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

impl Metric {
    /// As its samples are called, which is what is asked for; histograms have three such names.
    pub fn samples(&self) -> Vec<String> {
        let suffixes: &[&str] = match self.kind {
            Kind::Counter => &["_total"],
            Kind::Gauge => &[""],
            Kind::Histogram => &["_bucket", "_count", "_sum"],
            Kind::Info => &["_info"],
        };
        suffixes.iter().map(|suffix| format!("{}{suffix}", self.name)).collect()
    }
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] in $unit:ident: $help:literal;)*) => {
        $(pub static $constant: Metric = Metric {
            name: concat!("portcullis_", $name),
            kind: Kind::$kind,
            unit: Unit::$unit,
            help: $help,
            labels: &[$($label),*],
        };)*

        /// All of them, in the order in which they are written.
        pub static ALL: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    CONNECTIONS_ACCEPTED = Counter "connections_accepted" ["listener"] in None:
        "Connections of clients that were accepted";
    CONNECTIONS_REFUSED = Counter "connections_refused" ["listener", "reason"] in None:
        "Connections that were closed at once for want of room";
    CONNECTIONS_CLOSED = Counter "connections_closed" ["listener", "cause"] in None:
        "Accepted connections that have ended, tunnels included";
    CONNECTIONS_OPEN = Gauge "connections_open" ["listener"] in None:
        "Connections of clients that are open";
    CONNECTIONS_LIMIT = Gauge "connections_limit" [] in None:
        "Connections that may be open at a time, over all listeners";

    TLS_HANDSHAKES = Counter "tls_handshakes" ["listener", "result", "version", "resumed"] in None:
        "TLS handshakes with clients; version and resumed of those that were done";
    TLS_HANDSHAKE_DURATION = Histogram "tls_handshake_duration_seconds" ["listener"] in Seconds:
        "From a connection's arrival to the end of its TLS handshake";

    REQUESTS = Counter "requests" ["route", "protocol", "status"] in None:
        "Requests that were answered or given up, and handshakes";
    REQUESTS_ENDED = Counter "requests_ended" ["route", "reason"] in None:
        "Requests that did not become tunnels, by end reason";
    REQUEST_DURATION = Histogram "request_duration_seconds" ["route"] in Seconds:
        "From a request's head to the end of its answer, or to the opening of its tunnel";
    REQUEST_UPSTREAM_DURATION = Histogram "request_upstream_duration_seconds" ["route"] in Seconds:
        "From a request's head to the head of a server's answer";
    REQUEST_BODY_BYTES = Counter "request_body_bytes" ["route", "direction"] in Bytes:
        "Bytes of requests' bodies (in) and of their answers' (out)";

    HANDSHAKES = Counter "handshakes" ["route", "result", "reason"] in None:
        "WebSocket handshakes; reason is the end reason of those that did not become tunnels";

    TUNNELS_OPEN = Gauge "tunnels_open" ["route"] in None:
        "Tunnels that are open";
    TUNNELS_OPENED = Counter "tunnels_opened" ["route"] in None:
        "Tunnels that were opened";
    TUNNELS_ENDED = Counter "tunnels_ended" ["route", "reason"] in None:
        "Tunnels that have ended, by end reason";
    TUNNEL_BYTES = Counter "tunnel_bytes" ["route", "direction"] in Bytes:
        "Bytes that went through tunnels, frames and all";
    TUNNEL_MESSAGES = Counter "tunnel_messages" ["route", "direction"] in None:
        "Messages that went through tunnels whole; none where frames are opaque";
    TUNNEL_MESSAGE_SIZE = Histogram "tunnel_message_size_bytes" ["route", "direction"] in Bytes:
        "Payload of those messages, as on the wire";
    TUNNEL_CLOSE_CODES = Counter "tunnel_close_codes" ["route", "side", "code"] in None:
        "Tunnels that have ended with a Close, by who said the first one and its code";
    TUNNEL_PING_ROUND_TRIP = Histogram "tunnel_ping_round_trip_seconds" ["route", "side"] in Seconds:
        "From a ping of the gateway's own to its pong";
    TUNNEL_DURATION = Histogram "tunnel_duration_seconds" ["route"] in Seconds:
        "How long tunnels have lived that have ended, their handshake included";

    SERVER_STATE = Gauge "server_state" ["upstream", "server", "state"] in None:
        "1 for the state that a server is in, 0 for the others";
    SERVER_REQUESTS = Counter "server_requests" ["upstream", "server"] in None:
        "Requests and handshakes that were given to a server, each attempt of its own";
    SERVER_FAILURES = Counter "server_failures" ["upstream", "server", "kind"] in None:
        "Attempts that a server has failed";
    SERVER_REQUESTS_OPEN = Gauge "server_requests_open" ["upstream", "server"] in None:
        "Requests and handshakes that a server has now";
    SERVER_TUNNELS_OPEN = Gauge "server_tunnels_open" ["upstream", "server"] in None:
        "Tunnels that a server has now";
    SERVER_CONNECTIONS_OPEN = Gauge "server_connections_open" ["upstream", "server"] in None:
        "Connections to a server that are open or being opened, its checks' included";
    SERVER_CONNECTIONS_IDLE = Gauge "server_connections_idle" ["upstream", "server"] in None:
        "Of those, HTTP/1.1 connections that wait for their next request";
    SERVER_CONNECTIONS_OPENED = Counter "server_connections_opened" ["upstream", "server"] in None:
        "Connections to a server that were opened, its checks' included";
    SERVER_CONNECTIONS_REUSED = Counter "server_connections_reused" ["upstream", "server"] in None:
        "Requests and handshakes that went on a connection which was open already";
    SERVER_EJECTIONS = Counter "server_ejections" ["upstream", "server"] in None:
        "How often live traffic has taken a server out";
    SERVER_CHECKS = Counter "server_checks" ["upstream", "server", "result"] in None:
        "Health checks of a server";

    UPSTREAM_RETRIES = Counter "upstream_retries" ["upstream"] in None:
        "Attempts after the first one";
    UPSTREAM_RETRIES_REFUSED = Counter "upstream_retries_refused" ["upstream"] in None:
        "Failures that were passed on because the retry budget was spent";
    UPSTREAM_QUEUE_LENGTH = Gauge "upstream_queue_length" ["upstream"] in None:
        "Requests and handshakes that wait for a place at a server";
    UPSTREAM_QUEUE_JOINED = Counter "upstream_queue_joined" ["upstream"] in None:
        "Requests and handshakes that have come to wait";
    UPSTREAM_QUEUE_REFUSED = Counter "upstream_queue_refused" ["upstream"] in None:
        "Requests and handshakes that found the queue full";
    UPSTREAM_QUEUE_TIMED_OUT = Counter "upstream_queue_timed_out" ["upstream"] in None:
        "Requests and handshakes that waited in vain";
    UPSTREAM_QUEUE_WAIT = Counter "upstream_queue_wait_seconds" ["upstream"] in Seconds:
        "How long all those have waited who wait no more";

    SOURCE_PORTS_IN_USE = Gauge "source_ports_in_use" ["source", "destination"] in None:
        "Local ports that connections from one address to another take";
    SOURCE_PORTS_LIMIT = Gauge "source_ports_limit" [] in None:
        "Local ports that there are for each such pair";

    CONFIG_GENERATION = Gauge "config_generation" [] in None:
        "The configuration in use, counted from 1 by those that have been";
    CONFIG_IN_USE_SINCE = Gauge "config_in_use_since_seconds" [] in Seconds:
        "When it was put in use, in seconds since 1970";
    CONFIG_RELOADS = Counter "config_reloads" ["result"] in None:
        "Reloads";
    CERTIFICATE_NOT_AFTER = Gauge "certificate_not_after_seconds" ["listener", "certificate", "name"] in Seconds:
        "When a certificate of the gateway's own expires, in seconds since 1970";

    LOG_LINES_LOST = Counter "log_lines_lost" ["log"] in None:
        "Log lines that were dropped because their target was too slow or could not be written";

    WORKER_CONNECTIONS = Gauge "worker_connections" ["worker"] in None:
        "Connections of clients that live on a worker, tunnels included";
    WORKER_BUSY = Counter "worker_busy_seconds" ["worker"] in Seconds:
        "How long a worker has not been waiting";
    WORKER_LOOP_LAG = Histogram "worker_loop_lag_seconds" ["worker"] in Seconds:
        "How much later than due a worker gets round to something, asked once a second";
    WORKER_INBOX_LENGTH = Gauge "worker_inbox_length" ["worker", "inbox"] in None:
        "Connections that wait for their worker, and orders of the control plane";

    PROCESS_START_TIME = Gauge "process_start_time_seconds" [] in Seconds:
        "When the process was started, in seconds since 1970";
    PROCESS_CPU = Counter "process_cpu_seconds" [] in Seconds:
        "CPU time of the process, all threads, in the system and outside of it";
    PROCESS_RESIDENT_MEMORY = Gauge "process_resident_memory_bytes" [] in Bytes:
        "Memory that the process has in RAM";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" [] in None:
        "Descriptors that the process has open";
    PROCESS_MAX_FDS = Gauge "process_max_fds" [] in None:
        "Descriptors that it may have open; absent where there is no limit";
    PROCESS_DRAINING = Gauge "process_draining" [] in None:
        "1 once the process takes no new connections";
    BUILD = Info "build" ["version"] in None:
        "The program";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_openmetrics_and_stand_once() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let Metric { name, kind, unit, help, labels } = metric;
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            for suffix in ["_total", "_info", "_count", "_sum", "_bucket", "_created"] {
                assert!(!name.ends_with(suffix), "{name}: suffixes belong to samples");
            }
            let has_unit = |unit: &str| name.ends_with(unit);
            match unit {
                Unit::Seconds => assert!(has_unit("_seconds"), "{name}"),
                Unit::Bytes => assert!(has_unit("_bytes"), "{name}"),
                Unit::None => assert!(!has_unit("_seconds") && !has_unit("_bytes"), "{name}"),
            }
            assert!(*kind != Kind::Info || *unit == Unit::None, "{name}");
            assert!(!help.is_empty() && !help.ends_with('.') && !help.contains(['\n', '\\', '"']), "{name}");
            assert!(labels.iter().all(|label| !["le", "quantile"].contains(label)), "{name}");
        }
    }
}
