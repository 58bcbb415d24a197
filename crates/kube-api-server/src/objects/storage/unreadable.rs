//! Stored objects that cannot be decoded: the error for requests, and the removal of such objects.

use mvcc_store::{Compare, KeyValue, Operation as Write, Range, Txn, TxnResult};
use object_model::{Cause, Status, StatusDetails, StatusReason};

use super::{Objects, refusal};
use crate::catalog::registry::{Resource, end_of};

/// The field of `DeleteOptions` that allows the deletion of an object that cannot be decoded.
pub(crate) const IGNORE_READ_ERROR: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// The error for a stored object that cannot be decoded, with the reason. The message contains the request that
/// deletes the object.
pub(crate) fn unreadable(resource: &Resource, stored: &KeyValue, why: &Status) -> Status {
    let info = resource.info();
    let (namespace, name) = resource.names(&stored.key);
    let key = String::from_utf8_lossy(&stored.key).into_owned();
    let message = why.message.trim_start_matches("Internal error occurred: ");
    let space = match namespace {
        "" => String::new(),
        namespace => format!("/namespaces/{namespace}"),
    };
    let root = if info.group.is_empty() { "api" } else { "apis" };
    let path = format!(
        "/{root}/{}{space}/{}/{}",
        info.api_version(),
        info.plural,
        escaped(name)
    );
    let kind = match info.group {
        "" => info.plural.to_owned(),
        group => format!("{}.{group}", info.plural),
    };
    let mut status = Status::new(
        StatusReason::StoreReadError,
        format!(
            "failed to read one or more {kind} from the storage: {key}: {message}. If no backup has it, an \
             administrator can delete it: kubectl delete --raw '{path}?{IGNORE_READ_ERROR}=true'"
        ),
    );
    status.details = Some(Box::new(StatusDetails {
        name: name.to_owned(),
        group: info.group.to_owned(),
        kind: info.plural.to_owned(),
        causes: vec![Cause {
            reason: "UnexpectedServerResponse".to_owned(),
            message: message.to_owned(),
            field: key,
        }],
        ..StatusDetails::default()
    }));
    status
}

/// A name as a segment of a path, without characters that are special for a shell.
fn escaped(name: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:".contains(byte);
    name.bytes()
        .map(|byte| match is_plain(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// Refuses stored bytes that are clearly no JSON object. Responses contain stored bytes that are not decoded.
pub(crate) fn check_form(resource: &Resource, stored: &KeyValue) -> Result<(), Status> {
    let bytes = &stored.value;
    let has_braces = bytes.len() >= 2 && bytes.starts_with(b"{") && bytes.ends_with(b"}");
    if has_braces && std::str::from_utf8(bytes).is_ok() {
        return Ok(());
    }
    let why = Status::internal("decode a stored object: it is no JSON object");
    Err(unreadable(resource, stored, &why))
}

impl Objects {
    /// Removes an object that cannot be decoded, with the allocations that it owns. Its quota usage is unknown; the
    /// next recount corrects the quotas.
    ///
    /// *Errors.* 404; 409 for an object that can be decoded.
    pub(crate) async fn remove_unreadable(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        dry_run: bool,
    ) -> Result<(), Status> {
        loop {
            let stored = self.must_read(resource, namespace, name).await?;
            if self.decode_unconverted(resource, &stored).is_ok() {
                let why =
                    "unsafe deletion is not allowed because the object is decodable from storage";
                return Err(resource.conflict(name, why));
            }
            if dry_run {
                return Ok(());
            }
            let key = stored.key.to_vec();
            let mut operations = self.allocations_of(&key).await?;
            operations.push(Write::Delete { key: key.clone() });
            let txn = Txn {
                compare: vec![Compare::ModRevision(key, stored.mod_revision)],
                operations,
            };
            let done = self.store.txn(txn).await;
            if let TxnResult::Committed { .. } = done.map_err(|error| refusal(&error))? {
                tracing::warn!(
                    key = %String::from_utf8_lossy(&stored.key),
                    "an object that could not be decoded was deleted on purpose"
                );
                return Ok(());
            }
        }
    }

    /// Operations that release the allocations of an owner. The object of an allocation (IPAddress) stays.
    async fn allocations_of(&self, holder: &[u8]) -> Result<Vec<Write>, Status> {
        let start = super::allocation_key("");
        let range = Range {
            end: Some(end_of(&start)),
            start,
            ..Range::default()
        };
        let items = self.read_range(range).await?.items.into_iter();
        let owned = items.filter(|item| *item.value == *holder);
        let releases = owned.map(|item| Write::Delete {
            key: item.key.to_vec(),
        });
        Ok(releases.collect())
    }
}
