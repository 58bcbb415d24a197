//! Devices that a pod claims: the reason why the node cannot prepare them yet. A pod never runs without
//! its devices.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;

/// The claims of a pod: the name in the pod, and the name of the ResourceClaim, which is `None` until the
/// claim is created.
pub fn claims(pod: &Pod) -> Vec<(String, Option<String>)> {
    let claims = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.resource_claims.as_deref());
    let statuses = pod.status.as_ref();
    let statuses = statuses.and_then(|status| status.resource_claim_statuses.as_deref());
    let status_name = |name: &str| {
        let mut statuses = statuses.unwrap_or_default().iter();
        statuses
            .find(|status| status.name == name)?
            .resource_claim_name
            .clone()
    };
    let claims = claims.unwrap_or_default().iter();
    claims
        .map(|claim| {
            let spec_name = claim.resource_claim_name.clone();
            (
                claim.name.clone(),
                spec_name.or_else(|| status_name(&claim.name)),
            )
        })
        .collect()
}

/// The reason why the pod's devices cannot be prepared. `found` has the existing claims of the pod, and
/// `drivers` the names of the drivers on this node.
pub fn unprepared(
    pod: &Pod,
    existing: &BTreeMap<String, ResourceClaim>,
    drivers: &BTreeSet<String>,
) -> Option<String> {
    claims(pod).into_iter().find_map(|(name, claim)| {
        let Some(claim) = claim else {
            return Some(format!(
                "waiting for resource claim {name:?}: it is not made yet"
            ));
        };
        let why = match existing.get(&claim) {
            None => "not found".to_owned(),
            Some(claim) => trouble(pod, claim, drivers)?,
        };
        Some(format!("resource claim {claim:?}: {why}"))
    })
}

fn trouble(pod: &Pod, claim: &ResourceClaim, drivers: &BTreeSet<String>) -> Option<String> {
    let status = claim.status.clone().unwrap_or_default();
    let Some(allocation) = status.allocation else {
        return Some("not allocated".to_owned());
    };
    let users = status.reserved_for.unwrap_or_default();
    if !users
        .iter()
        .any(|user| Some(&user.uid) == pod.metadata.uid.as_ref())
    {
        return Some("the pod is not allowed to use it: it is not reserved for the pod".to_owned());
    }
    let results = allocation.devices.and_then(|devices| devices.results);
    let results = results.unwrap_or_default();
    let missing = results
        .iter()
        .find(|result| !drivers.contains(&result.driver))?;
    cov_mark::hit!(findings_c50);
    let driver = &missing.driver;
    Some(format!("DRA driver {driver} is not registered"))
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn waiting_reason(claim: Value, drivers: &[&str]) -> Option<String> {
        let pod: Pod = json_tree::from_value(json!({"metadata": {"uid": "u"}, "spec": {
            "containers": [], "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]}}))
        .unwrap();
        let existing = match claim {
            Value::Null => BTreeMap::new(),
            claim => {
                let claim = json!({"metadata": {"name": "c"}, "spec": {}, "status": claim});
                BTreeMap::from([("c".to_owned(), json_tree::from_value(claim).unwrap())])
            }
        };
        let drivers = drivers.iter().map(|driver| (*driver).to_owned()).collect();
        unprepared(&pod, &existing, &drivers)
    }

    /// findings C50
    #[test]
    fn a_pod_waits_for_devices_that_nobody_prepares() {
        cov_mark::check!(findings_c50);
        let allocation = json!({"devices": {"results": [{"request": "r", "driver": "d.example.com",
            "pool": "p", "device": "x"}]}});
        let whole = json!({"allocation": allocation, "reservedFor": [
            {"resource": "pods", "name": "p", "uid": "u"}]});
        for (claim, words) in [
            (Value::Null, "resource claim \"c\": not found"),
            (json!({}), "not allocated"),
            (
                json!({"allocation": allocation}),
                "not reserved for the pod",
            ),
            (whole.clone(), "DRA driver d.example.com is not registered"),
        ] {
            let reason = waiting_reason(claim, &[]).unwrap_or_default();
            assert!(reason.contains(words), "{reason}");
        }
        assert_eq!(waiting_reason(whole, &["d.example.com"]), None);
    }

    /// findings C50
    #[test]
    fn a_claim_of_a_template_is_waited_for() {
        let pod = |status: Value| -> Pod {
            json_tree::from_value(json!({"spec": {"containers": [], "resourceClaims": [
                {"name": "gpu", "resourceClaimTemplateName": "t"}]}, "status": status}))
            .unwrap()
        };
        let reason = unprepared(&pod(json!({})), &BTreeMap::new(), &BTreeSet::new());
        assert!(
            reason.is_some_and(|reason| reason.starts_with("waiting for resource claim \"gpu\""))
        );
        let with_claim = pod(json!({"resourceClaimStatuses": [
            {"name": "gpu", "resourceClaimName": "p-gpu-x"}]}));
        assert_eq!(
            claims(&with_claim),
            [("gpu".to_owned(), Some("p-gpu-x".to_owned()))]
        );
        let plain: Pod = json_tree::from_value(json!({"spec": {"containers": []}})).unwrap();
        assert_eq!(unprepared(&plain, &BTreeMap::new(), &BTreeSet::new()), None);
    }
}
