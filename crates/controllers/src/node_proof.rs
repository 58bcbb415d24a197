//! The proof that nothing runs on a node (docs/node-failure.md).

use api_client::{Api, Client};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use planners::attach_detach::Proof;
use planners::node_lifecycle::fence::NodeLease;
use resource_kinds::namespaces::NODE_LEASES;
use resource_kinds::node_conditions;

/// The proof, from the node's taints and its Lease, which is read now.
pub(crate) async fn proof(
    client: &Client,
    name: &str,
    node: Option<&Node>,
) -> api_client::Result<Option<Proof>> {
    if node.is_some_and(node_conditions::is_out_of_service) {
        return Ok(Some(Proof::OutOfService));
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    let lease = leases.get_opt(name).await?;
    let fenced = lease.is_some_and(|lease| NodeLease::from(&lease).fenced);
    Ok(fenced.then_some(Proof::Fenced))
}
