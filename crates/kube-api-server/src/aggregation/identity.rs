//! The headers by which this server, as a front proxy, names the user of a request to an extension API server.

use http::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderName, InvalidHeaderValue};
use thiserror::Error;

use crate::http::user::UserInfo;

pub(super) const USER: &str = "X-Remote-User";
pub(super) const UID: &str = "X-Remote-Uid";
pub(super) const GROUP: &str = "X-Remote-Group";
pub(super) const EXTRA_PREFIX: &str = "X-Remote-Extra-";

/// The start of all these headers.
const PREFIX: &str = "x-remote-";

/// The user cannot be named in headers.
#[derive(Debug, Error)]
pub(super) enum IdentityError {
    #[error("user attribute in a header: {0}")]
    Value(#[from] InvalidHeaderValue),
    #[error("name of a user attribute in a header: {0}")]
    Name(#[from] InvalidHeaderName),
}

/// Replaces the headers that name a user by those of the given user.
///
/// *Errors.* An attribute of the user contains characters that no header has. A request is never sent with a part of
/// the attributes.
pub(super) fn name_user(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), IdentityError> {
    let forged: Vec<HeaderName> = headers
        .keys()
        .filter(|name| names_user(name))
        .cloned()
        .collect();
    for name in forged {
        headers.remove(name);
    }
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes());
    headers.insert(header(USER)?, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(header(UID)?, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(header(GROUP)?, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = header(&format!("{EXTRA_PREFIX}{}", escaped(key)))?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

fn header(name: &str) -> Result<HeaderName, InvalidHeaderName> {
    HeaderName::from_bytes(name.as_bytes())
}

/// Whether a header of a client names a user. Some servers read an underscore in a name as a hyphen.
fn names_user(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name.starts_with(PREFIX)
}

/// A key of an extra attribute with percent-encoding of the characters that no name of a header has (as upstream).
fn escaped(key: &str) -> String {
    let is_legal = |byte: u8| {
        byte != b'%' && (byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte))
    };
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        match is_legal(byte) {
            true => text.push(char::from(byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(client: &[(&'static str, &str)], user: &UserInfo) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in client {
            headers.append(*name, value.parse().unwrap());
        }
        name_user(&mut headers, user).unwrap();
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", text(value)))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn the_user_of_a_request_replaces_every_forged_one() {
        let mut user = UserInfo::new("älice", ["a", "b"]);
        user.uid = "u1".to_owned();
        let pod = "authentication.kubernetes.io/pod-name".to_owned();
        user.extra.insert(pod, vec!["p".to_owned(), "q".to_owned()]);
        let forged = [
            ("x-remote-user", "admin"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-scopes", "all"),
            ("x-remote-uid", "0"),
            ("x_remote_user", "admin"),
            ("x-remote-anything", "1"),
            ("accept", "*/*"),
        ];
        let expected = [
            "accept: */*",
            "x-remote-extra-authentication.kubernetes.io%2fpod-name: p",
            "x-remote-extra-authentication.kubernetes.io%2fpod-name: q",
            "x-remote-group: a",
            "x-remote-group: b",
            "x-remote-uid: u1",
            "x-remote-user: älice",
        ];
        assert_eq!(named(&forged, &user), expected);
        let nobody = named(&forged, &UserInfo::new::<&str>("bob", []));
        assert_eq!(nobody, ["accept: */*", "x-remote-user: bob"]);
    }

    #[test]
    fn a_user_that_no_header_can_name_is_refused() {
        let mut headers = HeaderMap::new();
        let user = UserInfo::new("bob\r\nx-remote-group: system:masters", [""; 0]);
        assert!(name_user(&mut headers, &user).is_err());
        let user = UserInfo::new("bob", ["a\nb"]);
        assert!(name_user(&mut headers, &user).is_err());
    }

    #[test]
    fn keys_are_escaped_as_upstream() {
        assert_eq!(escaped("a/b c%d"), "a%2Fb%20c%25d");
        assert_eq!(escaped("é"), "%C3%A9");
    }
}
