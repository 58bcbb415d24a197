//! The share of a namespace in the store, so that no namespace uses all free space.
//!
//! A namespace may hold a sixth of the quota, and never more than three quarters of the space that all other objects
//! leave. So the namespaces together never use all of the space, and a new namespace always has some space. Stored
//! objects are in the memory of the server, so a sixth of the quota is also the maximum memory of a namespace. A
//! sixteenth of the quota is reserved for objects outside of namespaces and for the namespaces of the system. A
//! namespace above its share still gets deletions, writes that grow nothing, and, up to a further sixteenth of the
//! quota, Events, Leases and small changes. The status of a built-in kind, which nodes and controllers write, has one
//! more sixteenth, unless the status is large. The status of a custom resource counts as any other part, because its
//! writer may be a user. The small writes of all namespaces together leave a half of the system's sixteenth free, and
//! all their writes leave a quarter free, however much the namespaces of the system hold.
//!
//! The store counts the bytes, so the counts are correct after a restart. A write reserves its bytes before it is
//! committed, so concurrent writes cannot exceed the share together. At the end of a write its bytes count twice for
//! a moment.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mvcc_store::Store;
use mvcc_store::published::pair_bytes;
use object_model::{Cause, Status};

use crate::catalog::registry::Resource;

/// The namespaces whose objects the cluster itself needs.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-node-lease", "kube-public"];

/// A namespace may hold this fraction of the quota (1/6).
const NAMESPACE_FRACTION: u64 = 6;

/// The fraction of the quota (1/16) that namespaces leave to the system. Small writes may exceed the share by this
/// fraction; small writes and writes of the status of built-in kinds together, by two such fractions.
const RESERVE: u64 = 16;
const SMALL_BEYOND: u64 = 16;
const STATUS_BEYOND: u64 = 8;

/// The fraction of the quota (1/32) that small writes above the shares leave to the system; writes of a status leave
/// half of this.
const SMALL_LEAVES: u64 = 32;
const STATUS_LEAVES: u64 = 64;

/// Maximum growth of a small change, in bytes; also of a status write that may use the reserve.
const SMALL_GROWTH: u64 = 4096;
const STATUS_GROWTH: u64 = 64 << 10;

/// The kinds whose new objects count as small writes.
const SMALL_KINDS: [(&str, &str); 3] = [
    ("", "events"),
    ("events.k8s.io", "events"),
    ("coordination.k8s.io", "leases"),
];

/// The space above the share that a write may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    None,
    Small,
    Status,
}

/// The bytes of uncommitted writes, by namespace.
#[derive(Debug, Default)]
pub(crate) struct PendingBytes(Mutex<BTreeMap<String, u64>>);

/// The reserved bytes of one write; released on drop.
#[derive(Debug)]
pub(crate) struct Reservation<'p> {
    pending: &'p PendingBytes,
    namespace: String,
    bytes: u64,
}

impl PendingBytes {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut pending = self.pending.locked();
        if let Some(bytes) = pending.get_mut(&self.namespace) {
            *bytes = bytes.saturating_sub(self.bytes);
            if *bytes == 0 {
                pending.remove(&self.namespace);
            }
        }
    }
}

/// A write of an object: the object, its bytes before and after, and the sub-resource of the request.
pub(crate) struct Growth<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) old: Option<usize>,
    pub(crate) new: usize,
}

impl Growth<'_> {
    fn bytes(&self) -> u64 {
        let key = self.resource.key(self.namespace, self.name);
        let old = self.old.map_or(0, |len| pair_bytes(&key, len));
        pair_bytes(&key, self.new).saturating_sub(old)
    }

    fn reserve(&self, bytes: u64) -> Reserve {
        let info = self.resource.info();
        let is_own_status = self.subresource == "status" && !self.resource.is_custom();
        if is_own_status && bytes <= STATUS_GROWTH {
            return Reserve::Status;
        }
        let is_small_kind = || SMALL_KINDS.contains(&(info.group, info.plural));
        match bytes <= SMALL_GROWTH && (self.old.is_some() || is_small_kind()) {
            true => Reserve::Small,
            false => Reserve::None,
        }
    }
}

/// The used bytes in the store, from which the share is computed.
#[derive(Clone, Copy, Debug)]
struct StoreUsage {
    quota: u64,
    /// Bytes of all objects.
    stored: u64,
    /// Bytes of the namespace.
    used: u64,
    /// Bytes of the namespaces of the system.
    system: u64,
}

impl StoreUsage {
    /// The maximum bytes of the namespace, while other namespaces keep theirs.
    fn share(self) -> u64 {
        let others = self.stored.saturating_sub(self.used);
        let left = (self.quota - self.quota / RESERVE).saturating_sub(others);
        (left / 4 * 3).min(self.quota / NAMESPACE_FRACTION)
    }

    /// `None` if the namespace may grow by this many bytes; otherwise its share.
    fn exceeded(self, growth: u64, reserve: Reserve) -> Option<u64> {
        let share = self.share();
        let used = self.used.saturating_add(growth);
        if growth == 0 || used <= share {
            return None;
        }
        let (beyond, leaves) = match reserve {
            Reserve::None => {
                cov_mark::hit!(findings_2_s44);
                return Some(share);
            }
            Reserve::Small => (SMALL_BEYOND, SMALL_LEAVES),
            Reserve::Status => (STATUS_BEYOND, STATUS_LEAVES),
        };
        let is_within = used <= share.saturating_add(self.quota / beyond);
        let others = self.stored.saturating_sub(self.system);
        let leaves_space = others.saturating_add(growth) <= self.quota - self.quota / leaves;
        (!is_within || !leaves_space).then_some(share)
    }
}

