//! Two servers over one etcd of three members (docs/high-availability.md): a write through one server is readable
//! through the other at once, and no write is lost when a server or a member is killed. The servers share one
//! certificate authority; one of them runs the controllers, and the other takes over.

use end_to_end::servers::ServersOnEtcd;
use end_to_end::{wait_for, wait_for_text};

/// Writes through a server as soon as it accepts writes, and reads through the other server at once.
fn write_and_read(machines: &ServersOnEtcd, writes: usize, reads: usize, name: &str) {
    machines.at(writes, |kubectl| {
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
    machines.at(reads, |kubectl| {
        wait_for(&format!("a response about {name}"), 60, || {
            let output = kubectl.run(&["get", "configmap", name]);
            // A server whose member is absent may refuse a read for a moment, but never returns an old state.
            assert!(!output.stderr.contains("NotFound"), "{output:?}");
            output.success()
        });
    });
}

#[test]
fn two_servers_share_an_etcd() {
    let mut machines = ServersOnEtcd::new();
    refused_starts(&mut machines);
    machines.start_as_member(0);
    refused_without_the_token(&mut machines);
    machines.start_as_member(1);
    wait_for_leader(&machines, 1);
    endpoints_are(&machines, 1, &[0, 1]);
    the_kubeconfig_names(&machines, 0, &[1]);
    controllers_work(&machines, 1, "both-run");
    let watch = machines.at(1, |kubectl| {
        kubectl.watch(&["get", "configmaps", "--watch", "--output=name"])
    });
    let mut written = Vec::new();
    let mut write = |machines: &ServersOnEtcd, writes: usize, reads: usize, stage: &str| {
        for number in 0..5 {
            let name = format!("{stage}-{number}");
            write_and_read(machines, writes, reads, &name);
            written.push(name);
        }
    };
    write(&machines, 0, 1, "from-a");
    write(&machines, 1, 0, "from-b");
    machines.servers[0].kill();
    write(&machines, 1, 1, "a-is-gone");
    controllers_work(&machines, 1, "b-leads");
    endpoints_are(&machines, 1, &[1]);
    the_kubeconfig_names(&machines, 1, &[]);
    machines.start_as_member(0);
    endpoints_are(&machines, 0, &[0, 1]);
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
    // The watch at one server has the writes through both servers, in order.
    let last = written.last().expect("some were written");
    let output = wait_for_text(last, 60, || watch.output());
    let positions: Vec<Option<usize>> = written
        .iter()
        .map(|name| output.find(name.as_str()))
        .collect();
    assert!(positions.iter().all(Option::is_some), "{output}");
    assert!(positions.is_sorted(), "{output}");
    drop(watch);
    // Whichever server led, the remaining server leads.
    machines.servers[1].interrupt();
    wait_for_leader(&machines, 0);
    endpoints_are(&machines, 0, &[0]);
    controllers_work(&machines, 0, "a-leads");
    other_stores_are_refused(&mut machines);
}

/// Waits until a server reports a leader.
fn wait_for_leader(machines: &ServersOnEtcd, server: usize) {
    let output = "--output=jsonpath={.spec.holderIdentity}";
    let get = [
        "get",
        "lease",
        "mainstay",
        "--namespace=kube-system",
        output,
    ];
    machines.at(server, |kubectl| {
        wait_for("a leader", 60, || match kubectl.run(&get) {
            lease if lease.code == 0 && !lease.stdout.is_empty() => Ok(()),
            other => Err(other),
        });
    });
}

/// Waits until Endpoints and the slice of the Service `kubernetes` name these servers.
fn endpoints_are(machines: &ServersOnEtcd, at: usize, live: &[usize]) {
    let live = live
        .iter()
        .map(|server| machines.servers[*server].address.as_str());
    let live: Vec<&str> = live.collect();
    let live = live.join(" ");
    for (kind, path) in [
        ("endpoints", "{.subsets[*].addresses[*].ip}"),
        ("endpointslice", "{.endpoints[*].addresses[0]}"),
    ] {
        let output = format!("--output=jsonpath={path}");
        machines.at(at, |kubectl| {
            wait_for(&format!("{kind} {live}"), 60, || {
                let result = kubectl.run(&["get", kind, "kubernetes", &output]).stdout;
                match result.trim() == live {
                    true => Ok(()),
                    false => Err(result),
                }
            });
        });
    }
}

/// The administrator's kubeconfig of a server has a usable context for each other server.
fn the_kubeconfig_names(machines: &ServersOnEtcd, at: usize, others: &[usize]) {
    let others = others
        .iter()
        .map(|other| format!("mainstay-{}:6443", machines.servers[*other].address));
    let others: Vec<String> = others.collect();
    let mut expected = vec!["mainstay".to_owned()];
    expected.extend(others.iter().cloned());
    machines.at(at, |kubectl| {
        wait_for(&format!("contexts {expected:?}"), 120, || {
            let contexts = kubectl.ok(&["config", "get-contexts", "--output=name"]);
            match contexts.lines().eq(expected.iter()) {
                true => Ok(()),
                false => Err(contexts),
            }
        });
        for other in &others {
            kubectl.ok(&["--context", other, "get", "namespace", "default"]);
        }
    });
}

/// The controllers of the leader create the ServiceAccount of a new namespace, and publish the certificate authority.
fn controllers_work(machines: &ServersOnEtcd, at: usize, namespace: &str) {
    machines.at(at, |kubectl| {
        wait_for(namespace, 60, || {
            let output = kubectl.run(&["create", "namespace", namespace]);
            let is_there = output.code == 0 || output.stderr.contains("already exists");
            if is_there { Ok(()) } else { Err(output) }
        });
        let of_namespace = format!("--namespace={namespace}");
        for object in ["serviceaccount/default", "configmap/kube-root-ca.crt"] {
            wait_for(object, 60, || {
                let result = kubectl.run(&["get", object, &of_namespace]);
                match result.code {
                    0 => Ok(()),
                    _ => Err(result),
                }
            });
        }
    });
}

/// A further server without the cluster's secret, or with another secret, changes nothing.
fn refused_without_the_token(machines: &mut ServersOnEtcd) {
    let wrong = machines.directory.path().join("wrong-token");
    std::fs::write(&wrong, "0123456789abcdef0123456789abcdef").expect("write a file");
    let arguments = machines.arguments(1);
    let plain: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let wrong = format!("--server-token-file={}", wrong.display());
    let server = &mut machines.servers[1];
    for (flag, reason) in [
        (None, "this server has no server token"),
        (Some(&wrong), "Nothing was changed"),
    ] {
        let mut arguments = plain.clone();
        arguments.extend(flag.map(String::as_str));
        let message = server.refused(&arguments);
        assert!(message.contains(reason), "{message}");
    }
    let authority = std::path::Path::new(&server.data()).join("certificates/ca.crt");
    assert!(!authority.exists());
}

/// Each error of the connection to etcd has its own message.
fn refused_starts(machines: &mut ServersOnEtcd) {
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
        // At first etcd is not reachable yet, which is another reason.
        let flags = [&["server"], &flags[..]].concat();
        wait_for(reason, 60, || {
            let message = server.refused(&flags);
            match message.contains(reason) {
                true => Ok(()),
                false => Err(message),
            }
        });
    }
}

/// The objects of a cluster are in one store only: the servers refuse other stores.
fn other_stores_are_refused(machines: &mut ServersOnEtcd) {
    let mut other = machines.arguments(0);
    other.push("--etcd-prefix=/other".to_owned());
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let server = &mut machines.servers[0];
    server.interrupt();
    let message = server.refused(&["server"]);
    assert!(message.contains("are in etcd"), "{message}");
    let message = server.refused(&other);
    assert!(
        message.contains("has no objects of the cluster"),
        "{message}"
    );
}
