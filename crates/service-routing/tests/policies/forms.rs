//! Each form of a policy. The comments quote the API's own description of the fields.

use serde_json::{Value, json};
use service_routing::{
    Connection, Direction, Policy, PolicyJudgement, Protocol, Table, apply, changes, denied,
    filters, judge, passes, tightens,
};

use crate::cluster::{Cluster, connection};

const WEB: &str = "10.244.0.2";
const DB: &str = "10.244.0.3";
const JOB: &str = "10.244.0.4";
const LAB: &str = "10.244.0.5";
const FAR: &str = "10.244.1.6";
const OUTSIDE: &str = "192.0.2.7";

/// The clients that reach the pod `db` at the port, under policies of its namespace.
#[track_caller]
fn reach_db(policies: &[Value], port: &str, expected: &[&str]) {
    let mut cluster = Cluster::new();
    for spec in policies {
        cluster.policy(spec.clone());
    }
    let all = [WEB, JOB, LAB, FAR, OUTSIDE].into_iter();
    let reach: Vec<&str> = all.filter(|from| cluster.passes(from, DB, port)).collect();
    assert_eq!(reach, expected, "{port} {policies:?}\n{}", cluster.table());
}

/// The servers that the pod `db` reaches at the port.
#[track_caller]
fn reached_by_db(policies: &[Value], port: &str, expected: &[&str]) {
    let mut cluster = Cluster::new();
    for spec in policies {
        cluster.policy(spec.clone());
    }
    let all = [WEB, JOB, LAB, FAR, OUTSIDE].into_iter();
    let reached: Vec<&str> = all.filter(|to| cluster.passes(DB, to, port)).collect();
    assert_eq!(
        reached,
        expected,
        "{port} {policies:?}\n{}",
        cluster.table()
    );
}

const ALL: [&str; 5] = [WEB, JOB, LAB, FAR, OUTSIDE];

fn db(ingress: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": ingress})
}

fn from(peers: Value) -> Value {
    db(json!([{"from": peers}]))
}

#[test]
fn without_a_policy_everything_passes() {
    reach_db(&[], "tcp 80", &ALL);
    assert_eq!(Cluster::new().table(), Table::default());
}

/// "If this field is empty then this NetworkPolicy does not allow any traffic"; "an empty selector
/// matches all pods in the policy's namespace".
#[test]
fn a_policy_without_rules_isolates_the_pods_of_its_namespace() {
    for selector in [json!({}), Value::Null] {
        let deny = json!({"podSelector": selector, "policyTypes": ["Ingress"]});
        reach_db(std::slice::from_ref(&deny), "tcp 80", &[]);
        reach_db(std::slice::from_ref(&deny), "icmp", &[]);
        reached_by_db(std::slice::from_ref(&deny), "tcp 80", &[LAB, FAR, OUTSIDE]);
    }
}

/// A policy that selects other pods does not isolate this pod.
#[test]
fn a_pod_that_no_policy_selects_is_not_isolated() {
    let other = json!({"podSelector": {"matchLabels": {"app": "other"}}});
    reach_db(&[other], "tcp 80", &ALL);
    let expression = |operator: &str| {
        let expression = json!({"key": "app", "operator": operator, "values": ["db"]});
        json!({"podSelector": {"matchExpressions": [expression]}})
    };
    reach_db(&[expression("NotIn")], "tcp 80", &ALL);
    reach_db(&[expression("In")], "tcp 80", &[]);
}

/// "If this field is not specified, it will default based on the existence of ingress or egress
/// rules; policies that contain an egress section are assumed to affect egress, and all policies are
/// assumed to affect ingress."
#[test]
fn the_directions_follow_from_the_rules() {
    let with = |types: Value, egress: Value| {
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": types,
            "egress": egress})
    };
    let to_job = || json!([{"to": [{"podSelector": {"matchLabels": {"app": "job"}}}]}]);
    for (policy, reach, reached) in [
        (with(Value::Null, Value::Null), &[][..], &ALL[..]),
        (with(Value::Null, to_job()), &[], &[JOB]),
        (with(json!(["Egress"]), to_job()), &ALL, &[JOB]),
        (with(json!(["Egress"]), Value::Null), &ALL, &[]),
        (with(json!(["Ingress"]), to_job()), &[], &ALL),
        (with(json!(["Ingress", "Egress"]), Value::Null), &[], &[]),
    ] {
        reach_db(std::slice::from_ref(&policy), "tcp 80", reach);
        reached_by_db(std::slice::from_ref(&policy), "tcp 80", reached);
    }
}