/// Checks that the share of the object's namespace suffices for the new state, and reserves the bytes until the
/// result is dropped.
///
/// *Errors.* 403, whose cause contains the bytes of the namespace and its share.
pub(crate) fn reserve<'p>(
    pending: &'p PendingBytes,
    store: &dyn Store,
    growth: &Growth<'_>,
) -> Result<Option<Reservation<'p>>, Status> {
    let (namespace, name) = (growth.namespace, growth.name);
    if !growth.resource.namespaced() || SYSTEM_NAMESPACES.contains(&namespace) {
        return Ok(None);
    }
    let bytes = growth.bytes();
    if bytes == 0 {
        return Ok(None);
    }
    let mut by_namespace = pending.locked();
    let usage = store.occupancy();
    if usage.live_bytes_max == 0 {
        return Ok(None);
    }
    let own_pending = by_namespace.get(namespace).copied().unwrap_or_default();
    let space = StoreUsage {
        quota: usage.live_bytes_max,
        stored: usage.live_bytes + by_namespace.values().sum::<u64>(),
        used: store.bytes_of_owner(namespace.as_bytes()) + own_pending,
        system: SYSTEM_NAMESPACES
            .map(|name| store.bytes_of_owner(name.as_bytes()))
            .iter()
            .sum(),
    };
    let Some(share) = space.exceeded(bytes, growth.reserve(bytes)) else {
        *by_namespace.entry(namespace.to_owned()).or_default() += bytes;
        drop(by_namespace);
        return Ok(Some(Reservation {
            pending,
            namespace: namespace.to_owned(),
            bytes,
        }));
    };
    drop(by_namespace);
    let info = growth.resource.info();
    let text = format!(
        "namespace {namespace:?} holds {} bytes of the store and may hold {share}: a sixth of the store's quota, \
         and no more than three quarters of the room that other objects leave; this write needs {bytes} more. Delete unneeded objects of the namespace",
        space.used
    );
    let status = Status::forbidden(info.group, info.plural, name, &text);
    Err(status.with_cause(Cause {
        reason: "NamespaceStoreShare".to_owned(),
        message: text,
        field: "metadata.namespace".to_owned(),
    }))
}

/// The namespace in a storage key. Keys are `/registry/PLURAL/[NAMESPACE/]NAME`, or contain the API group in front of
/// the plural. A group contains a dot, except for some groups whose kinds are all namespaced.
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
            let parsed = namespace_of(&key);
            let is_namespaced = info.scope == Scope::Namespaced;
            namespaced += usize::from(is_namespaced);
            let expected = is_namespaced.then_some(&b"a-namespace"[..]);
            assert_eq!(parsed, expected, "{}", String::from_utf8_lossy(&key));
        }
        assert!(namespaced > 20, "{namespaced}");
        // The group of a CustomResourceDefinition always contains a dot.
        for (key, namespace) in [
            ("/registry/example.com/widgets/n/w", Some(&b"n"[..])),
            ("/registry/example.com/widgets/w", None),
            ("/quota-guards/n", None),
        ] {
            assert_eq!(namespace_of(key.as_bytes()), namespace, "{key}");
        }
    }

    /// findings-2 S44: if any number of namespaces use their full shares, a further namespace still has space.
    #[test]
    fn namespaces_that_take_all_they_can_leave_room_for_another() {
        cov_mark::check!(findings_2_s44);
        let quota = 1 << 30;
        let mut stored = 0;
        for _ in 0..8 {
            let space = |bytes| StoreUsage {
                quota,
                stored: stored + bytes,
                used: bytes,
                system: 0,
            };
            let (mut low, mut high) = (0, quota);
            while low < high {
                let middle = u64::midpoint(low, high + 1);
                match space(middle - 1).exceeded(1, Reserve::None) {
                    None => low = middle,
                    Some(_) => high = middle - 1,
                }
            }
            assert!(low > 0, "{stored}");
            // The share does not depend on the bytes that the namespace holds already.
            assert_eq!(space(0).share(), low);
            assert_eq!(space(low).exceeded(1, Reserve::Small), None);
            assert_eq!(
                space(low).exceeded(quota / 16 + 1, Reserve::Small),
                Some(low)
            );
            assert_eq!(space(low).exceeded(0, Reserve::None), None);
            stored += low;
        }
        assert!(stored < quota - quota / RESERVE, "{stored}");
    }

    /// findings-2 S44: if any number of namespaces use all space above their shares, the system still has space.
    #[test]
    fn writes_beyond_the_shares_leave_room_for_the_system() {
        let quota: u64 = 1 << 30;
        for (reserve, left) in [(Reserve::Small, quota / 32), (Reserve::Status, quota / 64)] {
            let mut stored = 0;
            for _ in 0..64 {
                let start = stored;
                let space = |stored| StoreUsage {
                    quota,
                    stored,
                    used: stored - start,
                    system: 0,
                };
                while space(stored).exceeded(4096, reserve).is_none() {
                    stored += 4096;
                }
            }
            assert!(quota - stored >= left, "{reserve:?}: {stored}");
            assert!(quota - stored < left + 8192, "{reserve:?}: {stored}");
        }
    }
}
