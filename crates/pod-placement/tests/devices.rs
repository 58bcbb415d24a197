//! Pods that claim devices.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceRequestAllocationResult};
use pod_placement::{ClaimStep, ClusterView, PlacementDecision, place};
use proptest::prelude::*;
use resource_kinds::pod_view::PodView;

const DRIVER: &str = "dra.example.com";

fn read<T: k8s_openapi::serde::de::DeserializeOwned>(value: Value) -> T {
    json_tree::from_value(value).unwrap()
}

/// Nodes `n1` and `n2`, the class `gpu` (all devices of the driver), and these slices and claims.
fn view(slices: &[Value], claims: &[Value]) -> ClusterView {
    let mut view = ClusterView::default();
    for name in ["n1", "n2"] {
        let node = json!({"metadata": {"name": name, "labels": {"rack": name}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
        view.nodes
            .insert(name.to_owned(), read::<Node>(node).into());
    }
    let expression = format!("device.driver == '{DRIVER}'");
    let class = json!({"metadata": {"name": "gpu"}, "spec": {
        "selectors": [{"cel": {"expression": expression}}],
        "config": [{"opaque": {"driver": DRIVER, "parameters": {"from": "class"}}}]}});
    view.device_classes
        .insert("gpu".to_owned(), Arc::new(read(class)));
    view.device_slices = slices
        .iter()
        .cloned()
        .map(|one| Arc::new(read(one)))
        .collect();
    for claim in claims {
        let name = claim["metadata"]["name"].as_str().unwrap().to_owned();
        let key = ("default".to_owned(), name);
        view.device_claims
            .insert(key, Arc::new(read(claim.clone())));
    }
    view
}

/// The complete pool of a node.
fn slice(node: &str, devices: Value) -> Value {
    json!({"metadata": {"name": format!("slice-{node}")}, "spec": {"driver": DRIVER,
        "nodeName": node, "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        "devices": devices}})
}

fn devices(names: &[&str]) -> Value {
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            json!({"name": name, "attributes": {"index": {"int": index},
                "numa": {"int": index / 2}}, "capacity": {"memory": {"value": "10Gi"}}})
        })
        .collect()
}

fn claim(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"devices": spec}})
}

/// A request for devices of the class.
fn request(name: &str, more: Value) -> Value {
    let mut exactly = json!({"deviceClassName": "gpu"});
    exactly
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({"name": name, "exactly": exactly})
}

fn one() -> Value {
    json!({"requests": [request("r", json!({}))]})
}

/// A pod with these claims.
fn pod(claims: &[&str]) -> PodView {
    let claims: Vec<Value> = claims
        .iter()
        .map(|name| json!({"name": name, "resourceClaimName": name}))
        .collect();
    let pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "pod",
        "resourceVersion": "1"},
        "spec": {"containers": [{"name": "a"}], "resourceClaims": claims}});
    read::<Pod>(pod).try_into().expect("a pod")
}

/// The node, and for each claim the devices: `n1 c=r:a,r:b`.
fn placed(pod: &PodView, view: &ClusterView) -> String {
    match place(pod, view, None) {
        PlacementDecision::Bind { node } => format!("bind {node}"),
        PlacementDecision::Prepare { node, steps } => {
            let steps = steps.iter().map(|step| match step {
                ClaimStep::Allocate { claim, allocation } => {
                    format!("{claim}={}", names(allocation).join(","))
                }
                ClaimStep::UseDevices { claim } => format!("{claim}+pod"),
                other => format!("{other:?}"),
            });
            format!("{node} {}", steps.collect::<Vec<_>>().join(" "))
        }
        PlacementDecision::Unschedulable(obstacle) => {
            let message = obstacle.message;
            let message = message.split(" preemption: ").next().unwrap_or_default();
            message.to_owned()
        }
        PlacementDecision::Preempt(_) => "preempt".to_owned(),
    }
}

fn results(allocation: &AllocationResult) -> &[DeviceRequestAllocationResult] {
    let devices = allocation.devices.as_ref().unwrap();
    devices.results.as_ref().unwrap()
}

fn names(allocation: &AllocationResult) -> Vec<String> {
    results(allocation)
        .iter()
        .map(|result| format!("{}:{}", result.request, result.device))
        .collect()
}

