//! An `rbd` volume of the API: its image, its user, and the location of the user's key.

use k8s_openapi::api::core::v1::{RBDPersistentVolumeSource, RBDVolumeSource, SecretReference};
use resource_kinds::storage::rbd::{DEFAULT_POOL, DEFAULT_USER, is_word};

const KEYRING: &str = "/etc/ceph/keyring";

/// An `rbd` volume, of a pod or of a PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RbdSource {
    /// The monitors, as the volume names them.
    pub monitors: Vec<String>,
    /// Name of the RADOS pool.
    pub pool: String,
    /// Name of the image in the pool.
    pub image: String,
    /// The user, without `client.`.
    pub user: String,
    /// The keyring on the node, for a volume without a Secret.
    pub keyring: String,
    /// The Secret with the user's key.
    pub secret: Option<SecretName>,
    /// The type of the file system, if the volume names one.
    pub file_system: Option<String>,
    /// Whether the image is mapped read-only.
    pub read_only: bool,
}

/// The coordinates of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub name: String,
    /// Whether the Secret must be of the type `kubernetes.io/rbd`.
    pub is_typed: bool,
}

impl RbdSource {
    /// The volume that a pod of the namespace names itself.
    pub fn inline(source: &RBDVolumeSource, namespace: &str) -> Self {
        let secret = source.secret_ref.as_ref().map(|secret| SecretReference {
            name: Some(secret.name.clone()),
            namespace: None,
        });
        let volume = RBDPersistentVolumeSource {
            monitors: source.monitors.clone(),
            image: source.image.clone(),
            pool: source.pool.clone(),
            user: source.user.clone(),
            keyring: source.keyring.clone(),
            secret_ref: secret,
            fs_type: source.fs_type.clone(),
            read_only: source.read_only,
        };
        let mut inline = Self::of_volume(&volume, namespace);
        if let Some(secret) = &mut inline.secret {
            secret.is_typed = false;
        }
        inline
    }

    /// The volume of a claim of the namespace.
    pub fn of_volume(source: &RBDPersistentVolumeSource, namespace: &str) -> Self {
        let secret = source.secret_ref.as_ref().map(|secret| SecretName {
            namespace: or(secret.namespace.as_ref(), namespace),
            name: secret.name.clone().unwrap_or_default(),
            is_typed: true,
        });
        Self {
            monitors: source.monitors.clone(),
            pool: or(source.pool.as_ref(), DEFAULT_POOL),
            image: source.image.clone(),
            user: or(source.user.as_ref(), DEFAULT_USER),
            keyring: or(source.keyring.as_ref(), KEYRING),
            secret,
            file_system: source.fs_type.clone(),
            read_only: source.read_only == Some(true),
        }
    }

    /// Checks the words that are written in one line for the kernel.
    ///
    /// # Errors
    /// A word that the kernel would interpret differently.
    pub fn check(&self) -> Result<(), InvalidSource> {
        let words = [
            ("pool", &self.pool),
            ("image", &self.image),
            ("user", &self.user),
        ];
        match words.into_iter().find(|(_, word)| !is_word(word)) {
            None => Ok(()),
            Some((field, word)) => Err(InvalidSource {
                field,
                word: word.clone(),
            }),
        }
    }
}

/// A volume names a pool, an image or a user that is no name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {field} {word:?} of the volume is no name")]
pub struct InvalidSource {
    field: &'static str,
    word: String,
}

fn or(value: Option<&String>, default: &str) -> String {
    let value = value.filter(|value| !value.is_empty());
    value.map_or(default, String::as_str).to_owned()
}

/// The key of a user in the text of a keyring.
pub fn key_in_keyring(keyring: &str, user: &str) -> Option<String> {
    let section = format!("[client.{user}]");
    let mut lines = keyring.lines().map(str::trim);
    lines.find(|line| *line == section)?;
    let mut section_lines = lines.take_while(|line| !line.starts_with('['));
    section_lines.find_map(|line| {
        let (name, key) = line.split_once('=')?;
        let key = key.trim();
        (name.trim() == "key" && is_word(key)).then(|| key.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_volume_has_the_defaults_of_the_api() {
        let inline: RBDVolumeSource =
            json_tree::from_value(json!({"monitors": ["10.16.154.78:6789"],
            "image": "foo", "secretRef": {"name": "ceph"}}))
            .unwrap();
        let inline = RbdSource::inline(&inline, "shop");
        assert_eq!(
            (inline.pool.as_str(), inline.user.as_str()),
            ("rbd", "admin")
        );
        assert_eq!(inline.keyring, "/etc/ceph/keyring");
        assert_eq!(inline.secret.unwrap().namespace, "shop");
        // seeds.md M7
        let volume: RBDPersistentVolumeSource = json_tree::from_value(json!({
            "monitors": ["10.16.154.78:6789"], "pool": "kube", "image": "foo", "fsType": "ext4",
            "readOnly": true, "user": "admin", "keyring": "/etc/ceph/keyring",
            "secretRef": {"name": "ceph", "namespace": "system"}}))
        .unwrap();
        let volume = RbdSource::of_volume(&volume, "shop");
        let secret = volume.secret.clone().unwrap();
        assert!(volume.read_only && secret.is_typed && secret.namespace == "system");
        assert_eq!(volume.check(), Ok(()));
    }

    #[test]
    fn words_cannot_add_options_or_arguments() {
        let volume = json!({"monitors": ["m"], "image": "foo"});
        let volume: RBDVolumeSource = json_tree::from_value(volume).unwrap();
        let volume = RbdSource::inline(&volume, "shop");
        for word in ["a b", "a,ro", "-p", "", "a\nb", "ä"] {
            let with = |change: fn(&mut RbdSource, String)| {
                let mut changed = volume.clone();
                change(&mut changed, word.to_owned());
                changed.check()
            };
            assert!(with(|volume, word| volume.image = word).is_err(), "{word}");
            assert!(with(|volume, word| volume.pool = word).is_err(), "{word}");
            assert!(with(|volume, word| volume.user = word).is_err(), "{word}");
        }
    }

    #[test]
    fn a_key_is_found_in_a_keyring() {
        let text = "[mon.]\n\tkey = no\n[client.admin]\n\tcaps mon = \"allow *\"\n\tkey = AQA=\n\
            [client.kube]\nkey=AQK=\n[client.none]\n";
        assert_eq!(key_in_keyring(text, "admin").unwrap(), "AQA=");
        assert_eq!(key_in_keyring(text, "kube").unwrap(), "AQK=");
        assert_eq!(key_in_keyring(text, "none"), None);
        assert_eq!(key_in_keyring(text, "other"), None);
    }
}
