//! How much the event log says: one level for all, and other levels for single areas. Pure; `events.rs` puts it in use.
//!
//! An area is a part of the gateway (`upstream`, `tls`), named like its module, or a library that it stands on. The
//! list is closed, so that a slip is told and what is kept has a bound.

use std::collections::BTreeMap;
use std::fmt;

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::config;
use crate::config::model::LogLevel;

/// Areas and whose events belong to them: parts of the gateway by their modules, then libraries.
const AREAS: &[(&str, Says)] = &[
    ("admin", Says::Gateway(&["admin"])),
    ("connection", Says::Gateway(&["connection"])),
    ("control", Says::Gateway(&["control"])),
    ("exchange", Says::Gateway(&["exchange"])),
    ("gateway", Says::Gateway(&["gateway"])),
    ("http", Says::Gateway(&["http"])),
    ("lifecycle", Says::Gateway(&["lifecycle"])),
    ("limits", Says::Gateway(&["limits"])),
    ("listener", Says::Gateway(&["listener"])),
    ("reload", Says::Gateway(&["reload", "snapshot"])),
    ("telemetry", Says::Gateway(&["telemetry"])),
    // What TLS has to say of a connection is said where it is made.
    ("tls", Says::Gateway(&["tls", "connection::greeting"])),
    ("tunnel", Says::Gateway(&["tunnel"])),
    ("upstream", Says::Gateway(&["upstream"])),
    ("worker", Says::Gateway(&["worker"])),
    ("h2", Says::Library(&["h2"])),
    ("hyper", Says::Library(&["hyper"])),
    ("resolver", Says::Library(RESOLVER)),
];

/// Whose events they are.
#[derive(Clone, Copy)]
enum Says {
    Gateway(&'static [&'static str]),
    Library(&'static [&'static str]),
}

impl Says {
    fn targets(self) -> Vec<String> {
        let (root, modules) = match self {
            Self::Gateway(modules) => (concat!(env!("CARGO_CRATE_NAME"), "::"), modules),
            Self::Library(modules) => ("", modules),
        };
        modules.iter().map(|module| format!("{root}{module}")).collect()
    }
}

/// It has a line for every datagram that it does not believe, so that whoever sends some would write our log; what matters
/// of its work is logged by those who ask it. It is heard where somebody looks into it.
const RESOLVER: &[&str] = &["hickory_net", "hickory_proto", "hickory_resolver"];

/// One level for all, and those of single areas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    all: LogLevel,
    areas: BTreeMap<&'static str, LogLevel>,
}

/// A word that is no level and no area's level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLevel {
    pub word: String,
    pub help: String,
}

