//! The configuration of encryption at rest: `apiserver.config.k8s.io/v1` EncryptionConfiguration.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json_tree::Value;
use object_model::yaml_error;
use serde::Deserialize;

use super::cipher::Key;

/// The error of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not YAML of this form. Unknown fields are errors.
    #[error("the encryption configuration does not parse: {0}")]
    Form(String),
    /// A value that is invalid or not supported.
    #[error("the encryption configuration is wrong at {field}: {why}")]
    Value {
        /// The path of the field.
        field: String,
        why: String,
    },
}

/// The resources to encrypt, and the keys.
#[derive(Debug)]
pub struct EncryptionConfig {
    pub(super) entries: Vec<ResourceProviders>,
}

/// Resources and their providers.
#[derive(Debug)]
pub(super) struct ResourceProviders {
    /// Prefixes of the storage keys.
    pub(super) prefixes: Vec<Vec<u8>>,
    /// Writes use the first provider; reads try all. `None` is plain text.
    pub(super) providers: Vec<Option<Key>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Keys>,
    identity: Option<Value>,
    aescbc: Option<Value>,
    secretbox: Option<Value>,
    kms: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    secret: String,
}

fn wrong<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Value {
        field: field.into(),
        why: why.into(),
    })
}

impl EncryptionConfig {
    /// Reads a configuration (YAML).
    ///
    /// *Errors.* Unknown fields, unsupported providers, keys of a wrong length.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::Form(yaml_error::in_text(&error)))?;
        if file.kind != "EncryptionConfiguration" {
            return wrong("kind", "must be EncryptionConfiguration");
        }
        if file.api_version != "apiserver.config.k8s.io/v1" {
            return wrong("apiVersion", "must be apiserver.config.k8s.io/v1");
        }
        if file.resources.is_empty() {
            return wrong("resources", "there are none, so nothing would be encrypted");
        }
        let entries = file.resources.into_iter().enumerate();
        let entries = entries.map(|(at, entry)| read_entry(&format!("resources[{at}]"), entry));
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
        })
    }
}

fn read_entry(at: &str, entry: Resources) -> Result<ResourceProviders, ConfigError> {
    let mut prefixes = Vec::new();
    for (index, name) in entry.resources.iter().enumerate() {
        prefixes.push(prefix(&format!("{at}.resources[{index}]"), name)?);
    }
    if prefixes.is_empty() {
        return wrong(format!("{at}.resources"), "must name at least one resource");
    }
    let mut providers = Vec::new();
    for (index, provider) in entry.providers.into_iter().enumerate() {
        let at = format!("{at}.providers[{index}]");
        providers.extend(read_provider(&at, provider)?);
    }
    if providers.is_empty() {
        return wrong(format!("{at}.providers"), "must have at least one provider");
    }
    Ok(ResourceProviders {
        prefixes,
        providers,
    })
}

/// The storage prefix of a resource, by its name (`secrets`, `deployments.apps`,
/// `crontabs.stable.example.com`, `*.*`).
fn prefix(at: &str, name: &str) -> Result<Vec<u8>, ConfigError> {
    if name == "*.*" {
        return Ok(b"/registry/".to_vec());
    }
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    let fine = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    if plural.is_empty() || !fine(plural) || !fine(group) {
        return wrong(
            at,
            format!("{name:?} is no resource; write them as secrets, widgets.example.com or *.*"),
        );
    }
    // The group of a custom resource is a domain of its owner; the storage key of its objects contains the group.
    let custom = group.contains('.') && !group.ends_with(".k8s.io");
    Ok(if custom {
        format!("/registry/{group}/{plural}/").into_bytes()
    } else {
        format!("/registry/{plural}/").into_bytes()
    })
}

fn read_provider(at: &str, provider: Provider) -> Result<Vec<Option<Key>>, ConfigError> {
    for (name, other) in [
        ("aescbc", &provider.aescbc),
        ("secretbox", &provider.secretbox),
        ("kms", &provider.kms),
    ] {
        if other.is_some() {
            return wrong(format!("{at}.{name}"), "is not supported; use aesgcm");
        }
    }
    match (provider.aesgcm, provider.identity) {
        (Some(keys), None) => {
            if keys.keys.is_empty() {
                return wrong(format!("{at}.aesgcm.keys"), "must have at least one key");
            }
            let keys = keys.keys.into_iter().enumerate();
            keys.map(|(index, key)| read_key(&format!("{at}.aesgcm.keys[{index}]"), &key).map(Some))
                .collect()
        }
        (None, Some(_)) => Ok(vec![None]),
        _ => wrong(at, "must be exactly one of aesgcm and identity"),
    }
}

fn read_key(at: &str, key: &Named) -> Result<Key, ConfigError> {
    if key.name.is_empty() || key.name.contains(':') {
        return wrong(format!("{at}.name"), "must not be empty nor contain ':'");
    }
    let at = format!("{at}.secret");
    let Ok(bytes) = STANDARD.decode(key.secret.trim()) else {
        return wrong(at, "must be base64");
    };
    match Key::new(&key.name, &bytes) {
        Some(key) => Ok(key),
        None => {
            let why = format!("must be 16 or 32 bytes in base64, not {}", bytes.len());
            wrong(at, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
             - resources: [secrets, configmaps, widgets.example.com, roles.rbac.authorization.k8s.io]\n  \
             providers:\n{providers}"
        )
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let cases = [
            (
                "  - aescbc: {keys: []}\n",
                "resources[0].providers[0].aescbc: is not supported",
            ),
            ("  - aesgcm: {keys: []}\n", "at least one key"),
            (
                "  - aesgcm: {keys: [{name: a, secret: c2hvcnQ=}]}\n",
                "providers[0].aesgcm.keys[0].secret: must be 16 or 32 bytes in base64, not 5",
            ),
            (
                "  - aesgcm: {keys: [{name: a, secret: '?'}]}\n",
                "must be base64",
            ),
            ("  - aesgcm: {key: []}\n", "key"),
            ("  - {}\n", "exactly one"),
        ];
        for (providers, expected) in cases {
            let error = EncryptionConfig::parse(&file(providers))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn resources_are_found_where_they_are_stored() {
        let config = EncryptionConfig::parse(&file("  - identity: {}\n")).unwrap();
        let prefixes: Vec<_> = config.entries[0]
            .prefixes
            .iter()
            .map(|prefix| String::from_utf8_lossy(prefix).into_owned())
            .collect();
        assert_eq!(
            prefixes,
            [
                "/registry/secrets/",
                "/registry/configmaps/",
                "/registry/example.com/widgets/",
                "/registry/roles/"
            ]
        );
    }
}
