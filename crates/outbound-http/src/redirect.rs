//! Redirects (RFC 9110, section 15.4).

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, LOCATION, PROXY_AUTHORIZATION};
use http::{HeaderValue, StatusCode};
use url::{ParseError, Url};

/// The location of a redirect, as the server wrote it; `None` if the response is not a redirect.
pub fn location(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = headers.get(LOCATION)?;
    let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
    Some(location).filter(|location| !location.is_empty())
}

/// The absolute URL of a location in a response from `from` (RFC 3986, section 5.2), without a fragment.
///
/// # Errors
/// The location is malformed.
pub fn target(from: &Url, location: &str) -> Result<Url, ParseError> {
    let mut to = from.join(location)?;
    to.set_fragment(None);
    Ok(to)
}

/// The `Referer` of the request that follows a redirect; `None` from https to http.
pub fn referer(from: &Url, to: &Url) -> Option<HeaderValue> {
    if from.scheme() == "https" && to.scheme() != "https" {
        return None;
    }
    HeaderValue::from_str(public_url(from).as_str()).ok()
}

/// A URL without its credentials and its fragment.
pub(crate) fn public_url(url: &Url) -> Url {
    let mut public = url.clone();
    // Both calls fail only for URLs without a host, which have no credentials.
    let _without_name = public.set_username("");
    let _without_password = public.set_password(None);
    public.set_fragment(None);
    public
}

/// Removes credentials from the headers if a redirect changes the scheme, host or port.
pub(crate) fn remove_credentials(headers: &mut HeaderMap, from: &Url, to: &Url) {
    if from.origin() == to.origin() {
        return;
    }
    for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn only_redirects_with_a_location_are_redirects() {
        let of = |status, location: &str| {
            let value = HeaderValue::from_str(location).unwrap();
            let headers = HeaderMap::from_iter([(LOCATION, value)]);
            super::location(StatusCode::from_u16(status).unwrap(), &headers)
        };
        for status in [301, 302, 303, 307, 308] {
            assert_eq!(of(status, "/a").as_deref(), Some("/a"));
            assert_eq!(of(status, ""), None);
        }
        for status in [200, 300, 304, 404] {
            assert_eq!(of(status, "/a"), None);
        }
        assert_eq!(location(StatusCode::FOUND, &HeaderMap::new()), None);
    }

    #[test]
    fn locations_are_relative_to_their_page() {
        let from = url("http://a.example:81/b/c?d");
        let to = |location| target(&from, location).unwrap().to_string();
        assert_eq!(to("../e#f"), "http://a.example:81/e");
        assert_eq!(to("//b.example/x"), "http://b.example/x");
        assert_eq!(to("https://a.example"), "https://a.example/");
        target(&from, "http://[/").unwrap_err();
    }

    #[test]
    fn credentials_stay_with_their_origin() {
        let remains = |to: &str| {
            let value = HeaderValue::from_static("x");
            let mut headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            remove_credentials(&mut headers, &url("https://a.example/x"), &url(to));
            !headers.is_empty()
        };
        assert!(remains("https://a.example:443/y"));
        for foreign in [
            "http://a.example/",
            "https://a.example:8443/",
            "https://b.a.example/",
        ] {
            assert!(!remains(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_referer_shows_no_secrets() {
        let from = url("https://me:secret@a.example/x?y#z");
        let referer = |to| super::referer(&from, &url(to));
        assert_eq!(
            referer("https://b.example/").unwrap(),
            "https://a.example/x?y"
        );
        assert_eq!(referer("http://b.example/"), None);
    }
}
