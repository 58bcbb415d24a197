//! The challenges of a registry in `WWW-Authenticate` (RFC 9110, section 11.6.1).

use http::header::{HeaderMap, WWW_AUTHENTICATE};
use outbound_http::Url;

use super::client::RequestError;

/// The authentication challenge of a registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The first challenge that this client supports.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter();
    let texts = texts.filter_map(|text| text.to_str().ok());
    let all = texts.filter_map(|text| http_auth::parse_challenges(text).ok());
    all.flatten().find_map(|challenge| {
        let parameter = |requested: &str| {
            let mut all = challenge.params.iter();
            let parameter = all.find(|(name, _)| name.eq_ignore_ascii_case(requested))?;
            Some(parameter.1.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("bearer") {
            return Some(Challenge::Bearer {
                realm: parameter("realm")?,
                service: parameter("service"),
                scope: parameter("scope"),
            });
        }
        let is_basic = challenge.scheme.eq_ignore_ascii_case("basic");
        is_basic.then_some(Challenge::Basic)
    })
}

/// Whether this client supports a challenge, for fuzzing.
pub(crate) fn meets(headers: &HeaderMap) -> bool {
    match challenge(headers) {
        Some(Challenge::Bearer {
            realm,
            service,
            scope,
        }) => token_url(&realm, service.as_deref(), &scope.unwrap_or_default()).is_ok(),
        Some(Challenge::Basic) => true,
        None => false,
    }
}

/// The URL of the token service.
pub(super) fn token_url(
    realm: &str,
    service: Option<&str>,
    scope: &str,
) -> Result<Url, RequestError> {
    let wrong = || RequestError::Protocol("it sends for a token to no URL".to_owned());
    let mut url = Url::parse(realm).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    let mut query = url.query_pairs_mut();
    query.append_pair("scope", scope);
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    drop(query);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn challenge_of(text: &str) -> Option<Challenge> {
        let value = HeaderValue::from_str(text).unwrap();
        challenge(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]))
    }

    #[test]
    fn challenges_are_understood() {
        let text = r#"Bearer realm="https://auth.example/token",service="r",scope="a b""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("r".to_owned()),
            scope: Some("a b".to_owned()),
        };
        assert_eq!(challenge_of(text), Some(expected));
        let basic = r#"Negotiate, basic realm="x""#;
        assert_eq!(challenge_of(basic), Some(Challenge::Basic));
        for none in ["Digest realm=\"x\"", "Bearer service=\"x\"", "\"", ""] {
            assert_eq!(challenge_of(none), None, "{none:?}");
        }
    }

    #[test]
    fn tokens_are_asked_for_where_the_registry_says() {
        let url = token_url(
            "https://a.example/token?x=1",
            Some("r s"),
            "repository:a/b:pull",
        );
        let expected = "https://a.example/token?x=1&scope=repository%3Aa%2Fb%3Apull&service=r+s";
        assert_eq!(url.unwrap().as_str(), expected);
        for bad in ["file:///etc/passwd", "token", ""] {
            token_url(bad, None, "x").unwrap_err();
        }
    }
}