impl fmt::Display for BadLevel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}` is no level and no area's level", self.word)
    }
}

impl std::error::Error for BadLevel {}

impl Levels {
    pub fn all(level: LogLevel) -> Self {
        Self { all: level, areas: BTreeMap::new() }
    }

    /// Areas with a level of their own, in the order of their names.
    pub fn areas(&self) -> impl Iterator<Item = (&'static str, LogLevel)> + '_ {
        self.areas.iter().map(|(area, level)| (*area, *level))
    }

    /// The same after a change such as `debug`, `upstream=debug`, or `info,upstream=debug,tls=trace`. A level by itself is
    /// the level of everything, so that areas that had one of their own lose it; `upstream=` has an area lose its own.
    ///
    /// # Errors
    /// The first word that cannot be understood.
    pub fn changed(&self, text: &str) -> Result<Self, BadLevel> {
        let mut levels = self.clone();
        for word in text.split(',').map(str::trim) {
            let Some((area, level)) = word.split_once('=') else {
                levels = Self::all(level_called(word).ok_or_else(|| bad(word))?);
                continue;
            };
            let (area, _) = AREAS.iter().find(|(known, _)| *known == area.trim()).ok_or_else(|| bad(word))?;
            match level.trim() {
                "" => levels.areas.remove(area),
                level => levels.areas.insert(area, level_called(level).ok_or_else(|| bad(word))?),
            };
        }
        Ok(levels)
    }

    pub(super) fn targets(&self) -> Targets {
        let all = filter(self.all);
        let resolver = if all >= LevelFilter::DEBUG { all } else { LevelFilter::OFF };
        let mut targets = Targets::new().with_default(all).with_targets(RESOLVER.iter().map(|name| (*name, resolver)));
        for (area, says) in AREAS {
            if let Some(level) = self.areas.get(area) {
                targets = targets.with_targets(says.targets().into_iter().map(|target| (target, filter(*level))));
            }
        }
        targets
    }
}

impl fmt::Display for Levels {
    /// As [`changed`](Self::changed) reads it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.all.as_str())?;
        self.areas().try_for_each(|(area, level)| write!(out, ",{area}={}", level.as_str()))
    }
}

fn level_called(word: &str) -> Option<LogLevel> {
    LogLevel::ALL.into_iter().find(|level| level.as_str() == word)
}

/// A question that stands before what there is, where one of these is near.
fn meant(word: &str, all: &[&str]) -> String {
    config::nearest(word.trim(), all.iter().copied())
        .map_or_else(String::new, |near| format!("did you mean `{near}`? "))
}

fn bad(word: &str) -> BadLevel {
    let levels: Vec<_> = LogLevel::ALL.iter().map(|level| level.as_str()).collect();
    let areas: Vec<_> = AREAS.iter().map(|(area, _)| *area).collect();
    let help = match word.split_once('=') {
        Some((area, level)) if AREAS.iter().any(|(known, _)| *known == area.trim()) => {
            format!("{}write {}=LEVEL with one of {}", meant(level, &levels), area.trim(), levels.join(", "))
        }
        Some((area, _)) => format!("{}areas are {}", meant(area, &areas), areas.join(", ")),
        None => format!("{}write one of {}, or AREA=LEVEL", meant(word, &levels), levels.join(", ")),
    };
    // A word of whoever asks: one line, and not a long one.
    let word: String = word.chars().filter(|letter| !letter.is_control()).take(40).collect();
    BadLevel { word, help }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_by_itself_is_for_everything_and_one_with_an_area_for_that_alone() {
        let start = Levels::all(LogLevel::Info);
        for (change, shown) in [
            ("debug", "debug"),
            ("upstream=debug", "info,upstream=debug"),
            ("warn, tls=trace ,upstream=error", "warn,tls=trace,upstream=error"),
            ("upstream=debug,warn", "warn"),
            ("upstream=debug,upstream=", "info"),
        ] {
            let levels = start.changed(change).expect(change);
            assert_eq!(levels.to_string(), shown, "{change}");
            assert_eq!(start.changed(&levels.to_string()), Ok(levels), "{change}");
        }
    }

    #[test]
    fn what_is_no_level_is_named_with_what_would_be_one() {
        for (change, word, help) in [
            ("loud", "loud", "error, warn, info, debug, trace"),
            ("", "", "AREA=LEVEL"),
            ("info,upstreams=debug", "upstreams=debug", "upstream"),
            ("upstream=loud", "upstream=loud", "upstream=LEVEL"),
            ("DEBUG", "DEBUG", "debug"),
            ("upstraem=debug", "upstraem=debug", "did you mean `upstream`? areas are admin"),
            ("tls=debgu", "tls=debgu", "did you mean `debug`? write tls=LEVEL"),
        ] {
            let bad = Levels::all(LogLevel::Info).changed(change).expect_err(change);
            assert_eq!(bad.word, word);
            assert!(bad.help.contains(help), "{bad:?}");
        }
    }

    #[test]
    fn an_area_is_heard_by_its_own_level() {
        let targets = Levels::all(LogLevel::Warn).changed("upstream=debug,resolver=info").expect("levels").targets();
        assert!(targets.would_enable("portcullis::upstream::health", &Level::DEBUG));
        assert!(!targets.would_enable("portcullis::listener", &Level::INFO));
        assert!(targets.would_enable("hickory_net::udp", &Level::INFO));
        assert!(!Levels::all(LogLevel::Info).targets().would_enable("hickory_net::udp", &Level::ERROR));
        assert!(Levels::all(LogLevel::Debug).targets().would_enable("hickory_net::udp", &Level::DEBUG));
    }

    #[test]
    fn every_area_is_a_part_of_the_gateway() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for target in AREAS.iter().flat_map(|(_, says)| says.targets()) {
            let Some(module) = target.strip_prefix("portcullis::") else { continue };
            let path = root.join(module.replace("::", "/"));
            assert!(path.is_dir() || path.with_extension("rs").is_file(), "{module}");
        }
    }

    proptest! {
        #[test]
        fn no_text_whatever_breaks_it(text in ".{0,60}") {
            if let Err(bad) = Levels::all(LogLevel::Info).changed(&text) {
                prop_assert!(!bad.to_string().chars().any(char::is_control));
            }
        }
    }
}
