//! The prepared devices of ResourceClaims. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::api::resource::v1::ResourceClaim;
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::MetadataIdentity as _;
use serde::{Deserialize, Serialize};
use service_protocols::dra_v1::{self, NodePrepareResourcesResponse};

/// Maximum number of devices of a claim, and of CDI names of a device.
const DEVICES_MAX: usize = 1000;

/// A claim that drivers have prepared, or may have prepared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreparedClaim {
    pub namespace: String,
    pub name: String,
    pub uid: Uid,
    /// The pods on the node that use the claim, with the names of the claim in each pod.
    pub pods: BTreeMap<Uid, BTreeSet<String>>,
    /// The devices of each driver; empty until the driver has prepared them.
    pub drivers: BTreeMap<String, Vec<PreparedDevice>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreparedDevice {
    /// The requests of the claim; empty for all requests.
    pub requests: Vec<String>,
    pub pool: String,
    pub device: String,
    pub cdi_devices: Vec<String>,
}

impl PreparedClaim {
    /// A claim without pods, whose drivers have prepared nothing.
    ///
    /// # Errors
    /// The claim has no name, namespace or UID.
    pub fn new(claim: &ResourceClaim) -> Result<Self, IncompleteMetadata> {
        Ok(Self {
            namespace: claim.metadata.object_namespace()?.to_owned(),
            name: claim.metadata.object_name()?.to_owned(),
            uid: claim.metadata.object_uid()?,
            pods: BTreeMap::new(),
            drivers: drivers(claim)
                .into_iter()
                .map(|driver| (driver, Vec::new()))
                .collect(),
        })
    }

    /// The claim in a call of a driver.
    pub fn for_driver(&self) -> dra_v1::Claim {
        dra_v1::Claim {
            namespace: self.namespace.clone(),
            uid: self.uid.to_string(),
            name: self.name.clone(),
        }
    }
}

/// The drivers of a claim's devices.
pub fn drivers(claim: &ResourceClaim) -> BTreeSet<String> {
    let allocation = claim
        .status
        .as_ref()
        .and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    let results = devices.and_then(|devices| devices.results.as_deref());
    let results = results.unwrap_or_default().iter();
    results.map(|result| result.driver.clone()).collect()
}

/// The devices of one claim in the response of a driver.
///
/// # Errors
/// The driver has not prepared the claim, with its reason, or the response is not valid.
pub fn devices(
    mut response: NodePrepareResourcesResponse,
    claim: &Uid,
) -> Result<Vec<PreparedDevice>, String> {
    let Some(prepared) = response.claims.remove(claim.as_str()) else {
        return Err("the response does not have the claim".to_owned());
    };
    if !prepared.error.is_empty() {
        return Err(prepared.error);
    }
    let most = prepared.devices.iter();
    let most = most.map(|device| device.cdi_device_ids.len()).max();
    if prepared.devices.len() > DEVICES_MAX || most.is_some_and(|count| count > DEVICES_MAX) {
        return Err(format!("the response has more than {DEVICES_MAX} devices"));
    }
    let device = |device: dra_v1::Device| PreparedDevice {
        requests: device.request_names,
        pool: device.pool_name,
        device: device.device_name,
        cdi_devices: device.cdi_device_ids,
    };
    Ok(prepared.devices.into_iter().map(device).collect())
}

