//! `GET /metrics`, for Prometheus: OpenMetrics, whatever the scraper would like.
//!
//! Written on the admin listener's own thread, which is held up for as long as that takes, and nobody else.

use crate::admin::Plane;
use crate::admin::answer::{ApiError, Reply};

pub fn metrics(plane: &Plane) -> Result<Reply, ApiError> {
    let rendered = plane.metrics.render().map_err(|_| ApiError::internal("the metrics cannot be written"))?;
    Ok(Reply::text(rendered.content_type, rendered.body))
}
