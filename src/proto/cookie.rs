//! `Cookie` (RFC 6265 5.4): finding one by its name.

use http::HeaderMap;
use http::header::COOKIE;

/// The value of the first cookie of that name, over all lines; quotes belong to the value.
pub fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(COOKIE).iter().find_map(|line| {
        line.as_bytes().split(|byte| *byte == b';').find_map(|pair| {
            let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(value.trim_ascii_end())
        })
    })
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
}
