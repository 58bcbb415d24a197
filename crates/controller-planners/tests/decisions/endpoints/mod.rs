//! Endpoints of Services against `statefulset.md` §10.

use std::sync::Arc;

use controller_planners::batching::WriteUrgency;
use controller_planners::endpoints::{self, EndpointsPlan, EndpointsWrite, Observed, plan_slices};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use resource_kinds::labels;
use resource_kinds::pod_view::PodView;

mod changed_values;

fn plan(observed: &Observed) -> EndpointsPlan {
    endpoints::plan(observed).unwrap()
}

fn service(more: Value) -> Arc<Service> {
    let mut spec = json!({ "clusterIP": "None", "selector": { "app": "web" },
        "ports": [{ "name": "web", "port": 80, "targetPort": "http", "protocol": "TCP" }] });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let service = json!({
        "metadata": { "name": "svc", "namespace": "default", "uid": "uid-svc",
            "labels": { "team": "a" } },
        "spec": spec,
    });
    Arc::new(json_tree::from_value(service).unwrap())
}

/// A pod; `words` are of `ready`, `terminating`, `failed`, `no-address`, `other-port`, `subdomain`, `elsewhere`.
fn pod(number: usize, words: &str) -> Arc<PodView> {
    let has = |word: &str| words.split(' ').any(|other| other == word);
    let name = format!("web-{number}");
    let port = if has("other-port") { 9090 } else { 8080 };
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "resourceVersion": "1", "labels": { "app": "web" } },
        "spec": { "nodeName": "n1", "hostname": name,
            "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": port }] }] },
        "status": { "phase": if has("failed") { "Failed" } else { "Running" },
            "conditions": [{ "type": "Ready",
                "status": if has("ready") { "True" } else { "False" } }],
            "podIP": format!("10.0.{}.{}", number / 250, number % 250 + 1) },
    });
    if has("terminating") {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    if has("no-address") {
        pod["status"]["podIP"] = Value::Null;
    }
    if has("subdomain") {
        pod["spec"]["subdomain"] = json!("svc");
    }
    if has("elsewhere") {
        pod["spec"]["subdomain"] = json!("other");
    }
    let pod: Pod = json_tree::from_value(pod).unwrap();
    Arc::new(PodView::try_from(&pod).unwrap())
}

fn observed(service: Arc<Service>, pods: Vec<Arc<PodView>>) -> Observed {
    Observed {
        namespace: "default".to_owned(),
        name: "svc".to_owned(),
        service: Some(service),
        pods,
        zones: [("n1".to_owned(), "z1".to_owned())].into(),
        ..Observed::default()
    }
}

/// Executes a plan, as the API server would.
fn apply(observed: &mut Observed, plan: EndpointsPlan) {
    for slices in [&mut observed.slices, &mut observed.mirrored] {
        slices.retain(|slice| {
            let name = slice.metadata.name.clone().unwrap();
            !plan.delete.iter().any(|deleted| deleted.name == name)
        });
    }
    for slice in plan.update {
        let mut stored = observed.slices.iter_mut().chain(&mut observed.mirrored);
        let present = stored.find(|other| other.metadata.name == slice.metadata.name);
        *present.unwrap() = Arc::new(slice);
    }
    for mut slice in plan.create {
        let manager = &slice.metadata.labels.as_ref().unwrap()[labels::SLICE_MANAGED_BY];
        let (word, slices) = match manager.as_str() {
            "endpointslicemirroring-controller.k8s.io" => ("mirror-", &mut observed.mirrored),
            _ => ("", &mut observed.slices),
        };
        let name = format!("svc-{word}{}", slices.len());
        slice.metadata.uid = Some(format!("uid-{name}"));
        slice.metadata.name = Some(name);
        slices.push(Arc::new(slice));
    }
    match plan.endpoints {
        Some(EndpointsWrite::Create(mut endpoints) | EndpointsWrite::Update(mut endpoints)) => {
            endpoints.metadata.uid = Some("uid-endpoints".to_owned());
            observed.endpoints = Some(Arc::from(endpoints));
        }
        Some(EndpointsWrite::Delete(_)) => observed.endpoints = None,
        None => {}
    }
}

