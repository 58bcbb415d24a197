//! Credentials for registries, and the pull secrets they come from.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::reference::Reference;

/// How to prove who pulls.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// A token.
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Basic { username, .. } => write!(f, "Basic({username}, …)"),
            Credentials::Bearer(_) => f.write_str("Bearer(…)"),
        }
    }
}

impl Credentials {
    /// Reads the fields that Docker's and k3s' files have; `None` when nothing is set.
    pub(crate) fn from_parts(
        username: &str,
        password: &str,
        both: &str,
        token: &str,
    ) -> Option<Credentials> {
        if !token.is_empty() {
            return Some(Credentials::Bearer(token.to_owned()));
        }
        if !username.is_empty() || !password.is_empty() {
            let (username, password) = (username.to_owned(), password.to_owned());
            return Some(Credentials::Basic { username, password });
        }
        let decoded = STANDARD.decode(both.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (username, password) = decoded.split_once(':')?;
        let password = password.trim_end_matches('\0').to_owned();
        Some(Credentials::Basic {
            username: username.to_owned(),
            password,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

/// The credentials in a pull secret (`.dockerconfigjson`, or the older `.dockercfg`) that are
/// for an image, the most particular first. Malformed secrets contain none.
pub fn credentials_for(secret: &[u8], image: &Reference) -> Vec<Credentials> {
    #[derive(Deserialize)]
    struct DockerConfig {
        auths: BTreeMap<String, Entry>,
    }
    let entries = match serde_json::from_slice::<DockerConfig>(secret) {
        Ok(config) => config.auths,
        Err(_) => serde_json::from_slice(secret).unwrap_or_default(),
    };
    let mut found: Vec<(usize, Credentials)> = entries
        .iter()
        .filter(|(key, _)| matches(key, image))
        .filter_map(|(key, entry)| {
            let Entry {
                username,
                password,
                auth,
                identitytoken,
            } = entry;
            let credentials = Credentials::from_parts(username, password, auth, identitytoken)?;
            Some((key.len(), credentials))
        })
        .collect();
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found
        .into_iter()
        .map(|(_, credentials)| credentials)
        .collect()
}

/// A key is a host, maybe with a path, a scheme, or `*` for parts of the host's name.
fn matches(key: &str, image: &Reference) -> bool {
    let key = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    // Docker writes the address of its first interface to this day.
    let (host, path) = match host {
        "index.docker.io" | "registry-1.docker.io" => ("docker.io", ""),
        host => (host, path.trim_end_matches('/')),
    };
    let path = path
        .strip_prefix("v1")
        .or(path.strip_prefix("v2"))
        .unwrap_or(path);
    let path = path.trim_matches('/');
    let in_path = path.is_empty()
        || image.repository() == path
        || image
            .repository()
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('/'));
    let (labels, wanted) = (image.registry().split('.'), host.split('.'));
    let same_length = labels.clone().count() == wanted.clone().count();
    let same_label = |(wanted, label): (&str, &str)| match wanted.split_once('*') {
        Some((before, after)) => {
            label.len() >= before.len() + after.len()
                && label.starts_with(before)
                && label.ends_with(after)
        }
        None => wanted == label,
    };
    in_path && same_length && wanted.zip(labels).all(same_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(secret: &str, image: &str) -> Vec<String> {
        let image = image.parse().unwrap();
        let user = |credentials| match credentials {
            Credentials::Basic { username, .. } => username,
            Credentials::Bearer(token) => token,
        };
        credentials_for(secret.as_bytes(), &image)
            .into_iter()
            .map(user)
            .collect()
    }

    #[test]
    fn secrets_apply_to_their_registry_the_longest_first() {
        let secret = r#"{"auths":{
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "example.com": {"username": "all", "password": "x"},
            "example.com/team": {"username": "team", "password": "x"},
            "*.example.com": {"identitytoken": "wild"},
            "broken.io": {"auth": "!"}}}"#;
        assert_eq!(users(secret, "nginx"), ["hub"]);
        assert_eq!(users(secret, "example.com/team/app"), ["team", "all"]);
        assert_eq!(users(secret, "example.com/teamwork"), ["all"]);
        assert_eq!(users(secret, "a.example.com/x"), ["wild"]);
        assert!(users(secret, "a.b.example.com/x").is_empty());
        assert!(users(secret, "broken.io/x").is_empty());
        assert!(users("nonsense", "nginx").is_empty());
        assert_eq!(
            users(
                r#"{"quay.io":{"username":"u","password":"p"}}"#,
                "quay.io/x"
            ),
            ["u"]
        );
    }
}