const NONE: &str = "0/2 nodes are available: 2 cannot allocate all claims.";

/// findings C49
#[test]
fn a_pod_goes_where_its_devices_are() {
    let claims = [claim("c", one())];
    let view_of = |node: &str| view(&[slice(node, devices(&["a", "b"]))], &claims);
    assert_eq!(placed(&pod(&["c"]), &view_of("n1")), "n1 c=r:a");
    assert_eq!(placed(&pod(&["c"]), &view_of("n2")), "n2 c=r:a");
    assert_eq!(placed(&pod(&["c"]), &view(&[], &claims)), NONE);
}

/// findings C49
#[test]
fn what_is_written_names_devices_configuration_and_nodes() {
    let mut spec = one();
    spec["config"] = json!([{"opaque": {"driver": DRIVER, "parameters": {"from": "claim"}}}]);
    let view = view(&[slice("n1", devices(&["a"]))], &[claim("c", spec)]);
    let PlacementDecision::Prepare { steps, .. } = place(&pod(&["c"]), &view, None) else {
        panic!("not prepared");
    };
    let [ClaimStep::Allocate { allocation, .. }] = steps.as_slice() else {
        panic!("{steps:?}");
    };
    assert_eq!(
        json!(allocation),
        json!({
            "devices": {
                "results": [{"request": "r", "driver": DRIVER, "pool": "n1", "device": "a"}],
                "config": [
                    {"source": "FromClass", "requests": ["r"],
                        "opaque": {"driver": DRIVER, "parameters": {"from": "class"}}},
                    {"source": "FromClaim",
                        "opaque": {"driver": DRIVER, "parameters": {"from": "claim"}}},
                ],
            },
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]},
        })
    );
}

/// findings C49
#[test]
fn devices_of_others_are_not_given_away() {
    let foreign = |admin: bool| {
        let mut other = claim("other", one());
        other["status"] = json!({"allocation": {"devices": {"results": [{"request": "r",
            "driver": DRIVER, "pool": "n1", "device": "a", "adminAccess": admin}]}}});
        other
    };
    let slices = [slice("n1", devices(&["a"]))];
    let with = |other: Value| view(&slices, &[claim("c", one()), other]);
    assert_eq!(placed(&pod(&["c"]), &with(foreign(false))), NONE);
    // Admin access does not occupy a device.
    assert_eq!(placed(&pod(&["c"]), &with(foreign(true))), "n1 c=r:a");
    let admin = json!({"requests": [request("r", json!({"adminAccess": true}))]});
    let view = view(&slices, &[claim("c", admin), foreign(false)]);
    assert_eq!(placed(&pod(&["c"]), &view), "n1 c=r:a");
}

/// findings C49
#[test]
fn a_claim_that_has_its_devices_is_joined_and_then_the_pod_is_bound() {
    let mut shared = claim("c", one());
    shared["status"] = json!({"allocation": {"nodeSelector": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}},
        "reservedFor": [{"resource": "pods", "name": "q", "uid": "q"}]});
    assert_eq!(
        placed(&pod(&["c"]), &view(&[], std::slice::from_ref(&shared))),
        "n2 c+pod"
    );
    shared["status"]["reservedFor"] = json!([{"resource": "pods", "name": "p", "uid": "pod"}]);
    assert_eq!(
        placed(&pod(&["c"]), &view(&[], std::slice::from_ref(&shared))),
        "bind n2"
    );
    shared["status"]["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"] =
        json!(["n3"]);
    assert_eq!(
        placed(&pod(&["c"]), &view(&[], &[shared])),
        "0/2 nodes are available: 2 resourceclaim not available on the node."
    );
}