#[test]
fn slices_are_planned_alike_while_the_endpoints_rest() {
    let mut observed = settled(observed(service(json!({})), vec![pod(1, "ready")]));
    observed.pods.push(pod(2, "ready other-port"));
    let whole = plan(&observed);
    assert!(matches!(whole.endpoints, Some(EndpointsWrite::Update(_))));
    let slices = EndpointsPlan {
        endpoints: None,
        ..whole
    };
    assert_eq!(plan_slices(&observed).unwrap(), slices);
    assert!(!slices.create.is_empty(), "other ports need another slice");
}

#[test]
fn ports_by_number_are_those_of_all_pods() {
    let by_number = json!({ "ports": [
        { "name": "web", "port": 80, "targetPort": 8081 }, { "name": "same", "port": 81 }] });
    let settled = settled(observed(
        service(by_number),
        vec![pod(1, "ready"), pod(2, "ready other-port")],
    ));
    let [slice] = &*settled.slices else {
        panic!("{:?}", settled.slices);
    };
    let ports = slice.ports.iter().flatten().map(|port| port.port);
    assert_eq!(ports.collect::<Vec<_>>(), [Some(8081), Some(81)]);
    assert_eq!(slice.endpoints.as_ref().map(Vec::len), Some(2));
}

fn settled(mut observed: Observed) -> Observed {
    let first = plan(&observed);
    apply(&mut observed, first);
    assert!(plan(&observed).is_idle(), "{:?}", plan(&observed));
    observed
}

fn endpoints(slices: &[Arc<EndpointSlice>]) -> Vec<Endpoint> {
    slices
        .iter()
        .flat_map(|slice| slice.endpoints.clone().unwrap_or_default())
        .collect()
}

/// `web-0 ready serving`: the pod and its true conditions.
fn shows(endpoint: &Endpoint) -> String {
    let conditions = endpoint.conditions.clone().unwrap();
    let mut text = endpoint.target_ref.clone().unwrap().name.unwrap();
    for (word, set) in [
        ("ready", conditions.ready),
        ("serving", conditions.serving),
        ("terminating", conditions.terminating),
    ] {
        if set == Some(true) {
            text.push(' ');
            text.push_str(word);
        }
    }
    text
}

/// statefulset.md 10.7, T37: the conditions of ready pods, of unready pods that the Service publishes, and the pods
/// that are left out.
#[test]
fn conditions_follow_the_pods() {
    let pods = vec![
        pod(0, "ready"),
        pod(1, ""),
        pod(2, "ready terminating"),
        pod(3, "ready failed"),
        pod(4, "ready no-address"),
    ];
    let strict = settled(observed(service(json!({})), pods.clone()));
    let printed: Vec<String> = endpoints(&strict.slices).iter().map(shows).collect();
    assert_eq!(
        printed,
        ["web-0 ready serving", "web-1", "web-2 serving terminating"]
    );
    let tolerant = service(json!({ "publishNotReadyAddresses": true }));
    let tolerant = settled(observed(tolerant, pods));
    let printed: Vec<String> = endpoints(&tolerant.slices).iter().map(shows).collect();
    let expected = [
        "web-0 ready serving",
        "web-1 ready",
        "web-2 ready serving terminating",
    ];
    assert_eq!(printed, expected);
}

