//! Durations and sizes as the file writes them: a whole number and a unit, in one string.
//!
//! Pure. Sums (`"1h30m"`), fractions and decimal sizes (`"1MB"`) are refused with the spelling that would be right, so
//! that a value can mean only one thing.

use std::time::Duration;

use super::fault::Fault;

/// Nothing here waits longer than a year; what is written larger is a slip.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// `"250ms"`, `"10s"`, `"10m"`, `"24h"`; never zero.
pub fn duration(text: &str) -> Result<Duration, Fault> {
    let example = "write a whole number and a unit, for example \"250ms\", \"10s\", \"10m\" or \"24h\"";
    let (number, unit) = split(text);
    let Some((_, factor)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(Fault::new("bad-duration", format!("`{text}` is not a duration"))
            .help(guess(number, unit, &DURATION_ALIASES).unwrap_or_else(|| example.into())));
    };
    let Ok(count) = number.parse::<u64>() else {
        return Err(Fault::new("bad-duration", format!("`{text}` is not a duration")).help(example));
    };
    let value = count.checked_mul(*factor).map(Duration::from_millis);
    match value {
        Some(Duration::ZERO) => Err(Fault::new("zero", "a duration of zero makes no sense here")
            .help("every wait needs a deadline; leave the key out for its default")),
        Some(value) if value <= LONGEST => Ok(value),
        _ => Err(Fault::new("out-of-range", format!("`{text}` is longer than a year"))
            .help("the longest duration is \"8760h\"")),
    }
}

/// `"512B"`, `"64KiB"`, `"1MiB"`, `"2GiB"`, in bytes; never zero.
pub fn size(text: &str) -> Result<u64, Fault> {
    let example = "write a whole number and a unit, for example \"512B\", \"64KiB\", \"1MiB\" or \"2GiB\"";
    let (number, unit) = split(text);
    let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(Fault::new("bad-size", format!("`{text}` is not a size"))
            .help(guess(number, unit, &SIZE_ALIASES).unwrap_or_else(|| example.into())));
    };
    let Ok(count) = number.parse::<u64>() else {
        return Err(Fault::new("bad-size", format!("`{text}` is not a size")).help(example));
    };
    match count.checked_mul(*factor) {
        Some(0) => {
            Err(Fault::new("zero", "a size of zero makes no sense here").help("leave the key out for its default"))
        }
        // TOML's own integers end here too, so that nothing downstream can overflow.
        Some(value) if value <= i64::MAX as u64 => Ok(value),
        _ => Err(Fault::new("out-of-range", format!("`{text}` is larger than any size can be")).help(example)),
    }
}

/// For messages and logs, to the millisecond: in the largest unit that divides the value, else as seconds with a point.
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match DURATION_UNITS.iter().rev().find(|(_, factor)| millis > 0 && millis.is_multiple_of(*factor)) {
        Some(("ms", _)) if millis > 1000 => {
            let fraction = format!("{:03}", millis % 1000);
            format!("{}.{}s", millis / 1000, fraction.trim_end_matches('0'))
        }
        Some((unit, factor)) => format!("{}{unit}", millis / factor),
        None => "0ms".to_owned(),
    }
}

/// For messages: the largest unit that divides the value.
pub fn show_size(bytes: u64) -> String {
    let (name, factor) = SIZE_UNITS
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .unwrap_or(&SIZE_UNITS[0]);
    format!("{}{name}", bytes / factor)
}

const DURATION_ALIASES: [(&str, &str); 12] = [
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("hour", "h"),
    ("hours", "h"),
    ("hr", "h"),
    ("msec", "ms"),
];

const SIZE_ALIASES: [(&str, &str); 12] = [
    ("b", "B"),
    ("bytes", "B"),
    ("k", "KiB"),
    ("kb", "KiB"),
    ("kib", "KiB"),
    ("m", "MiB"),
    ("mb", "MiB"),
    ("mib", "MiB"),
    ("g", "GiB"),
    ("gb", "GiB"),
    ("gib", "GiB"),
    ("byte", "B"),
];

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn guess(number: &str, unit: &str, aliases: &[(&str, &str)]) -> Option<String> {
    let unit = unit.trim();
    if number.is_empty() {
        return None;
    }
    let lower = unit.to_ascii_lowercase();
    // A unit that is right but for a space or its case counts as well.
    let meant = aliases
        .iter()
        .find(|(alias, _)| *alias == lower)
        .map(|(_, unit)| *unit)
        .or_else(|| aliases.iter().map(|(_, unit)| *unit).find(|known| known.eq_ignore_ascii_case(unit)))?;
    Some(format!("write \"{number}{meant}\""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, show_duration, show_size, size};

    #[test]
    fn documented_spellings_are_read() {
        for (text, millis) in [("250ms", 250), ("10s", 10_000), ("10m", 600_000), ("24h", 86_400_000)] {
            assert_eq!(duration(text).ok(), Some(Duration::from_millis(millis)), "{text}");
        }
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("1MiB", 1 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(size(text).ok(), Some(bytes), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_and_never_overflows() {
        for text in ["", "s", "10", "-1s", "1.5s", "1h30m", "0s", "+1s", "99999999999999999999s", "8761h", "１s", "10d"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "KiB", "10", "-1B", "1.5KiB", "0B", "99999999999999999999B", "9999999999GiB", "1TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn near_misses_come_with_the_right_spelling() {
        let help = |fault: super::Fault| fault.help.unwrap_or_default();
        assert_eq!(duration("10 sec").map_err(help), Err("write \"10s\"".into()));
        assert_eq!(duration("10 s").map_err(help), Err("write \"10s\"".into()));
        assert_eq!(size("64kb").map_err(help), Err("write \"64KiB\"".into()));
        assert_eq!(size("1MB").map_err(help), Err("write \"1MiB\"".into()));
    }

    #[test]
    fn durations_are_shown_as_they_are_written_and_to_the_millisecond() {
        for (micros, text) in [
            (0, "0ms"),
            (999, "0ms"),
            (250_000, "250ms"),
            (2_380_264, "2.38s"),
            (60_000_000, "1m"),
            (90_000_000, "90s"),
            (86_400_000_000, "24h"),
        ] {
            assert_eq!(show_duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        assert_eq!(show_size(16 << 10), "16KiB");
        assert_eq!(show_size(1 << 20), "1MiB");
        assert_eq!(show_size(1000), "1000B");
    }
}
