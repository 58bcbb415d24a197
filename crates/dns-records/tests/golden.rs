//! Services and endpoints → results, as a specification (statefulset.md §10).

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use dns_records::{Data, Kind, LookupResult, Settings, Zone};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

fn service(name: &str, spec: Value) -> Service {
    let metadata = json!({ "name": name, "namespace": "default" });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
}

fn slice(service: &str, ports: Value, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("{service}-abc"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    }))
    .unwrap()
}

fn http() -> Value {
    json!([{ "name": "http", "port": 80, "protocol": "TCP" }])
}

fn built(
    settings: Settings,
    namespaces: &[&str],
    services: &[Service],
    slices: &[EndpointSlice],
) -> Zone {
    let mut zone = Zone::new(settings);
    zone.list_namespaces(namespaces.iter().copied());
    for service in services {
        let name = service.metadata.name.as_deref().unwrap();
        let label = "kubernetes.io/service-name";
        let belongs =
            |slice: &&EndpointSlice| slice.metadata.labels.as_ref().unwrap()[label] == name;
        let slices: Vec<&EndpointSlice> = slices.iter().filter(belongs).collect();
        zone.replace("default", name, Some(service), &slices);
    }
    zone
}

/// A zone with a Service of each kind.
fn zone() -> Zone {
    let settings = Settings {
        domain: "cluster.local".to_owned(),
        dns_addresses: vec!["10.96.0.10".parse().unwrap()],
        ranges: vec![
            "10.244.0.0/24".parse().unwrap(),
            "10.96.0.0/16".parse().unwrap(),
        ],
    };
    let services = [
        service("web", json!({ "clusterIP": "10.96.0.5", "ports": http() })),
        service("nginx", json!({ "clusterIP": "None", "ports": http() })),
        service("bare", json!({ "clusterIP": "None" })),
        service("idle", json!({ "clusterIP": "None", "ports": http() })),
        service(
            "plain",
            json!({ "clusterIP": "10.96.0.6", "ports": [{ "port": 5432 }] }),
        ),
        service(
            "away",
            json!({ "type": "ExternalName", "externalName": "Example.COM." }),
        ),
        service(
            "dual",
            json!({
                "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": http(),
            }),
        ),
    ];
    let slices = [
        slice(
            "web",
            http(),
            json!([
                { "addresses": ["10.244.0.2"] },
                { "addresses": ["10.244.0.3"], "hostname": "named" },
            ]),
        ),
        slice(
            "nginx",
            json!([
                { "name": "http", "port": 80, "protocol": "TCP" },
                { "name": "Peer", "port": 7000, "protocol": "UDP" },
                { "port": 9000 },
            ]),
            json!([
                { "addresses": ["10.244.0.10"], "hostname": "web-0", "conditions": { "ready": true } },
                { "addresses": ["10.244.0.11"], "hostname": "web-1", "conditions": { "ready": null } },
                { "addresses": ["10.244.0.12"], "hostname": "web-2", "conditions": { "ready": false } },
            ]),
        ),
        slice(
            "bare",
            json!(null),
            json!([{ "addresses": ["10.244.0.20"] }]),
        ),
        slice(
            "idle",
            http(),
            json!([
                { "addresses": ["10.244.0.30"], "conditions": { "ready": false } },
            ]),
        ),
    ];
    built(
        settings,
        &["default", "kube-system", "empty"],
        &services,
        &slices,
    )
}

fn show(data: &Data) -> String {
    match data {
        Data::A(ip) => format!("A {ip}"),
        Data::Aaaa(ip) => format!("AAAA {ip}"),
        Data::Srv {
            weight,
            port,
            target,
        } => format!("SRV {weight} {port} {target}"),
        Data::Ptr(name) => format!("PTR {name}"),
        Data::Cname(name) => format!("CNAME {name}"),
        Data::Txt(text) => format!("TXT {text}"),
        Data::Ns(name) => format!("NS {name}"),
        Data::Soa => "SOA".to_owned(),
    }
}