/// Topology-aware hints: only ready endpoints get hints, as `trafficDistribution` requests.
#[test]
fn ready_endpoints_have_the_hints_that_the_service_asks_for() {
    let hints = |distribution: Value| {
        let service = service(json!({ "trafficDistribution": distribution }));
        let pods = vec![pod(0, "ready"), pod(1, "")];
        let settled = settled(observed(service, pods));
        let all = endpoints(&settled.slices);
        all.iter()
            .map(|one| json!(one.hints))
            .collect::<Vec<Value>>()
    };
    let zones = json!([{ "name": "z1" }]);
    let by_zone = vec![json!({ "forZones": zones }), Value::Null];
    assert_eq!(hints(json!("PreferClose")), by_zone);
    assert_eq!(hints(json!("PreferSameZone")), by_zone);
    let by_node = json!({ "forNodes": [{ "name": "n1" }], "forZones": zones });
    assert_eq!(hints(json!("PreferSameNode")), vec![by_node, Value::Null]);
    for none in [Value::Null, json!("Other")] {
        assert_eq!(hints(none), vec![Value::Null, Value::Null]);
    }
}

/// statefulset.md 10.8, 10.9, T39: host name, if the pod's subdomain is the Service; node, zone, labels, owner.
#[test]
fn a_slice_says_whose_it_is() {
    let pods = vec![
        pod(0, "ready subdomain"),
        pod(1, "ready"),
        pod(2, "ready elsewhere"),
    ];
    let settled = settled(observed(service(json!({})), pods));
    let all = endpoints(&settled.slices);
    assert_eq!(all[0].hostname.as_deref(), Some("web-0"));
    assert_eq!(all[1].hostname, None);
    assert_eq!(all[2].hostname, None);
    assert_eq!(
        (all[0].node_name.as_deref(), all[0].zone.as_deref()),
        (Some("n1"), Some("z1"))
    );
    let slice = &settled.slices[0];
    let labels: Vec<&str> = slice
        .metadata
        .labels
        .as_ref()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "endpointslice.kubernetes.io/managed-by",
        "kubernetes.io/service-name",
        "service.kubernetes.io/headless",
        "team",
    ];
    assert_eq!(labels, expected);
    assert_eq!(
        slice.metadata.owner_references.as_ref().unwrap()[0].uid,
        "uid-svc"
    );
    assert_eq!(slice.metadata.generate_name.as_deref(), Some("svc-"));
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
}

/// The garbage collector deletes the slices of the former Service, so a new Service of that name has new slices.
#[test]
fn a_service_made_anew_under_its_name_has_a_slice_of_its_own() {
    let mut settled = settled(observed(service(json!({})), vec![pod(0, "ready")]));
    let former = settled.slices[0].metadata.name.clone().unwrap();
    let mut anew = Service::clone(&service(json!({})));
    anew.metadata.uid = Some("uid-anew".to_owned());
    settled.service = Some(Arc::new(anew));
    let plan = plan(&settled);
    let deleted: Vec<&String> = plan.delete.iter().map(|deleted| &deleted.name).collect();
    assert_eq!(deleted, [&former]);
    assert!(plan.update.is_empty(), "{plan:?}");
    let [created] = &plan.create[..] else {
        panic!("one slice: {plan:?}");
    };
    assert_eq!(
        created.metadata.owner_references.as_ref().unwrap()[0].uid,
        "uid-anew"
    );
    assert_eq!(created.endpoints.as_ref().map(Vec::len), Some(1));
}

/// statefulset.md 10.9: a slice has at most 100 endpoints, and the change of one pod changes one slice.
#[test]
fn large_services_have_several_slices() {
    let pods: Vec<_> = (0..250).map(|number| pod(number, "ready")).collect();
    let mut settled = settled(observed(service(json!({})), pods));
    let sizes: Vec<usize> = settled
        .slices
        .iter()
        .map(|slice| slice.endpoints.as_ref().unwrap().len())
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
    settled.pods[120] = pod(120, "");
    let change = plan(&settled);
    assert_eq!(
        (
            change.create.len(),
            change.update.len(),
            change.delete.len()
        ),
        (0, 1, 0)
    );
    apply(&mut settled, change);
    settled.pods.truncate(1);
    let change = plan(&settled);
    assert_eq!(
        (
            change.create.len(),
            change.update.len(),
            change.delete.len()
        ),
        (0, 1, 2)
    );
    apply(&mut settled, change);
    assert!(plan(&settled).is_idle());
}

