//! Bootstrap tokens: Secrets of the type `bootstrap.kubernetes.io/token` in `kube-system`, with which new nodes
//! authenticate until they have a certificate.
//!
//! The API server accepts any contents of such a Secret, as Kubernetes does; a Secret with invalid contents is not a
//! token.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use thiserror::Error;

pub const TYPE: &str = "bootstrap.kubernetes.io/token";
pub const NAMESPACE: &str = "kube-system";
/// The group of all users that authenticate with a token.
pub const GROUP: &str = "system:bootstrappers";
/// The group of kubeadm's tokens. Its users may join the cluster as nodes.
pub const NODE_GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
pub const ID_LENGTH: usize = 6;
pub const SECRET_LENGTH: usize = 16;

/// The keys of the Secret's data.
pub mod key {
    /// The public part of the token.
    pub const ID: &str = "token-id";
    /// The secret part of the token.
    pub const SECRET: &str = "token-secret";
    /// The expiration of the token, in RFC 3339 format.
    pub const EXPIRATION: &str = "expiration";
    /// Whether the token can authenticate requests: `true`.
    pub const AUTHENTICATION: &str = "usage-bootstrap-authentication";
    /// Whether the token signs the ConfigMap `cluster-info`: `true`.
    pub const SIGNING: &str = "usage-bootstrap-signing";
    /// Groups of the user in addition to [`super::GROUP`], separated by commas.
    pub const GROUPS: &str = "auth-extra-groups";
    /// A description of the token for users.
    pub const DESCRIPTION: &str = "description";
}

/// The two parts of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenParts<'a> {
    /// The public part, which is also in the name of the Secret.
    pub id: &'a str,
    pub secret: &'a str,
}

/// Splits a token `<id>.<secret>`; `None` if the text has another form.
pub fn parse(token: &str) -> Option<TokenParts<'_>> {
    let (id, secret) = token.split_once('.')?;
    let good = is_id(id) && is_text(secret, SECRET_LENGTH);
    good.then_some(TokenParts { id, secret })
}

/// Whether a text is a valid token id.
pub fn is_id(text: &str) -> bool {
    is_text(text, ID_LENGTH)
}

fn is_text(text: &str, length: usize) -> bool {
    let is_allowed = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.len() == length && text.bytes().all(is_allowed)
}

/// The name of a token's Secret.
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// The expiration of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiration {
    Never,
    At(Timestamp),
    /// The text is not a time. The token counts as expired.
    Malformed,
}

impl Expiration {
    pub fn is_over(self, now: Timestamp) -> bool {
        match self {
            Self::Never => false,
            Self::At(end) => end <= now,
            Self::Malformed => true,
        }
    }
}

/// The data of a token's Secret.
pub type Data = BTreeMap<String, ByteString>;

/// The text at a key; empty if the key is missing or the value is not text.
pub fn text<'d>(data: &'d Data, key: &str) -> &'d str {
    let bytes = data.get(key).map_or(&[][..], |bytes| bytes.0.as_slice());
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// The end of the token in a Secret.
pub fn expiration(data: &Data) -> Expiration {
    match text(data, key::EXPIRATION) {
        "" if data
            .get(key::EXPIRATION)
            .is_none_or(|bytes| bytes.0.is_empty()) =>
        {
            Expiration::Never
        }
        text => text.parse().map_or(Expiration::Malformed, Expiration::At),
    }
}

/// Whether the token in a Secret is for this usage.
pub fn is_for(data: &Data, usage: &str) -> bool {
    text(data, usage) == "true"
}

/// The first group of a Secret that a token cannot grant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a token cannot grant the group {0:?}")]
pub struct InvalidGroup(pub String);

/// The groups of the token's user, in order.
pub fn groups(data: &Data) -> Result<BTreeSet<String>, InvalidGroup> {
    let mut groups = BTreeSet::from([GROUP.to_owned()]);
    let listed = text(data, key::GROUPS);
    if listed.is_empty() {
        return Ok(groups);
    }
    for group in listed.split(',') {
        if !is_group(group) {
            return Err(InvalidGroup(group.to_owned()));
        }
        groups.insert(group.to_owned());
    }
    Ok(groups)
}

/// Whether a token can grant a group: `system:bootstrappers:` followed by up to 256 letters.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else {
        return false;
    };
    let is_allowed = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let inner = |letter: u8| is_allowed(letter) || matches!(letter, b':' | b'-');
    rest.len() <= 256 && rest.bytes().all(inner) && rest.bytes().last().is_some_and(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> Data {
        let pairs = pairs.iter();
        pairs
            .map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())))
            .collect()
    }

    #[test]
    fn a_token_has_an_identifier_and_a_secret_part() {
        let parts = parse("abcdef.0123456789abcdef").unwrap();
        assert_eq!((parts.id, parts.secret), ("abcdef", "0123456789abcdef"));
        assert_eq!(secret_name(parts.id), "bootstrap-token-abcdef");
        for text in [
            "",
            "abcdef",
            "abcdef.0123456789abcde",
            "abcdef.0123456789abcdef0",
            "abcdeF.0123456789abcdef",
            "abcde.0123456789abcdef",
            "abcdef.0123456789abcdef.x",
            "abc/ef.0123456789abcdef",
            "abcdé.0123456789abcdef",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_ends_at_its_time() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (text, over) in [
            ("", false),
            ("2026-01-01T00:00:01Z", false),
            ("2026-01-01T01:00:01+01:00", false),
            ("2026-01-01T00:00:00Z", true),
            ("2025-12-31T23:59:59Z", true),
            ("tomorrow", true),
        ] {
            let expiration = expiration(&data(&[(key::EXPIRATION, text)]));
            assert_eq!(expiration.is_over(now), over, "{text}");
        }
        assert_eq!(expiration(&data(&[])), Expiration::Never);
        let mut bytes = Data::new();
        bytes.insert(key::EXPIRATION.to_owned(), ByteString(vec![0xff]));
        assert_eq!(expiration(&bytes), Expiration::Malformed);
    }

    #[test]
    fn a_token_gives_groups_of_bootstrappers_only() {
        let groups = |text: &str| groups(&data(&[(key::GROUPS, text)]));
        assert_eq!(groups(""), Ok(BTreeSet::from([GROUP.to_owned()])));
        assert_eq!(
            groups(&format!("{NODE_GROUP},system:bootstrappers:a")),
            Ok(["system:bootstrappers:a", GROUP, NODE_GROUP]
                .map(str::to_owned)
                .into())
        );
        let long = format!("system:bootstrappers:{}", "a".repeat(257));
        for text in [
            "system:masters",
            "system:bootstrappers",
            "system:bootstrappers:",
            "system:bootstrappers:a-",
            "system:bootstrappers:A",
            "system:bootstrappers:a,",
            "system:bootstrappers:a, system:bootstrappers:b",
            &long,
        ] {
            assert!(groups(text).is_err(), "{text}");
        }
    }
}
