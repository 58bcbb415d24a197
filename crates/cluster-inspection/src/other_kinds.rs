//! Objects of kinds without rules for explanations, such as custom resources.

use diagnosis::{Explanation, TargetKind, explain_metadata};
use jiff::Timestamp;
use kube_api_client::{Api, DynamicObject, PartialObjectMeta, ServedResource};

use crate::error::InspectionError;
use crate::server::Server;

type Metadata = PartialObjectMeta<DynamicObject>;

/// The explanation from the metadata of an object; `None` if the server has no kind of that name.
///
/// # Errors
/// The object does not exist, or the server does not respond.
pub async fn explain_other_kind(
    server: &Server,
    kind: &str,
    name: &str,
    namespace: &str,
    now: Timestamp,
) -> Result<Option<Explanation>, InspectionError> {
    let read = read(server, kind, name, namespace).await;
    let Some((kind, object)) = read.map_err(|error| server.explain(error))? else {
        return Ok(None);
    };
    let Some(object) = object else {
        let location = match kind.namespaced {
            true => format!(" in namespace {namespace:?}"),
            false => String::new(),
        };
        let text = format!("{} {name:?} not found{location}", kind.resource.kind);
        return Err(InspectionError::NotFound(text));
    };
    let metadata = &object.metadata;
    Ok(Some(explain_metadata(&kind.resource.kind, metadata, now)))
}

/// The kind and the object; `None` if the kind or the object does not exist.
async fn read(
    server: &Server,
    kind: &str,
    name: &str,
    namespace: &str,
) -> kube_api_client::Result<Option<(ServedResource, Option<Metadata>)>> {
    let Some(kind) = find(server, kind).await? else {
        return Ok(None);
    };
    let client = server.client.clone();
    let api: Api<Metadata> = match kind.namespaced {
        true => Api::namespaced_with(client, namespace, &kind.resource),
        false => Api::all_with(client, &kind.resource),
    };
    let object = api.get_opt(name).await?;
    Ok(Some((kind, object)))
}

/// Checks that an object that is in no list does not exist: lists leave out a stored value that cannot be decoded.
///
/// # Errors
/// The server's reason why it cannot read the object.
pub async fn check_readable(
    server: &Server,
    kind: TargetKind,
    name: &str,
    namespace: &str,
) -> Result<(), InspectionError> {
    let kind = kind.kind();
    match read(server, kind, name, namespace).await {
        Err(kube_api_client::Error::Api(status)) if status.code == 500 => {
            let text = format!("{kind} {name:?}: {}", status.message);
            Err(InspectionError::Server(text))
        }
        _ => Ok(()),
    }
}

/// The kind of that name, in the preferred version of the first group that has it. Groups of an extension API server
/// that does not respond are left out, unless no other group has the kind.
async fn find(server: &Server, word: &str) -> kube_api_client::Result<Option<ServedResource>> {
    let mut unread = None;
    for group in server.client.served_groups().await? {
        for version in &group.versions {
            let served = server.client.served_resources(&group.name, version);
            let mut served = match served.await {
                Ok(served) => served.into_iter(),
                Err(error) if error.code() == Some(503) => {
                    unread = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let kind = served.find(|kind| kind.can("get") && is_called(kind, word));
            if kind.is_some() {
                return Ok(kind);
            }
        }
    }
    unread.map_or(Ok(None), Err)
}

/// Whether kubectl means the kind by the word: `widgets`, `Widget`, `widgets.example.org`.
fn is_called(one: &ServedResource, word: &str) -> bool {
    let word = word.to_lowercase();
    let (name, group) = word.split_once('.').unwrap_or((&word, ""));
    let short = one.short_names.iter().any(|short| short == name);
    let named =
        short || one.resource.plural == name || one.resource.kind.eq_ignore_ascii_case(name);
    let versioned = format!("{}.{}", one.resource.version, one.resource.group);
    named && (group.is_empty() || group == one.resource.group || group == versioned)
}
