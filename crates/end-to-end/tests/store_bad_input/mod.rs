//! Invalid addresses and certificates of a store in etcd, and invalid backups, sources and destinations of `mainstay
//! store`: each is refused with one message that names it, and changes neither files nor an etcd.

mod addresses;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use certificates::Authority;
use end_to_end::etcd::OpenEtcd;
use end_to_end::servers::ServersOnEtcd;
use end_to_end::wait_for;
use flate2::{Compression, write::GzEncoder};

/// An invalid command, and the parts of its refusal.
type Case<'a> = (&'a [&'a str], &'a [&'a str]);

/// A server with its own store, an etcd with TLS, an etcd without TLS and an etcd that is too old, and a directory of
/// input.
struct Setup {
    machines: ServersOnEtcd,
    open: OpenEtcd,
    old: OpenEtcd,
}

impl Setup {
    fn new() -> Self {
        let mut machines = ServersOnEtcd::of(&["a"]);
        let open = OpenEtcd::start(&mut machines.lan, machines.directory.path(), &[]);
        let etcd = machines.directory.path().join("etcd");
        let old = OpenEtcd::start_old(&mut machines.lan, &etcd.join("old"));
        machines.etcd.wait_until_ready();
        let setup = Self {
            machines,
            open,
            old,
        };
        setup.write_input();
        setup
    }

    /// Invalid files, in the working directory of all commands.
    fn write_input(&self) {
        let directory = self.machines.directory.path();
        let write = |name: &str, content: &[u8]| {
            fs::write(directory.join(name), content).expect("write a file");
        };
        fs::create_dir(directory.join("folder")).expect("make a directory");
        write("empty", b"");
        write("prose", b"no certificate, no key and no backup\n");
        write("short-token", b"short\n");
        write("other-token", b"0123456789abcdef0123456789abcdef\n");
        let etcd = directory.join("etcd");
        let authority = Authority::open_or_create(&etcd.join("authority"));
        let authority = authority.expect("open the authority");
        let long_ago = SystemTime::now() - Duration::from_secs(800 * 24 * 3600);
        let expired = authority.client_at("expired", &[], long_ago);
        let expired = expired.expect("a certificate");
        write("expired.pem", expired.certificate_pem().as_bytes());
        write("expired.key", expired.key_pem().as_bytes());
        let foreign = Authority::open_or_create(&directory.join("foreign"));
        let foreign = foreign.expect("make an authority");
        write("foreign-ca.pem", foreign.ca_pem().as_bytes());
        let foreign = foreign.client("mainstay", &[]).expect("a certificate");
        write("foreign.pem", foreign.certificate_pem().as_bytes());
        write("foreign.key", foreign.key_pem().as_bytes());
        for (name, to) in [
            ("ca.pem", "ca.pem"),
            ("client.pem", "own.pem"),
            ("client.key", "own.key"),
        ] {
            fs::copy(etcd.join(name), directory.join(to)).expect("copy a certificate");
        }
        let header = br#"{"format": 2, "objects": 0}"#.as_slice();
        let newer = [("store-backup.json", header), ("objects", b"".as_slice())];
        archive(&directory.join("newer"), &newer);
        archive(&directory.join("of-a-machine"), &[("backup.json", b"{}")]);
        let other = [("notes", b"of something else".as_slice())];
        archive(&directory.join("archive"), &other);
    }

    /// Runs `mainstay` on the machine of the server, in the directory of the input.
    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(end_to_end::binary());
        command
            .args(arguments)
            .current_dir(self.machines.directory.path());
        let output = self.machines.servers[0].network.run(|| command.output());
        output.expect("run mainstay")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The files of the directory except those of etcd, with their contents, and the revisions of both etcds.
    fn state(&self) -> (BTreeMap<String, Vec<u8>>, String, String) {
        let mut files = BTreeMap::new();
        let mut left = vec![self.machines.directory.path().to_owned()];
        while let Some(path) = left.pop() {
            let name = path.display().to_string();
            if path.is_file() {
                files.insert(name, fs::read(path).expect("read a file"));
            } else if path.is_dir() && !path.ends_with("etcd") && !path.ends_with("open-etcd") {
                let entries = fs::read_dir(&path).expect("list a directory");
                left.extend(entries.map(|entry| entry.expect("an entry").path()));
                files.insert(name, Vec::new());
            }
        }
        let revision = wait_for("the revision of etcd", 60, || {
            let metrics = self.machines.etcd.metrics(0).unwrap_or_default();
            let mut lines = metrics.lines();
            let revision =
                lines.find(|line| line.starts_with("etcd_debugging_mvcc_current_revision "));
            revision.map(str::to_owned).ok_or(metrics)
        });
        let open = self.open.call("maintenance/status", &serde_json::json!({}));
        let open = open.expect("the status of etcd")["header"]["revision"].to_string();
        (files, revision, open)
    }

    /// Each command is refused in one message with these parts.
    fn refuse(&self, cases: &[Case<'_>]) {
        let before = self.state();
        for (arguments, parts) in cases {
            let output = self.run(arguments);
            let message = String::from_utf8_lossy(&output.stderr);
            // Exit code 2 is a usage error of clap.
            let is_refused = matches!(output.status.code(), Some(1 | 2));
            assert!(is_refused, "mainstay {arguments:?}: {output:?}");
            for part in *parts {
                assert!(
                    message.contains(part),
                    "mainstay {arguments:?}: {part:?} is not in {message}"
                );
            }
            let messages = message
                .lines()
                .filter(|line| line.starts_with("mainstay: ") || line.starts_with("error: "));
            assert_eq!(messages.count(), 1, "mainstay {arguments:?}: {message}");
            assert!(
                output.stdout.is_empty(),
                "mainstay {arguments:?}: {output:?}"
            );
            assert!(
                self.state() == before,
                "mainstay {arguments:?} has changed something: {message}"
            );
        }
    }
}

/// An archive with these files.
fn archive(path: &Path, files: &[(&str, &[u8])]) {
    let file = File::create(path).expect("make a file");
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let added = archive.append_data(&mut header, name, *content);
        added.expect("add to the archive");
    }
    let encoder = archive.into_inner().expect("end the archive");
    encoder.finish().expect("end the archive");
}

#[test]
fn invalid_stores_are_refused_and_nothing_changes() {
    let mut setup = Setup::new();
    addresses::check(&setup);
    an_old_etcd(&setup);
    certificates_of_clients(&setup);
    setup.machines.servers[0].start(&["server"]);
    let data = setup.machines.servers[0].data();
    let kubectl = setup.machines.servers[0].kubectl();
    setup.machines.servers[0].network.run(|| {
        kubectl.ok(&["create", "configmap", "kept", "--from-literal=a=1"]);
    });
    // A server without a node is backed up while it runs, too.
    setup.ok(&["store", "backup", "saved", "--data-dir", &data]);
    let open = setup.open.url();
    let running = setup.run(&["store", "copy", "--from", &data, "--to", &open]);
    let message = String::from_utf8_lossy(&running.stderr);
    assert!(
        !running.status.success() && message.contains("already runs"),
        "{message}"
    );
    setup.machines.servers[0].interrupt();
    let saved = setup.machines.directory.path().join("saved");
    let whole = fs::read(&saved).expect("read the backup");
    let write = |name: &str, content: &[u8]| {
        fs::write(saved.with_file_name(name), content).expect("write a file");
    };
    write("truncated", &whole[..whole.len() / 2]);
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    write("changed", &changed);
    backups(&setup, &data);
    destinations(&setup, &data);
}

/// docs/high-availability.md: older versions lose or repeat events of watches, and are refused by their version.
fn an_old_etcd(setup: &Setup) {
    let (url, version) = (setup.old.url(), setup.old.version());
    let fault = format!("etcd {version} loses or repeats events of watches");
    let parts = [&*url, &fault, "3.4.38, 3.5.22 or newer"];
    setup.refuse(&[
        (&["store", "backup", "out", "--store", &url], &parts),
        (&["store", "copy", "--from", &url, "--to", "new"], &parts),
    ]);
    // A server creates its data directory first.
    let server = setup.run(&["server", "--data-dir", "of-old-etcd", "--store", &url]);
    assert_eq!(server.status.code(), Some(1), "{server:?}");
    let message = String::from_utf8_lossy(&server.stderr);
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

fn certificates_without_tls(setup: &Setup) {
    let open = setup.open.url();
    let without_tls = [
        "store",
        "backup",
        "out",
        "--store",
        &open,
        "--etcd-cafile",
        "ca.pem",
    ];
    setup.refuse(&[
        (&without_tls, &[&open, "without TLS"]),
        (
            &["store", "backup", "out", "--etcd-cafile", "ca.pem"],
            &["add --store"],
        ),
    ]);
}

fn certificates_of_clients(setup: &Setup) {
    let url = setup.machines.etcd.url(0);
    let backup = ["store", "backup", "out", "--store", &url];
    let with = |more: &[&'static str]| [&backup[..], more].concat();
    let client = |certificate: &'static str, key: &'static str| {
        with(&[
            "--etcd-cafile",
            "ca.pem",
            "--etcd-certfile",
            certificate,
            "--etcd-keyfile",
            key,
        ])
    };
    let cases: Vec<(Vec<&str>, &[&str])> = vec![
        (
            with(&["--etcd-cafile", "nothing"]),
            &["nothing", "No such file"],
        ),
        (with(&["--etcd-cafile", "folder"]), &["folder", "directory"]),
        (
            with(&["--etcd-cafile", "empty"]),
            &["empty", "no certificate found"],
        ),
        (
            with(&["--etcd-cafile", "prose"]),
            &["prose", "no certificate found"],
        ),
        (
            with(&["--etcd-cafile", "own.key"]),
            &["own.key", "no certificate found"],
        ),
        (
            with(&["--etcd-cafile", "foreign-ca.pem"]),
            &["is --etcd-cafile the authority"],
        ),
        (with(&[]), &["is --etcd-cafile the authority"]),
        (
            with(&["--etcd-cafile", "ca.pem"]),
            &["--etcd-certfile and --etcd-keyfile"],
        ),
        (
            with(&["--etcd-certfile", "own.pem"]),
            &["--etcd-certfile needs --etcd-keyfile"],
        ),
        (
            with(&["--etcd-keyfile", "own.key"]),
            &["--etcd-keyfile needs --etcd-certfile"],
        ),
        (client("nothing", "own.key"), &["nothing", "No such file"]),
        (client("own.pem", "nothing"), &["nothing", "No such file"]),
        (client("folder", "own.key"), &["folder", "directory"]),
        (client("own.pem", "folder"), &["folder", "directory"]),
        (
            client("prose", "own.key"),
            &["prose", "no certificate found"],
        ),
        (
            client("own.pem", "prose"),
            &["prose", "no private key found"],
        ),
        (
            client("own.key", "own.pem"),
            &["own.key", "no certificate found"],
        ),
        (
            client("own.pem", "own.pem"),
            &["own.pem", "no private key found"],
        ),
        (
            client("own.pem", "foreign.key"),
            &["own.pem", "foreign.key", "not that of the certificate"],
        ),
        (
            client("foreign.pem", "foreign.key"),
            &["--etcd-certfile and --etcd-keyfile"],
        ),
        (
            client("expired.pem", "expired.key"),
            &["--etcd-certfile", "expired"],
        ),
    ];
    for (arguments, parts) in &cases {
        setup.refuse(&[(arguments, parts)]);
    }
    certificates_without_tls(setup);
}

/// Files that are no backups of the objects, and invalid sources and destinations of backups.
fn backups(setup: &Setup, data: &str) {
    let open = setup.open.url();
    let broken = "not a complete backup";
    for (file, parts) in [
        ("nothing", ["nothing", "No such file"]),
        ("folder", ["folder", "directory"]),
        ("empty", ["empty", broken]),
        ("prose", ["prose", broken]),
        ("truncated", ["truncated", broken]),
        ("changed", ["changed", broken]),
        (
            "archive",
            ["archive", "no backup of `mainstay store backup`"],
        ),
        ("of-a-machine", ["of-a-machine", "`mainstay restore`"]),
        ("newer", ["newer", "newer mainstay"]),
    ] {
        setup.refuse(&[
            (&["store", "restore", file, "--store", &open], &parts),
            (&["store", "restore", file, "--data-dir", "new"], &parts),
        ]);
    }
    setup.refuse(&[
        (
            &["store", "backup", "out", "--data-dir", "nothing"],
            &["nothing", "data directory"],
        ),
        (
            &["store", "backup", "out", "--data-dir", "folder"],
            &["folder", "data directory"],
        ),
        (
            &["store", "backup", "folder", "--data-dir", data],
            &["folder", "directory"],
        ),
        (
            &["store", "backup", "nothing/out", "--data-dir", data],
            &["nothing/out", "No such file"],
        ),
        (
            &[
                "store",
                "backup",
                "out",
                "--data-dir",
                data,
                "--server-token-file",
                "nothing",
            ],
            &["--server-token-file nothing"],
        ),
        (
            &[
                "store",
                "backup",
                "out",
                "--data-dir",
                data,
                "--server-token-file",
                "short-token",
            ],
            &["short-token", "16 characters"],
        ),
    ]);
}

fn occupied_destinations(setup: &Setup, data: &str, open: &str) {
    setup.ok(&["store", "restore", "saved", "--store", open]);
    setup.refuse(&[
        (
            &["store", "restore", "saved", "--store", open],
            &[open, "not empty", "--etcd-prefix"],
        ),
        (
            &["store", "copy", "--from", data, "--to", open],
            &[open, "not empty", "--etcd-prefix"],
        ),
        (
            &["store", "copy", "--from", open, "--to", "foreign"],
            &["foreign", "not empty"],
        ),
        (
            &["store", "copy", "--from", open, "--to", data],
            &[data, "not empty"],
        ),
        (
            &["store", "copy", "--from", open, "--to", "prose"],
            &["prose", "Not a directory"],
        ),
    ]);
}

/// Destinations that contain data already, and tokens of another cluster.
fn destinations(setup: &Setup, data: &str) {
    let open = setup.open.url();
    let token = format!("{data}/server-token");
    setup.refuse(&[
        (
            &[
                "store",
                "restore",
                "saved",
                "--data-dir",
                data,
                "--server-token-file",
                &token,
            ],
            &[data, "not empty"],
        ),
        (
            &[
                "store",
                "restore",
                "saved",
                "--data-dir",
                "foreign",
                "--server-token-file",
                &token,
            ],
            &["foreign", "not empty"],
        ),
        (
            &[
                "store",
                "restore",
                "saved",
                "--data-dir",
                "prose",
                "--server-token-file",
                &token,
            ],
            &["prose", "Not a directory"],
        ),
        (
            &["store", "restore", "saved", "--data-dir", "folder"],
            &["--server-token-file"],
        ),
        (
            &[
                "store",
                "restore",
                "saved",
                "--data-dir",
                "folder",
                "--server-token-file",
                "other-token",
            ],
            &["other-token", "Nothing was changed"],
        ),
        (
            &["store", "copy", "--from", "folder", "--to", &open],
            &["folder", "data directory"],
        ),
        (
            &["store", "copy", "--from", "nothing", "--to", &open],
            &["nothing", "data directory"],
        ),
        (
            &[
                "store",
                "copy",
                "--from",
                data,
                "--to",
                &open,
                "--server-token-file",
                "nothing",
            ],
            &["--server-token-file nothing"],
        ),
    ]);
    occupied_destinations(setup, data, &open);
    completed_copy(setup, data, &open);
}

/// A completed copy names the next command with all flags, and is not started again.
fn completed_copy(setup: &Setup, data: &str, open: &str) {
    let copy = ["store", "copy", "--from", data, "--to", open];
    let output = setup.ok(&[&copy[..], &["--etcd-prefix", "/moved"]].concat());
    let next = format!("mainstay server --store {open} --etcd-prefix /moved ");
    assert!(output.contains(&next), "{output}");
    let again = [&copy[..], &["--etcd-prefix", "/again"]].concat();
    let in_etcd: &[&str] = &[data, "are in etcd already"];
    setup.refuse(&[
        (&again, in_etcd),
        (&["store", "backup", "out", "--data-dir", data], in_etcd),
    ]);
}
