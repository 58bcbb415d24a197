//! The objects that decide whether a connection from a pod passes.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::Ipv4Addr;

use diagnosis::connection::{
    ConnectionAnswer, ConnectionObjects, ConnectionQuestion, Destination, ServerKind, addresses_of,
    decide,
};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube_api_client::{Api, Client, ListParams, Resource};
use resource_kinds::discovery::service_of;
use serde::de::DeserializeOwned;

use crate::error::InspectionError;
use crate::server::Server;

/// Decides about a connection from a pod, its namespace and name, to a destination in a namespace.
///
/// # Errors
/// The server does not respond, or the connection cannot be decided.
pub async fn explain_connection(
    server: &Server,
    client: (&str, &str),
    to: &Destination,
    namespace: &str,
) -> Result<ConnectionAnswer, InspectionError> {
    let question = ConnectionQuestion {
        client,
        to,
        namespace,
    };
    let observed = read(&server.client, question).await;
    let observed = observed.map_err(|error| server.explain(error))?;
    Ok(decide(&observed, question)?)
}

/// Reads the objects of the source and of the destination; no other objects decide.
async fn read(
    client: &Client,
    question: ConnectionQuestion<'_>,
) -> Result<ConnectionObjects, kube_api_client::Error> {
    let mut observed = ConnectionObjects::default();
    let all: Api<Namespace> = Api::all(client.clone());
    for name in BTreeSet::from([question.client.0, question.namespace]) {
        let (pods, policies, namespace) = tokio::try_join!(
            list::<Pod>(client, name),
            list::<NetworkPolicy>(client, name),
            all.get_opt(name),
        )?;
        let is_client = |pod: &&Pod| {
            let (namespace, name) = question.client;
            pod.metadata.namespace.as_deref() == Some(namespace)
                && pod.metadata.name.as_deref() == Some(name)
        };
        if let Some(pod) = pods.iter().find(is_client) {
            observed.node_addresses = node_of_pod(client, pod).await?;
        }
        for pod in pods {
            observed
                .pods
                .push(pod.try_into().map_err(kube_api_client::Error::Json)?);
        }
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
        let key = Some((question.namespace, to.name.as_str()));
        observed.slices = slices;
        observed.slices.retain(|slice| service_of(slice) == key);
    }
    Ok(observed)
}

/// The addresses of a pod's node. A user who may not read nodes gets the address in the status of the pod.
async fn node_of_pod(
    client: &Client,
    pod: &Pod,
) -> Result<BTreeSet<Ipv4Addr>, kube_api_client::Error> {
    let host = pod
        .status
        .as_ref()
        .and_then(|status| status.host_ip.as_deref());
    let mut addresses = BTreeSet::from_iter(host.and_then(|text| text.parse().ok()));
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
        let nodes: Api<Node> = Api::all(client.clone());
        match nodes.get_opt(node).await {
            Ok(node) => addresses.extend(node.iter().flat_map(addresses_of)),
            Err(error) if error.code() == Some(403) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(addresses)
}

async fn list<K>(client: &Client, namespace: &str) -> Result<Vec<K>, kube_api_client::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    Ok(api.list(&ListParams::default()).await?.items)
}
