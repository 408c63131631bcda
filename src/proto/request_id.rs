//! `X-Request-Id`: keeping a good one, replacing any other, making new ones.
//!
//! The id goes into logs, so what a client sends is bounded in length and alphabet before anything prints it.

use std::cell::Cell;

use http::header::{HeaderMap, HeaderName, HeaderValue};

pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// 1 to 128 characters of `[A-Za-z0-9._-]`.
pub fn is_valid(id: &[u8]) -> bool {
    (1..=128).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Makes ids: a random half that tells makers apart, and a count. Unique, not secret.
#[derive(Debug)]
pub struct RequestIds {
    prefix: u64,
    count: Cell<u64>,
}

impl RequestIds {
    /// `prefix` has to be random; one maker per worker.
    pub fn new(prefix: u64) -> Self {
        Self { prefix, count: Cell::new(0) }
    }

    /// A new id of 32 hex digits.
    pub fn make(&self) -> HeaderValue {
        let count = self.count.get().wrapping_add(1);
        self.count.set(count);
        let id = format!("{:016x}{count:016x}", self.prefix);
        HeaderValue::try_from(id).expect("hex digits make a header value")
    }

    /// Leaves exactly one valid id in the fields and returns it.
    pub fn settle(&self, headers: &mut HeaderMap) -> HeaderValue {
        let mut lines = headers.get_all(&X_REQUEST_ID).into_iter();
        if let (Some(id), None) = (lines.next(), lines.next())
            && is_valid(id.as_bytes())
        {
            return id.clone();
        }
        let id = self.make();
        headers.insert(X_REQUEST_ID.clone(), id.clone());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_id_is_kept_and_any_other_is_replaced() {
        let ids = RequestIds::new(7);
        let settle = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_REQUEST_ID.clone(), HeaderValue::from_bytes(line).unwrap());
            }
            let id = ids.settle(&mut headers);
            assert_eq!(headers.get_all(&X_REQUEST_ID).iter().collect::<Vec<_>>(), [&id]);
            assert!(is_valid(id.as_bytes()));
            id
        };
        assert_eq!(settle(&[b"A-b_c.1"]), "A-b_c.1");
        assert_eq!(settle(&[&[b'x'; 128]]).len(), 128);
        let made = settle(&[]);
        assert_eq!(made.len(), 32);
        assert_ne!(settle(&[]), made);
        for bad in [b"".as_slice(), b"a b", b"\"a\"", b"a\xff", &[b'x'; 129], b"a,b"] {
            assert_eq!(settle(&[bad]).len(), 32, "{bad:?}");
        }
        assert_eq!(settle(&[b"a", b"b"]).len(), 32);
    }
}