/// "If this field is empty or missing, this rule matches all sources"; ports likewise.
#[test]
fn an_empty_rule_allows_everything() {
    for rule in [json!({}), json!({"from": [], "ports": []})] {
        for port in ["tcp 80", "udp 5000", "sctp 7", "icmp"] {
            reach_db(&[db(json!([rule]))], port, &ALL);
        }
    }
}

/// "If namespaceSelector is also set, then the NetworkPolicyPeer as a whole selects the pods
/// matching podSelector in the namespaces selected by namespaceSelector. Otherwise it selects the
/// pods matching podSelector in the policy's own namespace."
#[test]
fn peers_are_pods_by_their_labels_and_namespaces() {
    let web = || json!({"matchLabels": {"app": "web"}});
    let lab = || json!({"matchLabels": {"team": "lab"}});
    for (peers, expected) in [
        (json!([{"podSelector": web()}]), &[WEB][..]),
        (json!([{"podSelector": {}}]), &[WEB, JOB, FAR]),
        (json!([{"namespaceSelector": lab()}]), &[LAB]),
        (json!([{"namespaceSelector": {}}]), &[WEB, JOB, LAB, FAR]),
        (
            json!([{"namespaceSelector": {}, "podSelector": web()}]),
            &[WEB, LAB],
        ),
        (
            json!([{"namespaceSelector": lab(), "podSelector": web()}]),
            &[LAB],
        ),
        (
            json!([{"namespaceSelector": {}, "podSelector": {}}]),
            &[WEB, JOB, LAB, FAR],
        ),
        // Two peers; a connection from either peer passes.
        (
            json!([{"namespaceSelector": lab()}, {"podSelector": web()}]),
            &[WEB, LAB],
        ),
        (
            json!([{"namespaceSelector": {"matchExpressions": [
                {"key": "team", "operator": "DoesNotExist"}]}}]),
            &[],
        ),
    ] {
        reach_db(&[from(peers)], "tcp 80", expected);
    }
}

/// "except is a slice of CIDRs that should not be included within an IPBlock."
#[test]
fn blocks_are_addresses_with_exceptions() {
    let block =
        |range: &str, except: &[&str]| json!([{"ipBlock": {"cidr": range, "except": except}}]);
    for (peers, expected) in [
        (block("192.0.2.0/24", &[]), &[OUTSIDE][..]),
        (block("0.0.0.0/0", &[]), &ALL),
        (block("0.0.0.0/0", &["192.0.2.0/24"]), &[WEB, JOB, LAB, FAR]),
        (
            block("0.0.0.0/0", &["192.0.2.7/32", "10.244.1.0/24"]),
            &[WEB, JOB, LAB],
        ),
        // Bits after the prefix are ignored.
        (block("192.0.2.99/24", &[]), &[OUTSIDE]),
        // A block of the other family contains no address of this family.
        (block("2001:db8::/32", &[]), &[]),
        (block("::/0", &["2001:db8::/32"]), &[]),
        // A text that is no range allows nothing.
        (block("all", &[]), &[]),
        (block("0.0.0.0/0", &["some"]), &[]),
    ] {
        reach_db(&[from(peers)], "tcp 80", expected);
    }
    // An exception belongs to its block only.
    let both = json!([
        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.7/32"]}},
        {"ipBlock": {"cidr": "192.0.2.0/29"}}]);
    reach_db(&[from(both)], "tcp 80", &[OUTSIDE]);
}

