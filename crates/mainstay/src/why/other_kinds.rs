//! Questions about objects of kinds that have no answers of their own, such as custom resources.

use anyhow::{Result, bail};
use api_client::{Api, DynamicObject, PartialObjectMeta, ServedResource};
use diagnosis::{Explanation, explain_metadata};
use jiff::Timestamp;

use super::Server;
use super::target::{NamedObject, WhyTarget};

type Metadata = PartialObjectMeta<DynamicObject>;

/// The answer out of the object's metadata.
///
/// # Errors
/// A mistake in the command line if the server has no such kind.
pub(super) async fn ask(
    server: &Server,
    target: &NamedObject,
    namespace: &str,
    now: Timestamp,
) -> Result<Explanation> {
    let read = read(server, target, namespace).await;
    let Some((kind, found)) = read.map_err(|error| server.explain(error))? else {
        return Err(target.unknown_kind().into());
    };
    let Some(found) = found else {
        let place = match kind.namespaced {
            true => format!(" in namespace {namespace:?}"),
            false => String::new(),
        };
        bail!("{} {:?} not found{place}", kind.resource.kind, target.name);
    };
    Ok(explain_metadata(&kind.resource.kind, &found.metadata, now))
}

/// The kind and the object; `None` if there is no such kind, or no such object.
async fn read(
    server: &Server,
    target: &NamedObject,
    namespace: &str,
) -> api_client::Result<Option<(ServedResource, Option<Metadata>)>> {
    let Some(kind) = find(server, &target.kind).await? else {
        return Ok(None);
    };
    let client = server.client.clone();
    let api: Api<Metadata> = match kind.namespaced {
        true => Api::namespaced_with(client, namespace, &kind.resource),
        false => Api::all_with(client, &kind.resource),
    };
    let found = api.get_opt(&target.name).await?;
    Ok(Some((kind, found)))
}

/// Checks that an object which no list has does not exist: a stored value that is no object is left out of lists.
///
/// # Errors
/// The server's reason why it cannot read the object.
pub(super) async fn check_readable(
    server: &Server,
    target: &WhyTarget,
    namespace: &str,
) -> Result<()> {
    let named = NamedObject {
        kind: target.kind.kind().to_owned(),
        name: target.name.clone(),
    };
    match read(server, &named, namespace).await {
        Err(api_client::Error::Api(status)) if status.code == 500 => {
            bail!("{} {:?}: {}", named.kind, named.name, status.message)
        }
        _ => Ok(()),
    }
}

/// The kind of that name, in the preferred version of the first group that has it.
async fn find(server: &Server, word: &str) -> api_client::Result<Option<ServedResource>> {
    for group in server.client.served_groups().await? {
        for version in &group.versions {
            let served = server.client.served_resources(&group.name, version);
            let mut served = served.await?.into_iter();
            if let Some(found) = served.find(|one| one.can("get") && is_called(one, word)) {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
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
