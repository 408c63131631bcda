//! From text to a typed configuration: text → spanned tree → reader → [`model`], with every problem in a [`report`].
//!
//! [`read()`] and [`read_text`] are the only ways in. They look at the text (and at the files that `include` names) and
//! at nothing else: whether a certificate exists, a name resolves or two routes clash is found out by each stage's
//! `build`, which adds to the same report. [`render()`] turns a report into what the operator sees.

pub mod file;
pub mod keys;
pub mod looked_at;
pub mod model;
pub mod places;
pub mod render;
pub mod report;
pub mod written;

mod document;
mod read;

pub use document::Document;
pub use read::{duration, nearest, read, read_admin, read_text, show_duration, show_size, size};
pub use render::render;
