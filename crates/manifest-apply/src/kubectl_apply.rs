//! One object, written as `kubectl apply` writes it, or tried with a dry run.
//!
//! The way depends on the object that is there. An object with a manager of server-side apply is applied by this
//! manager, as by `kubectl apply --server-side` and by helm 4. Every other object is patched with the difference from the
//! manifest in its annotation `kubectl.kubernetes.io/last-applied-configuration`.

use http::Method;
use json_tree::{Value, json};
use kube_api_client::Client;
use openapi_documents::Schema;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use resource_kinds::annotations::LAST_APPLIED;

use crate::apply::{ApplyError, message, request, send};
use crate::manifests::Manifest;

/// The manager of the fields that a client-side apply writes.
const CLIENT_SIDE: &str = "kubectl-client-side-apply";

/// Whether the server stores the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// The server checks the object, adds defaults, and stores nothing.
    DryRun,
    Store,
}

/// The result of a write.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenObject {
    /// The object as the server has it after the write, or would have it.
    pub object: Value,
    /// The warnings of the server.
    pub warnings: Vec<String>,
}

/// The way of a write.
#[derive(Debug, PartialEq)]
enum Way {
    Create,
    /// Server-side apply by this manager.
    Apply(String),
    /// A patch from this manifest, if there is one.
    Patch(Option<Value>),
}

impl Way {
    fn of(live: Option<&Value>) -> Self {
        let Some(live) = live else {
            return Self::Create;
        };
        let annotations = &live["metadata"]["annotations"];
        if let Some(text) = annotations[LAST_APPLIED].as_str() {
            // A text that is no manifest is treated as absent, as kubectl does.
            return Self::Patch(serde_json::from_str(text).ok());
        }
        let managers = live["metadata"]["managedFields"].as_array();
        let applied = managers.into_iter().flatten().filter(|entry| {
            entry["operation"] == "Apply" && entry.get("subresource").is_none_or(|sub| sub == "")
        });
        let newest = applied.max_by_key(|entry| entry["time"].as_str().unwrap_or_default());
        match newest.and_then(|entry| entry["manager"].as_str()) {
            Some(manager) => Self::Apply(manager.to_owned()),
            None => Self::Patch(None),
        }
    }
}

/// Writes an object. The object that is there is changed only if it is still at the resourceVersion of `live`; without `live`
/// the object must not exist.
///
/// `collection` is the path of the kind's objects in the namespace.
///
/// # Errors
/// The server refuses the object, or does not respond.
pub async fn kubectl_apply(
    client: &Client,
    collection: &str,
    manifest: &Manifest,
    live: Option<&Value>,
    mode: WriteMode,
) -> Result<WrittenObject, ApplyError> {
    let way = Way::of(live);
    let object = &manifest.object;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("{collection}/{name}");
    let version = live.and_then(|live| live["metadata"]["resourceVersion"].as_str());
    let manager = match &way {
        Way::Apply(manager) => manager.as_str(),
        Way::Create | Way::Patch(_) => CLIENT_SIDE,
    };
    let dry_run = match mode {
        WriteMode::DryRun => "&dryRun=All",
        WriteMode::Store => "",
    };
    let manager = utf8_percent_encode(manager, NON_ALPHANUMERIC);
    let query = format!("?fieldManager={manager}&fieldValidation=Strict{dry_run}");
    let (method, path, content_type, body) = match way {
        Way::Create => (Method::POST, collection, JSON, with_note(object)?),
        Way::Apply(_) => {
            let mut body = object.clone();
            at_version(&mut body, version);
            (Method::PATCH, path.as_str(), APPLY, body)
        }
        Way::Patch(former) => {
            let (content_type, mut body) = patch(former.as_ref(), object)?;
            at_version(&mut body, version);
            (Method::PATCH, path.as_str(), content_type, body)
        }
    };
    let body = serde_json::to_vec(&body).map_err(ApplyError::Encode)?;
    let request = request(method, &format!("{path}{query}"), content_type, body)?;
    let (status, response, warnings) = send(client, request).await?;
    if status.is_success() {
        return Ok(WrittenObject {
            object: response,
            warnings,
        });
    }
    Err(ApplyError::Refused {
        origin: manifest.origin.clone(),
        message: message(&response),
    })
}

const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const MERGE: &str = "application/merge-patch+json";

/// The patch of a client-side apply, and its media type. A custom resource has no merge keys.
fn patch(former: Option<&Value>, object: &Value) -> Result<(&'static str, Value), ApplyError> {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = object["kind"].as_str().unwrap_or_default();
    let object_type = Schema::published().lookup(group, version, kind);
    let content_type = match object_type {
        Some(_) => STRATEGIC,
        None => MERGE,
    };
    let patch = structured_merge::apply_patch(former, &with_note(object)?, object_type);
    Ok((content_type, patch))
}

/// The object with its own text in the annotation, for the next apply.
fn with_note(object: &Value) -> Result<Value, ApplyError> {
    let mut noted = object.clone();
    let annotations = noted.pointer_mut("/metadata/annotations");
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.shift_remove(LAST_APPLIED);
    }
    let text = serde_json::to_string(&noted).map_err(ApplyError::Encode)?;
    if !noted["metadata"]["annotations"].is_object() {
        noted["metadata"]["annotations"] = json!({});
    }
    noted["metadata"]["annotations"][LAST_APPLIED] = (text + "\n").into();
    Ok(noted)
}

/// Makes a write fail with a conflict if the object has changed.
fn at_version(body: &mut Value, version: Option<&str>) {
    if let Some(version) = version {
        body["metadata"]["resourceVersion"] = version.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(meta: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta})
    }

    #[test]
    fn the_way_is_that_of_the_last_writer() {
        let noted = live(json!({"annotations": {LAST_APPLIED: "{\"spec\":{}}"}}));
        assert_eq!(Way::of(Some(&noted)), Way::Patch(Some(json!({"spec": {}}))));
        let entry = |manager: &str, operation: &str, time: &str| json!({"manager": manager, "operation": operation, "time": time});
        let applied = live(json!({"managedFields": [
            entry("helm", "Apply", "2026-01-02T00:00:00Z"),
            entry("old", "Apply", "2026-01-01T00:00:00Z"),
            entry("kubectl-edit", "Update", "2026-01-03T00:00:00Z"),
        ]}));
        assert_eq!(Way::of(Some(&applied)), Way::Apply("helm".to_owned()));
        let status = json!({"manager": "x", "operation": "Apply", "subresource": "status"});
        let created = live(json!({"managedFields": [status]}));
        assert_eq!(Way::of(Some(&created)), Way::Patch(None));
        assert_eq!(Way::of(None), Way::Create);
    }

    #[test]
    fn a_patch_has_the_manifest_for_the_next_apply() {
        let manifest = live(json!({"name": "web"}));
        let (content_type, patch) = patch(None, &manifest).unwrap();
        assert_eq!(content_type, STRATEGIC);
        let note = patch["metadata"]["annotations"][LAST_APPLIED]
            .as_str()
            .unwrap();
        assert_eq!(serde_json::from_str::<Value>(note).unwrap(), manifest);
    }

    #[test]
    fn custom_resources_have_merge_patches() {
        let policy = json!({"apiVersion": "apps.mainstay.dev/v1alpha1",
            "kind": "StatefulSetPolicy", "metadata": {"name": "quorum"}});
        assert_eq!(patch(None, &policy).unwrap().0, MERGE);
    }
}
