//! The keys in etcd, all below one prefix.

/// The layout below the prefix.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Vec<u8>,
    data: Vec<u8>,
    /// The key whose revision all transactions of this process compare.
    pub(crate) fence: Vec<u8>,
    /// The key into which each transaction of this process writes its number.
    pub(crate) mark: Vec<u8>,
    /// The key of the record of the data's origin.
    pub(crate) origin: Vec<u8>,
    /// The prefix of the marks of all processes.
    pub(crate) marks: Vec<u8>,
    /// The key by which the servers agree on compactions.
    pub(crate) compaction: Vec<u8>,
}

impl Keys {
    /// `writer` is the name of this process; no other process has ever had this name.
    pub(crate) fn new(prefix: &str, writer: &str) -> Self {
        let prefix = prefix.trim_end_matches('/');
        let key = |rest: &str| format!("{prefix}/{rest}").into_bytes();
        Self {
            prefix: key(""),
            data: key("data/"),
            fence: key(&format!("fences/{writer}")),
            mark: key(&format!("marks/{writer}")),
            marks: key("marks/"),
            origin: key("origin"),
            compaction: key("compaction"),
        }
    }

    /// The key of a pair of the store.
    pub(crate) fn data(&self, key: &[u8]) -> Vec<u8> {
        [&self.data, key].concat()
    }

    /// The key of the store in a key of etcd.
    pub(crate) fn data_in<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        key.strip_prefix(self.data.as_slice())
    }

    /// The first key with the prefix, and the first key after all keys with the prefix.
    pub(crate) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        (self.prefix.clone(), end_of(&self.prefix))
    }

    /// The first key of the pairs of the store, and the first key after them.
    pub(crate) fn all_data(&self) -> (Vec<u8>, Vec<u8>) {
        (self.data.clone(), end_of(&self.data))
    }
}

/// The first key after all keys with the prefix, which ends with a slash.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_store_are_below_the_prefix() {
        let keys = Keys::new("/mainstay/", "w1");
        assert_eq!(keys.data(b"/a/b"), b"/mainstay/data//a/b");
        assert_eq!(keys.data_in(b"/mainstay/data//a/b"), Some(&b"/a/b"[..]));
        for other in [&keys.fence, &keys.mark, &keys.compaction, &keys.origin] {
            assert_eq!(keys.data_in(other), None);
            let (start, end) = keys.all();
            assert!(start < *other && *other < end);
        }
        assert_eq!(keys.all(), (b"/mainstay/".to_vec(), b"/mainstay0".to_vec()));
    }
}
