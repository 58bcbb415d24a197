//! Addresses of stores that are malformed, or that lead to no cluster.

use super::Setup;

/// The form of addresses in messages.
const FORM: &str = "etcd://HOST:PORT,HOST:PORT,…";

fn malformed_addresses(setup: &Setup) {
    for url in [
        "https://a:2379",
        "a:2379",
        "etcd:/a",
        "etcd://",
        "etcd://a,",
        "etcd://:2379",
        "etcd://a:0",
        "etcd://a:x",
        "etcd://a:65536",
        "etcd://a,etcd+http://b",
        "etcd://[::1",
        "etcd://a/b",
        "etcd://u@a",
    ] {
        setup.refuse(&[
            (&["store", "backup", "out", "--store", url], &[url, FORM]),
            (&["store", "restore", "empty", "--store", url], &[url, FORM]),
            (
                &["server", "--data-dir", "new", "--store", url],
                &[url, FORM],
            ),
        ]);
    }
}

pub(super) fn check(setup: &Setup) {
    malformed_addresses(setup);
    let (open, secure) = (setup.open.url(), setup.machines.etcd.url(0));
    let reversed = [
        open.replace("etcd+http", "etcd"),
        secure.replace("etcd://", "etcd+http://"),
    ];
    let nobody = "etcd+http://192.0.2.200:2379";
    let of_open = |prefix| {
        [
            "store",
            "backup",
            "out",
            "--store",
            &open,
            "--etcd-prefix",
            prefix,
        ]
    };
    setup.refuse(&[
        (
            &["store", "copy", "--from", "https://a", "--to", "new"],
            &["https://a", FORM],
        ),
        (
            &["store", "copy", "--from", "", "--to", "new"],
            &["a directory or etcd://"],
        ),
        (
            &["store", "copy", "--from", "new", "--to", "new"],
            &["one of --from and --to"],
        ),
        (
            &["store", "copy", "--from", &open, "--to", &open],
            &["one of --from and --to"],
        ),
        (
            &["store", "backup", "out", "--store", nobody],
            &[nobody, "does not answer"],
        ),
        (
            &["store", "backup", "out", "--store", "etcd+http://a.invalid"],
            &["a.invalid"],
        ),
        (
            &["store", "backup", "out", "--store", &reversed[0]],
            &[&reversed[0], "etcd+http://"],
        ),
        (
            &["store", "backup", "out", "--store", &reversed[1]],
            &[&reversed[1], "etcd://"],
        ),
        (
            &["store", "backup", "out", "--store", &open],
            &[&open, "no cluster below /mainstay", "--etcd-prefix"],
        ),
        (&of_open("a"), &["--etcd-prefix a"]),
        (&of_open("/"), &["--etcd-prefix /"]),
        (
            &["store", "backup", "out", "--etcd-prefix", "/a"],
            &["add --store"],
        ),
        (
            &["store", "copy", "--from", &open, "--to", "new"],
            &[&open, "no cluster below /mainstay"],
        ),
    ]);
}
