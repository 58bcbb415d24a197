//! Server-side apply of manifests, as one field manager: fields that a manifest no longer has are removed,
//! fields of other managers stay.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use json_tree::Value;
use kube_api_client::{BoxError, Client};
use object_model::Status;
use resource_kinds::{KindInfo, Scope};

use crate::manifests::Manifest;

/// The error of applying a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{origin}: no matches for kind {kind:?} in version {version:?}")]
    NoSuchKind {
        origin: String,
        kind: String,
        version: String,
    },
    #[error("{origin}: {kind}: metadata.name is required")]
    WithoutName { origin: String, kind: String },
    #[error("encode the manifest")]
    Encode(#[source] serde_json::Error),
    /// The names in the manifest make no valid address.
    #[error("a request to {uri}")]
    Address { uri: String, source: http::Error },
    #[error("reach the API server")]
    Unreachable(#[source] kube_api_client::Error),
    #[error("read the API server's answer")]
    Interrupted(#[source] BoxError),
    #[error("the API server's answer is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// The server refuses the object.
    #[error("{origin}: {message}")]
    Refused { origin: String, message: String },
}

type Result<T> = std::result::Result<T, ApplyError>;

/// The result of applying a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Kind, group and name, for instance `statefulset.apps/web`.
    pub object: String,
    /// `created`, `configured` or `unchanged`, as `kubectl apply` prints it.
    pub outcome: &'static str,
    /// Warnings in the response of the server.
    pub warnings: Vec<String>,
}

/// The URL path of an object, and its name for messages.
struct ObjectPath {
    path: String,
    display: String,
}

/// The query of an apply, with the field manager of the manifests.
const QUERY: &str = "?fieldManager=mainstay-up&fieldValidation=Strict&force=true";

/// The error of a dry run, if the manifest itself is invalid. Other errors (another manifest creates its
/// namespace or its kind, a webhook is not running yet) are reported when the manifest is applied.
///
/// # Errors
/// The server does not respond.
pub async fn check(
    client: &Client,
    kinds: &[KindInfo<'_>],
    manifest: &Manifest,
) -> Result<Option<String>> {
    // A custom kind may be defined by another manifest, or by a stored definition.
    let Ok(object_path) = object_path(kinds, manifest) else {
        return Ok(nameless(manifest));
    };
    let body = serde_json::to_vec(&manifest.object).map_err(ApplyError::Encode)?;
    let dry = format!("{}{QUERY}&dryRun=All", object_path.path);
    let (status, response, _) = send(client, request(Method::PATCH, &dry, APPLY, body)?).await?;
    let is_mistake = [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY].contains(&status);
    Ok(is_mistake.then(|| {
        let display = object_path.display;
        format!("{}: {display}: {}", manifest.origin, message(&response))
    }))
}

fn nameless(manifest: &Manifest) -> Option<String> {
    let object = &manifest.object;
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    let kind = object["kind"].as_str().unwrap_or_default();
    match name {
        None | Some("") => Some(without_name(manifest, kind).to_string()),
        Some(_) => None,
    }
}

fn without_name(manifest: &Manifest, kind: &str) -> ApplyError {
    ApplyError::WithoutName {
        origin: manifest.origin.clone(),
        kind: kind.to_owned(),
    }
}

/// The name of the manifest's object in messages.
pub fn display(kinds: &[KindInfo<'_>], manifest: &Manifest) -> String {
    match object_path(kinds, manifest) {
        Ok(object_path) => object_path.display,
        Err(_) => {
            let text = |pointer: &str| {
                let value = manifest.object.pointer(pointer).and_then(Value::as_str);
                value.unwrap_or_default().to_lowercase()
            };
            format!("{}/{}", text("/kind"), text("/metadata/name"))
        }
    }
}

/// Creates or updates one object. Conflicting changes of other managers are overwritten, because the user
/// starts the program with the manifest.
///
/// # Errors
/// The server has no such kind, refuses the object, or does not respond.
pub async fn apply(
    client: &Client,
    kinds: &[KindInfo<'_>],
    manifest: &Manifest,
) -> Result<Applied> {
    let object_path = object_path(kinds, manifest)?;
    let body = serde_json::to_vec(&manifest.object).map_err(ApplyError::Encode)?;
    // Read before the write, to report the difference.
    let read = request(Method::GET, &object_path.path, APPLY, Vec::new())?;
    let (_, present, _) = send(client, read).await?;
    let uri = format!("{}{QUERY}", object_path.path);
    let apply = request(Method::PATCH, &uri, APPLY, body)?;
    let (status, response, warnings) = send(client, apply).await?;
    if !status.is_success() {
        return Err(ApplyError::Refused {
            origin: manifest.origin.clone(),
            message: message(&response),
        });
    }
    let outcome = if status == StatusCode::CREATED {
        "created"
    } else if version(&response) == version(&present) {
        "unchanged"
    } else {
        "configured"
    };
    Ok(Applied {
        object: object_path.display,
        outcome,
        warnings,
    })
}

fn version(object: &Value) -> Option<String> {
    object["metadata"]["resourceVersion"]
        .as_str()
        .map(str::to_owned)
}

fn object_path(kinds: &[KindInfo<'_>], manifest: &Manifest) -> Result<ObjectPath> {
    let object = &manifest.object;
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    let info = kinds
        .iter()
        .find(|info| info.kind == kind && group_version(info) == version)
        .ok_or_else(|| ApplyError::NoSuchKind {
            origin: manifest.origin.clone(),
            kind: kind.to_owned(),
            version: version.to_owned(),
        })?;
    let name = text("/metadata/name");
    if name.is_empty() {
        return Err(without_name(manifest, kind));
    }
    let root = if info.group.is_empty() {
        format!("/api/{}", info.version)
    } else {
        format!("/apis/{}/{}", info.group, info.version)
    };
    let collection = match info.scope {
        Scope::Cluster => format!("{root}/{}", info.plural),
        Scope::Namespaced => {
            let namespace = Some(text("/metadata/namespace")).filter(|name| !name.is_empty());
            format!(
                "{root}/namespaces/{}/{}",
                namespace.unwrap_or("default"),
                info.plural
            )
        }
    };
    let dot = if info.group.is_empty() { "" } else { "." };
    Ok(ObjectPath {
        path: format!("{collection}/{name}"),
        display: format!("{}{dot}{}/{name}", info.singular, info.group),
    })
}

fn group_version(info: &KindInfo<'_>) -> String {
    if info.group.is_empty() {
        info.version.to_owned()
    } else {
        format!("{}/{}", info.group, info.version)
    }
}

/// The media type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

pub(crate) fn request(
    method: Method,
    uri: &str,
    content_type: &str,
    body: Vec<u8>,
) -> Result<Request<Bytes>> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header(http::header::CONTENT_TYPE, content_type)
        .header(http::header::ACCEPT, "application/json")
        .body(body.into())
        .map_err(|source| ApplyError::Address {
            uri: uri.to_owned(),
            source,
        })
}

pub(crate) async fn send(
    client: &Client,
    request: Request<Bytes>,
) -> Result<(StatusCode, Value, Vec<String>)> {
    use http_body_util::BodyExt;
    let response = client.send(request).await;
    let response = response.map_err(ApplyError::Unreachable)?;
    let (parts, body) = response.into_parts();
    let bytes = body
        .collect()
        .await
        .map_err(ApplyError::Interrupted)?
        .to_bytes();
    let response = serde_json::from_slice(&bytes).map_err(ApplyError::NotJson)?;
    let warnings = parts
        .headers
        .get_all(http::header::WARNING)
        .iter()
        .filter_map(|value| warning_text(value.to_str().ok()?))
        .collect();
    Ok((parts.status, response, warnings))
}

/// The text of a `Warning` header: `299 - "text"`, where a backslash is before quotes and backslashes (RFC 7234, 5.5).
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.split_once('"')?.1;
    let quoted = quoted.rsplit_once('"')?.0;
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' => characters.next()?,
            other => other,
        });
    }
    Some(text)
}

