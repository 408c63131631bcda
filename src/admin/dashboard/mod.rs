//! The dashboard: one page that asks the API, and the files that it is made of. They are a part of the program and load
//! nothing from anywhere else.
//!
//! They tell nothing, so that they are given to those without a token too: whoever opens the page types it in there. The
//! page's policy lets it run its own files and ask its own listener, and nothing besides; text never becomes markup in it
//! (`trusted-types 'none'`).

use http::StatusCode;

use super::answer::{ApiError, Reply};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Name, type, text: what stands beneath `/dashboard/`.
static FILES: &[(&str, &str, &str)] = &[
    ("icon.svg", SVG, include_str!("icon.svg")),
    ("style.css", CSS, include_str!("style.css")),
    ("tables.css", CSS, include_str!("tables.css")),
    ("main.js", JS, include_str!("main.js")),
    ("api.js", JS, include_str!("api.js")),
    ("dom.js", JS, include_str!("dom.js")),
    ("format.js", JS, include_str!("format.js")),
    ("numbers.js", JS, include_str!("numbers.js")),
    ("tunnels.js", JS, include_str!("tunnels.js")),
    ("closing.js", JS, include_str!("closing.js")),
    ("upstreams.js", JS, include_str!("upstreams.js")),
    ("lists.js", JS, include_str!("lists.js")),
    ("controls.js", JS, include_str!("controls.js")),
];

/// `GET /`
pub fn page() -> Reply {
    Reply { content_policy: Some(POLICY), ..Reply::text(HTML, include_str!("page.html")) }
}

/// `GET /dashboard/{id}`
pub fn file(name: &str) -> Result<Reply, ApiError> {
    let found = FILES.iter().find(|(known, _, _)| *known == name);
    let (_, kind, text) =
        found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "not-found", "the dashboard has no such file"))?;
    Ok(Reply::text(kind, *text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_and_its_files_name_each_other_and_nothing_elsewhere() {
        let texts =
            FILES.iter().map(|(name, _, text)| (*name, *text)).chain([("page.html", include_str!("page.html"))]);
        let texts: Vec<_> = texts.collect();
        for (name, _, _) in FILES {
            let is_named =
                |text: &str| text.contains(&format!("/dashboard/{name}")) || text.contains(&format!("'./{name}'"));
            assert!(texts.iter().any(|(other, text)| other != name && is_named(text)), "nothing asks for {name}");
        }
        for (name, text) in &texts {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{name} names another place");
            for part in text.split("'./").skip(1).filter_map(|rest| rest.split('\'').next()) {
                assert!(file(part).is_ok(), "{name} imports {part}, which is not there");
            }
        }
        assert!(file("main.css").is_err());
    }

    #[test]
    fn nothing_in_the_page_could_make_markup_of_text() {
        for (name, _, text) in FILES.iter().filter(|(_, kind, _)| *kind == JS) {
            for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!text.contains(way), "{name} has {way}");
            }
        }
        let page = include_str!("page.html");
        for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
            assert!(!page.contains(inline), "the page has {inline}");
        }
        assert!(
            page.split("<script").skip(1).all(|script| script.starts_with(" type=\"module\" src=")),
            "an inline script"
        );
    }
}
