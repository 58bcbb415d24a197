//! The machine on which the agent of a node ran before: a copied data directory would be the same node a
//! second time.
//!
//! **Goal**: the agent of a copy does not start while the agent of the original runs. **Relies on**: the ids
//! of the machine in the node's status, and the renewals of the node's lease. **Guarantees**: on another
//! machine than before, the agent starts only if the lease was not renewed for the time after which the
//! control plane would revoke it, or if the lease is revoked.

use std::time::Duration;

use command_output::output::print_line;
use controller_planners::node_lifecycle::fence::{NodeLease, wait};
use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube_api_client::{Api, Client};
use node_agent::MachineInfo;
use resource_kinds::namespaces::NODE_LEASES;
use tokio::time::Instant;

use crate::error::{MembershipError, Result};

/// Interval of reading the lease.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether the status was written on this machine; an absent id decides nothing.
fn is_on(former: &NodeSystemInfo, current: &MachineInfo) -> bool {
    let same =
        |former: &str, current: &str| former.is_empty() || current.is_empty() || former == current;
    same(&former.machine_id, &current.machine_id) && same(&former.system_uuid, &current.system_uuid)
}

/// The state of the former agent, as its lease shows it.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    /// The agent renews the lease.
    Lives,
    /// The lease has expired, or was deleted.
    Ended,
    Unknown,
}

/// Compares the lease with the renewal time that was read first, `passed` ago. Total.
fn sign(first: Option<&MicroTime>, now: Option<&Lease>, passed: Duration) -> Sign {
    let Some(lease) = now else {
        return Sign::Ended;
    };
    let read = NodeLease::from(lease);
    let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
    match renewed(lease) != first {
        _ if read.fenced => Sign::Ended,
        true => Sign::Lives,
        false if passed >= wait(read.length) => Sign::Ended,
        false => Sign::Unknown,
    }
}

fn renewed(lease: &Lease) -> Option<&MicroTime> {
    lease.spec.as_ref()?.renew_time.as_ref()
}

/// Waits until the agent of the node has ended on its former machine, if that is another machine.
///
/// # Errors
/// The former agent runs, or the server does not respond.
pub async fn wait_until_ended(client: &Client, name: &str, current: &MachineInfo) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let failed = |step: &str| {
        let step = step.to_owned();
        move |source| MembershipError::Api { step, source }
    };
    let node = nodes.get(name).await.map_err(failed("read the node"))?;
    let former = node.status.and_then(|status| status.node_info);
    let Some(former) = former.filter(|former| !is_on(former, current)) else {
        return Ok(());
    };
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    let read_lease = async || {
        let read = leases.get_opt(name).await;
        read.map_err(failed("read the node's lease"))
    };
    let Some(first) = read_lease().await? else {
        return Ok(());
    };
    print_line(&format!(
        "mainstay: the node {name} ran on another machine before ({}): waiting until its lease has ended",
        former.machine_id
    ));
    let began = Instant::now();
    loop {
        let lease = read_lease().await?;
        match sign(renewed(&first), lease.as_ref(), began.elapsed()) {
            Sign::Ended => return Ok(()),
            Sign::Lives => {
                return Err(MembershipError::Copied {
                    node: name.to_owned(),
                    machine_id: former.machine_id,
                });
            }
            Sign::Unknown => tokio::time::sleep(INTERVAL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use resource_kinds::annotations::FENCED;

    use super::*;

    #[test]
    fn a_machine_is_known_by_its_ids() {
        for (id, uuid, expected) in [
            ("m", "u", true),
            // A clone of a virtual machine with the machine id of the original, and a clone with the hardware id of the
            // original.
            ("m", "v", false),
            ("n", "u", false),
            ("m", "", true),
            ("", "v", false),
        ] {
            let former = NodeSystemInfo {
                machine_id: "m".to_owned(),
                system_uuid: "u".to_owned(),
                ..NodeSystemInfo::default()
            };
            let current = MachineInfo {
                machine_id: id.to_owned(),
                system_uuid: uuid.to_owned(),
                ..MachineInfo::default()
            };
            assert_eq!(is_on(&former, &current), expected, "{id} {uuid}");
        }
    }

    #[test]
    fn a_lease_that_is_renewed_is_that_of_a_living_agent() {
        let lease = |time: &str, holder: &str, fenced: bool| -> Lease {
            let marks = if fenced {
                json!({ FENCED: "proof" })
            } else {
                json!({})
            };
            json_tree::from_value(json!({"metadata": {"annotations": marks},
                "spec": {"holderIdentity": holder, "leaseDurationSeconds": 16, "renewTime": time}}))
            .unwrap()
        };
        let (one, two) = ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:04.000000Z");
        let sign_after = |now: Option<Lease>, seconds: u64| {
            let first = lease(one, "n", false);
            sign(renewed(&first), now.as_ref(), Duration::from_secs(seconds))
        };
        assert_eq!(sign_after(Some(lease(one, "n", false)), 0), Sign::Unknown);
        assert_eq!(sign_after(Some(lease(one, "n", false)), 19), Sign::Unknown);
        assert_eq!(sign_after(Some(lease(one, "n", false)), 20), Sign::Ended);
        assert_eq!(sign_after(Some(lease(two, "n", false)), 4), Sign::Lives);
        assert_eq!(sign_after(Some(lease(two, "n", false)), 99), Sign::Lives);
        assert_eq!(sign_after(Some(lease(one, "", true)), 4), Sign::Ended);
        assert_eq!(sign_after(None, 0), Sign::Ended);
    }
}
