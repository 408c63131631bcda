//! A description of the API in OpenAPI 3.1, made from the router's own table: what is routed is described, and what is
//! described is routed. The shapes are in `schemas.rs`; tests hold the answers to them, key by key.

mod schemas;

use http::Method;
use serde_json::{Map, Value, json};

use super::calls::{Access, Call, ROUTES, Route};
use schemas::{body, schema};

/// The whole description.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in described() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Portcullis, the admin listener",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a gateway that runs can be asked and told. Times are RFC 3339, durations whole milliseconds \
                (`_ms`) or microseconds (`_us`); what there is not is null. Names are those of the access log.",
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": { "Error": schemas::error() },
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// The page for people and what it is made of are no part of the API.
fn described() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|route| !matches!(route.call, Call::Dashboard | Call::DashboardFile))
}

fn operation(route: &Route) -> Value {
    let words = words(route.call);
    let answer = match schema(route.call) {
        Some(schema) => json!({ "application/json": { "schema": schema } }),
        None if route.call == Call::Metrics => {
            json!({ "application/openmetrics-text": { "schema": { "type": "string" } } })
        }
        None => json!({ "text/plain": { "schema": { "type": "string" } } }),
    };
    let error = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } });
    let mut responses = json!({
        "200": { "description": words.answer, "content": answer },
        "default": { "description": "What is wrong, or keeps it from being done.", "content": error },
    });
    if route.call == Call::Reload {
        let content = json!({ "application/json": { "schema": schemas::reload() } });
        responses["422"] = json!({ "description": "Nothing has changed: `problems` says why.", "content": content });
    }
    let mut operation = json!({
        "operationId": words.id,
        "summary": words.summary,
        "parameters": parameters(route),
        "responses": responses,
        // Either, where a token is configured or not.
        "security": if route.access == Access::Anybody { json!([]) } else { json!([{}, { "token": [] }]) },
    });
    if let Some(schema) = body(route.call) {
        operation["requestBody"] = json!({
            "required": route.method != Method::POST || route.call != Call::Reload,
            "content": { "application/json": { "schema": schema } },
        });
    }
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let query = route.query.iter().map(|name| {
        let (kind, words) = match *name {
            "filter" => (json!({ "type": "string", "maxLength": crate::control::filter::LONGEST }), FILTER),
            "sort" => (json!({ "type": "string" }), "A key, perhaps with `:asc` or `:desc`: age, bytes, route, …"),
            "offset" => (json!({ "type": "integer", "minimum": 0 }), "From this row on; 0 is the first."),
            _ => (json!({ "type": "integer", "minimum": 0 }), "No more rows than this."),
        };
        json!({ "name": name, "in": "query", "required": false, "description": words, "schema": kind })
    });
    let id = route.path.contains("{id}").then(|| {
        let words = "As the list has it.";
        json!({ "name": "id", "in": "path", "required": true, "description": words, "schema": { "type": "string" } })
    });
    query.chain(id).collect()
}

const FILTER: &str =
    "Terms between spaces, all of which have to hold: `route=chat client=10.0.0.0/8 age>1h bytes>=1MiB`.";

struct Words {
    id: &'static str,
    summary: &'static str,
    answer: &'static str,
}

fn words(call: Call) -> Words {
    let (id, summary, answer) = match call {
        Call::Dashboard => ("dashboard", "The dashboard", "A page."),
        Call::DashboardFile => ("dashboardFile", "A part of the dashboard", "A file."),
        Call::Live => ("live", "Whether the process answers", "It does."),
        Call::Ready => ("ready", "Whether it takes new work; 503 while it drains", "It does."),
        Call::Status => ("status", "What it is, and what it has to do", "How it is."),
        Call::Tunnels => ("listTunnels", "The live tunnels", "Those that are shown, and how many there are."),
        Call::CloseTunnels => ("closeTunnels", "Close tunnels", "How many are about to close."),
        Call::Listeners => ("listListeners", "Where clients come in", "The listeners."),
        Call::Routes => ("listRoutes", "Which requests go where", "The routes, in the order of the files."),
        Call::Upstreams => {
            ("listUpstreams", "The servers, and how they stand", "The upstreams, and local ports in use.")
        }
        Call::Certificates => ("listCertificates", "What the gateway shows of itself", "The certificates."),
        Call::Config => ("config", "The configuration in use, as it is written", "Its files."),
        Call::Refusals => ("listRefusals", "What was last refused", "The newest first."),
        Call::Drains => ("listDrains", "What takes no new work", "What drains, and on whose word."),
        Call::Drain => ("drain", "Let something drain", "What drains now because of this."),
        Call::Resume => ("resume", "Let something take work again that somebody has asked to drain", "What does."),
        Call::Reload => ("reload", "Read the configuration again, and wait for what comes of it", "It is in use."),
        Call::Log => ("log", "How much the event log says", "Its level."),
        Call::SetLog => ("setLog", "Have the event log say more or less, until the next reload", "Its level."),
        Call::Metrics => ("metrics", "What is counted, for Prometheus", "All of it."),
        Call::OpenApi => ("description", "This description", "It."),
    };
    Words { id, summary, answer }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_that_is_routed_is_described_once_with_what_it_takes() {
        let document = document();
        let mut ids = BTreeSet::new();
        for route in described() {
            let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
            assert!(ids.insert(operation["operationId"].as_str().expect("an id").to_owned()), "{}", route.path);
            let named =
                operation["parameters"].as_array().expect("a list").iter().filter(|one| one["in"] == "query").count();
            assert_eq!(named, route.query.len());
            let has_body = route.method == Method::POST || route.method == Method::PUT;
            assert_eq!(operation["requestBody"].is_object(), has_body, "{}", route.path);
        }
        let operations: usize = document["paths"]
            .as_object()
            .expect("paths")
            .values()
            .map(|path| path.as_object().map_or(0, Map::len))
            .sum();
        assert_eq!(operations, described().count());
    }
}
