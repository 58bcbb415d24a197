//! Services and endpoints → the resulting part of the table, as a specification.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use service_routing::{
    MachineAddresses, MapVerdict, PublishedPort, Routes, ServiceName, Settings, Table, TableChange,
    apply, changes, hold, ports, publish, table,
};

fn settings() -> Settings {
    Settings {
        pod_range: "10.244.0.0/24".parse().unwrap(),
        cluster_range: "10.244.0.0/16".parse().unwrap(),
        service_range: "10.96.0.0/16".parse().unwrap(),
        further_ranges: Vec::new(),
        unmanaged: ["10.96.0.10".parse().unwrap()].into(),
        pod_links: "msa1b2".to_owned(),
        encrypted_link: None,
        switch_range: None,
        machines: MachineAddresses::default(),
    }
}

fn service(spec: Value) -> Service {
    let mut service = json!({ "metadata": { "name": "web", "namespace": "default" } });
    service["spec"] = json!({
        "clusterIP": "10.96.0.5",
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
    });
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    serde_json::from_value(service).unwrap()
}

fn slice(endpoints: &[(&str, &str)]) -> EndpointSlice {
    let endpoint = |(ip, node): &(&str, &str)| json!({ "addresses": [ip], "nodeName": node });
    serde_json::from_value(json!({
        "metadata": {
            "name": "web-1", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    }))
    .unwrap()
}

fn build(service: &Service, endpoints: &[(&str, &str)]) -> Table {
    table(&ports([service], [&slice(endpoints)], "here"), &settings())
}

/// Compares with the part of the table that an empty cluster does not have.
#[track_caller]
fn check(spec: Value, endpoints: &[(&str, &str)], expected: &str) {
    check_service(&service(spec), endpoints, expected);
}

#[track_caller]
fn check_service(service: &Service, endpoints: &[(&str, &str)], expected: &str) {
    let empty = table(&[], &settings());
    let full = build(service, endpoints);
    let base = empty.to_string();
    let added: Vec<String> = full
        .to_string()
        .lines()
        .filter(|line| !base.lines().any(|base| base == *line))
        .map(str::to_owned)
        .collect();
    let expected: Vec<&str> = expected
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    assert_eq!(added, expected, "\n{}", added.join("\n"));
    assert_eq!(
        apply(empty.clone(), &changes(&empty, &full)).as_ref(),
        Ok(&full)
    );
    assert_eq!(
        apply(full.clone(), &changes(&full, &empty)).as_ref(),
        Ok(&empty)
    );
}

#[test]
fn a_cluster_without_services() {
    let expected = "\
filter-forward: ct established accept
filter-forward: iif msa1b2* fib daddr behind iif mark
filter-forward: ct new jump refused
filter-forward: ct new daddr 10.96.0.0/16 goto reject
filter-input: ct established accept
filter-input: iif != lo daddr 127.0.0.0/8 drop
filter-input: iif != lo iif != msa1b2* daddr 10.244.0.1/32 drop
filter-input: iif != lo iif != msa1b2* daddr 10.96.0.10/32 drop
filter-input: ct new jump refused
filter-output: ct established accept
filter-output: ct new jump refused
filter-output: ct new daddr 10.96.0.0/16 fib daddr != local goto reject
filter-prerouting: iif msa1b2* fib saddr elsewhere drop
filter-prerouting: iif != lo iif != msa1b2* saddr 10.244.0.0/24 drop
nat-output: jump services
nat-postrouting: marked oif msa1b2* snat 10.244.0.1
nat-postrouting: saddr 127.0.0.0/8 oif msa1b2* snat 10.244.0.1
nat-postrouting: marked masquerade
nat-postrouting: saddr 10.244.0.0/24 daddr != 10.244.0.0/16 daddr != 224.0.0.0/4 oif != lo masquerade
nat-postrouting: saddr 127.0.0.0/8 oif != lo masquerade
nat-prerouting: jump services
refused: vmap @held-ips
refused: fib daddr local vmap @held-ports
refused: in @refused-ips goto reject
refused: fib daddr local in @refused-nodeports goto reject
reject: tcp reset
reject: reject
services: vmap @held-ips
services: fib daddr local vmap @held-ports
services: in @service-ips-internal goto service-ips/internal
services: in @service-ips-external goto service-ips/external
services: vmap @service-ips
services: fib daddr local in @service-nodeports-external goto service-nodeports/external
services: fib daddr local vmap @service-nodeports
services: fib daddr local vmap @host-ips
services: fib daddr local vmap @host-ports
";
    let text = table(&[], &settings()).to_string();
    let (classes, others): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("service-"));
    assert_eq!(others, expected.lines().collect::<Vec<_>>());
    let of_two = classes.iter();
    let of_two = of_two.filter(|line| line.contains("/2: ") || line.contains("-2 "));
    let expected = "\
service-ips/external: in @service-ips-external-2 goto service-ips/external/2
service-ips/external/2: mark
service-ips/external/2: random 2 of @service-ips
service-ips/external/2: random 1 of @service-ips
service-ips/internal: in @service-ips-internal-2 goto service-ips/internal/2
service-ips/internal/2: saddr != 10.244.0.0/16 mark
service-ips/internal/2: random 2 of @service-ips
service-ips/internal/2: random 1 of @service-ips
service-nodeports/external: in @service-nodeports-external-2 goto service-nodeports/external/2
service-nodeports/external/2: mark
service-nodeports/external/2: random 2 of @service-nodeports
service-nodeports/external/2: random 1 of @service-nodeports";
    assert_eq!(of_two.copied().collect::<Vec<_>>().join("\n"), expected);
}