/// The CDI devices of a container in the pod `pod`, which names its claims in `resources.claims`.
///
/// # Errors
/// A claim of the container is not prepared.
pub fn container_devices<'a>(
    pod: &Uid,
    container: &Container,
    prepared: impl Iterator<Item = &'a PreparedClaim> + Clone,
) -> Result<Vec<String>, String> {
    let resources = container.resources.as_ref();
    let claims = resources.and_then(|resources| resources.claims.as_deref());
    let mut names = Vec::new();
    for reference in claims.unwrap_or_default() {
        let is_meant = |claim: &&PreparedClaim| {
            let pod_names = claim.pods.get(pod);
            pod_names.is_some_and(|names| names.contains(&reference.name))
        };
        let Some(claim) = prepared.clone().find(is_meant) else {
            return Err(format!(
                "resource claim {:?} is not prepared",
                reference.name
            ));
        };
        let request = reference.request.as_deref().unwrap_or_default();
        let devices = claim.drivers.values().flatten();
        let devices = devices.filter(|device| is_of_request(device, request));
        for name in devices.flat_map(|device| &device.cdi_devices) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    Ok(names)
}

/// Whether a device belongs to a request of the claim; an empty request matches all devices. The name of an alternative
/// is `REQUEST/ALTERNATIVE`, and both names match each other.
fn is_of_request(device: &PreparedDevice, request: &str) -> bool {
    let base = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    request.is_empty()
        || device.requests.is_empty()
        || device
            .requests
            .iter()
            .any(|name| base(name) == base(request))
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use service_protocols::dra_v1::{Device, NodePrepareResourceResponse};

    use super::*;

    fn uid(text: &str) -> Uid {
        text.parse().unwrap()
    }

    fn device(requests: &[&str], cdi: &str) -> PreparedDevice {
        PreparedDevice {
            requests: requests.iter().map(|name| (*name).to_owned()).collect(),
            cdi_devices: vec![cdi.to_owned()],
            ..PreparedDevice::default()
        }
    }

    fn claim(name: &str, devices: Vec<PreparedDevice>) -> PreparedClaim {
        let names = BTreeSet::from([format!("pod-{name}")]);
        PreparedClaim {
            namespace: "n".to_owned(),
            name: name.to_owned(),
            uid: uid(name),
            pods: BTreeMap::from([(uid("p"), names)]),
            drivers: BTreeMap::from([("d".to_owned(), devices)]),
        }
    }

    #[test]
    fn a_container_has_the_devices_of_its_claims_and_requests() {
        let prepared = [
            claim(
                "a",
                vec![
                    device(&["one"], "v/c=1"),
                    device(&["two/fast"], "v/c=2"),
                    device(&[], "v/c=all"),
                ],
            ),
            claim("b", vec![device(&["one"], "v/c=b")]),
        ];
        let names = |claims| {
            let container = json!({"name": "c", "resources": {"claims": claims}});
            let container: Container = json_tree::from_value(container).unwrap();
            container_devices(&uid("p"), &container, prepared.iter())
        };
        let all = names(json!([{"name": "pod-a"}])).unwrap();
        assert_eq!(all, ["v/c=1", "v/c=2", "v/c=all"]);
        let two = names(json!([{"name": "pod-a", "request": "two"}, {"name": "pod-b"}]));
        assert_eq!(two.unwrap(), ["v/c=2", "v/c=all", "v/c=b"]);
        assert_eq!(names(json!([])).unwrap(), [""; 0]);
        assert!(names(json!([{"name": "a"}])).is_err());
        let other = json!({"name": "c", "resources": {"claims": [{"name": "pod-a"}]}});
        let other: Container = json_tree::from_value(other).unwrap();
        assert!(container_devices(&uid("q"), &other, prepared.iter()).is_err());
    }

    #[test]
    fn a_response_has_the_claim_without_an_error_and_not_too_many_devices() {
        let response = |prepared: Option<NodePrepareResourceResponse>| {
            let claims = prepared.map(|prepared| ("u".to_owned(), prepared));
            let claims = claims.into_iter().collect();
            devices(NodePrepareResourcesResponse { claims }, &uid("u"))
        };
        let of = |count: usize, error: &str| NodePrepareResourceResponse {
            devices: vec![Device::default(); count],
            error: error.to_owned(),
        };
        assert_eq!(response(Some(of(2, ""))).unwrap().len(), 2);
        assert_eq!(response(Some(of(2, "busy"))).unwrap_err(), "busy");
        assert!(response(None).unwrap_err().contains("does not have"));
        let error = response(Some(of(DEVICES_MAX + 1, ""))).unwrap_err();
        assert!(error.contains("more than 1000"), "{error}");
    }

    #[test]
    fn the_drivers_of_a_claim_are_those_of_its_devices() {
        let result =
            |driver: &str| json!({"request": "r", "driver": driver, "pool": "p", "device": "x"});
        let claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {},
            "status": {"allocation": {"devices": {"results":
                [result("b"), result("a"), result("b")]}}}});
        let claim: ResourceClaim = json_tree::from_value(claim).unwrap();
        let prepared = PreparedClaim::new(&claim).unwrap();
        assert_eq!(prepared.drivers.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(prepared.for_driver().uid, "u");
        assert!(PreparedClaim::new(&ResourceClaim::default()).is_err());
    }
}
