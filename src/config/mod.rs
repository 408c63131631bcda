//! From text to a typed configuration: text → spanned tree → reader → [`model`], with every problem in a [`report`].

pub mod model;
pub mod report;
