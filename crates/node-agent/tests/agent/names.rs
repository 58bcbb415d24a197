//! The host names of a pod inside its containers, and its name resolution.

use json_tree::{Value, json};

use crate::harness::Harness;
use crate::pods::SLEEP;
use crate::spec::shell;

/// The parts of a container's output: its host names, and its files for name resolution.
struct NameOutput {
    names: String,
    resolver: String,
    hosts: String,
}

async fn output(harness: &Harness, name: &str, fields: Value) -> NameOutput {
    let script = format!(
        "hostname; cat /etc/hostname; echo $HOSTNAME; echo ==; cat /etc/resolv.conf; echo ==; \
         cat /etc/hosts; echo ==; {SLEEP}"
    );
    let mut spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": shell(&script)}]});
    for (field, value) in fields.as_object().unwrap() {
        spec[field] = value.clone();
    }
    harness.pod(name, spec).await;
    harness.ready(name).await;
    let log = loop {
        let log = harness.logged(name, "c", "==").await;
        if log.matches("==\n").count() == 3 {
            break log;
        }
    };
    let mut parts = log.split("==\n").map(str::to_owned);
    let mut next = || parts.next().unwrap();
    NameOutput {
        names: next(),
        resolver: next(),
        hosts: next(),
    }
}

/// The lines of the node's resolver configuration that start with `word`.
fn node_resolver(word: &str) -> Vec<String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let lines = text.lines().filter(|line| line.starts_with(word));
    lines.map(str::to_owned).collect()
}

fn lines(text: &str, word: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with(word));
    lines.map(str::to_owned).collect()
}

pub async fn names_and_resolvers_are_as_asked() {
    // statefulset.md 10.12, 10.13
    let harness = Harness::started("names").await;
    check_fqdn_and_limits(&harness).await;
    check_policies_without_cluster(&harness).await;
    check_host_network(&harness).await;
    check_long_fqdn(&harness).await;
    harness.end().await;
}

async fn check_fqdn_and_limits(harness: &Harness) {
    let search = "default.svc.cluster.local svc.cluster.local cluster.local";
    let first = output(
        harness,
        "first",
        json!({"hostname": "db-0", "subdomain": "db", "setHostnameAsFQDN": true,
            "dnsPolicy": "ClusterFirst",
            "dnsConfig": {"nameservers": ["192.0.2.7", "192.0.2.8", "192.0.2.9"],
                "searches": ["example.org"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]},
            "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["one", "uno"]},
                {"ip": "192.0.2.2", "hostnames": ["two"]}]}),
    )
    .await;
    let whole = "db-0.db.default.svc.cluster.local\n";
    assert_eq!(first.names, whole.repeat(3));
    // A resolver uses at most three servers.
    let servers = ["10.96.0.10", "192.0.2.7", "192.0.2.8"].map(|ip| format!("nameserver {ip}"));
    assert_eq!(lines(&first.resolver, "nameserver"), servers);
    let omitted = "Warning DNSConfigForming Nameserver limits were exceeded";
    harness.event("first", omitted).await;
    let searches = lines(&first.resolver, "search").remove(0);
    assert!(
        searches.starts_with(&format!("search {search}")),
        "{searches}"
    );
    assert!(searches.ends_with(" example.org"), "{searches}");
    assert_eq!(lines(&first.resolver, "options"), ["options ndots:2 edns0"]);
    let aliases = "\n# Entries added by HostAliases.\n192.0.2.1\tone\tuno\n192.0.2.2\ttwo\n";
    assert!(first.hosts.ends_with(aliases), "{}", first.hosts);
    assert!(
        first
            .hosts
            .contains("\tdb-0.db.default.svc.cluster.local\tdb-0\n")
    );
}

/// The DNS policies `None` and `Default`.
async fn check_policies_without_cluster(harness: &Harness) {
    let none = output(
        harness,
        "none",
        json!({"subdomain": "db", "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["192.0.2.7"], "searches": ["a.example", "b.example"]}}),
    )
    .await;
    // The host name of a pod without `hostname` is the name of the object.
    assert_eq!(none.names, "none\n".repeat(3));
    assert_eq!(
        none.resolver,
        "search a.example b.example\nnameserver 192.0.2.7\n"
    );
    assert!(
        none.hosts
            .contains("\tnone.db.default.svc.cluster.local\tnone\n")
    );

    let usual = output(harness, "usual", json!({"dnsPolicy": "Default"})).await;
    for word in ["nameserver", "search", "options"] {
        assert_eq!(lines(&usual.resolver, word), node_resolver(word));
    }
    assert!(usual.hosts.ends_with("\tusual\n"), "{}", usual.hosts);
}

/// On the host network, the host name is the node's, even if the pod requests another name.
async fn check_host_network(harness: &Harness) {
    let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let alias = json!([{"ip": "192.0.2.1", "hostnames": ["one"]}]);
    let both = json!({"hostNetwork": true, "hostname": "db-0", "hostAliases": alias,
        "dnsPolicy": "ClusterFirstWithHostNet"});
    let host = output(harness, "host", both).await;
    assert_eq!(host.names, node.repeat(3));
    assert_eq!(
        lines(&host.resolver, "nameserver"),
        ["nameserver 10.96.0.10"]
    );
    assert_eq!(lines(&host.resolver, "options"), ["options ndots:5"]);
    let of_node = std::fs::read_to_string("/etc/hosts").unwrap();
    let expected = format!(
        "# Kubernetes-managed hosts file (host network).\n{of_node}\n\
         # Entries added by HostAliases.\n192.0.2.1\tone\n"
    );
    assert_eq!(host.hosts, expected);
    let first = json!({"hostNetwork": true, "dnsPolicy": "ClusterFirst"});
    let first = output(harness, "host-first", first).await;
    assert_eq!(
        lines(&first.resolver, "nameserver"),
        node_resolver("nameserver")
    );
}

async fn check_long_fqdn(harness: &Harness) {
    let long = json!({"hostname": "d".repeat(40), "subdomain": "b", "setHostnameAsFQDN": true,
        "containers": [{"name": "c", "command": shell(SLEEP)}]});
    harness.pod("long", long).await;
    let name = format!("{}.b.default.svc.cluster.local", "d".repeat(40));
    let message = format!(
        "Warning FailedCreatePodSandBox Failed to create pod sandbox: failed to construct FQDN \
         from pod hostname and cluster domain, FQDN {name} is too long (64 characters is the max, \
         {} characters requested)",
        name.len()
    );
    harness.event("long", &message).await;
}
