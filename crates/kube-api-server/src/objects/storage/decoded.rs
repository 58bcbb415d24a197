//! Cache of decoded objects that many requests read: namespaces, accounts, classes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use json_tree::Value;
use mvcc_store::{KeyValue, Revision};

use crate::http::limits::{DECODED_BYTES_MAX, DECODED_OBJECT_BYTES_MAX};

/// Small objects by key, each with its revision.
///
/// The cache has two generations of equal maximum size. When the younger generation is full, it becomes the older
/// generation. An object that is read moves to the younger generation, so many objects that are read once do not
/// displace objects that every request reads.
#[derive(Default)]
pub(super) struct DecodedObjects(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Arc<[u8]>, Entry>,
    /// The stored size of the objects in the younger generation.
    young_bytes: usize,
    old: HashMap<Arc<[u8]>, Entry>,
}

struct Entry {
    revision: Revision,
    object: Arc<Value>,
}

impl DecodedObjects {
    /// The decoded form of a stored object; `decode` is called at the first read of a revision.
    pub(super) fn get<E>(
        &self,
        stored: &KeyValue,
        decode: impl FnOnce() -> Result<Value, E>,
    ) -> Result<Arc<Value>, E> {
        if stored.value.len() > DECODED_OBJECT_BYTES_MAX {
            return decode().map(Arc::new);
        }
        if let Some(object) = self.generations(|all| all.find(stored)) {
            return Ok(object);
        }
        let object = Arc::new(decode()?);
        // The displaced objects are dropped after the lock is released.
        let _displaced = self.generations(|all| all.insert(stored, object.clone()));
        Ok(object)
    }

    fn generations<T>(&self, work: impl FnOnce(&mut Generations) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn find(&mut self, stored: &KeyValue) -> Option<Arc<Value>> {
        let is_current = |entry: &&Entry| entry.revision == stored.mod_revision;
        if let Some(entry) = self.young.get(&stored.key) {
            return Some(entry).filter(is_current).map(|e| e.object.clone());
        }
        let object = self.old.get(&stored.key).filter(is_current)?.object.clone();
        self.insert(stored, object.clone());
        Some(object)
    }

    /// Adds an object; returns the objects that it displaces.
    fn insert(
        &mut self,
        stored: &KeyValue,
        object: Arc<Value>,
    ) -> Option<HashMap<Arc<[u8]>, Entry>> {
        let mut displaced = None;
        self.young_bytes += stored.value.len();
        if self.young_bytes > DECODED_BYTES_MAX {
            let full = std::mem::take(&mut self.young);
            displaced = Some(std::mem::replace(&mut self.old, full));
            self.young_bytes = stored.value.len();
        }
        let entry = Entry {
            revision: stored.mod_revision,
            object,
        };
        self.young.insert(stored.key.clone(), entry);
        displaced
    }
}

#[cfg(test)]
mod tests {
    use mvcc_store::Omittable;
    use std::convert::Infallible;

    use json_tree::json;

    use super::*;

    fn stored(key: &str, revision: u64, size: usize) -> KeyValue {
        KeyValue {
            key: key.as_bytes().into(),
            value: vec![b' '; size].into(),
            create_revision: Revision(1),
            mod_revision: Revision(revision),
            lease: None,
            omittable: Omittable::UNKNOWN,
        }
    }

    /// Whether a read calls the decoder.
    fn decodes(objects: &DecodedObjects, stored: &KeyValue) -> bool {
        let mut decoded = false;
        let object = objects.get(stored, || {
            decoded = true;
            Ok::<_, Infallible>(json!(stored.mod_revision.0))
        });
        assert_eq!(object, Ok(json!(stored.mod_revision.0).into()));
        decoded
    }

    #[test]
    fn an_object_is_decoded_once_per_revision() {
        let objects = DecodedObjects::default();
        let (first, second) = (stored("a", 1, 10), stored("a", 2, 10));
        assert!(decodes(&objects, &first) && !decodes(&objects, &first));
        assert!(decodes(&objects, &second) && !decodes(&objects, &second));
        assert!(
            decodes(&objects, &first),
            "a revision is never taken for another"
        );
        let large = stored("b", 1, DECODED_OBJECT_BYTES_MAX + 1);
        assert!(decodes(&objects, &large) && decodes(&objects, &large));
    }

    #[test]
    fn many_objects_displace_none_that_is_read_in_between() {
        let objects = DecodedObjects::default();
        let (hot, cold) = (stored("hot", 1, 10), stored("cold", 1, 10));
        assert!(decodes(&objects, &hot) && decodes(&objects, &cold));
        let fill = DECODED_BYTES_MAX / DECODED_OBJECT_BYTES_MAX * 4;
        for n in 0..fill {
            let other = stored(&n.to_string(), 1, DECODED_OBJECT_BYTES_MAX);
            assert!(decodes(&objects, &other));
            assert!(!decodes(&objects, &hot));
        }
        assert!(decodes(&objects, &cold));
        let cached = objects.generations(|all| all.young.len() + all.old.len());
        assert!(cached < fill);
    }
}