/// Looks up a name of `cluster.local` (or a full name with a final dot).
#[track_caller]
fn check(name: &str, kind: Kind, expected: &[&str]) {
    let full = match name.strip_suffix('.') {
        Some(full) => full.to_owned(),
        None => format!("{name}.cluster.local"),
    };
    let printed = match zone().lookup(&full, kind) {
        LookupResult::NotOurs => vec!["not ours".to_owned()],
        LookupResult::NoSuchName => vec!["NXDOMAIN".to_owned()],
        LookupResult::NoData => vec!["NODATA".to_owned()],
        LookupResult::Records {
            records,
            additional,
        } => {
            let records = records.iter().map(show);
            let more = additional
                .iter()
                .map(|(name, data)| format!("+ {name} {}", show(data)));
            records.chain(more).collect()
        }
    };
    assert_eq!(printed, expected, "{full} {kind:?}");
}

const NX: &[&str] = &["NXDOMAIN"];
const EMPTY: &[&str] = &["NODATA"];
const NOT_OURS: &[&str] = &["not ours"];

#[test]
fn a_service_has_its_address_and_ports() {
    // statefulset.md 10.1
    check("web.default.svc", Kind::A, &["A 10.96.0.5"]);
    check("web.default.svc", Kind::Aaaa, EMPTY);
    check("dual.default.svc", Kind::Aaaa, &["AAAA fd00::7"]);
    let server = "+ web.default.svc.cluster.local A 10.96.0.5";
    let srv = "SRV 100 80 web.default.svc.cluster.local";
    check("_http._tcp.web.default.svc", Kind::Srv, &[srv, server]);
    check("web.default.svc", Kind::Srv, &[srv, server]);
    check("_http._udp.web.default.svc", Kind::Srv, NX);
    check("_other._tcp.web.default.svc", Kind::Srv, NX);
    check("_tcp.web.default.svc", Kind::Srv, EMPTY);
    check(
        "5.0.96.10.in-addr.arpa.",
        Kind::Ptr,
        &["PTR web.default.svc.cluster.local"],
    );
    check(
        "plain.default.svc",
        Kind::Srv,
        &[
            "SRV 100 5432 plain.default.svc.cluster.local",
            "+ plain.default.svc.cluster.local A 10.96.0.6",
        ],
    );
    check("_tcp.plain.default.svc", Kind::Srv, NX);
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    // statefulset.md 10.2, 10.3, 10.5, 10.11, T37, T38
    check(
        "nginx.default.svc",
        Kind::A,
        &["A 10.244.0.10", "A 10.244.0.11"],
    );
    check("web-0.nginx.default.svc", Kind::A, &["A 10.244.0.10"]);
    check("web-0.nginx.default.svc", Kind::Aaaa, EMPTY);
    check("web-1.nginx.default.svc", Kind::A, &["A 10.244.0.11"]);
    check("web-2.nginx.default.svc", Kind::A, NX);
    check(
        "_http._tcp.nginx.default.svc",
        Kind::Srv,
        &[
            "SRV 50 80 web-0.nginx.default.svc.cluster.local",
            "SRV 50 80 web-1.nginx.default.svc.cluster.local",
            "+ web-0.nginx.default.svc.cluster.local A 10.244.0.10",
            "+ web-1.nginx.default.svc.cluster.local A 10.244.0.11",
        ],
    );
    check(
        "_peer._udp.nginx.default.svc",
        Kind::Any,
        &[
            "SRV 50 7000 web-0.nginx.default.svc.cluster.local",
            "SRV 50 7000 web-1.nginx.default.svc.cluster.local",
            "+ web-0.nginx.default.svc.cluster.local A 10.244.0.10",
            "+ web-1.nginx.default.svc.cluster.local A 10.244.0.11",
        ],
    );
    check(
        "10.0.244.10.in-addr.arpa.",
        Kind::Ptr,
        &["PTR web-0.nginx.default.svc.cluster.local"],
    );
    check("12.0.244.10.in-addr.arpa.", Kind::Ptr, NX);
    check("bare.default.svc", Kind::A, &["A 10.244.0.20"]);
    check("10-244-0-20.bare.default.svc", Kind::A, &["A 10.244.0.20"]);
    check(
        "20.0.244.10.in-addr.arpa.",
        Kind::Ptr,
        &["PTR 10-244-0-20.bare.default.svc.cluster.local"],
    );
    check("idle.default.svc", Kind::A, NX);
    check("_http._tcp.idle.default.svc", Kind::Srv, NX);
}

