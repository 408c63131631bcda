//! `Cookie` (RFC 6265 5.4): finding and removing one by its name.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// The value of the first cookie of that name, over all lines; quotes belong to the value.
pub fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    all(headers, name).next()
}

/// The values of all cookies of that name, in their order.
pub fn all<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.trim_ascii_end())
    })
}

/// Takes every cookie of that name out of all lines. What stays keeps its bytes; a line with nothing left goes.
pub fn remove(headers: &mut HeaderMap, name: &str) {
    let is_it = |pair: &[u8]| {
        let rest = pair.trim_ascii_start().strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b"="))
    };
    let lines: Vec<_> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let pairs = || line.as_bytes().split(|byte| *byte == b';');
        if !pairs().any(is_it) {
            headers.append(COOKIE, line);
            continue;
        }
        let kept: Vec<_> = pairs().filter(|pair| !is_it(pair)).collect();
        let kept = kept.join(&b';');
        let kept = kept.trim_ascii_start();
        // Pieces of a field value make a field value.
        if let (false, Ok(line)) = (kept.is_empty(), HeaderValue::from_bytes(kept)) {
            headers.append(COOKIE, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name_on_any_line() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "pclx=1; xpcl=2;pcl=3; pcl=4".parse().expect("a value"));
        headers.append(COOKIE, "other=\"a=b\" ; empty=".parse().expect("a value"));
        assert_eq!(find(&headers, "pcl"), Some(&b"3"[..]));
        assert_eq!(find(&headers, "other"), Some(&b"\"a=b\""[..]));
        assert_eq!(find(&headers, "empty"), Some(&b""[..]));
        assert_eq!(find(&headers, "p"), None);
        assert_eq!(find(&headers, ""), None);
    }

    #[test]
    fn a_cookie_is_removed_everywhere_and_the_others_keep_their_bytes() {
        for (line, left) in [
            ("pcl=1", None),
            ("pcl=1; a=b", Some("a=b")),
            ("a=b;pcl=1;  c=\"d e\"; pcl=2", Some("a=b;  c=\"d e\"")),
            ("xpcl=1; pcl2=3", Some("xpcl=1; pcl2=3")),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(COOKIE, line.parse().expect("a value"));
            headers.append(COOKIE, "z=1".parse().expect("a value"));
            remove(&mut headers, "pcl");
            let lines: Vec<_> = headers.get_all(COOKIE).iter().map(|line| line.to_str().expect("text")).collect();
            assert_eq!(lines, left.into_iter().chain(["z=1"]).collect::<Vec<_>>(), "{line}");
        }
    }
}
