//! For any cluster and any policies, the table lets exactly those connections pass that the API allows, and the kernel
//! accepts the steps from one table to another.

use std::net::Ipv4Addr;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use service_routing::{Connection, Direction, Protocol, Table, apply, changes, judge, passes};

use crate::cluster::Cluster;
use crate::reference;

const SEEDS: u64 = 400;
const NAMES: [&str; 3] = ["web", "db", "job"];

fn some<'a>(numbers: &mut StdRng, all: &[&'a str]) -> &'a str {
    all.choose(numbers).copied().unwrap()
}

fn selector(numbers: &mut StdRng, key: &str, values: &[&str]) -> Value {
    match numbers.random_range(0..6) {
        0 => json!({}),
        1 | 2 => json!({"matchLabels": {key: some(numbers, values)}}),
        3 => {
            let operator = some(numbers, &["In", "NotIn"]);
            let values = [some(numbers, values), some(numbers, values)];
            json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
        }
        4 => {
            let operator = some(numbers, &["Exists", "DoesNotExist"]);
            let key = some(numbers, &[key, "other"]);
            json!({"matchExpressions": [{"key": key, "operator": operator}]})
        }
        _ => json!({"matchLabels": {key: some(numbers, values)}, "matchExpressions":
            [{"key": key, "operator": "NotIn", "values": [some(numbers, values)]}]}),
    }
}

fn peer(numbers: &mut StdRng) -> Value {
    let pods = selector(numbers, "app", &NAMES);
    let namespaces = selector(numbers, "team", &["shop", "lab"]);
    match numbers.random_range(0..5) {
        0 => json!({"podSelector": pods}),
        1 => json!({"namespaceSelector": namespaces}),
        2 => json!({"podSelector": pods, "namespaceSelector": namespaces}),
        3 => {
            let except = ["10.244.0.0/30", "192.0.2.0/25"];
            json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": [some(numbers, &except)]}})
        }
        _ => {
            let range = some(numbers, &["10.244.0.0/29", "192.0.2.0/24", "10.244.0.4/32"]);
            json!({"ipBlock": {"cidr": range}})
        }
    }
}

fn port(numbers: &mut StdRng) -> Value {
    let protocol = some(numbers, &["TCP", "UDP", "SCTP"]);
    match numbers.random_range(0..5) {
        0 => json!({"protocol": protocol}),
        1 => json!({"port": 80}),
        2 => json!({"port": 79, "endPort": 81, "protocol": protocol}),
        3 => json!({"port": some(numbers, &["http", "dns", "none"]), "protocol": protocol}),
        _ => json!({"port": 53, "protocol": protocol}),
    }
}

fn listed(numbers: &mut StdRng, one: impl Fn(&mut StdRng) -> Value) -> Value {
    let count = numbers.random_range(0..3);
    (0..count).map(|_| one(numbers)).collect()
}

fn rule(numbers: &mut StdRng, side: &str) -> Value {
    json!({side: listed(numbers, peer), "ports": listed(numbers, port)})
}

fn policy(numbers: &mut StdRng) -> Value {
    let types = [
        Value::Null,
        json!([]),
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ];
    json!({
        "podSelector": selector(numbers, "app", &NAMES),
        "policyTypes": types.choose(numbers).unwrap(),
        "ingress": listed(numbers, |numbers| rule(numbers, "from")),
        "egress": listed(numbers, |numbers| rule(numbers, "to")),
    })
}

fn cluster(numbers: &mut StdRng) -> Cluster {
    let mut cluster = Cluster::new();
    for pod in 0..cluster.pods.len() {
        let labels = json!({"app": some(numbers, &NAMES)});
        cluster.pods[pod]["metadata"]["labels"] = labels;
        if numbers.random_bool(0.1) {
            cluster.pods[pod]["spec"]["hostNetwork"] = json!(true);
        }
        let ports = &mut cluster.pods[pod]["spec"]["containers"][0]["ports"];
        if numbers.random_bool(0.3) {
            ports[0]["containerPort"] = json!(53);
        }
        if numbers.random_bool(0.3) {
            ports[1]["protocol"] = json!("SCTP");
        }
    }
    for _ in 0..numbers.random_range(0..4) {
        let spec = policy(numbers);
        cluster.policy(spec);
        if numbers.random_bool(0.3) {
            let last = cluster.policies.len() - 1;
            cluster.policies[last]["metadata"]["namespace"] = json!("lab");
        }
    }
    cluster
}

#[test]
fn the_table_allows_what_the_api_allows() {
    let (mut allowed, mut denied) = (0, 0);
    for seed in 0..SEEDS {
        let cluster = cluster(&mut StdRng::seed_from_u64(seed));
        let (state, table) = (cluster.state(), cluster.table());
        let ports = [
            None,
            Some((Protocol::Tcp, 80)),
            Some((Protocol::Tcp, 53)),
            Some((Protocol::Udp, 53)),
            Some((Protocol::Udp, 81)),
            Some((Protocol::Sctp, 53)),
        ];
        for (source, destination) in pairs() {
            for port in ports {
                let connection = Connection {
                    source,
                    destination,
                    port,
                };
                let expected = reference::allowed(&cluster, source, destination, port);
                let has_passed = passes(&table, &connection);
                assert_eq!(
                    has_passed, expected,
                    "seed {seed}: {connection:?} {cluster:?}\n{table}"
                );
                let judged = |direction| judge(&state, &table, &connection, direction).passes();
                assert_eq!(
                    Direction::BOTH.into_iter().all(judged),
                    expected,
                    "seed {seed}: {connection:?} {cluster:?}"
                );
                *if expected { &mut allowed } else { &mut denied } += 1;
            }
        }
    }
    assert!(allowed > 10_000 && denied > 10_000, "{allowed} {denied}");
}

fn pairs() -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let all = [
        "10.244.0.2",
        "10.244.0.3",
        "10.244.0.4",
        "10.244.0.5",
        "10.244.1.6",
        "192.0.2.7",
        "192.0.2.200",
    ];
    let all = all.map(|text| text.parse().unwrap());
    let each = all.iter().flat_map(|a| all.iter().map(|b| (*a, *b)));
    each.collect()
}

#[test]
fn changes_lead_from_any_table_to_any_other() {
    let mut before = Table::default();
    for seed in 0..SEEDS {
        let after = cluster(&mut StdRng::seed_from_u64(seed)).table();
        let steps = changes(&before, &after);
        let done = apply(before, &steps);
        assert_eq!(done.as_ref(), Ok(&after), "seed {seed}");
        assert!(changes(&after, &after).is_empty());
        before = after;
    }
}