/// The message of a `Status` response.
pub(crate) fn message(response: &Value) -> String {
    response["message"].as_str().map_or_else(
        || Status::internal("the answer carries no message").message,
        str::to_owned,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_tree::json;
    use resource_kinds::{Words, WriteRules};

    const SET: KindInfo<'static> = KindInfo {
        group: "apps",
        version: "v1",
        kind: "StatefulSet",
        list_kind: "StatefulSetList",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: Words::Fixed(&[]),
        categories: Words::Fixed(&[]),
        scope: Scope::Namespaced,
        verbs: &[],
        subresources: &[],
        storage: "statefulsets",
        writes: WriteRules::ORDINARY,
    };

    fn manifest(object: Value) -> Manifest {
        Manifest {
            origin: "web.yaml".to_owned(),
            object,
        }
    }

    #[test]
    fn the_path_follows_group_version_and_namespace() {
        let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "web", "namespace": "shop"}});
        let object_path = object_path(&[SET], &manifest(object)).unwrap();
        assert_eq!(
            object_path.path,
            "/apis/apps/v1/namespaces/shop/statefulsets/web"
        );
        assert_eq!(object_path.display, "statefulset.apps/web");
    }

    #[test]
    fn warnings_are_unquoted() {
        let header = r#"299 - "class \"local\": a \\ b""#;
        assert_eq!(
            warning_text(header).as_deref(),
            Some(r#"class "local": a \ b"#)
        );
        assert_eq!(warning_text("299 -"), None);
    }

    #[test]
    fn an_unknown_kind_is_refused_as_kubectl_does() {
        let object = json!({"apiVersion": "v9", "kind": "Thing", "metadata": {"name": "x"}});
        let error = object_path(&[SET], &manifest(object))
            .err()
            .unwrap()
            .to_string();
        assert_eq!(
            error,
            "web.yaml: no matches for kind \"Thing\" in version \"v9\""
        );
    }
}
