//! The page at `/`: what a person wants to see of a host, and nothing that changes it. A handful of files that are compiled
//! in, with no build step behind them; they ask the API as any other client does, so they need no secret and hold none.
//!
//! The policy lets the page load from its own origin alone, and run nothing that is not one of its files. What comes from
//! outside (names, messages) is only ever text there.

mod assets;

use std::sync::LazyLock;

use axum::Json;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use larder_jobs::{Problem, Reason};
use sha2::{Digest as _, Sha256};
use tower_http::compression::CompressionLayer;

use assets::{ASSETS, Asset};

/// Browsers that know Trusted Types let no text become markup either.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";
/// Asked for again each time, so that the files of two versions never meet; unchanged ones are not sent again.
const CACHING: &str = "no-cache";

/// The assets with their tags.
static TAGGED: LazyLock<Vec<(&Asset, String)>> = LazyLock::new(|| {
    let tag = |asset: &Asset| {
        let digest = Sha256::digest(asset.bytes);
        // Weak, since it is the same for the compressed form.
        format!("W/\"{}\"", hex::encode(digest.get(..16).unwrap_or_default()))
    };
    ASSETS.iter().map(|asset| (asset, tag(asset))).collect()
});

/// The paths of the page and its files, which are the same on every host.
pub fn paths() -> impl Iterator<Item = &'static str> {
    ASSETS.iter().map(|asset| asset.path)
}

/// The routes of the page. They need no state, and no token: what they show is asked for at the API.
pub fn router() -> Router {
    let mut router = Router::new();
    for (asset, tag) in TAGGED.iter() {
        let send = async move |headers: HeaderMap| answer(asset, tag, &headers);
        router = router.route(asset.path, get(send));
    }
    router.method_not_allowed_fallback(only_read).layer(CompressionLayer::new())
}

fn answer(asset: &'static Asset, tag: &'static str, headers: &HeaderMap) -> Response {
    let fixed = [
        (header::ETAG, HeaderValue::from_static(tag)),
        (header::CACHE_CONTROL, HeaderValue::from_static(CACHING)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ];
    if is_known(headers, tag) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    (fixed, [(header::CONTENT_TYPE, asset.kind)], asset.bytes).into_response()
}

/// Whether the asker has the file already.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let asked = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let strong = tag.trim_start_matches("W/");
    asked
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.trim_start_matches("W/") == strong)
}

async fn only_read() -> Response {
    let problem = Problem::new(
        Reason::InvalidRequest,
        "the page takes no method but GET and HEAD",
        "what can be changed is in docs/api.md",
    );
    let problem = Problem { status: StatusCode::METHOD_NOT_ALLOWED.as_u16(), ..problem };
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (StatusCode::METHOD_NOT_ALLOWED, kind, Json(problem)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_tag_weak_or_strong() {
        let tag = "W/\"abc\"";
        let asks = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            is_known(&headers, tag)
        };
        for known in ["W/\"abc\"", "\"abc\"", "\"x\", W/\"abc\"", "*"] {
            assert!(asks(known), "{known}");
        }
        assert!(!asks("\"abcd\"") && !asks("abc") && !is_known(&HeaderMap::new(), tag));
    }
}