/// findings C49
#[test]
fn requests_say_which_and_how_many() {
    let four = [slice("n1", devices(&["a", "b", "c", "d"]))];
    let selected = |expression: &str| {
        json!({"requests": [request("r", json!({"selectors": [{"cel": {
            "expression": expression}}]}))]})
    };
    let index = format!("device.attributes['{DRIVER}'].index");
    let memory = |amount: &str| json!({"requests": [request("r", json!({"capacity": {"requests": {"memory": amount}}}))]});
    for (spec, expected) in [
        (
            json!({"requests": [request("r", json!({"count": 3}))]}),
            "n1 c=r:a,r:b,r:c",
        ),
        (
            json!({"requests": [request("r", json!({"allocationMode": "All"}))]}),
            "n1 c=r:a,r:b,r:c,r:d",
        ),
        (selected(&format!("{index} > 1")), "n1 c=r:c"),
        (selected("false"), NONE),
        (memory("10Gi"), "n1 c=r:a"),
        (memory("11Gi"), NONE),
        (
            json!({"requests": [request("r", json!({"count": 5}))]}),
            NONE,
        ),
        (
            json!({"requests": [{"name": "r", "firstAvailable": [
                {"name": "many", "deviceClassName": "gpu", "count": 5},
                {"name": "few", "deviceClassName": "gpu", "count": 1}]}]}),
            "n1 c=r/few:a",
        ),
    ] {
        let view = view(&four, &[claim("c", spec)]);
        assert_eq!(placed(&pod(&["c"]), &view), expected);
    }
}

/// findings C49: the first device of the first request violates a constraint with the others.
#[test]
fn constraints_hold_and_the_search_turns_back() {
    let four = [slice("n1", devices(&["a", "b", "c", "d"]))];
    let third = format!("device.attributes['{DRIVER}'].index == 3");
    let requests = json!([
        request("x", json!({})),
        request("y", json!({"selectors": [{"cel": {"expression": third}}]})),
    ]);
    let with = |constraint: Value| {
        let spec = json!({"requests": requests, "constraints": [constraint]});
        placed(&pod(&["c"]), &view(&four, &[claim("c", spec)]))
    };
    let numa = format!("{DRIVER}/numa");
    assert_eq!(with(json!({"matchAttribute": numa})), "n1 c=x:c,y:d");
    assert_eq!(
        with(json!({"requests": ["y"], "matchAttribute": numa})),
        "n1 c=x:a,y:d"
    );
    assert_eq!(with(json!({"distinctAttribute": numa})), "n1 c=x:a,y:d");
    assert_eq!(with(json!({"matchAttribute": "other/none"})), NONE);
}

/// findings C49
#[test]
fn tainted_devices_are_for_those_that_tolerate_them() {
    let mut tainted = devices(&["a"]);
    tainted[0]["taints"] = json!([{"key": "broken", "effect": "NoSchedule"}]);
    let slices = [slice("n1", tainted)];
    let tolerating = |more: Value| {
        let spec = json!({"requests": [request("r", more)]});
        placed(&pod(&["c"]), &view(&slices, &[claim("c", spec)]))
    };
    assert_eq!(tolerating(json!({})), NONE);
    let tolerations = json!({"tolerations": [{"key": "broken", "operator": "Exists"}]});
    assert_eq!(tolerating(tolerations), "n1 c=r:a");
}

/// findings C49
#[test]
fn a_pool_that_is_being_written_offers_nothing_and_old_slices_neither() {
    let mut half = slice("n1", devices(&["a"]));
    half["spec"]["pool"]["resourceSliceCount"] = json!(2);
    let claims = [claim("c", one())];
    assert_eq!(placed(&pod(&["c"]), &view(&[half], &claims)), NONE);
    let mut new = slice("n1", devices(&["z"]));
    new["metadata"]["name"] = json!("new");
    new["spec"]["pool"]["generation"] = json!(2);
    let both = [slice("n1", devices(&["a"])), new];
    assert_eq!(placed(&pod(&["c"]), &view(&both, &claims)), "n1 c=r:z");
}

