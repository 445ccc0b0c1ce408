//! The prefix of a request's path.

use crate::http::errors::ApiError;

/// Removes a prefix from the target of a request, which is its path and query. Both stay as the
/// client has encoded them, so the service sees what it would see on its own port.
///
/// Fails for a path whose meaning depends on who reads it: clients and proxies resolve `..`, and
/// some take `\` for `/`. Behind a prefix such a path could leave it.
pub(super) fn strip_prefix<'a>(target: &'a str, prefix: &str) -> Result<&'a str, ApiError> {
    let path_of = |target: &'a str| target.split_once('?').map_or(target, |(path, _)| path);
    let rest = target
        .strip_prefix(prefix)
        .filter(|rest| rest.starts_with('/'))
        // The router has decoded the path, so it also comes here with an encoded prefix.
        .ok_or_else(|| ApiError::NotFound(path_of(target).to_owned()))?;
    let path = path_of(rest);
    if path.contains('\\') || path.split('/').any(is_dot_segment) {
        return Err(ApiError::BadRequest(
            "the path contains a `\\` or a segment `.` or `..`".to_owned(),
        ));
    }
    Ok(rest)
}

/// Whether URL parsers remove the segment, alone or together with the one before it. A dot may be
/// encoded.
fn is_dot_segment(segment: &str) -> bool {
    // At most two dots of three bytes each.
    if segment.len() > 6 {
        return false;
    }
    let decoded = segment.to_ascii_lowercase().replace("%2e", ".");
    matches!(decoded.as_str(), "." | "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use url::Url;

    use super::*;

    fn stripped(target: &str) -> Result<&str, &'static str> {
        strip_prefix(target, "/api/odds").map_err(|error| error.code().0)
    }

    #[rstest]
    #[case("/api/odds/", Ok("/"))]
    #[case("/api/odds/v1/events?limit=1", Ok("/v1/events?limit=1"))]
    #[case("/api/odds/?a=../b\\c", Ok("/?a=../b\\c"))]
    #[case::double_slash("/api/odds//v1/events", Ok("//v1/events"))]
    #[case::double_prefix("/api/odds/api/odds/v1/events", Ok("/api/odds/v1/events"))]
    #[case::encoded_slash(
        "/api/odds/v1/events/a%2Fb%2f..%2Fc/odds",
        Ok("/v1/events/a%2Fb%2f..%2Fc/odds")
    )]
    #[case::dots_in_a_name(
        "/api/odds/v1/events/1.197931750/odds",
        Ok("/v1/events/1.197931750/odds")
    )]
    #[case::three_dots("/api/odds/.../x", Ok("/.../x"))]
    #[case::parent("/api/odds/../wallet/wallet", Err("BAD_REQUEST"))]
    #[case::parent_at_the_end("/api/odds/v1/..", Err("BAD_REQUEST"))]
    #[case::encoded_parent("/api/odds/%2e%2E/wallet", Err("BAD_REQUEST"))]
    #[case::half_encoded_parent("/api/odds/.%2e/wallet", Err("BAD_REQUEST"))]
    #[case::current("/api/odds/./v1", Err("BAD_REQUEST"))]
    #[case::encoded_current("/api/odds/%2e?x", Err("BAD_REQUEST"))]
    #[case::backslash("/api/odds/..\\wallet", Err("BAD_REQUEST"))]
    #[case::encoded_prefix("/api/%6fdds/v1/events", Err("NOT_FOUND"))]
    #[case::encoded_separator("/api/odds%2fv1", Err("NOT_FOUND"))]
    #[case::longer_name("/api/oddsx/v1", Err("NOT_FOUND"))]
    fn prefixes_are_removed(#[case] target: &str, #[case] expected: Result<&str, &'static str>) {
        assert_eq!(stripped(target), expected);
    }

    proptest! {
        /// A URL parser keeps what is accepted, so a service cannot be asked for another path.
        #[test]
        fn accepted_paths_keep_their_segments(path in "(/([a-c.]|%2[eE]|%2[fF]|\\\\|[;:@=&+,!$'~_-]){0,4}){1,6}") {
            let target = format!("/api/odds{path}");
            if let Ok(rest) = stripped(&target) {
                let mut url = Url::parse("http://service:8080").unwrap();
                url.set_path(rest);
                prop_assert_eq!(url.path(), rest);
                prop_assert_eq!(url.host_str(), Some("service"));
            }
        }
    }
}
