//! Fuzz targets of the configuration: plain functions, so that ordinary tests run them as well.

use std::path::Path;

/// Whatever the text: no panic, a configuration exactly where there is no error, and a report that can be shown.
pub fn configuration_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Included files are the file system's business, not the text's.
    let text = text.replace("include", "exclude");
    let (config, report) = portcullis::config::read_text("fuzz.toml", &text, Path::new("/nonexistent"));
    assert_eq!(config.is_some(), !report.has_errors());
    for color in [false, true] {
        let shown = portcullis::config::render(&report, color);
        assert_eq!(shown.is_empty(), report.problems.is_empty());
        assert!(color || !shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    }
}
