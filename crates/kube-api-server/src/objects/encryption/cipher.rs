//! Encryption keys and the format of encrypted values: `k8s:enc:aesgcm:v1:<name>:`, a nonce, the
//! ciphertext.

use std::fmt;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// The prefix of every encrypted value; no JSON object begins with it.
pub(super) const SEALED: &[u8] = b"k8s:enc:";

/// An encryption key and the prefix of the values that are encrypted with it.
pub(super) struct Key {
    /// The prefix of values encrypted with this key.
    mark: Vec<u8>,
    key: LessSafeKey,
}

/// The output must not contain the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", String::from_utf8_lossy(&self.mark))
    }
}

impl Key {
    /// `None` unless the key has 16 or 32 bytes.
    pub(super) fn new(name: &str, bytes: &[u8]) -> Option<Self> {
        let algorithm = match bytes.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return None,
        };
        let key = UnboundKey::new(algorithm, bytes).ok()?;
        Some(Self {
            mark: format!("k8s:enc:aesgcm:v1:{name}:").into_bytes(),
            key: LessSafeKey::new(key),
        })
    }

    /// Encrypts a value for one storage key; with another storage key the value cannot be decrypted. `None` if the
    /// system provides no random numbers.
    pub(super) fn seal(&self, storage_key: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut out = Vec::with_capacity(self.mark.len() + NONCE_LEN + text.len() + 16);
        out.extend_from_slice(&self.mark);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(text);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(
            nonce,
            Aad::from(storage_key),
            out.get_mut(start..)?,
        );
        out.extend_from_slice(tag.ok()?.as_ref());
        Some(out)
    }

    /// Decrypts a value that was encrypted with this key for this storage key.
    pub(super) fn open(&self, storage_key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let rest = sealed.strip_prefix(self.mark.as_slice())?;
        let (nonce, rest) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = rest.to_vec();
        let length = self
            .key
            .open_in_place(nonce, Aad::from(storage_key), &mut text)
            .ok()?
            .len();
        text.truncate(length);
        Some(text)
    }

    /// Whether the prefix of a value contains the name of this key.
    pub(super) fn is_named_by(&self, sealed: &[u8]) -> bool {
        sealed.starts_with(&self.mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_in_its_place_only() {
        let key = Key::new("one", &[1; 32]).unwrap();
        let sealed = key.seal(b"/registry/secrets/d/a", b"text").unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:one:"));
        assert!(!sealed.windows(4).any(|window| window == b"text"));
        let storage_key = b"/registry/secrets/d/a";
        assert_eq!(key.open(storage_key, &sealed).unwrap(), b"text");
        assert_eq!(key.open(b"/registry/secrets/d/b", &sealed), None);
        assert_eq!(
            Key::new("one", &[2; 32])
                .unwrap()
                .open(storage_key, &sealed),
            None
        );
        assert_eq!(
            Key::new("two", &[1; 32])
                .unwrap()
                .open(storage_key, &sealed),
            None
        );
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(storage_key, &changed), None, "byte {at}");
            assert_eq!(key.open(storage_key, &sealed[..at]), None, "cut at {at}");
        }
        assert!(Key::new("x", &[0; 24]).is_none());
    }
}