#[test]
fn endpoints_of_a_service_with_an_address_have_names_too() {
    check("named.web.default.svc", Kind::A, &["A 10.244.0.3"]);
    check("10-244-0-2.web.default.svc", Kind::A, &["A 10.244.0.2"]);
    check(
        "3.0.244.10.in-addr.arpa.",
        Kind::Ptr,
        &["PTR named.web.default.svc.cluster.local"],
    );
    check("2.0.244.10.in-addr.arpa.", Kind::Ptr, NX);
}

#[test]
fn an_external_name_is_an_alias_whatever_is_asked() {
    // statefulset.md 10.4
    for kind in [Kind::A, Kind::Aaaa, Kind::Cname, Kind::Any, Kind::Srv] {
        check("away.default.svc", kind, &["CNAME example.com"]);
    }
}

#[test]
fn the_domain_tells_of_itself() {
    check("dns-version", Kind::Txt, &["TXT 1.1.0"]);
    check("cluster.local.", Kind::Soa, &["SOA"]);
    check("cluster.local.", Kind::A, EMPTY);
    check(
        "cluster.local.",
        Kind::Ns,
        &[
            "NS ns.dns.cluster.local",
            "+ ns.dns.cluster.local A 10.96.0.10",
        ],
    );
    check(
        "10.0.96.10.in-addr.arpa.",
        Kind::Ptr,
        &["PTR kube-dns.kube-system.svc.cluster.local"],
    );
    check("kube-dns.kube-system.svc", Kind::A, &["A 10.96.0.10"]);
}

#[test]
fn case_does_not_matter() {
    check("WEB.Default.SVC", Kind::A, &["A 10.96.0.5"]);
    check("_HTTP._TCP.nginx.default.svc", Kind::Txt, EMPTY);
    check("DNS-version.CLUSTER.local.", Kind::Txt, &["TXT 1.1.0"]);
}

#[test]
fn names_above_exist_without_records_and_others_do_not() {
    // statefulset.md 10.5
    for name in [
        "svc",
        "default.svc",
        "empty.svc",
        "default.pod",
        "empty.pod",
        "pod",
    ] {
        check(name, Kind::A, EMPTY);
    }
    for name in [
        "nothing.default.svc",
        "other.svc",
        "other.pod",
        "x",
        "a.b.c.d",
        "svc.svc",
    ] {
        check(name, Kind::A, NX);
    }
    for name in [
        "example.com.",
        "local.",
        "notcluster.local.",
        "",
        "8.8.8.8.in-addr.arpa.",
    ] {
        check(if name.is_empty() { "." } else { name }, Kind::A, NOT_OURS);
    }
    check("99.0.244.10.in-addr.arpa.", Kind::Ptr, NX);
    check("244.10.in-addr.arpa.", Kind::Ptr, NOT_OURS);
}

#[test]
fn a_pods_address_is_a_name() {
    // statefulset.md 10.6
    check("10-244-0-77.default.pod", Kind::A, &["A 10.244.0.77"]);
    check("10-244-0-77.default.pod", Kind::Aaaa, EMPTY);
    check("10-244-0-77.other.pod", Kind::A, NX);
    check("web-0.default.pod", Kind::A, NX);
}

#[test]
fn a_dns_service_is_preferred_to_the_invented_name() {
    let settings = Settings {
        domain: "cluster.local".to_owned(),
        dns_addresses: vec!["10.96.0.10".parse().unwrap()],
        ranges: Vec::new(),
    };
    let dns = service(
        "names",
        json!({ "clusterIP": "10.96.0.10", "ports": http() }),
    );
    let zone = built(settings, &[], &[dns], &[]);
    let name = zone.lookup("10.0.96.10.in-addr.arpa", Kind::Ptr);
    let expected = Data::Ptr("names.default.svc.cluster.local".to_owned());
    assert_eq!(
        name,
        LookupResult::Records {
            records: vec![expected],
            additional: Vec::new()
        }
    );
    let invented = zone.lookup("kube-dns.kube-system.svc.cluster.local", Kind::A);
    assert_eq!(invented, LookupResult::NoSuchName);
}

#[test]
fn unfinished_names_of_the_cluster_are_told_from_others() {
    for name in [
        "web-9",
        "web-9.nginx.",
        "Web.Default",
        "web.default.svc",
        "x.empty",
    ] {
        assert!(zone().resembles(name), "{name}");
    }
    for name in ["example.com", "a.b.c", "cluster.local"] {
        assert!(!zone().resembles(name), "{name}");
    }
}
