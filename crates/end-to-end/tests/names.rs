//! Names, asked for by the resolvers that people use: BIND's `dig`, glibc, musl, busybox
//! (statefulset.md 10.1, 10.2, 10.4, 10.5, T38).

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

/// Runs a command in the pod that asks.
struct Asker(Kubectl);

impl Asker {
    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let command = ["exec", "asks", "--", "sh", "-c", line];
        self.0.run(&command).expect_success(line)
    }

    /// The lines that `dig` prints of an answer, in order.
    #[track_caller]
    fn dig(&self, question: &str) -> Vec<String> {
        let answer = self.ok(&format!("dig +short {question}"));
        let mut lines: Vec<String> = answer.lines().map(str::to_owned).collect();
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
    let asks = Asker(kubectl.clone());
    wait_for("both pods by name", 60, || {
        let found = asks.dig(&format!("web.{ZONE}"));
        if found.len() == 2 { Ok(()) } else { Err(found) }
    });
    records(&asks, &pods, &vip);
    what_is_not_there(&asks);
    forms_of_questions(&asks, &pods[0]);
    libraries(&asks, &pods, &vip);
    a_name_follows_its_pod(&asks, &pods[0]);
}

/// statefulset.md 10.1, 10.2, 10.4
fn records(asks: &Asker, pods: &[String; 2], vip: &str) {
    let mut both = pods.to_vec();
    both.sort();
    assert_eq!(asks.dig(&format!("web.{ZONE}")), both);
    assert_eq!(asks.dig(&format!("web-1.web.{ZONE}")), [pods[1].as_str()]);
    assert_eq!(asks.dig(&format!("vip.{ZONE}")), [vip]);
    let members: BTreeSet<String> = asks
        .dig(&format!("SRV _http._tcp.web.{ZONE}"))
        .iter()
        .map(|line| line.split_once(' ').expect("a priority").1.to_owned())
        .collect();
    let wanted = [0, 1].map(|ordinal| format!("50 80 web-{ordinal}.web.{ZONE}."));
    assert_eq!(members, BTreeSet::from(wanted));
    let port = asks.dig(&format!("SRV _http._tcp.vip.{ZONE}"));
    assert_eq!(port, [format!("0 100 8080 vip.{ZONE}.")]);
    assert_eq!(
        asks.dig(&format!("-x {}", pods[0])),
        [format!("web-0.web.{ZONE}.")]
    );
    assert_eq!(asks.dig(&format!("-x {vip}")), [format!("vip.{ZONE}.")]);
    let alias = asks.dig(&format!("CNAME elsewhere.{ZONE}"));
    assert_eq!(alias, ["db.example.com."]);
    assert_eq!(asks.dig("TXT dns-version.cluster.local"), ["\"1.1.0\""]);
}

/// statefulset.md 10.5
fn what_is_not_there(asks: &Asker) {
    let of_v6 = asks.ok(&format!("dig AAAA web-0.web.{ZONE}"));
    assert!(
        of_v6.contains("status: NOERROR") && of_v6.contains("ANSWER: 0"),
        "{of_v6}"
    );
    let unknown = asks.ok(&format!("dig web-7.web.{ZONE}"));
    assert!(unknown.contains("status: NXDOMAIN"), "{unknown}");
    assert!(unknown.contains("SOA"), "{unknown}");
}

/// Case, TCP, with and without EDNS.
fn forms_of_questions(asks: &Asker, address: &str) {
    for options in ["", "+tcp", "+noedns", "+bufsize=512", "+tcp +noedns"] {
        let question = format!("{options} WEB-0.Web.{ZONE}");
        assert_eq!(asks.dig(&question), [address], "{question}");
    }
    let whole = asks.ok(&format!("dig WEB-0.Web.{ZONE}"));
    assert!(whole.contains(&format!("WEB-0.Web.{ZONE}.")), "{whole}");
    assert!(whole.contains("EDNS: version: 0"), "{whole}");
}

/// Short names by the search path: glibc, musl, busybox of today and of old.
fn libraries(asks: &Asker, pods: &[String; 2], vip: &str) {
    for (name, address) in [
        ("web-0.web", pods[0].as_str()),
        ("web-1.web.default", &pods[1]),
        ("vip", vip),
        ("vip.default.svc.cluster.local.", vip),
    ] {
        let glibc = asks.ok(&format!("getent ahosts {name}"));
        assert!(glibc.starts_with(&format!("{address} ")), "{name}: {glibc}");
        let musl = asks.ok(&format!("musl-getaddrinfo {name}"));
        assert_eq!(musl, format!("{address}\n"), "{name}");
        // It asks for both families, and for a name to each address.
        let old = asks.ok(&format!("/usr/local/old/nslookup {name}"));
        let found = format!("Name:      {name}\nAddress 1: {address} ");
        assert!(old.contains(&found) && !old.contains("Address 2"), "{old}");
    }
    for resolver in ["getent ahosts", "musl-getaddrinfo"] {
        let missing = asks.ok(&format!("{resolver} web-9.web || echo missing"));
        assert!(missing.ends_with("missing\n"), "{resolver}: {missing}");
    }
    let missing = asks.ok("/usr/local/old/nslookup web-9.web 2>&1 || echo missing");
    let told = "nslookup: can't resolve 'web-9.web'\nmissing\n";
    assert!(missing.ends_with(told), "{missing}");
    // Since 1.29 busybox does not complete short names, which readers of old articles stumble over.
    let short = asks.ok("busybox nslookup web-0.web || true");
    assert!(short.contains("can't find web-0.web: NXDOMAIN"), "{short}");
    let found = asks.ok(&format!("busybox nslookup web-0.web.{ZONE}"));
    assert!(
        found.contains(&format!("Address: {}\n", pods[0])),
        "{found}"
    );
}

/// T38: a pod that is made again has its name at once.
fn a_name_follows_its_pod(asks: &Asker, before: &str) {
    asks.0.ok(&["delete", "pod", "web-0"]);
    asks.0.wait_ready("web", 2);
    let now = asks.0.pod_ip("web-0");
    assert_ne!(now, before);
    wait_for("the new address", 60, || {
        let found = asks.ok("musl-getaddrinfo web-0.web || true");
        if found.trim() == now {
            Ok(())
        } else {
            Err(found)
        }
    });
}
