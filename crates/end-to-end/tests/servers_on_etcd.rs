//! Two servers over one etcd of three members (DESIGN §14): what is written through one is read through the
//! other at once, and nothing is lost when a server or a member is killed.

use end_to_end::etcd::Etcd;
use end_to_end::lan::{Lan, Role};
use end_to_end::{Kubectl, wait_for, wait_for_text};

struct Machines {
    servers: [Role; 2],
    etcd: Etcd,
    directory: tempfile::TempDir,
    lan: Lan,
}

impl Machines {
    fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mainstay-test-")
            .tempdir()
            .expect("make a directory");
        let mut lan = Lan::default();
        let servers = ["a", "b"].map(|name| Role::new(&mut lan, name, directory.path()));
        let etcd = Etcd::start(&mut lan, directory.path());
        Self {
            servers,
            etcd,
            directory,
            lan,
        }
    }

    /// The arguments of a server that uses one of the members first.
    fn arguments(&self, first: usize) -> Vec<String> {
        let mut arguments = vec!["server".to_owned(), "--store".to_owned()];
        arguments.push(self.etcd.url(first));
        for (flag, file) in [
            ("--etcd-cafile", "ca.pem"),
            ("--etcd-certfile", "client.pem"),
            ("--etcd-keyfile", "client.key"),
        ] {
            arguments.extend([flag.to_owned(), self.etcd.file(file)]);
        }
        arguments
    }

    fn start(&mut self, server: usize) {
        let arguments = self.arguments(server);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.servers[server].start(&arguments);
    }

    /// Runs kubectl at a server.
    fn at<T: Send>(&self, server: usize, work: impl FnOnce(&Kubectl) -> T + Send) -> T {
        let kubectl = self.servers[server].kubectl();
        self.servers[server].network.run(|| work(&kubectl))
    }

    /// Writes through a server as soon as it can, and reads through the other one at once.
    fn write_and_read(&self, writes: usize, reads: usize, name: &str) {
        self.at(writes, |kubectl| {
            let create = ["create", "configmap", name, "--from-literal=a=1"];
            wait_for(&format!("configmap {name}"), 60, || {
                let output = kubectl.run(&create);
                let is_there = output.stderr.contains("already exists");
                match is_there || output.code == 0 {
                    true => Ok(()),
                    false => Err(output),
                }
            });
        });
        self.at(reads, |kubectl| kubectl.ok(&["get", "configmap", name]));
    }
}

#[test]
fn two_servers_share_an_etcd() {
    let mut machines = Machines::new();
    refused_starts(&mut machines);
    machines.start(0);
    machines.start(1);
    let watch = machines.at(1, |kubectl| {
        kubectl.watch(&["get", "configmaps", "--watch", "--output=name"])
    });
    let mut written = Vec::new();
    let mut write = |machines: &Machines, writes: usize, reads: usize, stage: &str| {
        for number in 0..5 {
            let name = format!("{stage}-{number}");
            machines.write_and_read(writes, reads, &name);
            written.push(name);
        }
    };
    write(&machines, 0, 1, "from-a");
    write(&machines, 1, 0, "from-b");
    machines.servers[0].kill();
    write(&machines, 1, 1, "a-is-gone");
    machines.start(0);
    for member in 0..3 {
        machines.etcd.kill(member);
        write(&machines, 0, 1, &format!("m{member}-is-gone"));
        machines.etcd.start_again(member);
        write(&machines, 1, 0, &format!("m{member}-is-back"));
        machines.etcd.pause(member);
        write(&machines, 0, 1, &format!("m{member}-is-paused"));
        machines.etcd.resume(member);
    }
    for server in [0, 1] {
        let all = machines.at(server, |kubectl| {
            kubectl.ok(&["get", "configmaps", "--output=name"])
        });
        for name in &written {
            assert!(
                all.contains(&format!("configmap/{name}\n")),
                "{name}: {all}"
            );
        }
    }
    // The watch at one server has the writes through both, in order.
    let last = written.last().expect("some were written");
    let seen = wait_for_text(last, 60, || watch.output());
    let places: Vec<Option<usize>> = written
        .iter()
        .map(|name| seen.find(name.as_str()))
        .collect();
    assert!(places.iter().all(Option::is_some), "{seen}");
    assert!(places.is_sorted(), "{seen}");
    other_stores_are_refused(&mut machines);
}

/// Each way to miss the etcd has its text.
fn refused_starts(machines: &mut Machines) {
    let (cafile, url) = (machines.etcd.file("ca.pem"), machines.etcd.url(0));
    let (_empty, nobody) = machines.lan.machine();
    let nobody = format!("etcd://{nobody}:2379");
    let wrong = machines.directory.path().join("wrong");
    certificates::Authority::open_or_create(&wrong).expect("make an authority");
    let wrong = wrong.join("ca.crt").display().to_string();
    let server = &mut machines.servers[0];
    for (flags, reason) in [
        (
            vec!["--store", &nobody, "--etcd-cafile", &cafile],
            "Connection refused",
        ),
        (
            vec!["--store", &url, "--etcd-cafile", &wrong],
            "is --etcd-cafile the authority of etcd's members?",
        ),
        (
            vec!["--store", &url, "--etcd-cafile", &cafile],
            "--etcd-certfile and --etcd-keyfile",
        ),
        (vec!["--etcd-cafile", &cafile], "add --store"),
    ] {
        // etcd is not there yet at first, which is another reason.
        let flags = [&["server"], &flags[..]].concat();
        wait_for(reason, 60, || {
            let said = server.refused(&flags);
            match said.contains(reason) {
                true => Ok(()),
                false => Err(said),
            }
        });
    }
}

/// A cluster is in one place.
fn other_stores_are_refused(machines: &mut Machines) {
    let mut other = machines.arguments(0);
    other.push("--etcd-prefix=/other".to_owned());
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let server = &mut machines.servers[0];
    server.interrupt();
    let said = server.refused(&["server"]);
    assert!(said.contains("are in etcd"), "{said}");
    let said = server.refused(&other);
    assert!(said.contains("has no objects of the cluster"), "{said}");
}
