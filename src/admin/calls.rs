//! What may be asked, as one table.
//!
//! Paths are compared as they come, byte for byte: nothing is decoded or tidied up, so that there is one way to write each.
//! `openapi/` describes the same table.

use http::{Method, StatusCode};

use super::answer::ApiError;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Dashboard,
    DashboardFile,
    Live,
    Ready,
    Status,
    Tunnels,
    CloseTunnels,
    Listeners,
    Routes,
    Upstreams,
    Certificates,
    Config,
    Refusals,
    Drains,
    Drain,
    Resume,
    Reload,
    Log,
    SetLog,
    OpenApi,
    Metrics,
}

/// One thing that may be asked.
#[derive(Debug)]
pub struct Route {
    pub method: Method,
    /// The last segment may be `{id}`, which stands for any one.
    pub path: &'static str,
    /// What a query may say.
    pub query: &'static [&'static str],
    pub call: Call,
    pub access: Access,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Also those without a token: whoever looks whether the gateway is well has none, and whoever opens the dashboard
    /// types it in there.
    Anybody,
    Token,
}

const fn get(path: &'static str, query: &'static [&'static str], call: Call) -> Route {
    Route { method: Method::GET, path, query, call, access: Access::Token }
}

const fn change(method: Method, path: &'static str, call: Call) -> Route {
    Route { method, path, query: &[], call, access: Access::Token }
}

const fn probe(path: &'static str, call: Call) -> Route {
    Route { method: Method::GET, path, query: &[], call, access: Access::Anybody }
}

/// All of them.
pub static ROUTES: &[Route] = &[
    probe("/", Call::Dashboard),
    probe("/dashboard/{id}", Call::DashboardFile),
    probe("/healthz", Call::Live),
    probe("/readyz", Call::Ready),
    get("/metrics", &[], Call::Metrics),
    get("/api/v1/status", &[], Call::Status),
    get("/api/v1/tunnels", &["filter", "sort", "limit", "offset"], Call::Tunnels),
    change(Method::POST, "/api/v1/tunnels/close", Call::CloseTunnels),
    get("/api/v1/listeners", &[], Call::Listeners),
    get("/api/v1/routes", &[], Call::Routes),
    get("/api/v1/upstreams", &[], Call::Upstreams),
    get("/api/v1/certificates", &[], Call::Certificates),
    get("/api/v1/config", &[], Call::Config),
    get("/api/v1/refusals", &["limit"], Call::Refusals),
    get("/api/v1/drains", &[], Call::Drains),
    change(Method::POST, "/api/v1/drains", Call::Drain),
    change(Method::DELETE, "/api/v1/drains/{id}", Call::Resume),
    change(Method::POST, "/api/v1/reload", Call::Reload),
    get("/api/v1/log", &[], Call::Log),
    change(Method::PUT, "/api/v1/log", Call::SetLog),
    get("/api/v1/openapi.json", &[], Call::OpenApi),
];

impl Route {
    /// What stands in the place of `{id}`, where the path is this one's.
    fn fits<'a>(&self, path: &'a str) -> Option<&'a str> {
        let Some(front) = self.path.strip_suffix("{id}") else { return (self.path == path).then_some("") };
        let id = path.strip_prefix(front)?;
        let is_word = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        is_word.then_some(id)
    }
}

/// The route for a method and a path, with what stands for `{id}`.
pub(super) fn find<'a>(method: &Method, path: &'a str) -> Result<(&'static Route, &'a str), ApiError> {
    let mut allowed = Vec::new();
    for route in ROUTES {
        if let Some(id) = route.fits(path) {
            if route.method == *method {
                return Ok((route, id));
            }
            allowed.push(route.method.as_str());
            if route.method == Method::GET {
                allowed.push("HEAD");
            }
        }
    }
    if allowed.is_empty() {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path")
            .help("`GET /api/v1/openapi.json` lists what there is"));
    }
    let allowed = allowed.join(", ");
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "not with this method")
        .help(format!("here one may {allowed}"));
    Err(ApiError { allow: Some(allowed), ..error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        assert_eq!(find(&Method::GET, "/api/v1/tunnels").map(|(route, _)| route.call).ok(), Some(Call::Tunnels));
        let (route, id) = find(&Method::DELETE, "/api/v1/drains/server-00ff").expect("a drain");
        assert_eq!((route.call, id), (Call::Resume, "server-00ff"));
        for path in [
            "",
            "/index.html",
            "/dashboard/",
            "/dashboard/../api",
            "/api/v1/tunnels/",
            "//api/v1/tunnels",
            "/api//v1/tunnels",
            "/api/v1/../v1/tunnels",
            "/api/v1/./tunnels",
            "/api/v1/%74unnels",
            "/API/v1/tunnels",
            "/api/v1/tunnels;x",
            "/api/v1/drains/",
            "/api/v1/drains/a/b",
            "/api/v1/drains/a%2fb",
            "/api/v1",
        ] {
            for method in [Method::GET, Method::DELETE] {
                let error = find(&method, path).map(drop).expect_err(path);
                assert_eq!(error.status, StatusCode::NOT_FOUND, "{method} {path}");
            }
        }
    }

    #[test]
    fn another_method_is_told_which_ones_there_are() {
        let error = find(&Method::POST, "/api/v1/log").map(drop).expect_err("no POST");
        assert_eq!((error.status, error.allow.as_deref()), (StatusCode::METHOD_NOT_ALLOWED, Some("GET, HEAD, PUT")));
        assert!(find(&Method::OPTIONS, "/api/v1/status").is_err() && find(&Method::GET, "/api/v1/reload").is_err());
    }

    #[test]
    fn no_two_routes_are_the_same_and_only_probes_and_the_bare_page_are_for_anybody() {
        for (index, route) in ROUTES.iter().enumerate() {
            assert!(!ROUTES[..index].iter().any(|other| other.path == route.path && other.method == route.method));
            let is_page = matches!(route.call, Call::Dashboard | Call::DashboardFile);
            assert_eq!(route.access == Access::Anybody, is_page || route.path.ends_with('z'), "{}", route.path);
        }
    }
}
