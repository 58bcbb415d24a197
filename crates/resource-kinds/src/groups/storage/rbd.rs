//! The names of Ceph's block images (RBD) in the API: `rbd` volumes, their Secrets and classes.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

/// The provisioner name of classes of RBD images, and the type of the Secrets with their keys.
pub const PROVISIONER: &str = "kubernetes.io/rbd";

/// The pool of a volume that sets no pool.
pub const DEFAULT_POOL: &str = "rbd";

/// The user, without `client.`, of a volume that sets no user.
pub const DEFAULT_USER: &str = "admin";

/// The format of a new image: `imageFormat` and `imageFeatures` of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    One,
    /// With these features.
    Two(Vec<String>),
}

/// Whether a word is safe as a name: Ceph's programs and the kernel do not parse the word as an option.
pub fn is_word(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    !word.is_empty() && !word.starts_with('-') && word.bytes().all(plain)
}

/// The key in a Secret: the entry `key`, or the only entry.
///
/// # Errors
/// The Secret contains no key, or an invalid key.
pub fn key_of(data: &BTreeMap<String, ByteString>) -> Result<String, &'static str> {
    let only = || data.values().next().filter(|_| data.len() == 1);
    let value = data.get("key").or_else(only);
    let value = value.ok_or("it has no entry \"key\"")?;
    let text = String::from_utf8_lossy(&value.0);
    let key = text.trim();
    match is_word(key) {
        true => Ok(key.to_owned()),
        false => Err("its key is no key of Ceph"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_a_secret() {
        let data = |entries: &[(&str, &str)]| {
            let entries = entries.iter().map(|(name, value)| {
                let value = ByteString(value.as_bytes().to_vec());
                ((*name).to_owned(), value)
            });
            key_of(&entries.collect())
        };
        assert_eq!(data(&[("key", "AQ==\n"), ("x", "y")]).unwrap(), "AQ==");
        assert_eq!(data(&[("userKey", "AQ==")]).unwrap(), "AQ==");
        for bad in [&[("a", "1"), ("b", "2")][..], &[], &[("key", "A,ro")]] {
            assert!(data(bad).is_err(), "{bad:?}");
        }
    }
}
