//! Server-side apply of manifests, as one field manager: fields that a manifest no longer has are removed,
//! fields of other managers stay.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use json_tree::Value;
use kube_api_client::Client;
use object_model::Status;
use resource_kinds::{KindInfo, Scope};

use crate::manifests::Manifest;

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
    let body = serde_json::to_vec(&manifest.object).context("encode the manifest")?;
    let dry = format!("{}{QUERY}&dryRun=All", object_path.path);
    let (status, response, _) = send(client, request(Method::PATCH, &dry, body)?).await?;
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
        None | Some("") => Some(format!(
            "{}: {kind}: metadata.name is required",
            manifest.origin
        )),
        Some(_) => None,
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
    let body = serde_json::to_vec(&manifest.object).context("encode the manifest")?;
    // Read before the write, to report the difference.
    let (_, present, _) =
        send(client, request(Method::GET, &object_path.path, Vec::new())?).await?;
    let apply = request(Method::PATCH, &format!("{}{QUERY}", object_path.path), body)?;
    let (status, response, warnings) = send(client, apply).await?;
    if !status.is_success() {
        bail!("{}: {}", manifest.origin, message(&response));
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
        .with_context(|| {
            let origin = &manifest.origin;
            format!("{origin}: no matches for kind {kind:?} in version {version:?}")
        })?;
    let name = text("/metadata/name");
    if name.is_empty() {
        bail!("{}: {kind}: metadata.name is required", manifest.origin);
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

fn request(method: Method, uri: &str, body: Vec<u8>) -> Result<Request<Bytes>> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
        .header(http::header::ACCEPT, "application/json")
        .body(body.into())
        .with_context(|| format!("a request to {uri}"))
}

async fn send(
    client: &Client,
    request: Request<Bytes>,
) -> Result<(StatusCode, Value, Vec<String>)> {
    use http_body_util::BodyExt;
    let response = client.send(request).await.context("reach the API server")?;
    let (parts, body) = response.into_parts();
    let bytes = body
        .collect()
        .await
        .map_err(anyhow::Error::from_boxed)
        .context("read the API server's answer")?
        .to_bytes();
    let response = serde_json::from_slice(&bytes).context("the API server's answer is not JSON")?;
    let warnings = parts
        .headers
        .get_all(http::header::WARNING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(|text| {
            text.trim_start_matches("299 - ")
                .trim_matches('"')
                .to_owned()
        })
        .collect();
    Ok((parts.status, response, warnings))
}

/// The message of a `Status` response.
fn message(response: &Value) -> String {
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