/// Pods that serve a named port under different numbers are in different slices.
#[test]
fn ports_are_looked_up_in_each_pod() {
    let pods = vec![pod(0, "ready"), pod(1, "ready other-port")];
    let settled = settled(observed(service(json!({})), pods));
    let mut ports: Vec<_> = settled
        .slices
        .iter()
        .map(|slice| slice.ports.as_ref().unwrap()[0].port)
        .collect();
    ports.sort();
    assert_eq!(ports, [Some(8080), Some(9090)]);
    assert_eq!(
        settled.endpoints.unwrap().subsets.as_ref().unwrap().len(),
        2
    );
}

/// statefulset.md 10.10: Endpoints, the old API.
#[test]
fn endpoints_say_the_same() {
    let pods = vec![
        pod(0, "ready subdomain"),
        pod(1, ""),
        pod(2, "ready terminating"),
    ];
    let settled = settled(observed(service(json!({})), pods));
    let subsets = settled.endpoints.unwrap().subsets.clone().unwrap();
    let addresses = subsets[0].addresses.as_ref().unwrap();
    assert_eq!(
        (addresses.len(), addresses[0].hostname.as_deref()),
        (1, Some("web-0"))
    );
    assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap().len(), 1);
    assert_eq!(
        subsets[0].ports.as_ref().unwrap()[0].name.as_deref(),
        Some("web")
    );
}

/// A Service without pods has one slice; Services without a selector and foreign Endpoints are not changed.
#[test]
fn what_is_not_selected_is_left_alone() {
    let empty = settled(observed(service(json!({})), Vec::new()));
    assert_eq!(empty.slices.len(), 1);
    for more in [
        json!({ "selector": null }),
        json!({ "type": "ExternalName" }),
    ] {
        assert!(plan(&observed(service(more), vec![pod(0, "ready")])).is_idle());
    }
    let mut orphaned = empty.clone();
    orphaned.service = None;
    let write = plan(&orphaned).endpoints;
    assert!(matches!(write, Some(EndpointsWrite::Delete(_))));
    let mut foreign = (**orphaned.endpoints.as_ref().unwrap()).clone();
    foreign.metadata.labels = None;
    orphaned.endpoints = Some(Arc::new(foreign));
    assert!(plan(&orphaned).is_idle());
}

/// Endpoints that a user has created.
fn by_hand(metadata: Value, subsets: Value) -> Arc<Endpoints> {
    let mut endpoints = json!({
        "metadata": { "name": "svc", "namespace": "default", "uid": "uid-endpoints" },
        "subsets": subsets,
    });
    for (key, value) in metadata.as_object().unwrap() {
        endpoints["metadata"][key] = value.clone();
    }
    Arc::new(json_tree::from_value(endpoints).unwrap())
}

/// `IPv4 10.9.0.1 10.9.0.2! on http:80` for each slice; `!` marks an endpoint that is not ready.
fn mirrored(observed: &Observed) -> Vec<String> {
    let lines = observed.mirrored.iter().map(|slice| {
        let mut line = slice.address_type.clone();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|all| all.ready);
            let mark = if ready == Some(true) { "" } else { "!" };
            line.push_str(&format!(" {}{mark}", endpoint.addresses[0]));
        }
        for port in slice.ports.iter().flatten() {
            let name = port.name.as_deref().unwrap();
            line.push_str(&format!(" on {name}:{}", port.port.unwrap()));
        }
        line
    });
    lines.collect()
}

fn two_subsets() -> Value {
    json!([
        { "addresses": [{ "ip": "10.9.0.1", "hostname": "db-0" }, { "ip": "2001:db8::1" }],
          "notReadyAddresses": [{ "ip": "10.9.0.2" }],
          "ports": [{ "name": "sql", "port": 5432 }] },
        { "addresses": [{ "ip": "10.9.0.3" }], "ports": [{ "name": "sql", "port": 5433 }] },
    ])
}

