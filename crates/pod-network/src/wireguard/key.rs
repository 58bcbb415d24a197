//! The keys of a tunnel: the private key is in a file of this node, public keys are texts.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host_kernel::durable_file::{self, Durability};
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Error, file};

/// Length of a WireGuard key (`WG_KEY_LEN`).
pub(crate) const KEY_BYTES: usize = 32;

/// The public key of a node's tunnel. The text form is base64, as in `wg`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub(crate) [u8; KEY_BYTES]);

/// The text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a WireGuard key is the base64 text of 32 bytes, such as `wg pubkey` prints it")]
pub struct InvalidKey;

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let key = Self(bytes(text)?);
        // The zero key is a point of small order, and the key of a device without a private key.
        match key.0 == [0; KEY_BYTES] {
            true => Err(InvalidKey),
            false => Ok(key),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

fn bytes(text: &str) -> Result<[u8; KEY_BYTES], InvalidKey> {
    // The decoder needs a buffer whose length is a multiple of three.
    let mut buffer = [0; KEY_BYTES + 1];
    let length = STANDARD.decode_slice(text, &mut buffer);
    match (length, buffer) {
        (Ok(KEY_BYTES), [key @ .., _]) => Ok(key),
        _ => Err(InvalidKey),
    }
}

/// The private key of this node. It is never printed.
pub(crate) struct PrivateKey(pub(crate) [u8; KEY_BYTES]);

impl PrivateKey {
    /// Reads the key from a file, or creates a key and writes it durably.
    ///
    /// # Errors
    /// The file cannot be read or written, or does not contain a key.
    pub(crate) fn keep(path: &Path) -> Result<Self, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => match bytes(text.trim_end()) {
                Ok(key) => Ok(Self(key)),
                Err(InvalidKey) => Err(Error::PrivateKey {
                    path: path.to_owned(),
                }),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = Self::random()?;
                let text = format!("{}\n", STANDARD.encode(key.0));
                durable_file::replace(path, text.as_bytes(), 0o600, Durability::Name)
                    .map_err(file("write", path))?;
                Ok(key)
            }
            Err(error) => Err(file("read", path)(error)),
        }
    }

    /// Random bytes, with the five fixed bits of Curve25519 private keys (RFC 7748, section 5).
    fn random() -> Result<Self, Error> {
        let mut key = [0; KEY_BYTES];
        let filled = SystemRandom::new().fill(&mut key);
        filled.map_err(|_| Error::Random)?;
        key[0] &= 0b1111_1000;
        key[KEY_BYTES - 1] &= 0b0111_1111;
        key[KEY_BYTES - 1] |= 0b0100_0000;
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn public_keys_are_base64() {
        let text = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
        let key: PublicKey = text.parse().unwrap();
        assert_eq!(key.0[..3], [1, 2, 3]);
        assert_eq!((key.to_string(), key.0[31]), (text.to_owned(), 32));
        for bad in [
            "",
            "x",
            &text[1..],
            &format!("{text}\n"),
            &format!(" {text}"),
            &format!("{text}{text}"),
            "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAh",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ] {
            assert_eq!(bad.parse::<PublicKey>(), Err(InvalidKey), "{bad}");
        }
    }

    #[test]
    fn the_private_key_is_made_once_and_for_root_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = PrivateKey::keep(&path).unwrap().0;
        assert_eq!((key[0] & 7, key[31] & 0xc0), (0, 0x40));
        assert_eq!(PrivateKey::keep(&path).unwrap().0, key);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
        assert_ne!(PrivateKey::keep(&path).unwrap().0, key);
        std::fs::write(&path, "short\n").unwrap();
        let refused = PrivateKey::keep(&path).err().unwrap().to_string();
        assert!(refused.contains("delete the file"), "{refused}");
    }
}
