//! A zone depends only on the namespaces, Services and slices, not on the order of updates.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;

use dns_records::{Kind, LookupResult, Settings, Zone};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

/// There are few addresses, including that of the server, so that Services share them.
fn service(numbers: &mut StdRng) -> Service {
    let port = json!([{"name": "http", "port": 80}]);
    let spec = match numbers.random_range(0..4) {
        0 => json!({"type": "ExternalName", "externalName": "example.com"}),
        1 => json!({"clusterIP": "None", "ports": port}),
        _ => {
            json!({"clusterIP": format!("10.96.0.{}", 10 + numbers.random_range(0..3)), "ports": port})
        }
    };
    serde_json::from_value(json!({"spec": spec})).unwrap()
}

fn slice(numbers: &mut StdRng) -> EndpointSlice {
    let endpoints: Vec<_> = (0..numbers.random_range(0..3))
        .map(|_| {
            let hostname = (numbers.random_range(0..2) == 0).then_some("web-0");
            json!({
                "addresses": [format!("10.244.0.{}", 2 + numbers.random_range(0..3))],
                "hostname": hostname, "conditions": {"ready": numbers.random_range(0..4) != 0}})
        })
        .collect();
    let port = json!([{"name": "http", "port": 8080}]);
    serde_json::from_value(json!({
        "addressType": "IPv4", "ports": port, "endpoints": endpoints}))
    .unwrap()
}

type Services = BTreeMap<(&'static str, &'static str), (Service, Vec<EndpointSlice>)>;

fn replace(zone: &mut Zone, (namespace, name): (&str, &str), services: &Services) {
    let slices_of_service = services.get(&(namespace, name));
    let slices = slices_of_service.into_iter().flat_map(|(_, slices)| slices);
    let slices: Vec<&EndpointSlice> = slices.collect();
    zone.replace(
        namespace,
        name,
        slices_of_service.map(|(service, _)| service),
        &slices,
    );
}

#[test]
fn the_way_to_a_zone_does_not_matter() {
    let settings = Settings {
        domain: "cluster.local".to_owned(),
        dns_addresses: vec!["10.96.0.10".parse().unwrap()],
        ranges: vec!["10.96.0.0/16".parse().unwrap()],
    };
    for seed in 1..500_u64 {
        let mut numbers = StdRng::seed_from_u64(seed);
        let mut zone = Zone::new(settings.clone());
        let mut services = Services::new();
        let mut listed: &[&str] = &[];
        for round in 0..20 {
            let at = usize::try_from(numbers.random_range(0..3)).unwrap();
            if numbers.random_range(0..5) == 0 {
                listed = &["default", "empty"][..at.min(2)];
                zone.list_namespaces(listed.iter().copied());
            } else {
                let namespace = ["default", "other"][at.min(1)];
                let name =
                    ["web", "db", "default"][usize::try_from(numbers.random_range(0..3)).unwrap()];
                let slices = (0..numbers.random_range(0..3))
                    .map(|_| slice(&mut numbers))
                    .collect();
                services.remove(&(namespace, name));
                if numbers.random_range(0..3) != 0 {
                    services.insert((namespace, name), (service(&mut numbers), slices));
                }
                replace(&mut zone, (namespace, name), &services);
            }
            let mut anew = Zone::new(settings.clone());
            for key in services.keys() {
                replace(&mut anew, *key, &services);
            }
            anew.list_namespaces(listed.iter().copied());
            assert_eq!(zone, anew, "seed {seed}, round {round}");
        }
        for key in services.keys() {
            replace(&mut zone, *key, &Services::new());
        }
        zone.list_namespaces([]);
        assert_eq!(
            zone,
            Zone::new(settings.clone()),
            "seed {seed}: nothing is left"
        );
        let removed = zone.lookup("web.default.svc.cluster.local", Kind::A);
        assert_eq!(removed, LookupResult::NoSuchName);
    }
}