// findings C20
#[test]
fn endpoints_made_by_hand_are_mirrored_to_slices() {
    cov_mark::check!(findings_c20);
    let without = service(json!({ "selector": Value::Null }));
    let metadata = json!({
        "labels": { "team": "b" },
        "annotations": {
            "note": "x",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z",
        },
    });
    let mut cluster = observed(without.clone(), Vec::new());
    cluster.endpoints = Some(by_hand(metadata, two_subsets()));
    let mut cluster = settled(cluster);
    assert_eq!(
        mirrored(&cluster),
        [
            "IPv4 10.9.0.1 10.9.0.2! on sql:5432",
            "IPv4 10.9.0.3 on sql:5433",
            "IPv6 2001:db8::1 on sql:5432",
        ]
    );
    assert!(cluster.slices.is_empty());
    let slice = &cluster.mirrored[0];
    let labels = slice.metadata.labels.clone().unwrap();
    let expected = [
        (
            "endpointslice.kubernetes.io/managed-by",
            "endpointslicemirroring-controller.k8s.io",
        ),
        ("kubernetes.io/service-name", "svc"),
        ("team", "b"),
    ];
    let labels: Vec<(&str, &str)> = labels
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(labels, expected);
    let annotations = slice.metadata.annotations.clone().unwrap();
    assert_eq!(
        annotations.into_iter().collect::<Vec<_>>(),
        [("note".to_owned(), "x".to_owned())]
    );
    let owner = &slice.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.uid.as_str()),
        ("Endpoints", "uid-endpoints")
    );
    assert_eq!(
        slice.endpoints.as_ref().unwrap()[0].hostname.as_deref(),
        Some("db-0")
    );
    // A change of the addresses changes only the slice of these addresses.
    let mut subsets = two_subsets();
    subsets[1]["addresses"] = json!([{ "ip": "10.9.0.4" }]);
    cluster.endpoints = Some(by_hand(json!({}), subsets));
    let mut cluster = settled(cluster);
    assert_eq!(mirrored(&cluster)[1], "IPv4 10.9.0.4 on sql:5433");
    // A slice of deleted Endpoints is deleted.
    cluster.endpoints = None;
    assert!(mirrored(&settled(cluster)).is_empty());
}

// findings C20
#[test]
fn endpoints_are_not_mirrored_for_everybody() {
    let without = || service(json!({ "selector": Value::Null }));
    let with_all = || {
        let mut cluster = observed(without(), Vec::new());
        cluster.endpoints = Some(by_hand(json!({}), two_subsets()));
        settled(cluster)
    };
    let count = |change: &dyn Fn(&mut Observed)| {
        let mut cluster = with_all();
        change(&mut cluster);
        settled(cluster).mirrored.len()
    };
    assert_eq!(count(&|_| {}), 3);
    assert_eq!(count(&|cluster| cluster.service = None), 0, "no Service");
    assert_eq!(
        count(&|cluster| cluster.service = Some(service(json!({})))),
        0,
        "a selector"
    );
    let skip =
        |value: &str| json!({ "labels": { "endpointslice.kubernetes.io/skip-mirror": value } });
    let put = |metadata: Value| {
        move |cluster: &mut Observed| {
            cluster.endpoints = Some(by_hand(metadata.clone(), two_subsets()))
        }
    };
    assert_eq!(count(&put(skip("true"))), 0);
    assert_eq!(count(&put(skip("no"))), 3);
    let lock = json!({ "annotations": { "control-plane.alpha.kubernetes.io/leader": "{}" } });
    assert_eq!(count(&put(lock)), 0, "the lock of an election");
}

/// The weight of the plan for the pods `after`, once the plan for the pods `before` is executed.
fn weight(before: &[&str], after: &[&str]) -> Option<WriteUrgency> {
    let observed = changed(before, after);
    plan(&observed).urgency(&observed)
}