/// "This can either be a numerical or named port on a pod. If this field is not provided, this
/// matches all port names and numbers."; "endPort indicates that the range of ports from port to
/// endPort if set, inclusive, should be allowed".
#[test]
fn ports_are_numbers_ranges_and_names() {
    let allowed = |ports: Value, port: &str| {
        let mut cluster = Cluster::new();
        cluster.policy(db(json!([{"ports": ports}])));
        cluster.passes(WEB, DB, port)
    };
    for (ports, port, expected) in [
        (json!([{"port": 80}]), "tcp 80", true),
        (json!([{"port": 80}]), "tcp 81", false),
        (json!([{"port": 80}]), "udp 80", false),
        (json!([{"port": 80}]), "icmp", false),
        (json!([{"port": 80, "protocol": "SCTP"}]), "sctp 80", true),
        (json!([{"port": 80, "endPort": 82}]), "tcp 82", true),
        (json!([{"port": 80, "endPort": 82}]), "tcp 83", false),
        (json!([{"port": 80, "endPort": 79}]), "tcp 80", false),
        (json!([{"port": 80, "endPort": 80}]), "tcp 80", true),
        (json!([{"protocol": "UDP"}]), "udp 9", true),
        (json!([{"protocol": "UDP"}]), "tcp 9", false),
        (json!([{}]), "tcp 9", true),
        (json!([{"port": "http"}]), "tcp 80", true),
        (json!([{"port": "http"}]), "tcp 81", false),
        (json!([{"port": "dns"}]), "udp 53", false),
        (json!([{"port": "dns", "protocol": "UDP"}]), "udp 53", true),
        (json!([{"port": "unknown"}]), "tcp 80", false),
        (
            json!([{"port": "a-name-that-no-port-can-have"}]),
            "tcp 80",
            false,
        ),
        (json!([{"port": 70_000}]), "tcp 80", false),
        (json!([{"port": 9}, {"port": "http"}]), "tcp 80", true),
    ] {
        assert_eq!(allowed(ports.clone(), port), expected, "{ports} {port}");
    }
}

/// "The traffic must match both ports and from."
#[test]
fn a_rule_needs_a_peer_and_a_port() {
    let web = || json!([{"podSelector": {"matchLabels": {"app": "web"}}}]);
    let job = || json!([{"podSelector": {"matchLabels": {"app": "job"}}}]);
    let rules = db(json!([
        {"from": web(), "ports": [{"port": 80}]}, {"from": job(), "ports": [{"port": 81}]}]));
    reach_db(std::slice::from_ref(&rules), "tcp 80", &[WEB]);
    reach_db(std::slice::from_ref(&rules), "tcp 81", &[JOB]);
}

/// "Multiple network policies can select the same set of pods. In this case, the ingress rules for
/// each are combined additively."
#[test]
fn policies_add_up() {
    let web = from(json!([{"podSelector": {"matchLabels": {"app": "web"}}}]));
    let lab = from(json!([{"namespaceSelector": {"matchLabels": {"team": "lab"}}}]));
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let outside = from(json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]));
    reach_db(&[web, lab, outside.clone()], "tcp 80", &[WEB, LAB, OUTSIDE]);
    reach_db(&[outside, deny], "tcp 80", &[OUTSIDE]);
}

/// The named port of the destination counts; the ports of the source do not matter.
#[test]
fn egress_to_a_named_port_is_to_the_peers_own_port() {
    let mut cluster = Cluster::new();
    cluster.pods[0]["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(8080);
    cluster.policy(json!({"podSelector": {"matchLabels": {"app": "db"}},
        "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]}));
    for (to, port, expected) in [
        (WEB, "tcp 8080", true),
        (WEB, "tcp 80", false),
        (JOB, "tcp 80", true),
        (OUTSIDE, "tcp 80", false),
    ] {
        assert_eq!(cluster.passes(DB, to, port), expected, "{to} {port}");
    }
}

/// Both ends decide: the client's egress and the server's ingress.
#[test]
fn a_connection_must_pass_at_both_ends() {
    let mut cluster = Cluster::new();
    cluster.policy(json!({"podSelector": {"matchLabels": {"app": "web"}},
        "policyTypes": ["Egress"]}));
    assert!(!cluster.passes(WEB, DB, "tcp 80"));
    assert!(cluster.passes(DB, WEB, "tcp 80"));
    assert!(cluster.passes(WEB, WEB, "tcp 80"), "a pod reaches itself");
    assert!(cluster.passes(JOB, DB, "tcp 80"));
}

#[test]
fn pods_on_their_nodes_network_are_no_peers_and_are_not_selected() {
    let mut cluster = Cluster::new();
    for pod in [0, 1] {
        cluster.pods[pod]["spec"]["hostNetwork"] = json!(true);
    }
    cluster.policy(json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}));
    assert!(cluster.passes(OUTSIDE, DB, "tcp 80"), "it is not selected");
    assert!(!cluster.passes(WEB, JOB, "tcp 80"), "it is no peer");
    assert!(cluster.passes(FAR, JOB, "tcp 80"));
}

#[test]
fn pods_that_have_ended_are_no_peers() {
    let mut cluster = Cluster::new();
    cluster.pods[4]["status"]["phase"] = json!("Succeeded");
    cluster.policy(json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}));
    assert!(
        !cluster.passes(FAR, DB, "tcp 80"),
        "the address may be another pod's"
    );
    assert!(cluster.passes(WEB, DB, "tcp 80"));
}

