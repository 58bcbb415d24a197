//! Guarded writes: each write names the object and its observed state as preconditions, so that a write that is based
//! on an outdated state has no effect.

use std::collections::BTreeMap;

use json_tree::Value;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::{IncompleteMetadata, ResourceVersion, Uid};
use serde::de::IgnoredAny;

use crate::{
    Api, DeleteParams, Object, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};

/// The kinds of failed writes that callers distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteRefusal {
    /// The object does not exist (404).
    NotFound,
    /// An object of this name exists.
    AlreadyExists,
    /// The object has changed, or another object has its name now.
    Conflict,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// The object is not valid.
    Invalid,
    /// The user has no permission.
    Forbidden,
    /// The resourceVersion was compacted.
    Expired,
    /// Any other error, such as an unreachable server.
    Other,
}

impl WriteRefusal {
    /// Whether the refusal results from an outdated state. A new plan solves it, without an event for the user.
    pub fn is_of_old_view(self) -> bool {
        let quiet = [
            Self::AlreadyExists,
            Self::Conflict,
            Self::NotFound,
            Self::NamespaceTerminating,
        ];
        quiet.contains(&self)
    }
}

/// Classifies an error of the API.
pub fn refusal(error: &crate::Error) -> WriteRefusal {
    let crate::Error::Api(status) = error else {
        return WriteRefusal::Other;
    };
    let terminating = status.details.as_ref().is_some_and(|details| {
        details
            .causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
    });
    match (status.reason.as_str(), status.code) {
        _ if terminating => WriteRefusal::NamespaceTerminating,
        ("NotFound", _) | (_, 404) => WriteRefusal::NotFound,
        ("AlreadyExists", _) => WriteRefusal::AlreadyExists,
        ("Conflict", _) | (_, 409) => WriteRefusal::Conflict,
        ("Invalid", _) | (_, 422) => WriteRefusal::Invalid,
        ("Forbidden", _) | (_, 403) => WriteRefusal::Forbidden,
        ("Expired" | "Gone", _) | (_, 410) => WriteRefusal::Expired,
        _ => WriteRefusal::Other,
    }
}

/// The messages of an error and of its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Whether an error concerns the object and not the controller. This is so if the server refused a request, or if no
/// request failed.
pub fn is_of_the_object(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<crate::Error>() {
            return matches!(error, crate::Error::Api(status)
                if (400..500).contains(&status.code) && !matches!(status.code, 401 | 429));
        }
        cause = error.source();
    }
    true
}

/// The message of an error as the server wrote it, without additions of the client.
pub fn message(error: &crate::Error) -> String {
    match error {
        crate::Error::Api(status) => status.message.clone(),
        error => chain(error),
    }
}

/// The object of a read; `None` if it does not exist.
pub fn existing_object<T>(result: crate::Result<T>) -> crate::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if refusal(&error) == WriteRefusal::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The result of a guarded write; `None` if the object was deleted or is not in the expected state.
pub fn unless_outrun<T>(result: crate::Result<T>) -> crate::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match refusal(&error) {
            WriteRefusal::NotFound | WriteRefusal::Conflict => Ok(None),
            _ => Err(error),
        },
    }
}

/// The preconditions and options of a deletion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delete {
    /// The UID that the object must have.
    pub uid: Option<Uid>,
    /// The resourceVersion that the object must have.
    pub resource_version: Option<ResourceVersion>,
    /// Grace period in seconds; `None` for the object's own grace period, 0 for immediate removal.
    pub grace_period_seconds: Option<u32>,
    /// The treatment of its dependents; the kind's default if absent.
    pub propagation: Option<PropagationPolicy>,
}

impl Delete {
    /// Options that delete only the object with this UID.
    pub fn of_uid(uid: Uid) -> Self {
        Self {
            uid: Some(uid),
            ..Self::default()
        }
    }

    /// Requires the version that was read, if there is one.
    pub fn at_version(mut self, version: Option<ResourceVersion>) -> Self {
        self.resource_version = version;
        self
    }

    /// Sets the grace period to 0.
    pub fn at_once(mut self) -> Self {
        self.grace_period_seconds = Some(0);
        self
    }