/// The weight of the write to the Endpoints in the plan for the pods `after`.
fn weight_of_endpoints(before: &[&str], after: &[&str]) -> Option<WriteUrgency> {
    let observed = changed(before, after);
    plan(&observed).urgency_of_endpoints(&observed)
}

/// The state after the plan for the pods `before` was executed and the pods have changed.
fn changed(before: &[&str], after: &[&str]) -> Observed {
    let pods = |words: &[&str]| {
        let pods = words
            .iter()
            .enumerate()
            .filter(|(_, words)| **words != "gone");
        pods.map(|(number, words)| pod(number, words)).collect()
    };
    let mut observed = settled(observed(service(json!({})), pods(before)));
    observed.pods = pods(after);
    observed
}

/// Endpoints list ready and unready addresses, and no terminating addresses; only ready addresses decide the weight.
#[test]
fn the_ready_addresses_of_endpoints_are_their_weight() {
    let (prompt, minor) = (Some(WriteUrgency::Prompt), Some(WriteUrgency::Minor));
    let weight = weight_of_endpoints;
    assert_eq!(weight(&["ready"], &["ready", "ready"]), prompt);
    assert_eq!(weight(&["ready", "x"], &["ready", "ready"]), prompt);
    assert_eq!(weight(&["ready"], &["ready other-port"]), prompt);
    assert_eq!(weight(&["ready"], &["ready", "x"]), minor);
    assert_eq!(weight(&["ready", "x"], &["ready", "terminating"]), minor);
    assert_eq!(weight(&["ready", "terminating"], &["ready", "gone"]), None);
    let first = observed(service(json!({})), Vec::new());
    let immediate = Some(WriteUrgency::Immediate);
    assert_eq!(plan(&first).urgency_of_endpoints(&first), immediate);
}

/// A change of an address that proxies and DNS start or stop using is written at once.
#[test]
fn a_change_of_the_endpoints_in_use_is_prompt() {
    let prompt = Some(WriteUrgency::Prompt);
    assert_eq!(weight(&["ready"], &["ready", "ready"]), prompt);
    assert_eq!(weight(&["ready", "x"], &["ready", "ready"]), prompt);
    assert_eq!(weight(&["ready", "ready"], &["ready", "x"]), prompt);
    assert_eq!(weight(&["ready", "ready"], &["ready", "gone"]), prompt);
    let terminating = &["ready", "ready terminating"];
    assert_eq!(weight(&["ready", "ready"], terminating), prompt);
    let other_port = &["ready other-port"];
    assert_eq!(weight(&["ready"], other_port), prompt);
}

/// A change of an address that is listed but not used, because its pod does not serve, waits for the next change.
#[test]
fn a_change_of_endpoints_that_nobody_uses_is_minor() {
    let minor = Some(WriteUrgency::Minor);
    assert_eq!(weight(&["ready"], &["ready", "x"]), minor);
    assert_eq!(weight(&[], &["x"]), minor);
    assert_eq!(weight(&["ready", "x"], &["ready", "terminating"]), minor);
    assert_eq!(weight(&["ready", "terminating"], &["ready", "gone"]), minor);
    assert_eq!(weight(&["ready"], &["ready"]), None);
}

/// The objects of a new Service are written at once, also without pods; a changed Service is planned anew.
#[test]
fn the_first_slices_and_a_changed_service_are_prompt() {
    let mut observed = observed(service(json!({})), Vec::new());
    let prompt = Some(WriteUrgency::Prompt);
    assert_eq!(plan(&observed).urgency(&observed), prompt);
    observed = settled(observed);
    observed.endpoints = None;
    assert_eq!(plan(&observed).urgency(&observed), prompt);
    observed = settled(observed);
    observed.service = Some(service(json!({ "clusterIP": "10.96.0.9" })));
    assert_eq!(plan(&observed).urgency(&observed), prompt);
    observed.service = None;
    assert_eq!(plan(&observed).urgency(&observed), prompt);
}