/// Each node filters the connections of its own pods.
#[test]
fn pods_of_other_nodes_are_left_to_them() {
    let mut cluster = Cluster::new();
    cluster.policy(json!({"podSelector": {"matchLabels": {"app": "far"}}}));
    assert_eq!(cluster.table(), Table::default());
}

/// An added or removed peer is one element.
#[test]
fn a_new_peer_is_one_element() {
    let mut cluster = Cluster::new();
    cluster.policy(from(
        json!([{"podSelector": {"matchLabels": {"app": "new"}}}]),
    ));
    let before = cluster.table();
    cluster.pod("shop", "new", "10.244.0.9");
    let after = cluster.table();
    let steps: Vec<String> = changes(&before, &after)
        .iter()
        .map(|step| format!("{step:?}"))
        .collect();
    let expected = r#"AddMembers("policy/uid-p0/ingress/0", [Address(10.244.0.9)])"#;
    assert_eq!(steps, [expected]);
    assert!(!tightens(&changes(&before, &after)));
    assert!(tightens(&changes(&after, &before)));
}

// findings-2 S36
#[test]
fn no_rule_grows_with_the_number_of_blocks_exceptions_and_ports() {
    let mut cluster = Cluster::new();
    let except: Vec<String> = (0..20_000_u32)
        .map(|number| format!("10.{}.{}.0/32", number / 256, number % 256))
        .collect();
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": except}});
    let blocks = (0..1000_u32).map(|number| {
        let cidr = format!("172.16.{}.{}/32", number / 256, number % 256);
        json!({"ipBlock": {"cidr": cidr}})
    });
    let peers: Vec<Value> = std::iter::once(block).chain(blocks).collect();
    let ports: Vec<Value> = (1..2000).map(|port| json!({"port": port})).collect();
    cluster.policy(db(json!([{"from": peers, "ports": ports}])));
    let table = cluster.table();
    let rules: Vec<_> = table
        .chains
        .values()
        .flat_map(|chain| &chain.rules)
        .collect();
    assert!(rules.iter().all(|rule| rule.matches.len() <= 2));
    assert_eq!(rules.len(), 11, "{} rules", rules.len());
    let passes = |source: [u8; 4]| {
        let connection = Connection {
            source: source.into(),
            destination: [10, 244, 0, 3].into(),
            port: Some((Protocol::Tcp, 80)),
        };
        passes(&table, &connection)
    };
    assert!(passes([10, 0, 7, 1]) && passes([172, 16, 3, 7]) && passes([10, 255, 255, 255]));
    assert!(!passes([10, 0, 7, 0]) && !passes([172, 16, 4, 7]) && !passes([11, 0, 0, 0]));
}

// findings-2 S36
#[test]
fn a_policy_that_the_kernel_refuses_allows_nothing_and_no_more() {
    let mut cluster = Cluster::new();
    cluster.policy(db(json!([{}])));
    let mut state = cluster.state();
    let uid = state.policies.keys().next().unwrap().clone();
    state.left_out.insert(uid);
    let closed = filters(&state);
    let connection = |source: [u8; 4], destination: [u8; 4]| Connection {
        source: source.into(),
        destination: destination.into(),
        port: Some((Protocol::Tcp, 80)),
    };
    let (db, web) = ([10, 244, 0, 3], [10, 244, 0, 2]);
    assert!(passes(&cluster.table(), &connection(web, db)));
    assert!(!passes(&closed, &connection(web, db)));
    // The policy restricts only the ingress of one pod.
    assert!(passes(&closed, &connection(db, web)));
    assert!(passes(&closed, &connection([192, 0, 2, 1], web)));
}

