//! Paths of a stream, relative to the root of the received tree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// `PATH_MAX`, including the zero byte at the end.
const LENGTH_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// A path without `.`, `..`, empty names and zero bytes; the empty path is the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamPath<'a>(&'a [u8]);

impl<'a> StreamPath<'a> {
    /// `None` if the bytes are not such a path.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let is_name = |name: &[u8]| {
            !matches!(name, b"" | b"." | b"..") && name.len() <= NAME_MAX && !name.contains(&0)
        };
        let names = || bytes.split(|byte| *byte == b'/');
        let fits = bytes.is_empty() || (bytes.len() < LENGTH_MAX && names().all(is_name));
        fits.then_some(Self(bytes))
    }

    /// The path relative to the snapshot's root, without a slash at its start.
    pub(crate) fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The path of the parent directory and the last name; `None` for the root.
    pub(crate) fn split(self) -> Option<(Self, &'a OsStr)> {
        let (parent, name) = match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None if self.0.is_empty() => return None,
            None => (&[][..], self.0),
        };
        Some((Self(parent), OsStr::from_bytes(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_root() {
        let refused: [&[u8]; 8] = [
            b"/", b"/a", b"a/", b"a//b", b"..", b"a/../b", b"./a", b"a\0b",
        ];
        for path in refused {
            assert_eq!(StreamPath::new(path), None, "{path:?}");
        }
        assert_eq!(StreamPath::new(&[b'a'; NAME_MAX + 1]), None);
        assert_eq!(StreamPath::new(&b"a/".repeat(3000)[..5999]), None);
        let split = |path: &'static [u8]| {
            let (parent, name) = StreamPath::new(path)?.split()?;
            Some((parent.as_bytes(), name.as_bytes()))
        };
        assert_eq!(split(b""), None);
        assert_eq!(split(b"a"), Some((&b""[..], &b"a"[..])));
        assert_eq!(split(b"a/b/..c"), Some((&b"a/b"[..], &b"..c"[..])));
    }
}
