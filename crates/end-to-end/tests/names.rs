//! DNS names, queried by common resolvers: BIND's `dig`, glibc, musl, busybox (statefulset.md 10.1, 10.2, 10.4, 10.5,
//! T38).

use std::collections::BTreeSet;

use end_to_end::applications::resolvers;
use end_to_end::stateful_set::web;
use end_to_end::{Kubectl, text, wait_for, with_registry_of};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: vip}
spec:
  selector: {app: web}
  ports: [{name: http, port: 8080, targetPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: db.example.com}
---
apiVersion: v1
kind: Pod
metadata: {name: asks}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: resolvers:1
    command: [sleep, 1d]
";

const ZONE: &str = "default.svc.cluster.local";

/// Runs a command in the pod with the resolvers.
struct DnsClient(Kubectl);

impl DnsClient {
    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let command = ["exec", "asks", "--", "sh", "-c", line];
        self.0.run(&command).expect_success(line)
    }

    /// The lines that `dig` prints of a response, in order.
    #[track_caller]
    fn dig(&self, query: &str) -> Vec<String> {
        let response = self.ok(&format!("dig +short {query}"));
        let mut lines: Vec<String> = response.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

#[test]
fn every_resolver_finds_the_names() {
    let (_registry, instance) = with_registry_of(&[("library/resolvers", "1", &resolvers())]);
    let kubectl = instance.kubectl();
    kubectl.apply(SERVICES);
    kubectl.apply(&web(2).to_string());
    kubectl.wait_ready("web", 2);
    kubectl.wait_pods_ready(&["pod/asks"]);
    let pods = ["web-0", "web-1"].map(|pod| kubectl.pod_ip(pod));
    let vip = kubectl.json(&["get", "service", "vip"]);
    let vip = text(&vip, "/spec/clusterIP").to_owned();
    let client = DnsClient(kubectl.clone());
    wait_for("both pods by name", 60, || {
        let records_of_name = client.dig(&format!("web.{ZONE}"));
        if records_of_name.len() == 2 {
            Ok(())
        } else {
            Err(records_of_name)
        }
    });
    records(&client, &pods, &vip);
    missing_names(&client);
    forms_of_queries(&client, &pods[0]);
    libraries(&client, &pods, &vip);
    a_name_follows_its_pod(&client, &pods[0]);
}

/// statefulset.md 10.1, 10.2, 10.4
fn records(client: &DnsClient, pods: &[String; 2], vip: &str) {
    let mut both = pods.to_vec();
    both.sort();
    assert_eq!(client.dig(&format!("web.{ZONE}")), both);
    assert_eq!(client.dig(&format!("web-1.web.{ZONE}")), [pods[1].as_str()]);
    assert_eq!(client.dig(&format!("vip.{ZONE}")), [vip]);
    let members: BTreeSet<String> = client
        .dig(&format!("SRV _http._tcp.web.{ZONE}"))
        .iter()
        .map(|line| line.split_once(' ').expect("a priority").1.to_owned())
        .collect();
    let expected = [0, 1].map(|ordinal| format!("50 80 web-{ordinal}.web.{ZONE}."));
    assert_eq!(members, BTreeSet::from(expected));
    let port = client.dig(&format!("SRV _http._tcp.vip.{ZONE}"));
    assert_eq!(port, [format!("0 100 8080 vip.{ZONE}.")]);
    assert_eq!(
        client.dig(&format!("-x {}", pods[0])),
        [format!("web-0.web.{ZONE}.")]
    );
    assert_eq!(client.dig(&format!("-x {vip}")), [format!("vip.{ZONE}.")]);
    let alias = client.dig(&format!("CNAME elsewhere.{ZONE}"));
    assert_eq!(alias, ["db.example.com."]);
    assert_eq!(client.dig("TXT dns-version.cluster.local"), ["\"1.1.0\""]);
}

/// statefulset.md 10.5
fn missing_names(client: &DnsClient) {
    let of_v6 = client.ok(&format!("dig AAAA web-0.web.{ZONE}"));
    assert!(
        of_v6.contains("status: NOERROR") && of_v6.contains("ANSWER: 0"),
        "{of_v6}"
    );
    let unknown = client.ok(&format!("dig web-7.web.{ZONE}"));
    assert!(unknown.contains("status: NXDOMAIN"), "{unknown}");
    assert!(unknown.contains("SOA"), "{unknown}");
}

/// Letter case, TCP, with and without EDNS.
fn forms_of_queries(client: &DnsClient, address: &str) {
    for options in ["", "+tcp", "+noedns", "+bufsize=512", "+tcp +noedns"] {
        let query = format!("{options} WEB-0.Web.{ZONE}");
        assert_eq!(client.dig(&query), [address], "{query}");
    }
    let whole = client.ok(&format!("dig WEB-0.Web.{ZONE}"));
    assert!(whole.contains(&format!("WEB-0.Web.{ZONE}.")), "{whole}");
    assert!(whole.contains("EDNS: version: 0"), "{whole}");
}

/// Short names by the search path: glibc, musl, the present and an old busybox.
fn libraries(client: &DnsClient, pods: &[String; 2], vip: &str) {
    for (name, address) in [
        ("web-0.web", pods[0].as_str()),
        ("web-1.web.default", &pods[1]),
        ("vip", vip),
        ("vip.default.svc.cluster.local.", vip),
    ] {
        let glibc = client.ok(&format!("getent ahosts {name}"));
        assert!(glibc.starts_with(&format!("{address} ")), "{name}: {glibc}");
        let musl = client.ok(&format!("musl-getaddrinfo {name}"));
        assert_eq!(musl, format!("{address}\n"), "{name}");
        // The old nslookup queries both families, and a name for each address.
        let old = client.ok(&format!("/usr/local/old/nslookup {name}"));
        let header = format!("Name:      {name}\nAddress 1: {address} ");
        assert!(old.contains(&header) && !old.contains("Address 2"), "{old}");
    }
    for resolver in ["getent ahosts", "musl-getaddrinfo"] {
        let missing = client.ok(&format!("{resolver} web-9.web || echo missing"));
        assert!(missing.ends_with("missing\n"), "{resolver}: {missing}");
    }
    let missing = client.ok("/usr/local/old/nslookup web-9.web 2>&1 || echo missing");
    let message = "nslookup: can't resolve 'web-9.web'\nmissing\n";
    assert!(missing.ends_with(message), "{missing}");
    // Since 1.29 busybox does not complete short names, which surprises readers of old articles.
    let short = client.ok("busybox nslookup web-0.web || true");
    assert!(short.contains("can't find web-0.web: NXDOMAIN"), "{short}");
    let header = client.ok(&format!("busybox nslookup web-0.web.{ZONE}"));
    assert!(
        header.contains(&format!("Address: {}\n", pods[0])),
        "{header}"
    );
}

/// T38: the name of a recreated pod resolves at once.
fn a_name_follows_its_pod(client: &DnsClient, before: &str) {
    client.0.ok(&["delete", "pod", "web-0"]);
    client.0.wait_ready("web", 2);
    let now = client.0.pod_ip("web-0");
    assert_ne!(now, before);
    wait_for("the new address", 60, || {
        let lookup = client.ok("musl-getaddrinfo web-0.web || true");
        if lookup.trim() == now {
            Ok(())
        } else {
            Err(lookup)
        }
    });
}