#[test]
fn the_table_of_a_pod() {
    let mut cluster = Cluster::new();
    cluster.policy(db(json!([
        {"from": [{"podSelector": {"matchLabels": {"app": "web"}}},
            {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.7/32"]}}],
         "ports": [{"port": "http"}, {"port": 90, "endPort": 99}]}])));
    let expected = "\
filtered-ingress: 10.244.0.3 -> goto policy/ingress/10.244.0.3
filtered-egress: 10.244.0.3 -> goto policy/egress/10.244.0.3
set policy/tcp/http, 10.244.0.2 tcp 80, 10.244.0.3 tcp 80, 10.244.0.4 tcp 80, 10.244.0.5 tcp 80, \
10.244.1.6 tcp 80
set policy/uid-p0/ingress/0, 10.244.0.2
set policy/uid-p0/ingress/0/blocks/353ba96bda466a72, 192.0.2.0-192.0.2.6, 192.0.2.8-192.0.2.255
policy-egress: ct established accept
policy-egress: vmap @filtered-egress
policy-ingress: ct established accept
policy-ingress: vmap @filtered-ingress
policy/egress/10.244.0.3: tcp != syn drop
policy/ingress/10.244.0.3: tcp != syn drop
policy/ingress/10.244.0.3: saddr 10.244.0.3/32 accept
policy/ingress/10.244.0.3: jump policy/uid-p0/ingress
policy/ingress/10.244.0.3: drop
policy/uid-p0/ingress: saddr @policy/uid-p0/ingress/0/blocks/353ba96bda466a72 jump policy/uid-p0/ingress/0/ports
policy/uid-p0/ingress: saddr @policy/uid-p0/ingress/0 jump policy/uid-p0/ingress/0/ports
policy/uid-p0/ingress/0/ports: tcp dport 90-99 accept
policy/uid-p0/ingress/0/ports: daddr . proto . dport @policy/tcp/http accept
";
    assert_eq!(cluster.table().to_string(), expected);
}

/// A new policy ends connections through the node; connections of the node itself stay.
#[test]
fn connections_that_may_not_begin_any_more_are_found() {
    let mut cluster = Cluster::new();
    cluster.policy(from(
        json!([{"podSelector": {"matchLabels": {"app": "web"}}}]),
    ));
    let node = "10.244.0.1";
    let connections = [
        connection(WEB, DB, "tcp 80"),
        connection(JOB, DB, "tcp 80"),
        connection(node, DB, "tcp 80"),
        connection(DB, node, "tcp 80"),
        connection(OUTSIDE, DB, "icmp"),
        connection(OUTSIDE, WEB, "tcp 80"),
    ];
    let is_local = |address: std::net::Ipv4Addr| address.to_string() == node;
    assert_eq!(denied(&cluster.table(), &connections, is_local), [1, 4]);
}

/// The kernel accepts each step from no policy to many, and back.
#[test]
fn the_table_is_made_and_removed() {
    let mut cluster = Cluster::new();
    let none = cluster.table();
    cluster.policy(from(json!([{"podSelector": {}}])));
    let one = cluster.table();
    cluster.policy(db(json!([{"ports": [{"port": "http"}]}])));
    let two = cluster.table();
    for (old, new) in [(&none, &one), (&one, &two), (&two, &one), (&two, &none)] {
        assert_eq!(apply(old.clone(), &changes(old, new)).as_ref(), Ok(new));
    }
}

/// docs/network-policy.md: `mainstay why` names the policies that decide about a connection.
#[test]
fn the_policies_of_a_decision_are_named() {
    let mut cluster = Cluster::new();
    cluster.policy(json!({"podSelector": {}}));
    cluster.policy(json!({"podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 80}]}]}));
    cluster
        .policy(json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}));
    let (state, table) = (cluster.state(), cluster.table());
    let judged = |from: &str, to: &str, direction: Direction| {
        let connection = connection(from, to, "tcp 80");
        let names = |policies: Vec<&Policy>| {
            let names = policies.iter().map(|policy| policy.name.as_str());
            names.collect::<Vec<_>>().join(",")
        };
        match judge(&state, &table, &connection, direction) {
            PolicyJudgement::Open => "open".to_owned(),
            PolicyJudgement::Itself => "itself".to_owned(),
            PolicyJudgement::Allowed(by) => format!("allowed by {}", names(by)),
            PolicyJudgement::Dropped(by) => format!("dropped by {}", names(by)),
        }
    };
    use Direction::{Egress, Ingress};
    assert_eq!(judged(WEB, DB, Ingress), "allowed by p1");
    assert_eq!(judged(WEB, DB, Egress), "dropped by p2");
    assert_eq!(judged(JOB, DB, Ingress), "dropped by p0,p1");
    assert_eq!(judged(JOB, DB, Egress), "open");
    assert_eq!(judged(WEB, WEB, Egress), "itself");
    assert_eq!(judged(LAB, FAR, Ingress), "open", "another node decides");
}
