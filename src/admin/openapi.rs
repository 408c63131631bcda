//! A description of the API, in OpenAPI 3.1.
pub fn document() -> serde_json::Value {
    serde_json::json!({})
}
