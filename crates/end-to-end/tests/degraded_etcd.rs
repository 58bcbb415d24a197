//! A full etcd, and an etcd that has lost members, as a user of kubectl observes them (docs/high-availability.md).

use std::fs;
use std::time::Instant;

use end_to_end::etcd::OpenEtcd;
use end_to_end::lan::{Lan, Role, cut, mend};
use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Kubectl, Output, wait_for};

/// A node for the event, and a quota that counts ConfigMaps.
const OBJECTS: &str = r"
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: counts}
spec: {hard: {configmaps: '1000'}}
";

fn create(kubectl: &Kubectl, name: &str) -> Output {
    kubectl.run(&["create", "configmap", name, "--from-literal=a=1"])
}

/// The number of ConfigMaps in the status of the quota, and the number of existing ConfigMaps.
fn counted(kubectl: &Kubectl) -> (String, String) {
    let used = "--output=jsonpath={.status.used.configmaps}";
    let used = kubectl.ok(&["get", "resourcequota", "counts", used]);
    let names = kubectl.ok(&["get", "configmaps", "--output=name"]);
    (used, names.lines().count().to_string())
}

#[test]
fn a_full_etcd_is_told_emptied_and_used_again() {
    let directory = tempfile::Builder::new()
        .prefix("mainstay-test-")
        .tempdir()
        .expect("make a directory");
    let mut lan = Lan::default();
    let mut server = Role::new(&mut lan, "server", directory.path());
    let quota = ["--quota-backend-bytes=16777216"];
    let etcd = OpenEtcd::start(&mut lan, directory.path(), &quota);
    server.start(&["server", "--store", &etcd.url()]);
    let large = directory.path().join("large");
    fs::write(&large, "x".repeat(900_000)).expect("write a file");
    let large = format!("--from-file={}", large.display());
    let kubectl = server.kubectl();
    server.network.run(|| {
        kubectl.apply(OBJECTS);
        create(&kubectl, "kept").expect_success("a ConfigMap");
        let mut created = 0;
        let refused = loop {
            let name = format!("large-{created}");
            let output = kubectl.run(&["create", "configmap", &name, &large]);
            match output.code {
                0 => created += 1,
                _ => break output.stderr,
            }
            assert!(created < 100);
        };
        assert!(refused.contains("database space exceeded"), "{refused}");
        // Existing objects can be read, and cannot be changed.
        kubectl.ok(&["get", "configmap", "kept"]);
        let refused = kubectl.fails(&["label", "configmap", "kept", "a=b"]);
        assert!(refused.contains("database space exceeded"), "{refused}");
        let refused = kubectl.fails(&["get", "--raw", "/readyz"]);
        assert!(refused.contains("[-]store-room failed"), "{refused}");
        kubectl.ok(&["get", "--raw", "/livez"]);
        let metrics = kubectl.ok(&["get", "--raw", "/metrics"]);
        assert!(metrics.contains("\nmainstay_store_full 1\n"));
        // The quota whose status cannot be written still counts the ConfigMaps.
        for number in 0..created {
            kubectl.ok(&["delete", "configmap", &format!("large-{number}")]);
        }
    });
    // The server checks for a full store every 10 s.
    wait_for("the warning", 60, || {
        let output = server.output();
        let is_logged = output.contains("the store takes nothing new");
        is_logged.then_some(()).ok_or(output)
    });
    etcd.reclaim_space();
    server.network.run(|| {
        wait_for("a write", 60, || create(&kubectl, "after").success());
        kubectl.ok(&["label", "configmap", "kept", "a=b"]);
        wait_for("the server to be ready", 60, || {
            kubectl.run(&["get", "--raw", "/readyz"]).success()
        });
        wait_for("the event", 60, || {
            let reason = "--field-selector=reason=StoreFull";
            match kubectl.ok(&["get", "events", reason]) {
                events if events.contains("node/n1") => Ok(()),
                events => Err(events),
            }
        });
        wait_for("the count of the quota", 60, || match counted(&kubectl) {
            (used, there_are) if used == there_are => Ok(()),
            counts => Err(counts),
        });
    });
    server.interrupt();
}

#[test]
fn members_that_are_lost_cost_what_the_table_says() {
    let mut machines = ServersOnEtcd::new();
    machines.etcd.wait_until_ready();
    machines.start_as_member(0);
    machines.start_as_member(1);
    let leader = machines.etcd.leader();
    // Two of three members: everything works, after an election.
    machines.etcd.kill(leader);
    machines.at(0, |kubectl| {
        wait_for("a write with two members", 60, || {
            create(kubectl, "of-two").success()
        });
        kubectl.ok(&["get", "configmap", "of-two"]);
    });
    machines.at(1, |kubectl| kubectl.ok(&["get", "configmap", "of-two"]));

    // One of three members: objects in memory can be read.
    let second = (leader + 1) % 3;
    machines.etcd.kill(second);
    let path = "/api/v1/namespaces/default/configmaps/of-two";
    for server in [0, 1] {
        let written = machines.at(server, |kubectl| {
            // The remaining member accepts writes until it detects the loss of the others.
            let name = format!("of-one-{server}");
            let written = create(kubectl, &name);
            assert_ne!(written.code, 0, "{written:?}");
            kubectl.ok(&["get", "--raw", &format!("{path}?resourceVersion=0")]);
            let fresh = kubectl.fails(&["get", "configmap", "of-two"]);
            assert!(fresh.contains("the store does not answer"), "{fresh}");
            let ready = kubectl.fails(&["get", "--raw", "/readyz"]);
            assert!(ready.contains("[-]store failed"), "{ready}");
            kubectl.ok(&["get", "--raw", "/livez"]);
            (name, written.stderr)
        });
        machines.etcd.start_again(second);
        machines.at(server, |kubectl| {
            wait_for("a write after the return", 60, || {
                create(kubectl, &format!("after-{server}")).success()
            });
            let (name, refusal) = &written;
            // A refusal with 503 means that nothing was written.
            if refusal.contains("the store does not answer") {
                let absent = kubectl.fails(&["get", "configmap", name]);
                assert!(absent.contains("NotFound"), "{absent}");
            }
            kubectl.ok(&["get", "configmap", "of-two"]);
        });
        machines.etcd.kill(second);
    }
    machines.etcd.start_again(second);
    machines.etcd.start_again(leader);
    machines.at(1, |kubectl| {
        for name in ["of-two", "after-0", "after-1"] {
            wait_for(name, 60, || {
                kubectl.run(&["get", "configmap", name]).success()
            });
        }
    });
}

// findings-2 R26
#[test]
fn a_member_that_vanishes_without_a_word_is_left() {
    let mut machines = ServersOnEtcd::new();
    machines.etcd.wait_until_ready();
    machines.start_as_member(0);
    machines.start_as_member(1);
    cut(machines.servers[0].machine(), machines.etcd.machine(0));
    machines.at(1, |kubectl| {
        create(kubectl, "elsewhere").expect_success("a ConfigMap")
    });
    let begun = Instant::now();
    machines.at(0, |kubectl| {
        // The read is from memory, which the watch of the store updates. The kernel does not close the connection
        // within that time.
        let path = "/api/v1/namespaces/default/configmaps/elsewhere?resourceVersion=0";
        wait_for("the write of the other server", 40, || {
            kubectl.run(&["get", "--raw", path]).success()
        });
        println!("observed after {:?}", begun.elapsed());
        wait_for("a write", 30, || create(kubectl, "here").success());
    });
    mend(machines.servers[0].machine(), machines.etcd.machine(0));
}
