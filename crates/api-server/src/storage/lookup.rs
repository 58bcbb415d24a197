//! Reads that admission and allocation make while they decide: synchronous, at the newest state.

use futures::FutureExt;
use mvcc_store::{Range, RangeResult, StoreError};
use resource_kinds::{Lookup, Taken};
use serde_json::{Value, json};

use crate::authorize::{self, Asked};
use crate::identity::UserInfo;
use crate::registry::end_of;
use crate::server::ApiServer;

/// The key under which an exclusive thing is held.
pub(crate) fn exclusive_key(key: &str) -> Vec<u8> {
    format!("/exclusive/{key}").into_bytes()
}

/// Synchronous reads of the store.
///
/// The embedded store answers from memory at once; for another one the calling thread waits,
/// while the runtime moves its other tasks elsewhere.
pub(crate) struct SyncReads<'s>(pub(crate) &'s ApiServer);

impl SyncReads<'_> {
    fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        let mut answer = self.0.store.range(range);
        match (&mut answer).now_or_never() {
            Some(ready) => ready,
            None => {
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(answer))
            }
        }
    }

    /// Those objects of a namespace in whose stored form all words appear as texts; the others are
    /// not decoded.
    pub(crate) fn list_with(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        words: &[&str],
    ) -> Vec<Value> {
        let Some(resource) = self.0.served().registry.any_version(group, plural) else {
            return Vec::new();
        };
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        let words: Vec<_> = quoted
            .iter()
            .map(|word| memchr::memmem::Finder::new(word.as_bytes()))
            .collect();
        let start = resource.prefix(namespace);
        let end = Some(end_of(&start));
        let range = Range {
            start,
            end,
            ..Range::default()
        };
        let found = self.range(range).map_or_else(
            |error| {
                tracing::error!(%error, "read for authorisation");
                Vec::new()
            },
            |found| found.items,
        );
        found
            .iter()
            .filter(|item| words.iter().all(|word| word.find(&item.value).is_some()))
            .filter_map(|item| super::decode(&resource, item).ok())
            .collect()
    }

    fn objects(&self, resource: &crate::registry::Resource, range: Range) -> Vec<Value> {
        match self.range(range) {
            Ok(found) => found
                .items
                .iter()
                .filter_map(|item| super::decode(resource, item).ok())
                .collect(),
            Err(error) => {
                tracing::error!(%error, "read for admission");
                Vec::new()
            }
        }
    }
}

impl Lookup for SyncReads<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = self.0.served().registry.any_version(group, plural)?;
        let range = Range {
            start: resource.key(namespace, name),
            ..Range::default()
        };
        self.objects(&resource, range).pop()
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
        let Some(resource) = self.0.served().registry.any_version(group, plural) else {
            return Vec::new();
        };
        let start = resource.prefix(namespace);
        let end = Some(end_of(&start));
        self.objects(
            &resource,
            Range {
                start,
                end,
                ..Range::default()
            },
        )
    }
}

/// The same reads on behalf of somebody, of whom admission may know what they may do.
pub(crate) struct Asking<'s> {
    pub(crate) reads: SyncReads<'s>,
    pub(crate) user: &'s UserInfo,
}

impl Lookup for Asking<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.reads.get(group, plural, namespace, name)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
        self.reads.list(group, plural, namespace)
    }

    fn asker(&self) -> Value {
        let user = self.user;
        let mut asker = json!({});
        if !user.uid.is_empty() {
            asker["uid"] = json!(user.uid);
        }
        if !user.groups.is_empty() {
            asker["groups"] = json!(user.groups);
        }
        if !user.extra.is_empty() {
            asker["extra"] = json!(user.extra);
        }
        asker
    }

    fn allows(&self, verb: &str, group: &str, resource: &str, name: &str) -> bool {
        let asked = Asked {
            verb,
            group,
            resource,
            subresource: "",
            namespace: "",
            name,
            path: None,
            fields: "",
        };
        authorize::decide(self.reads.0, self.user, &asked).is_ok()
    }
}

impl Taken for SyncReads<'_> {
    fn is_taken(&self, key: &str) -> bool {
        let range = Range {
            start: exclusive_key(key),
            ..Range::default()
        };
        // What cannot be read counts as taken: nothing is ever given out twice.
        self.range(range)
            .map_or(true, |found| !found.items.is_empty())
    }
}
