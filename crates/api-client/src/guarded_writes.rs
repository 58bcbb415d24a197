//! Guarded writes: each names the object and the observed state that it applies to, so that a write from an
//! outdated view has no effect.

use serde_json::Value;

use crate::{Api, DeleteParams, Object, Patch, PatchParams, Preconditions, PropagationPolicy};

/// The kind of a failed write, as far as callers distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteRefusal {
    /// The object does not exist (404).
    NotFound,
    /// Something of that name exists.
    AlreadyExists,
    /// The object has changed, or another object has its name now.
    Conflict,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// The object is not valid.
    Invalid,
    /// Not allowed.
    Forbidden,
    /// The resourceVersion was compacted.
    Expired,
    /// Any other error, also an unreachable server.
    Other,
}

impl WriteRefusal {
    /// Whether the refusal results from an outdated view, so that a new plan solves it without an event for
    /// the user.
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

/// An error with its causes, on one line.
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

/// Whether an error concerns the object, not the controller: the server refused, or no request
/// failed at all.
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

/// The text of an error as the server wrote it, without the client library's own additions.
pub fn message(error: &crate::Error) -> String {
    match error {
        crate::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

/// The object of a read; `None` if it does not exist.
pub fn found<T>(result: crate::Result<T>) -> crate::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if refusal(&error) == WriteRefusal::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The result of a guarded write; `None` if the object is gone, or is not in the expected state.
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
    pub uid: Option<String>,
    /// The resourceVersion that the object must have.
    pub resource_version: Option<String>,
    /// Grace in seconds; the object's own when absent, 0 to remove it at once.
    pub grace_period_seconds: Option<u32>,
    /// The treatment of its dependents; the kind's default if absent.
    pub propagation: Option<PropagationPolicy>,
}

impl Delete {
    /// Deletes only the object with this identity.
    pub fn of_uid(uid: impl Into<String>) -> Self {
        Self {
            uid: Some(uid.into()),
            ..Self::default()
        }
    }

    /// Deletes with a grace period of 0.
    pub fn at_once(mut self) -> Self {
        self.grace_period_seconds = Some(0);
        self
    }

    /// With that policy for dependents.
    pub fn propagation(mut self, policy: PropagationPolicy) -> Self {
        self.propagation = Some(policy);
        self
    }
}

/// Deletes an object under preconditions. `false` if the object was gone, or another object has its name.
pub async fn delete<K: Object>(api: &Api<K>, name: &str, how: Delete) -> crate::Result<bool> {
    let guarded = how.uid.is_some() || how.resource_version.is_some();
    let params = DeleteParams {
        grace_period_seconds: how.grace_period_seconds,
        propagation_policy: how.propagation,
        preconditions: guarded.then_some(Preconditions {
            uid: how.uid,
            resource_version: how.resource_version,
        }),
    };
    Ok(unless_outrun(api.delete(name, &params).await)?.is_some())
}

/// Merges a patch into an object, if it is unchanged since it was read. `None` if it is not: then the
/// cache delivers its new state.
pub async fn merge<K: Object>(
    api: &Api<K>,
    seen: &K,
    mut patch: Value,
) -> crate::Result<Option<K>> {
    patch["metadata"]["resourceVersion"] = seen.meta().resource_version.clone().into();
    let (name, patch) = of_same(seen, patch);
    unless_outrun(api.patch(name, &PatchParams::default(), &patch).await)
}

/// Merges a patch into the status of an object, if it is still the same one. `None` if it is not.
pub async fn merge_status<K: Object>(
    api: &Api<K>,
    seen: &K,
    patch: Value,
) -> crate::Result<Option<K>> {
    let (name, patch) = of_same(seen, patch);
    unless_outrun(
        api.patch_status(name, &PatchParams::default(), &patch)
            .await,
    )
}

/// The object's name, and the patch for this object only, not for a new one of the same name.
fn of_same<K: Object>(seen: &K, mut patch: Value) -> (&str, Patch<Value>) {
    let meta = seen.meta();
    patch["metadata"]["uid"] = meta.uid.clone().into();
    (
        meta.name.as_deref().unwrap_or_default(),
        Patch::Merge(patch),
    )
}
