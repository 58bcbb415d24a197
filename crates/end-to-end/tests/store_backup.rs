//! The objects of servers on etcd are saved to a file while they are written, all of etcd is lost, and a new etcd
//! gets them back: the same UIDs, and resource versions that go on upwards. The same file fills a data
//! directory.

use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use end_to_end::etcd::Etcd;
use end_to_end::servers::ServersOnEtcd;
use end_to_end::wait_for;

/// Runs `mainstay store` on the first machine.
fn store(machines: &ServersOnEtcd, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(end_to_end::binary());
    command.arg("store").args(arguments);
    let output = machines.servers[0].network.run(|| command.output());
    output.expect("run mainstay store")
}

#[track_caller]
fn done(machines: &ServersOnEtcd, arguments: &[&str]) -> String {
    let output = store(machines, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refused(machines: &ServersOnEtcd, arguments: &[&str], reason: &str) {
    let output = store(machines, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(reason), "{said}");
}

/// Creates a ConfigMap, and returns its resource version.
fn create(machines: &ServersOnEtcd, name: &str) -> u64 {
    let version = machines.at(0, |kubectl| {
        kubectl.ok(&["create", "configmap", name, "--from-literal=a=1"]);
        let output = "--output=jsonpath={.metadata.resourceVersion}";
        kubectl.ok(&["get", "configmap", name, output])
    });
    version.trim().parse().expect("a resource version")
}

/// Names and UIDs of all objects of some kinds.
fn objects(machines: &ServersOnEtcd, kinds: &str) -> String {
    let output =
        "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {end}";
    let get = ["get", kinds, "--all-namespaces", output];
    machines.at(0, |kubectl| {
        wait_for("an answer", 120, || kubectl.run(&get).success())
    })
}

#[test]
fn servers_on_etcd_come_back_from_a_file() {
    let mut machines = ServersOnEtcd::new();
    machines.etcd.wait_until_ready();
    machines.start(0, 0, &[]);
    machines.at(0, |kubectl| {
        wait_for("the ServiceAccount", 120, || {
            kubectl.run(&["get", "serviceaccount/default"]).success()
        });
    });
    let newest = create(&machines, "first");
    let directory = machines.directory.path().to_owned();
    let path = |name: &str| directory.join(name).display().to_string();
    let (file, second) = (path("saved"), path("second"));
    let token = format!(
        "--server-token-file={}/server-token",
        machines.servers[0].data()
    );
    let [ca, certificate, key] = machines.certificates();
    let url = format!("--store={}", machines.etcd.url(0));
    let at_etcd = [&*url, &*ca, &*certificate, &*key];
    // While clients write: the file has all writes up to one, and none after it.
    let (is_over, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let number = written.load(Ordering::SeqCst);
                create(&machines, &format!("n{number}"));
                written.store(number + 1, Ordering::SeqCst);
            }
        });
        let at_least = |count: usize| {
            wait_for("writes", 120, || match written.load(Ordering::SeqCst) {
                now if now >= count => Ok(()),
                now => Err(now),
            });
        };
        at_least(3);
        let said = done(&machines, &[&["backup", &file], &at_etcd[..]].concat());
        assert!(said.contains("objects of etcd://"), "{said}");
        at_least(written.load(Ordering::SeqCst) + 2);
        is_over.store(true, Ordering::SeqCst);
        writing.join().expect("the writes");
    });
    let before = objects(&machines, "serviceaccounts,configmaps");
    let accounts = objects(&machines, "serviceaccounts");
    let last = create(&machines, "last");
    assert!(last > newest);
    let restore = [&["restore", &file], &at_etcd[..]].concat();
    refused(&machines, &restore, "is not empty");

    // All of etcd is gone; a new one has another place, and nothing in it.
    machines.servers[0].kill();
    for member in 0..3 {
        machines.etcd.kill(member);
    }
    let around = machines.directory.path().join("again");
    machines.etcd = Etcd::start(&mut machines.lan, &around);
    let [ca, certificate, key] = machines.certificates();
    let url = format!("--store={}", machines.etcd.url(0));
    let at_etcd = [&*url, &*ca, &*certificate, &*key];
    let restore = [&["restore", &file], &at_etcd[..]].concat();
    machines.etcd.wait_until_ready();
    let said = done(&machines, &restore);
    assert!(said.contains("verified"), "{said}");
    machines.start(0, 0, &[]);
    assert_eq!(objects(&machines, "serviceaccounts"), accounts);
    let after = objects(&machines, "configmaps");
    // The writes that were acknowledged before the backup began are there, with their UIDs.
    for name in ["first", "n0", "n1", "n2"] {
        let start = format!("ConfigMap/{name} ");
        let one = |all: &str| {
            let place = all.find(&start).unwrap_or_else(|| panic!("{name}: {all}"));
            all[place..].split(' ').nth(1).expect("a UID").to_owned()
        };
        assert_eq!(one(&after), one(&before), "{name}");
    }
    assert!(!after.contains("ConfigMap/last "), "{after}");
    assert!(create(&machines, "anew") > last + 1_000_000);

    // The same file fills a data directory.
    let second_data = format!("--data-dir={second}");
    let into_directory = ["restore", &file, &second_data, &token];
    refused(&machines, &into_directory[..3], "no server token");
    let said = done(&machines, &into_directory);
    assert!(said.contains("verified"), "{said}");
    refused(&machines, &into_directory, "is not empty");
    // And the objects of that can be saved again.
    let again = path("saved-again");
    done(&machines, &["backup", &again, &second_data, &token]);
    let other = path("other");
    done(
        &machines,
        &["restore", &again, &format!("--data-dir={other}"), &token],
    );
}
