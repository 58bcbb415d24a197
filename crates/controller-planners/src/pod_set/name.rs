//! Names for pods that have no ordinal.

use std::collections::BTreeSet;

use jiff::Timestamp;
use object_model::Uid;

/// Letters and digits that form no words: vowels are absent.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_CHARS: usize = 5;
/// Maximum length of the owner's name in a pod's name, so that the pod's name is a valid host name.
const PREFIX_BYTES_MAX: usize = 57;

/// Generates names such as `web-7d4b9-x2k4p`, never a name that is in use, and never a name twice.
///
/// The names are derived from the owner's UID and the time, so that a used name does not return soon.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
    used: BTreeSet<String>,
    state: u64,
}

impl Names {
    /// A generator of names that begin with the owner's name.
    pub fn new(
        owner: &str,
        uid: &Uid,
        now: Timestamp,
        used: impl IntoIterator<Item = String>,
    ) -> Self {
        let end = owner.floor_char_boundary(PREFIX_BYTES_MAX);
        let moment = now.as_nanosecond().to_le_bytes();
        Self {
            prefix: owner[..end].to_owned(),
            used: used.into_iter().collect(),
            state: fnv(
                14_695_981_039_346_656_037,
                uid.as_str().bytes().chain(moment),
            ),
        }
    }

    /// The next name that is not in use: the owner's name and a suffix from a hash.
    pub fn draw(&mut self) -> String {
        loop {
            self.state = fnv(self.state, [0x5f]);
            let name = format!("{}-{}", self.prefix, suffix(self.state));
            if self.used.insert(name.clone()) {
                return name;
            }
        }
    }
}

fn suffix(state: u64) -> String {
    let mut rest = mix(state);
    let letters = std::iter::repeat_with(|| {
        let at = usize::try_from(rest % 27).unwrap_or_default();
        rest /= 27;
        char::from(ALPHABET[at])
    });
    letters.take(SUFFIX_CHARS).collect()
}

fn fnv(state: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(state, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211)
    })
}

/// Spreads the low bits over all bits.
fn mix(state: u64) -> u64 {
    let once = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    once ^ (once >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        let now = Timestamp::UNIX_EPOCH;
        let uid: Uid = "u".parse().unwrap();
        let mut names = Names::new("web", &uid, now, []);
        let drawn: BTreeSet<String> = (0..2000).map(|_| names.draw()).collect();
        assert_eq!(drawn.len(), 2000);
        assert!(drawn.iter().all(|name| name.len() == "web-".len() + 5));
        let first = Names::new("web", &uid, now, []).draw();
        let again = Names::new("web", &uid, now, [first.clone()]).draw();
        assert_ne!(first, again);
        let long = Names::new(&"x".repeat(200), &uid, now, []).draw();
        assert_eq!(long.len(), 63);
    }
}