    /// Sets the treatment of dependents.
    pub fn propagation(mut self, policy: PropagationPolicy) -> Self {
        self.propagation = Some(policy);
        self
    }
}

/// Deletes an object under preconditions. Returns `false` if the object does not exist, or if another object has its
/// name.
pub async fn delete<K: Object>(api: &Api<K>, name: &str, how: Delete) -> crate::Result<bool> {
    let guarded = how.uid.is_some() || how.resource_version.is_some();
    let params = DeleteParams {
        grace_period_seconds: how.grace_period_seconds,
        propagation_policy: how.propagation,
        preconditions: guarded.then_some(Preconditions {
            uid: how.uid.map(String::from),
            resource_version: how.resource_version.map(String::from),
        }),
    };
    Ok(unless_outrun(api.delete(name, &params).await)?.is_some())
}

/// Evicts a pod under preconditions. Returns `false` if the pod does not exist, or is not in the expected state. Fails with
/// 429 while a disruption budget, or the guard of a StatefulSetPolicy, holds the pod.
pub async fn evict(
    pods: &Api<Pod>,
    name: &str,
    how: Delete,
    annotations: BTreeMap<String, String>,
) -> crate::Result<bool> {
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        },
        delete_options: Some(meta::DeleteOptions {
            grace_period_seconds: how.grace_period_seconds.map(i64::from),
            preconditions: Some(meta::Preconditions {
                uid: how.uid.map(String::from),
                resource_version: how.resource_version.map(String::from),
            }),
            ..meta::DeleteOptions::default()
        }),
    };
    let params = PostParams::default();
    let evicted = pods.create_subresource::<IgnoredAny>("eviction", name, &params, &eviction);
    Ok(unless_outrun(evicted.await)?.is_some())
}

/// Merges a patch into an object if it has not changed since it was read. Returns `None` if it has changed: the cache
/// will deliver its new state. Fails if the object has no complete identity.
pub async fn merge<K: Object>(
    api: &Api<K>,
    observed: &K,
    mut patch: Value,
) -> crate::Result<Option<K>> {
    let version = observed
        .meta()
        .resource_version
        .as_deref()
        .unwrap_or_default();
    let version: ResourceVersion = version.parse()?;
    patch["metadata"]["resourceVersion"] = version.to_string().into();
    let (name, patch) = with_uid(observed, patch)?;
    unless_outrun(api.patch(name, &PatchParams::default(), &patch).await)
}

/// Merges a patch into the status of an object if its UID is still the same. Returns `None` otherwise.
pub async fn merge_status<K: Object>(
    api: &Api<K>,
    observed: &K,
    patch: Value,
) -> crate::Result<Option<K>> {
    let (name, patch) = with_uid(observed, patch)?;
    unless_outrun(
        api.patch_status(name, &PatchParams::default(), &patch)
            .await,
    )
}

/// The name of the object, and the patch with the UID as a precondition, so that it does not apply to a new object of
/// the same name.
fn with_uid<K: Object>(
    observed: &K,
    mut patch: Value,
) -> Result<(&str, Patch<Value>), IncompleteMetadata> {
    let meta = observed.meta();
    let uid: Uid = meta.uid.as_deref().unwrap_or_default().parse()?;
    patch["metadata"]["uid"] = uid.as_str().into();
    let name = meta.name.as_deref().ok_or(IncompleteMetadata::Name)?;
    Ok((name, Patch::Merge(patch)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    /// statefulset.md 2.7, 3.32, 8.3: a conflict of names is planned again without an event; a refusal is reported.
    #[test]
    fn an_old_view_makes_no_event() {
        let refused = |code: u16, reason: &str| {
            let status = Status::failure("no", reason, code);
            refusal(&crate::Error::Api(Box::new(status))).is_of_old_view()
        };
        assert!(refused(409, "AlreadyExists"));
        assert!(refused(409, "Conflict"));
        assert!(refused(404, "NotFound"));
        assert!(!refused(422, "Invalid"));
        assert!(!refused(403, "Forbidden"));
        assert!(!refused(500, "InternalError"));
    }
}