/// The kernel checks all chains when a rule or a verdict with a chain is added; see `balance.rs`.
#[test]
fn a_change_of_endpoints_is_a_change_of_data() {
    let web = || {
        json!({
            "type": "NodePort",
            "externalIPs": ["203.0.113.7"],
            "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }],
        })
    };
    let many: Vec<String> = (1..=33).map(|last| format!("10.244.0.{last}")).collect();
    let of = |count: usize| -> Vec<(&str, &str)> {
        let first = many.iter().take(count);
        first.map(|ip| (ip.as_str(), "here")).collect()
    };
    let chains = |from: usize, to: usize| {
        let (from, to) = (
            build(&service(web()), &of(from)),
            build(&service(web()), &of(to)),
        );
        let steps = changes(&from, &to);
        assert!(!steps.is_empty());
        let is_data = |step: &TableChange| {
            let (TableChange::AddElement(.., verdict) | TableChange::RemoveElement(.., verdict)) =
                step
            else {
                return false;
            };
            matches!(verdict, MapVerdict::Balance(_) | MapVerdict::Reject)
        };
        steps.iter().filter(|step| !is_data(step)).count()
    };
    for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (31, 32), (32, 0)] {
        assert_eq!(chains(from, to), 0, "from {from} to {to}");
    }
    assert!(chains(32, 33) > 33, "each of more endpoints has a chain");
}

#[test]
fn cluster_ip_with_two_endpoints() {
    check(
        json!({}),
        &[("10.244.0.2", "here"), ("10.244.1.3", "there")],
        "
        service-ips: 10.96.0.5 tcp 80 -> random 10.244.0.2:8080 10.244.1.3:8080
        ",
    );
}

