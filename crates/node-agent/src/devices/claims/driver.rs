//! A driver of dynamic resource allocation, and its calls (the services v1 and v1beta1, whose messages are equal).

use std::path::PathBuf;
use std::time::Duration;

use object_model::Uid;
use prost::Message;
use rpc_channel::{ChannelOptions, Method, RpcError, unix};
use service_protocols::dra_v1::{
    NodePrepareResourcesRequest, NodePrepareResourcesResponse, NodeUnprepareResourcesRequest,
    NodeUnprepareResourcesResponse, dra_plugin,
};

use super::prepared::{self, PreparedClaim, PreparedDevice};

const OPTIONS: ChannelOptions = ChannelOptions {
    keep_alive: None,
    headers: &[],
    message_bytes_max: 4 * 1024 * 1024,
};
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of a call; kubelet's value.
const CALL_TIMEOUT: Duration = Duration::from_secs(45);

/// A version of the service, by the name with which drivers register it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraVersion {
    V1,
    V1Beta1,
}

impl DraVersion {
    /// The newest version that a driver supports.
    ///
    /// # Errors
    /// There is no common version.
    pub fn newest(supported: &[String]) -> Result<Self, String> {
        let has = |name: &str| supported.iter().any(|version| version == name);
        if has("v1.DRAPlugin") {
            return Ok(Self::V1);
        }
        if has("v1beta1.DRAPlugin") {
            return Ok(Self::V1Beta1);
        }
        Err(format!(
            "the driver supports the services {supported:?}, and the node v1.DRAPlugin and v1beta1.DRAPlugin"
        ))
    }

    fn prepare(self) -> Method<NodePrepareResourcesRequest, NodePrepareResourcesResponse> {
        match self {
            Self::V1 => dra_plugin::NODE_PREPARE_RESOURCES,
            Self::V1Beta1 => {
                Method::new("/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources")
            }
        }
    }

    fn unprepare(self) -> Method<NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse> {
        match self {
            Self::V1 => dra_plugin::NODE_UNPREPARE_RESOURCES,
            Self::V1Beta1 => {
                Method::new("/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources")
            }
        }
    }
}

/// A registered driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraDriver {
    pub socket: PathBuf,
    pub version: DraVersion,
    pub registration_socket: PathBuf,
}

/// A call of a driver that failed.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error(transparent)]
    Call(#[from] RpcError),
    /// The driver's reason.
    #[error("{0}")]
    Claim(String),
}

impl DraDriver {
    /// Prepares a claim. May be repeated.
    ///
    /// # Errors
    /// The call failed, or the driver has not prepared the claim.
    pub async fn prepare(&self, claim: &PreparedClaim) -> Result<Vec<PreparedDevice>, DriverError> {
        let request = NodePrepareResourcesRequest {
            claims: vec![claim.for_driver()],
        };
        let response = self.call(self.version.prepare(), &request).await?;
        prepared::devices(response, &claim.uid).map_err(DriverError::Claim)
    }

    /// Reverts [`DraDriver::prepare`]. May be repeated.
    ///
    /// # Errors
    /// The call failed, or the driver has not reverted the preparation.
    pub async fn unprepare(&self, claim: &PreparedClaim) -> Result<(), DriverError> {
        let request = NodeUnprepareResourcesRequest {
            claims: vec![claim.for_driver()],
        };
        let response = self.call(self.version.unprepare(), &request).await?;
        is_unprepared(&response, &claim.uid).map_err(DriverError::Claim)
    }

    async fn call<Q: Message, A: Message + Default>(
        &self,
        method: Method<Q, A>,
        request: &Q,
    ) -> Result<A, RpcError> {
        let channel = unix::open_channel(&self.socket, OPTIONS, CONNECT_TIMEOUT).await?;
        channel.call(method, request, CALL_TIMEOUT).await
    }
}

fn is_unprepared(response: &NodeUnprepareResourcesResponse, claim: &Uid) -> Result<(), String> {
    match response.claims.get(claim.as_str()) {
        None => Err("the response does not have the claim".to_owned()),
        Some(result) if result.error.is_empty() => Ok(()),
        Some(result) => Err(result.error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use service_protocols::dra_v1::NodeUnprepareResourceResponse;

    use super::*;

    #[test]
    fn the_newest_common_version_is_used() {
        let newest = |versions: &[&str]| {
            let versions: Vec<String> = versions.iter().map(|text| (*text).to_owned()).collect();
            DraVersion::newest(&versions)
        };
        let both = ["v1beta1.DRAPlugin", "v1.DRAPlugin"];
        assert_eq!(newest(&both), Ok(DraVersion::V1));
        assert_eq!(newest(&both[..1]), Ok(DraVersion::V1Beta1));
        assert!(newest(&["1.0.0"]).unwrap_err().contains("\"1.0.0\""));
        assert!(newest(&[]).is_err());
    }

    #[test]
    fn a_claim_is_unprepared_if_the_driver_says_so() {
        let claim: Uid = "u".parse().unwrap();
        let response = |error: &str| NodeUnprepareResourcesResponse {
            claims: [(
                "u".to_owned(),
                NodeUnprepareResourceResponse {
                    error: error.to_owned(),
                },
            )]
            .into(),
        };
        assert_eq!(is_unprepared(&response(""), &claim), Ok(()));
        assert_eq!(
            is_unprepared(&response("busy"), &claim),
            Err("busy".to_owned())
        );
        let other: Uid = "v".parse().unwrap();
        assert!(is_unprepared(&response(""), &other).is_err());
    }
}
