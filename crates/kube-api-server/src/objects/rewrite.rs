//! Changes of stored objects before a server starts, without validation: for addresses and paths after the data
//! directory was moved.

use json_tree::Value;
use mvcc_store::{Compare, Operation, Range, Store, StoreError, Txn};

use crate::catalog::registry::end_of;
use crate::objects::storage::encode_as;

/// The prefix of all objects.
const ROOT: &[u8] = b"/registry/";

/// The change of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// No change.
    Keep,
    /// The object is stored in its new form, under its new name.
    Store,
    /// The object is removed.
    Remove,
}

/// Calls `change` for every stored object, and stores the result. Each object is changed in its own transaction, so
/// an interrupted run can be repeated. Returns the number of changed objects.
///
/// # Errors
/// The errors of the store.
pub async fn rewrite(
    store: &dyn Store,
    mut change: impl FnMut(&mut Value) -> Rewrite,
) -> Result<usize, StoreError> {
    let range = Range {
        start: ROOT.to_vec(),
        end: Some(end_of(ROOT)),
        ..Range::default()
    };
    let mut changed = 0;
    for item in store.range(range).await?.items {
        // The store also contains keys that are no objects: they reserve names.
        let Ok(mut object) = serde_json::from_slice::<Value>(&item.value) else {
            continue;
        };
        let Some(kind) = object["kind"].as_str().map(str::to_owned) else {
            continue;
        };
        let api_version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
        let old = item.key.to_vec();
        let mut operations = Vec::new();
        match change(&mut object) {
            Rewrite::Keep => continue,
            Rewrite::Remove => operations.push(Operation::Delete { key: old.clone() }),
            Rewrite::Store => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let key = renamed(&old, name);
                if key != old {
                    operations.push(Operation::Delete { key: old.clone() });
                }
                operations.push(Operation::Put {
                    key,
                    value: encode_as(&kind, &api_version, &object),
                    lease: item.lease,
                });
            }
        }
        let compare = vec![Compare::ModRevision(old, item.mod_revision)];
        store
            .txn(Txn {
                compare,
                operations,
            })
            .await?;
        changed += 1;
    }
    Ok(changed)
}

/// The key with another last segment.
fn renamed(key: &[u8], name: &str) -> Vec<u8> {
    let end = key.iter().rposition(|byte| *byte == b'/');
    let mut key = key[..end.map_or(0, |end| end + 1)].to_vec();
    key.extend_from_slice(name.as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use mvcc_store::Value as Stored;
    use mvcc_store::embedded::EmbeddedStore;

    use super::*;

    #[tokio::test]
    async fn objects_are_changed_renamed_and_removed() {
        let store = EmbeddedStore::in_memory();
        for name in ["a", "b", "c"] {
            let text = format!(
                r#"{{"kind":"Node","apiVersion":"v1","metadata":{{"name":"{name}","resourceVersion":"0"}}}}"#
            );
            let put = Operation::Put {
                key: format!("/registry/nodes/{name}").into_bytes(),
                value: Stored::Plain(text.into()),
                lease: None,
            };
            let txn = Txn {
                compare: Vec::new(),
                operations: vec![put],
            };
            store.txn(txn).await.unwrap();
        }
        let change = |object: &mut Value| match object["metadata"]["name"].as_str() {
            Some("a") => {
                object["metadata"]["name"] = "z".into();
                Rewrite::Store
            }
            Some("b") => Rewrite::Remove,
            _ => Rewrite::Keep,
        };
        assert_eq!(rewrite(store.as_ref(), change).await.unwrap(), 2);
        let range = Range {
            start: ROOT.to_vec(),
            end: Some(end_of(ROOT)),
            ..Range::default()
        };
        let items = store.range(range).await.unwrap().items;
        let keys: Vec<_> = items
            .iter()
            .map(|item| item.key.escape_ascii().to_string())
            .collect();
        assert_eq!(keys, ["/registry/nodes/c", "/registry/nodes/z"]);
        let renamed: Value = serde_json::from_slice(&items[1].value).unwrap();
        assert_eq!(
            renamed["metadata"]["resourceVersion"],
            items[1].mod_revision.0.to_string()
        );
    }
}
