//! The page: one document, whose own script and style are all that a browser may run and show.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

use super::answers::harden;

const DOCUMENT: &str = include_str!("../page.html");

/// The document, and what may be done with it.
#[derive(Debug)]
pub(super) struct Page {
    policy: HeaderValue,
}

impl Page {
    pub(super) fn new() -> Self {
        let policy = policy(DOCUMENT);
        Self {
            // Without a policy of its own, nothing in it runs.
            policy: HeaderValue::from_str(&policy)
                .unwrap_or(HeaderValue::from_static("default-src 'none'")),
        }
    }

    pub(super) fn response(&self) -> Response {
        let mut response = DOCUMENT.into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        harden(headers);
        response
    }
}

/// Content Security Policy Level 3: the inline elements of `document` by their hashes, requests to
/// where it came from, and nothing else.
fn policy(document: &str) -> String {
    let sources = |element| match hashes(document, element) {
        hashes if hashes.is_empty() => "'none'".to_owned(),
        hashes => hashes.join(" "),
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        sources("script"),
        sources("style")
    )
}

/// A hash for the text of each such element.
fn hashes(document: &str, element: &str) -> Vec<String> {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    let mut hashes = Vec::new();
    let mut rest = document;
    while let Some((_, behind)) = rest.split_once(&open) {
        let Some((text, behind)) = behind
            .split_once('>')
            .and_then(|(_, behind)| behind.split_once(&close))
        else {
            break;
        };
        let hash = BASE64.encode(Sha256::digest(text));
        hashes.push(format!("'sha256-{hash}'"));
        rest = behind;
    }
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_in_the_document_may_run() {
        let document = "<style>a</style><script type=\"module\">b</script><script>c</script>";
        let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(Sha256::digest(text)));
        let policy = policy(document);
        let scripts = format!("script-src {} {};", hash("b"), hash("c"));
        assert!(policy.contains(&scripts), "{policy}");
        let styles = format!("style-src {};", hash("a"));
        assert!(policy.contains(&styles), "{policy}");
        assert!(!policy.contains("unsafe"));
    }

    #[test]
    fn the_page_has_nothing_that_its_policy_forbids() {
        // Neither handlers nor styles in attributes, nor anything from elsewhere.
        for forbidden in [
            " onclick=",
            " onload=",
            " style=\"",
            "src=\"http",
            "javascript:",
        ] {
            assert!(!DOCUMENT.contains(forbidden), "{forbidden}");
        }
        assert!(!hashes(DOCUMENT, "script").is_empty());
    }
}