#[test]
fn without_endpoints_connections_are_refused() {
    check(
        json!({ "type": "NodePort", "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }] }),
        &[],
        "
        refused-ips: 10.96.0.5 tcp 80 -> reject
        refused-nodeports: tcp 30080 -> reject
        ",
    );
}

#[test]
fn clients_stay_with_their_endpoint() {
    check(
        json!({
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
        }),
        &[("10.244.0.2", "here")],
        "
        service-ips: 10.96.0.5 tcp 80 -> goto svc/default/web/tcp/80
        set aff/default/web/tcp/80/10.244.0.2/8080/60 timeout 60s
        ep/default/web/tcp/80/10.244.0.2/8080: update @aff/default/web/tcp/80/10.244.0.2/8080/60
        ep/default/web/tcp/80/10.244.0.2/8080: dnat 10.244.0.2:8080
        svc/default/web/tcp/80: daddr 10.96.0.5/32 saddr != 10.244.0.0/16 mark
        svc/default/web/tcp/80: saddr @aff/default/web/tcp/80/10.244.0.2/8080/60 goto ep/default/web/tcp/80/10.244.0.2/8080
        svc/default/web/tcp/80: random ep/default/web/tcp/80/10.244.0.2/8080
        ",
    );
}

#[test]
fn node_port_and_external_ip_are_masqueraded() {
    check(
        json!({
            "type": "NodePort",
            "externalIPs": ["203.0.113.7"],
            "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }],
        }),
        &[("10.244.1.3", "there")],
        "
        service-ips: 10.96.0.5 tcp 80 -> random 10.244.1.3:8080
        service-ips: 203.0.113.7 tcp 80 -> mark random 10.244.1.3:8080
        service-nodeports: tcp 30080 -> mark random 10.244.1.3:8080
        ",
    );
}

#[test]
fn external_policy_local_keeps_the_clients_address_and_the_node() {
    let spec = || {
        json!({
            "type": "NodePort", "externalTrafficPolicy": "Local",
            "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }],
        })
    };
    check(
        spec(),
        &[("10.244.0.2", "here"), ("10.244.1.3", "there")],
        "
        service-ips: 10.96.0.5 tcp 80 -> random 10.244.0.2:8080 10.244.1.3:8080
        service-nodeports: tcp 30080 -> goto ext/default/web/tcp/80
        ep/default/web/tcp/80/10.244.0.2/8080: dnat 10.244.0.2:8080
        ep/default/web/tcp/80/10.244.1.3/8080: dnat 10.244.1.3:8080
        ext/default/web/tcp/80: saddr 10.244.0.0/24 goto svc/default/web/tcp/80
        ext/default/web/tcp/80: fib saddr local mark
        ext/default/web/tcp/80: fib saddr local goto svc/default/web/tcp/80
        ext/default/web/tcp/80: goto local/default/web/tcp/80
        local/default/web/tcp/80: daddr 10.96.0.5/32 saddr != 10.244.0.0/16 mark
        local/default/web/tcp/80: random ep/default/web/tcp/80/10.244.0.2/8080
        svc/default/web/tcp/80: daddr 10.96.0.5/32 saddr != 10.244.0.0/16 mark
        svc/default/web/tcp/80: random ep/default/web/tcp/80/10.244.0.2/8080 ep/default/web/tcp/80/10.244.1.3/8080
        ",
    );
    let elsewhere = build(&service(spec()), &[("10.244.1.3", "there")]).to_string();
    assert!(
        elsewhere.contains("ext/default/web/tcp/80: drop"),
        "{elsewhere}"
    );
}

#[test]
fn internal_policy_local_drops_without_an_endpoint_here() {
    check(
        json!({ "internalTrafficPolicy": "Local" }),
        &[("10.244.1.3", "there")],
        "service-ips: 10.96.0.5 tcp 80 -> drop",
    );
}

#[test]
fn a_load_balancer_lets_only_its_source_ranges_in() {
    let mut balanced = service(json!({
        "type": "LoadBalancer",
        "loadBalancerSourceRanges": ["192.0.2.0/24", " 198.51.100.0/24"],
    }));
    balanced.status = serde_json::from_value(json!({
        "loadBalancer": { "ingress": [
            { "ip": "203.0.113.9" },
            { "ip": "203.0.113.10", "ipMode": "Proxy" },
            { "hostname": "lb.example" },
        ]}
    }))
    .unwrap();
    check_service(
        &balanced,
        &[("10.244.0.2", "here")],
        "
        service-ips: 10.96.0.5 tcp 80 -> random 10.244.0.2:8080
        service-ips: 203.0.113.9 tcp 80 -> goto fw/default/web/tcp/80
        set fw/default/web/tcp/80/ce80c9a80c3aebf9, 192.0.2.0-192.0.2.255, 198.51.100.0-198.51.100.255
        ep/default/web/tcp/80/10.244.0.2/8080: dnat 10.244.0.2:8080
        ext/default/web/tcp/80: mark
        ext/default/web/tcp/80: goto svc/default/web/tcp/80
        fw/default/web/tcp/80: saddr @fw/default/web/tcp/80/ce80c9a80c3aebf9 goto ext/default/web/tcp/80
        fw/default/web/tcp/80: drop
        svc/default/web/tcp/80: daddr 10.96.0.5/32 saddr != 10.244.0.0/16 mark
        svc/default/web/tcp/80: random ep/default/web/tcp/80/10.244.0.2/8080
        ",
    );
}

/// A Service with external addresses, created at that second.
fn claimant(name: &str, created: i64, cluster_ip: &str, addresses: &[&str]) -> Service {
    let mut service = service(json!({ "clusterIP": cluster_ip, "externalIPs": addresses }));
    let time = format!("2026-01-01T00:00:{created:02}Z");
    service.metadata.creation_timestamp = serde_json::from_value(json!(time)).unwrap();
    service.metadata.name = Some(name.to_owned());
    service.metadata.uid = Some(format!("uid-{name}"));
    let balancer = json!({ "loadBalancer": { "ingress": [] } });
    service.status = serde_json::from_value(balancer).unwrap();
    service
}

/// The names of the Services that own port 80 of the addresses.
fn owners(services: &[Service], settings: &Settings) -> Vec<String> {
    let slice = |name: &str, last: usize| {
        let mut slice = slice(&[(&format!("10.244.0.{last}"), "here")]);
        let labels = slice.metadata.labels.as_mut().unwrap();
        labels.insert("kubernetes.io/service-name".to_owned(), name.to_owned());
        slice
    };
    let names = services
        .iter()
        .map(|service| service.metadata.name.clone().unwrap());
    let names: Vec<String> = names.collect();
    let slices: Vec<_> = (2..)
        .zip(&names)
        .map(|(last, name)| slice(name, last))
        .collect();
    let all = table(&ports(services, &slices, "here"), settings);
    let elements = all.elements.iter().filter_map(|((_, key), verdict)| {
        let address = key.address?;
        let owner = (2..).zip(&names).find(|(last, _)| {
            verdict
                .to_string()
                .contains(&format!("10.244.0.{last}:8080"))
        });
        Some(format!("{address} {}", owner?.1))
    });
    elements.collect()
}

// findings-2 S34
#[test]
fn no_service_gets_an_address_of_pods_services_machines_or_nobody() {
    let mut settings = settings();
    settings.switch_range = Some("172.30.0.0/24".parse().unwrap());
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    settings.machines = MachineAddresses {
        local: addresses(&["192.0.2.1", "172.30.0.9"]),
        others: addresses(&["192.0.2.1", "192.0.2.2", "198.51.100.3"]),
    };
    let owned_addresses = [
        "10.96.0.1",
        "10.96.255.254",
        "10.96.0.10",
        "10.244.0.1",
        "10.244.0.7",
        "10.244.9.9",
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "192.0.2.2",
        "198.51.100.3",
        "172.30.0.2",
    ];
    let free = ["192.0.2.1", "172.30.0.9", "203.0.113.7"];
    let all: Vec<&str> = owned_addresses.iter().chain(&free).copied().collect();
    let mut greedy = claimant("a", 0, "10.96.0.5", &all);
    let expected = [
        "10.96.0.5 a",
        "172.30.0.9 a",
        "192.0.2.1 a",
        "203.0.113.7 a",
    ];
    assert_eq!(owners(&[greedy.clone()], &settings), expected);
    // The check is repeated for addresses of a load balancer.
    greedy.spec.as_mut().unwrap().external_ips = None;
    let ingress: Vec<Value> = all.iter().map(|ip| json!({ "ip": ip })).collect();
    let status = json!({ "loadBalancer": { "ingress": ingress } });
    greedy.status = serde_json::from_value(status).unwrap();
    assert_eq!(owners(&[greedy], &settings), expected);
}

/// KEP-1880: addresses of a ServiceCIDR are those of Services, unless pods or machines have some of them.
#[test]
fn connections_to_addresses_of_service_cidrs_without_a_service_are_refused() {
    let refused = |settings: &Settings| {
        let text = table([], settings).to_string();
        let line = |range: &str| format!("filter-forward: ct new daddr {range} goto reject");
        ["10.97.0.0/24", "10.244.9.0/24", "192.0.2.0/24"]
            .map(|range| text.lines().any(|found| found == line(range)))
    };
    let mut settings = settings();
    assert_eq!(refused(&settings), [false; 3]);
    let ranges = ["10.97.0.0/24", "10.244.9.0/24", "192.0.2.0/24"];
    settings.further_ranges = ranges.map(|range| range.parse().unwrap()).into();
    settings.machines.others = ["192.0.2.7".parse().unwrap()].into();
    assert_eq!(refused(&settings), [true, false, false]);
    let greedy = claimant("a", 0, "10.97.0.5", &["10.97.0.9", "192.0.2.9"]);
    let owned = owners(&[greedy], &settings);
    assert_eq!(owned, ["10.97.0.5 a", "192.0.2.9 a"]);
}

// findings-2 S34
#[test]
fn a_service_names_the_addresses_that_it_does_not_get() {
    let old = claimant("old", 1, "10.96.0.5", &["203.0.113.7"]);
    let expected = ["203.0.113.7", "10.96.0.1", "203.0.113.8"];
    let young = claimant("young", 9, "10.96.0.6", &expected);
    let name = |name: &str| ServiceName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    };
    let mut routes = Routes::new(settings());
    let changed = [("old", old), ("young", young)];
    let changed = changed.map(|(service, object)| (name(service), ports(&[object], &[], "here")));
    routes.replace(BTreeMap::from(changed));
    let withheld = |service: &str| -> Vec<String> {
        let addresses = routes.withheld(&name(service));
        addresses.iter().map(ToString::to_string).collect()
    };
    assert!(withheld("old").is_empty());
    assert_eq!(withheld("young"), ["10.96.0.1", "203.0.113.7"]);
    assert!(withheld("absent").is_empty());
}

// findings-2 S34
#[test]
fn the_older_of_two_services_keeps_an_address_whatever_the_names() {
    let shared = ["203.0.113.7"];
    let young = || claimant("a", 9, "10.96.0.5", &shared);
    let old = || claimant("b", 1, "10.96.0.6", &shared);
    let expected = ["10.96.0.5 a", "10.96.0.6 b", "203.0.113.7 b"];
    assert_eq!(owners(&[young(), old()], &settings()), expected);
    assert_eq!(owners(&[old(), young()], &settings()), expected);
    // Services of one second: the UID decides.
    let twin = || claimant("c", 9, "10.96.0.7", &shared);
    let expected = ["10.96.0.5 a", "10.96.0.7 c", "203.0.113.7 a"];
    assert_eq!(owners(&[twin(), young()], &settings()), expected);
    // A clusterIP outside of the range, for instance of a former range, has priority over older claims.
    let claims = claimant("a", 0, "10.96.0.5", &["10.97.0.1"]);
    let inside = claimant("b", 9, "10.97.0.1", &[]);
    let expected = ["10.96.0.5 a", "10.97.0.1 b"];
    assert_eq!(owners(&[claims, inside], &settings()), expected);
}

#[test]
fn services_that_are_not_the_proxys_leave_no_trace() {
    cov_mark::check!(findings_c9);
    let endpoints = [("10.244.0.2", "here")];
    check(json!({ "clusterIP": "None" }), &endpoints, "");
    check(json!({ "clusterIP": "10.96.0.10" }), &endpoints, "");
    check(json!({ "clusterIP": null }), &endpoints, "");
    check(json!({ "clusterIP": "fd00::5" }), &endpoints, "");
    check(
        json!({ "type": "ExternalName", "externalName": "example.com" }),
        &endpoints,
        "",
    );
    let mut other = service(json!({}));
    let label = (
        "service.kubernetes.io/service-proxy-name".to_owned(),
        "other".to_owned(),
    );
    other.metadata.labels = Some([label].into());
    check_service(&other, &endpoints, "");
    // findings C9: the value of the label does not matter.
    let label = ("service.kubernetes.io/headless".to_owned(), String::new());
    other.metadata.labels = Some([label].into());
    check_service(&other, &endpoints, "");
}

// findings S11, S12
#[test]
fn where_the_node_listens_nothing_is_done() {
    cov_mark::check!(findings_s12);
    use object_model::listening::{Listening, ListeningAddress, Transport};
    let listening_address = |transport, address: Option<&str>, port| ListeningAddress {
        transport,
        address: address.map(|text| text.parse().unwrap()),
        port,
    };
    let listening: Listening = [
        listening_address(Transport::Tcp, None, 22),
        listening_address(Transport::Udp, Some("10.96.0.10"), 53),
    ]
    .into_iter()
    .collect();
    let empty = table(&[], &settings());
    let mut full = empty.clone();
    hold(&mut full, &listening);
    let text = full.to_string();
    let added: Vec<&str> = text.lines().filter(|line| line.contains("->")).collect();
    let expected = [
        "held-ips: 10.96.0.10 udp 53 -> return",
        "held-ports: tcp 22 -> return",
    ];
    assert_eq!(added, expected);
    assert_eq!(apply(empty.clone(), &changes(&empty, &full)), Ok(full));
}

#[test]
fn a_change_of_endpoints_touches_only_that_service() {
    let one = service(json!({}));
    let mut two = service(json!({ "clusterIP": "10.96.0.6" }));
    two.metadata.name = Some("other".into());
    let build = |endpoints: &[(&str, &str)]| {
        table(
            &ports([&one, &two], [&slice(endpoints)], "here"),
            &settings(),
        )
    };
    let before = build(&[("10.244.0.2", "here")]);
    let after = build(&[("10.244.0.3", "here")]);
    let steps = changes(&before, &after);
    let text: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
    assert_eq!(steps.len(), 2, "{text:#?}");
    assert!(text.iter().all(|step| !step.contains("other")), "{text:#?}");
    assert_eq!(apply(before, &steps), Ok(after.clone()));
    assert_eq!(changes(&after, &after), []);
}

#[test]
fn ports_of_the_node_lead_to_pods_and_the_first_of_two_pods_keeps_one() {
    let published = |pod: &str, port: &str| PublishedPort {
        pod: pod.parse().unwrap(),
        port: port.parse().unwrap(),
    };
    let empty = table(&[], &settings());
    let mut full = empty.clone();
    publish(
        &mut full,
        &[
            published("10.244.0.2", "tcp *:8080 80"),
            published("10.244.0.2", "udp 127.0.0.1:53 5353"),
            published("10.244.0.3", "tcp *:8080 80"),
        ],
    );
    let base = empty.to_string();
    let added = full.to_string();
    let added: Vec<&str> = added
        .lines()
        .filter(|line| !base.lines().any(|base| base == *line))
        .collect();
    let expected = "\
host-ips: 127.0.0.1 udp 53 -> goto host/10.244.0.2/udp/5353
host-ports: tcp 8080 -> goto host/10.244.0.2/tcp/80
host/10.244.0.2/tcp/80: dnat 10.244.0.2:80
host/10.244.0.2/udp/5353: dnat 10.244.0.2:5353
host/10.244.0.3/tcp/80: dnat 10.244.0.3:80";
    assert_eq!(added.join("\n"), expected);
    assert_eq!(
        apply(empty.clone(), &changes(&empty, &full)).as_ref(),
        Ok(&full)
    );
    assert_eq!(apply(full.clone(), &changes(&full, &empty)), Ok(empty));
}
