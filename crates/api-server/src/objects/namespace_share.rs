//! The share of a namespace in the store: no namespace takes the room of all others.
//!
//! A namespace may hold a sixth of the quota, and never more than three quarters of the room that all other objects
//! leave. So the namespaces together never take the last of it, and each has some room however much others hold. Stored
//! objects are in the memory of the server, so a sixth of the quota is also the most that a namespace adds to it. A sixteenth of the quota is for objects
//! outside of namespaces and for the namespaces of the system. A namespace over its share still gets writes of status,
//! deletions, writes that grow nothing, and, up to a further sixteenth of the quota, Events, Leases and small changes.
//!
//! The store counts the bytes, so they are right after a restart. Writes at the same time do not see each other: a
//! namespace may exceed its share by the size of these.

use mvcc_store::Store;
use mvcc_store::published::pair_bytes;
use object_model::{Cause, Status};

use crate::catalog::registry::Resource;

/// The namespaces whose objects the cluster itself needs.
const OF_THE_SYSTEM: [&str; 3] = ["kube-system", "kube-node-lease", "kube-public"];

/// The part of the quota that a namespace may hold.
const OF_A_NAMESPACE: u64 = 6;

/// The part of the quota that namespaces leave to the system; and the part by which they may exceed their shares
/// with small writes.
const RESERVE: u64 = 16;
const SMALL_BEYOND: u64 = 16;

/// The growth of a small change, in bytes.
const SMALL_GROWTH: u64 = 4096;

/// The kinds of which new objects count as small writes.
const SMALL_KINDS: [(&str, &str); 3] = [
    ("", "events"),
    ("events.k8s.io", "events"),
    ("coordination.k8s.io", "leases"),
];

/// Bytes in the store.
#[derive(Clone, Copy, Debug)]
struct Room {
    quota: u64,
    /// Of all objects.
    stored: u64,
    /// Of the namespace.
    own: u64,
}

impl Room {
    /// The most bytes of the namespace, as long as the others hold theirs.
    fn share(self) -> u64 {
        let others = self.stored.saturating_sub(self.own);
        let left = (self.quota - self.quota / RESERVE).saturating_sub(others);
        (left / 4 * 3).min(self.quota / OF_A_NAMESPACE)
    }

    /// The share, if the namespace may not grow by so many bytes.
    fn exceeded(self, growth: u64, is_small: bool) -> Option<u64> {
        let share = self.share();
        let beyond = if is_small {
            self.quota / SMALL_BEYOND
        } else {
            0
        };
        let max = share.saturating_add(beyond);
        (growth > 0 && self.own.saturating_add(growth) > max).then_some(share)
    }
}

/// Checks that the namespace of an object has room for its new state.
///
/// *Errors.* 403, whose cause has the bytes of the namespace and its share.
pub(crate) fn check(
    store: &dyn Store,
    resource: &Resource,
    (namespace, name): (&str, &str),
    (old, new): (Option<usize>, usize),
) -> Result<(), Status> {
    if !resource.namespaced() || OF_THE_SYSTEM.contains(&namespace) {
        return Ok(());
    }
    let key = resource.key(namespace, name);
    let old_bytes = old.map_or(0, |len| pair_bytes(&key, len));
    let growth = pair_bytes(&key, new).saturating_sub(old_bytes);
    if growth == 0 {
        return Ok(());
    }
    let usage = store.occupancy();
    if usage.live_bytes_max == 0 {
        return Ok(());
    }
    let room = Room {
        quota: usage.live_bytes_max,
        stored: usage.live_bytes,
        own: store.bytes_of_owner(namespace.as_bytes()),
    };
    let info = resource.info();
    let is_small = growth <= SMALL_GROWTH
        && (old.is_some() || SMALL_KINDS.contains(&(info.group, info.plural)));
    let Some(share) = room.exceeded(growth, is_small) else {
        return Ok(());
    };
    let text = format!(
        "namespace {namespace:?} holds {} bytes of the store and may hold {share}: a sixth of the store's quota, \
         and no more than three quarters of the room that other objects leave; this write needs {growth} more. Delete unneeded objects of the namespace",
        room.own
    );
    let status = Status::forbidden(info.group, info.plural, name, &text);
    Err(status.with_cause(Cause {
        reason: "NamespaceStoreShare".to_owned(),
        message: text,
        field: "metadata.namespace".to_owned(),
    }))
}

/// The namespace that a key of the store names: keys are `/registry/PLURAL/[NAMESPACE/]NAME`, or have the API group in
/// front of the plural. Groups have a dot, except for some whose kinds are all in namespaces.
pub(crate) fn namespace_of(key: &[u8]) -> Option<&[u8]> {
    let rest = key.strip_prefix(b"/registry/")?;
    let mut parts = rest.split(|byte| *byte == b'/');
    let [first, second, third] = [parts.next()?, parts.next()?, parts.next()?];
    match (parts.next(), parts.next()) {
        (None, _) => (!first.contains(&b'.')).then_some(second),
        (Some(_), None) => Some(third),
        (Some(_), Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use resource_kinds::{ClusterConfig, Scope, all};

    use super::*;
    use crate::catalog::Catalog;

    /// findings-2 S44
    #[test]
    fn keys_name_the_namespaces_of_all_kinds() {
        let catalog = Catalog::new(all(&ClusterConfig::default()));
        let mut namespaced = 0;
        for kind in all(&ClusterConfig::default()) {
            let info = kind.info();
            let Some(resource) = catalog.any_version(info.group, info.plural) else {
                continue;
            };
            let key = resource.key("a-namespace", "a.name");
            let found = namespace_of(&key);
            let is_namespaced = info.scope == Scope::Namespaced;
            namespaced += usize::from(is_namespaced);
            let wanted = is_namespaced.then_some(&b"a-namespace"[..]);
            assert_eq!(found, wanted, "{}", String::from_utf8_lossy(&key));
        }
        assert!(namespaced > 20, "{namespaced}");
        // A definition's group has a dot.
        for (key, namespace) in [
            ("/registry/example.com/widgets/n/w", Some(&b"n"[..])),
            ("/registry/example.com/widgets/w", None),
            ("/quota-guards/n", None),
        ] {
            assert_eq!(namespace_of(key.as_bytes()), namespace, "{key}");
        }
    }

    /// findings-2 S44: however many namespaces take their share, one more has room.
    #[test]
    fn namespaces_that_take_all_they_can_leave_room_for_another() {
        let quota = 1 << 30;
        let mut stored = 0;
        for _ in 0..8 {
            let own = |own| Room {
                quota,
                stored: stored + own,
                own,
            };
            let (mut low, mut high) = (0, quota);
            while low < high {
                let middle = u64::midpoint(low, high + 1);
                match own(middle - 1).exceeded(1, false) {
                    None => low = middle,
                    Some(_) => high = middle - 1,
                }
            }
            assert!(low > 0, "{stored}");
            // It does not depend on the bytes that it has already.
            assert_eq!(own(0).share(), low);
            assert_eq!(own(low).exceeded(1, true), None);
            assert_eq!(own(low).exceeded(0, false), None);
            stored += low;
        }
        assert!(stored < quota - quota / RESERVE, "{stored}");
    }
}
