//! Whether a list of rules lets an origin pass.
//!
//! The rules come normalised from the configuration, the origin from `proto::origin`; here both are only compared.
//! Nothing is ever matched as a string prefix or suffix without a label or port boundary. RFC 6454 5; RFC 6455 10.2.

use crate::config::model::OriginRule;
use crate::config::report::Located;
use crate::proto::forwarded::Effective;
use crate::proto::origin::{Origin, OriginTuple};
use crate::types::Scheme;

/// The origin that `same-origin` means for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EffectiveOrigin<'a> {
    pub scheme: Scheme,
    /// Normalised as in [`crate::proto::host::Authority`].
    pub host: &'a str,
    pub port: u16,
}

impl<'a> EffectiveOrigin<'a> {
    /// `None` where the request names no host.
    pub fn of(effective: &'a Effective) -> Option<Self> {
        let authority = effective.authority.as_ref()?;
        let port = authority.effective_port(effective.scheme);
        Some(Self { scheme: effective.scheme, host: &authority.host, port })
    }
}

/// Whether any rule lets the origin pass. `same`: what `same-origin` means here, if anything.
pub fn allows(rules: &[Located<OriginRule>], origin: &Origin, same: Option<&EffectiveOrigin<'_>>) -> bool {
    deciding_rule(rules, origin, same).is_some()
}

/// The first rule that lets the origin pass.
pub fn deciding_rule(
    rules: &[Located<OriginRule>],
    origin: &Origin,
    same: Option<&EffectiveOrigin<'_>>,
) -> Option<usize> {
    rules.iter().position(|rule| passes(&rule.value, origin, same))
}

fn passes(rule: &OriginRule, origin: &Origin, same: Option<&EffectiveOrigin<'_>>) -> bool {
    match (rule, origin) {
        (OriginRule::Any, _) => true,
        (OriginRule::Null, Origin::Null) => true,
        (OriginRule::File, Origin::File) => true,
        (OriginRule::SameOrigin, Origin::Tuple(tuple)) => same.is_some_and(|same| is_same(tuple, same)),
        (OriginRule::Exact { scheme, host, port }, Origin::Tuple(tuple)) => {
            tuple.scheme == *scheme && tuple.host == *host && tuple.port == *port
        }
        (OriginRule::Wildcard { scheme, suffix, port }, Origin::Tuple(tuple)) => {
            tuple.scheme == *scheme && tuple.port == *port && is_below(&tuple.host, suffix)
        }
        (
            OriginRule::Null
            | OriginRule::File
            | OriginRule::SameOrigin
            | OriginRule::Exact { .. }
            | OriginRule::Wildcard { .. },
            _,
        ) => false,
    }
}

fn is_same(tuple: &OriginTuple, same: &EffectiveOrigin<'_>) -> bool {
    tuple.scheme == same.scheme.as_str() && tuple.host == same.host && tuple.port == Some(same.port)
}

/// One or more labels before the suffix, never none.
fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
}
