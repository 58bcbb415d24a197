//! The secret with which a driver creates and deletes a snapshot, as the snapshot class names it. The snapshotter of a
//! driver reads the secret's name from two annotations of the content.

use std::collections::BTreeMap;

use object_model::names;

const NAME: &str = "csi.storage.k8s.io/snapshotter-secret-name";
const NAMESPACE: &str = "csi.storage.k8s.io/snapshotter-secret-namespace";
const OF_CONTENT: [&str; 2] = [
    "snapshot.storage.kubernetes.io/deletion-secret-name",
    "snapshot.storage.kubernetes.io/deletion-secret-namespace",
];

/// The values of the variables that a class's parameters may contain, as `${WORD}`.
pub(super) struct SecretParameters<'a> {
    pub content: &'a str,
    pub snapshot: &'a str,
    pub namespace: &'a str,
}

/// The annotations of the content; empty for a class without a secret.
///
/// *Errors.* The reason why the class's parameters name no secret.
pub(super) fn annotations(
    parameters: &BTreeMap<String, String>,
    words: &SecretParameters<'_>,
) -> Result<Option<BTreeMap<String, String>>, String> {
    let parameter = |key: &str| parameters.get(key).filter(|value| !value.is_empty());
    let (name, namespace) = match (parameter(NAME), parameter(NAMESPACE)) {
        (None, None) => return Ok(None),
        (Some(name), Some(namespace)) => (name, namespace),
        _ => return Err(format!("a secret needs both {NAME} and {NAMESPACE}")),
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
        return Err(format!("{namespace:?} is not a valid namespace name"));
    }
    if !names::dns_subdomain(&name).is_empty() {
        return Err(format!("{name:?} is not a valid secret name"));
    }
    let keys = OF_CONTENT.map(str::to_owned);
    Ok(Some(keys.into_iter().zip([name, namespace]).collect()))
}

/// The text with each `${WORD}` replaced by its value.
fn filled(template: &str, words: &[(&str, &str)]) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        let (word, next) = after
            .split_once('}')
            .ok_or_else(|| format!("{template:?} has no end of a word"))?;
        let value = words.iter().find(|(name, _)| *name == word);
        let (_, value) = value.ok_or_else(|| format!("invalid tokens: [{word:?}]"))?;
        text.push_str(before);
        text.push_str(value);
        rest = next;
    }
    text.push_str(rest);
    Ok(text)
}