/// findings C49
#[test]
fn a_pod_says_what_it_waits_for() {
    let slices = [slice("n1", devices(&["a"]))];
    let deleted = |mut claim: Value| {
        claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        claim
    };
    let class = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "x"}}]});
    let wrong = format!("device.attributes['{DRIVER}'].missing == 1");
    let wrong = json!({"requests": [request("r", json!({"selectors": [{"cel": {
        "expression": wrong}}]}))]});
    for (claims, words) in [
        (vec![], "waiting for resource claim \"c\": not found"),
        (
            vec![deleted(claim("c", one()))],
            "resourceclaim \"c\" is being deleted",
        ),
        (
            vec![claim("c", class)],
            "claim c: request r: device class x does not exist",
        ),
        (vec![claim("c", wrong)], "request r: CEL runtime error: "),
    ] {
        let message = placed(&pod(&["c"]), &view(&slices, &claims));
        assert!(message.contains(words), "{message}");
    }
    let generated = json!({"metadata": {"name": "p", "namespace": "default", "uid": "pod",
        "resourceVersion": "1"},
        "spec": {"containers": [{"name": "a"}], "resourceClaims": [
            {"name": "gpu", "resourceClaimTemplateName": "t"}]}});
    let message = placed(
        &read::<Pod>(generated.clone()).try_into().expect("a pod"),
        &view(&slices, &[]),
    );
    let words = "waiting for dynamic resource controller to create the resourceclaim \"gpu\"";
    assert!(message.contains(words), "{message}");
    let mut noted = generated;
    noted["status"] = json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "c"}]});
    let noted: PodView = read::<Pod>(noted).try_into().expect("a pod");
    let message = placed(&noted, &view(&slices, &[claim("c", one())]));
    assert!(message.contains("was not created for the pod"), "{message}");
    let mut generated_claim = claim("c", one());
    generated_claim["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p",
        "uid": "pod"}]);
    assert_eq!(
        placed(&noted, &view(&slices, &[generated_claim])),
        "n1 c=r:a"
    );
}

/// findings C49: many devices that violate the constraints end the search, but do not block the scheduler.
#[test]
fn the_search_is_bounded() {
    cov_mark::check!(findings_c49);
    let names: Vec<String> = (0..128).map(|n| format!("d{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let spec = json!({
        "requests": [request("x", json!({"count": 16})), request("y", json!({"count": 16}))],
        "constraints": [{"requests": ["x"], "matchAttribute": format!("{DRIVER}/numa")}],
    });
    let mut all = devices(&names);
    for device in all.as_array_mut().unwrap() {
        let index = device["attributes"]["index"]["int"].as_i64().unwrap();
        device["attributes"]["numa"] = json!({"int": index / 15});
    }
    let message = placed(
        &pod(&["c"]),
        &view(&[slice("n1", all)], &[claim("c", spec)]),
    );
    assert!(message.contains("cannot allocate all claims"), "{message}");
}

proptest! {
    /// findings C49: no device is allocated twice, each is free, and each claim gets its number of
    /// devices.
    #[test]
    fn allocations_are_sound(
        there in 0_usize..8,
        occupied in proptest::collection::btree_set(0_usize..8, 0..4),
        counts in proptest::collection::vec(1_usize..4, 1..4),
    ) {
        let names: Vec<String> = (0..there).map(|n| format!("d{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut other = claim("other", one());
        let results: Vec<Value> = occupied
            .iter()
            .map(|n| json!({"request": "r", "driver": DRIVER, "pool": "n1",
                "device": format!("d{n}")}))
            .collect();
        other["status"] = json!({"allocation": {"devices": {"results": results}}});
        let mut claims = vec![other];
        let mut claim_names = Vec::new();
        for (index, count) in counts.iter().enumerate() {
            let name = format!("c{index}");
            let spec = json!({"requests": [request("r", json!({"count": count}))]});
            claims.push(claim(&name, spec));
            claim_names.push(name);
        }
        let claim_names: Vec<&str> = claim_names.iter().map(String::as_str).collect();
        let view = view(&[slice("n1", devices(&names))], &claims);
        let free = (0..there).filter(|n| !occupied.contains(n)).count();
        match place(&pod(&claim_names), &view, None) {
            PlacementDecision::Prepare { steps, .. } => {
                let mut allocated = BTreeSet::new();
                prop_assert_eq!(steps.len(), counts.len());
                for (step, count) in steps.iter().zip(&counts) {
                    let ClaimStep::Allocate { allocation, .. } = step else {
                        return Err(TestCaseError::fail("another step"));
                    };
                    let names = names_of(allocation);
                    prop_assert_eq!(names.len(), *count);
                    for name in names {
                        let number: usize = name[1..].parse().unwrap();
                        prop_assert!(number < there && !occupied.contains(&number));
                        prop_assert!(allocated.insert(name));
                    }
                }
            }
            PlacementDecision::Unschedulable(_) => prop_assert!(counts.iter().sum::<usize>() > free),
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }
}

fn names_of(allocation: &AllocationResult) -> Vec<String> {
    let results = results(allocation).iter();
    results.map(|result| result.device.clone()).collect()
}
