//! `mainstay why pod/a --to pod/b:5432`: whether a connection passes, by the NetworkPolicies of both ends.

mod answer;
mod question;
mod render;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::Result;
use api_client::{Api, Client, ListParams, Resource};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use resource_kinds::discovery::service_of;
use resource_kinds::pod_view::PodView;
use serde::de::DeserializeOwned;

use super::Server;
pub use answer::Answer;
use answer::{Observed, Question, decide};
pub use question::Destination;
use question::ServerKind;

/// Asks about a connection from a pod to a destination in a namespace.
///
/// # Errors
/// The server does not answer, or there is no answer to the question.
pub async fn ask(
    server: &Server,
    client: (&str, &str),
    to: &Destination,
    namespace: &str,
) -> Result<Answer> {
    let question = Question {
        client,
        to,
        namespace,
    };
    let observed = read(&server.client, question).await;
    let observed = observed.map_err(|error| server.explain(error))?;
    Ok(decide(&observed, question)?)
}

/// Reads the objects of both ends: no others decide.
async fn read(client: &Client, question: Question<'_>) -> Result<Observed, api_client::Error> {
    let mut observed = Observed::default();
    let all: Api<Namespace> = Api::all(client.clone());
    for name in BTreeSet::from([question.client.0, question.namespace]) {
        let (pods, policies, namespace) = tokio::try_join!(
            list::<Pod>(client, name),
            list::<NetworkPolicy>(client, name),
            all.get_opt(name),
        )?;
        observed.pods.extend(pods.into_iter().map(PodView::from));
        observed.policies.extend(policies);
        observed.namespaces.extend(namespace);
    }
    let to = question.to;
    if to.kind == ServerKind::Service {
        let services: Api<Service> = Api::namespaced(client.clone(), question.namespace);
        let (service, slices) = tokio::try_join!(
            services.get_opt(&to.name),
            list::<EndpointSlice>(client, question.namespace),
        )?;
        observed.service = service;
        let own = Some((question.namespace, to.name.as_str()));
        observed.slices = slices;
        observed.slices.retain(|slice| service_of(slice) == own);
    }
    Ok(observed)
}

async fn list<K>(client: &Client, namespace: &str) -> Result<Vec<K>, api_client::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    Ok(api.list(&ListParams::default()).await?.items)
}
