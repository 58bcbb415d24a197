//! The explanations of waiting objects, from the objects of their cluster.

use diagnosis::{Explanation, Overview, TargetKind, explain};
use jiff::Timestamp;

use crate::cluster_objects::{self, ClusterObjects, NamespaceScope, Scope, read_all};
use crate::error::InspectionError;
use crate::server::Server;
use crate::{logs, other_kinds};

/// The explanation of an object, with the last lines of the logs that the explanation names.
///
/// # Errors
/// The object does not exist, or the server does not respond.
pub async fn explain_object(
    server: &Server,
    kind: TargetKind,
    name: &str,
    namespace: &str,
    now: Timestamp,
) -> Result<Explanation, InspectionError> {
    // An event of a namespace names an object in this namespace.
    let namespace = match kind {
        TargetKind::Namespace => name,
        _ => namespace,
    };
    let scope = Scope::Object(kind, namespace);
    let read = cluster_objects::read(&server.client, scope, now).await;
    let observed = read.map_err(|error| server.explain(error))?;
    let not_found = InspectionError::NotFound;
    let evidence = observed.namespaces.first();
    let evidence = evidence.ok_or_else(|| not_found("read the namespace".to_owned()))?;
    let Some(mut explanation) = explain(kind, name, evidence) else {
        other_kinds::check_readable(server, kind, name, namespace).await?;
        let others = cluster_objects::names(evidence, kind);
        let location = match kind.is_namespaced() {
            true => format!(" in namespace {namespace:?}"),
            false => String::new(),
        };
        let kind = kind.kind();
        let text = format!("{kind} {name:?} not found{location}: {others}");
        return Err(not_found(text));
    };
    explanation.notes.extend(observed.unread);
    let note = logs::attach(&server.client, std::slice::from_mut(&mut explanation)).await;
    explanation.notes.extend(note);
    Ok(explanation)
}

/// The waiting objects among the objects that were read.
pub fn overview(observed: &ClusterObjects, reach: &NamespaceScope, now: Timestamp) -> Overview {
    let mut all = match reach {
        NamespaceScope::All | NamespaceScope::Readable => {
            Overview::of_cluster(&observed.cluster, &observed.namespaces, now)
        }
        NamespaceScope::One(_) => Overview::default(),
    };
    for evidence in &observed.namespaces {
        all = all.and(Overview::of_namespace(evidence));
    }
    all.notes.extend(observed.unread.iter().cloned());
    all
}

/// The explanations of all waiting objects, with the last lines of the logs that the explanations name.
///
/// # Errors
/// The server does not respond, or refuses a list of pods.
pub async fn explain_all(
    server: &Server,
    reach: &NamespaceScope,
    now: Timestamp,
) -> Result<Overview, InspectionError> {
    let observed = read_all(server, reach, now).await?;
    let mut all = overview(&observed, reach, now);
    let note = logs::attach(&server.client, &mut all.explanations).await;
    all.notes.extend(note);
    Ok(all)
}

#[cfg(test)]
mod tests;
