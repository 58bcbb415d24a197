//! The secret with which a driver creates and deletes a snapshot, as the snapshot class names it. The snapshotter of a
//! driver reads the secret's name from two annotations of the content.

use std::collections::BTreeMap;

use object_model::names;
use thiserror::Error;

const NAME: &str = "csi.storage.k8s.io/snapshotter-secret-name";
const NAMESPACE: &str = "csi.storage.k8s.io/snapshotter-secret-namespace";
const OF_CONTENT: [&str; 2] = [
    "snapshot.storage.kubernetes.io/deletion-secret-name",
    "snapshot.storage.kubernetes.io/deletion-secret-namespace",
];

/// The reason why the parameters of a class name no secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum SecretError {
    #[error("a secret needs both {NAME} and {NAMESPACE}")]
    OneParameter,
    #[error("{0:?} is not a valid namespace name")]
    Namespace(String),
    #[error("{0:?} is not a valid secret name")]
    Name(String),
    #[error("{0:?} has no end of a word")]
    UnendedWord(String),
    #[error("invalid tokens: [{0:?}]")]
    UnknownWord(String),
}

/// The values of the variables that a class's parameters may contain, as `${WORD}`.
pub(super) struct SecretParameters<'a> {
    pub content: &'a str,
    pub snapshot: &'a str,
    pub namespace: &'a str,
}

/// The annotations of the content; empty for a class without a secret.
pub(super) fn annotations(
    parameters: &BTreeMap<String, String>,
    words: &SecretParameters<'_>,
) -> Result<Option<BTreeMap<String, String>>, SecretError> {
    let parameter = |key: &str| parameters.get(key).filter(|value| !value.is_empty());
    let (name, namespace) = match (parameter(NAME), parameter(NAMESPACE)) {
        (None, None) => return Ok(None),
        (Some(name), Some(namespace)) => (name, namespace),
        _ => return Err(SecretError::OneParameter),
    };
    // A user chooses the name of a snapshot, so the name must not decide the namespace of the secret.
    let of_namespace = [
        ("volumesnapshotcontent.name", words.content),
        ("volumesnapshot.namespace", words.namespace),
    ];
    let of_name = [
        of_namespace[0],
        of_namespace[1],
        ("volumesnapshot.name", words.snapshot),
    ];
    let namespace = filled(namespace, &of_namespace)?;
    let name = filled(name, &of_name)?;
    if !names::dns_label(&namespace).is_empty() {
        return Err(SecretError::Namespace(namespace));
    }
    if !names::dns_subdomain(&name).is_empty() {
        return Err(SecretError::Name(name));
    }
    let keys = OF_CONTENT.map(str::to_owned);
    Ok(Some(keys.into_iter().zip([name, namespace]).collect()))
}

/// The text with each `${WORD}` replaced by its value.
fn filled(template: &str, words: &[(&str, &str)]) -> Result<String, SecretError> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        let (word, next) = after
            .split_once('}')
            .ok_or_else(|| SecretError::UnendedWord(template.to_owned()))?;
        let value = words.iter().find(|(name, _)| *name == word);
        let (_, value) = value.ok_or_else(|| SecretError::UnknownWord(word.to_owned()))?;
        text.push_str(before);
        text.push_str(value);
        rest = next;
    }
    text.push_str(rest);
    Ok(text)
}
