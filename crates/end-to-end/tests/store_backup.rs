//! The objects of servers on etcd are backed up to a file during writes, all data of etcd is lost, and a new etcd is
//! restored from the file: UIDs do not change, and resource versions continue to grow. The file also restores into a
//! data directory. The objects of a running server with its own store are backed up in an equal way.

use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use end_to_end::etcd::Etcd;
use end_to_end::program::{ok, text};
use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Instance, Kubectl, wait_for};

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
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && message.contains(reason),
        "{message}"
    );
}

/// Creates a ConfigMap, and returns its resource version.
fn create(machines: &ServersOnEtcd, name: &str) -> u64 {
    machines.at(0, |kubectl| create_at(kubectl, name))
}

fn create_at(kubectl: &Kubectl, name: &str) -> u64 {
    kubectl.ok(&["create", "configmap", name, "--from-literal=a=1"]);
    let output = "--output=jsonpath={.metadata.resourceVersion}";
    let version = kubectl.ok(&["get", "configmap", name, output]);
    version.trim().parse().expect("a resource version")
}

/// Names and UIDs of all objects of some kinds.
fn objects(machines: &ServersOnEtcd, kinds: &str) -> String {
    machines.at(0, |kubectl| objects_at(kubectl, kinds))
}

fn objects_at(kubectl: &Kubectl, kinds: &str) -> String {
    let output =
        "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {end}";
    let get = ["get", kinds, "--all-namespaces", output];
    wait_for("a response", 120, || kubectl.run(&get).success())
}

/// The UID of a ConfigMap in the output of [`objects`].
#[track_caller]
fn uid<'a>(objects: &'a str, name: &str) -> &'a str {
    let start = format!("ConfigMap/{name} ");
    let offset = objects.find(&start);
    let offset = offset.unwrap_or_else(|| panic!("{name}: {objects}"));
    let mut words = objects[offset..].split(' ');
    words.nth(1).expect("a UID")
}

/// A client creates `n0`, `n1` and so on, one after the other, before, during and after the work. Returns the number of
/// writes that were acknowledged before the work began.
fn while_written(create: impl Fn(&str) -> u64 + Sync, work: impl FnOnce()) -> usize {
    let (is_over, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let number = written.load(Ordering::SeqCst);
                create(&format!("n{number}"));
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
        let before = written.load(Ordering::SeqCst);
        work();
        at_least(written.load(Ordering::SeqCst) + 2);
        is_over.store(true, Ordering::SeqCst);
        writing.join().expect("the writes");
        before
    })
}

/// The first writes of [`while_written`] have equal UIDs in both outputs, and the second output has all writes up to
/// one write and none after it.
#[track_caller]
fn same_writes(before: &str, after: &str, acknowledged: usize) {
    let is_there = |number: &usize| after.contains(&format!("ConfigMap/n{number} "));
    let saved = (0..).take_while(is_there).count();
    assert!(saved >= acknowledged, "{saved} of {acknowledged}: {after}");
    assert_eq!(after.matches("ConfigMap/n").count(), saved, "{after}");
    for number in 0..saved {
        let name = format!("n{number}");
        assert_eq!(uid(after, &name), uid(before, &name), "{name}");
    }
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
    // During writes: the file has all writes up to one write, and none after it.
    let acknowledged = while_written(
        |name| create(&machines, name),
        || {
            let output = done(&machines, &[&["backup", &file], &at_etcd[..]].concat());
            assert!(output.contains("objects of etcd://"), "{output}");
        },
    );
    let before = objects(&machines, "serviceaccounts,configmaps");
    let accounts = objects(&machines, "serviceaccounts");
    let last = create(&machines, "last");
    assert!(last > newest);
    let restore = [&["restore", &file], &at_etcd[..]].concat();
    refused(&machines, &restore, "is not empty");

    // All data of etcd is lost; a new etcd has another address, and is empty.
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
    let output = done(&machines, &restore);
    assert!(output.contains("verified"), "{output}");
    machines.start(0, 0, &[]);
    assert_eq!(objects(&machines, "serviceaccounts"), accounts);
    let after = objects(&machines, "configmaps");
    // The writes that were acknowledged before the backup began are restored, with their UIDs.
    assert_eq!(uid(&after, "first"), uid(&before, "first"));
    same_writes(&before, &after, acknowledged);
    assert!(!after.contains("ConfigMap/last "), "{after}");
    assert!(create(&machines, "anew") > last + 1_000_000);

    // The file also restores into a data directory.
    let second_data = format!("--data-dir={second}");
    let into_directory = ["restore", &file, &second_data, &token];
    refused(&machines, &into_directory[..3], "no server token");
    let output = done(&machines, &into_directory);
    assert!(output.contains("verified"), "{output}");
    refused(&machines, &into_directory, "is not empty");
    // The objects of this directory can be backed up again.
    let again = path("saved-again");
    done(&machines, &["backup", &again, &second_data, &token]);
    let other = path("other");
    done(
        &machines,
        &["restore", &again, &format!("--data-dir={other}"), &token],
    );
}

#[test]
fn a_running_server_is_saved_while_it_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("saved");
    let mut server = Instance::start(&[]);
    let kubectl = server.kubectl();
    let first = create_at(&kubectl, "first");
    let data = server.data();
    let acknowledged = while_written(
        |name| create_at(&kubectl, name),
        || {
            let backup = ["store", "backup", text(&file), "--data-dir", text(&data)];
            let output = ok(&backup);
            assert!(
                output.contains(&format!("objects of {}", text(&data))),
                "{output}"
            );
        },
    );
    let before = objects_at(&kubectl, "configmaps");
    let last = create_at(&kubectl, "last");
    assert!(last > first);
    // Only one server may use the cluster.
    server.terminate();
    let token = data.join("server-token");
    let restored = Instance::start_prepared(&[], |empty| {
        let restore = ["store", "restore", text(&file), "--data-dir", text(empty)];
        let output = ok(&[&restore[..], &["--server-token-file", text(&token)]].concat());
        assert!(output.contains("verified"), "{output}");
    });
    let kubectl = restored.kubectl();
    let after = objects_at(&kubectl, "configmaps");
    assert_eq!(uid(&after, "first"), uid(&before, "first"));
    same_writes(&before, &after, acknowledged);
    assert!(!after.contains("ConfigMap/last "), "{after}");
    assert!(create_at(&kubectl, "anew") > last + 1_000_000);
}
