//! The end-to-end tests on the two engines of the store: the tests that also run on etcd, and those that
//! cannot.
//!
//! A name in the lists is a file or a folder of `crates/end-to-end/tests`, a file in a folder, or a test in a
//! file.

use std::process::Command;

use anyhow::{Result, ensure};

/// The store engine of the servers of the end-to-end tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// The store in the data directory; a chosen part of the tests runs on etcd, too
    Embedded,
    /// An etcd for each server; only the end-to-end tests that can run on it
    Etcd,
}

/// The variable that `crates/end-to-end/src/engine.rs` reads.
const VARIABLE: &str = "MAINSTAY_TEST_STORE";

/// The tests that run on both engines in each run of all tests: StatefulSets, and writes of all kinds. The rules of both
/// engines have tests of their own (`etcd-store`, `mvcc-store`).
const CORE: &[&str] = &[
    "kubectl_write",
    "server_side_apply",
    "stateful_set_claims",
    "stateful_set_order",
    "stateful_set_rollout",
    "stateful_set_stuck",
    "workloads",
];

/// Tests that do not run on etcd, with the reason.
const EMBEDDED_ONLY: &[(&str, &[&str])] = &[
    (
        "`mainstay up` with manifests, a terminal or further nodes, which has its store in the data directory",
        &[
            "backup",
            "bad_input::a_failed_start_leaves_nothing_in_the_kernel",
            "bad_input::starts_that_must_fail",
            "csi::loss",
            "csi::sets",
            "debug_images",
            "endings::a_mistake_in_a_manifest_stops_nothing",
            "endings::the_end_comes_though_nobody_reads",
            "first_hour",
            "first_run",
            "guides::the_tour_can_be_pasted",
            "reboot",
            "several_nodes",
            "server_side_apply::up_applies_its_manifests_as_one_manager",
            "upgrade",
            "volume_move",
        ],
    ),
    (
        "the files of the embedded engine: its disk and its copies, and a data directory with its store",
        &[
            "disks",
            "endings::a_directory_that_was_moved_goes_on_and_one_without_its_store_does_not",
            "endings::what_is_left_is_ended_and_what_is_ours_deleted",
            "libraries::records_of_libraries_are_in_the_log",
            "store_backup",
            "store_copy",
        ],
    ),
    (
        "the test starts its own servers, in networks or on machines of its own",
        &[
            "absent_server",
            "cross_node",
            "degraded_etcd",
            "encrypted_traffic",
            "linearizability",
            "machine_pages",
            "node_faults",
            "node_loss",
            "node_tunnel",
            "nodes",
            "nodes_on_etcd",
            "one_name",
            "paused_leaders",
            "servers_agree",
            "servers_on_etcd",
            "store_bad_input",
        ],
    ),
    (
        "the kubeconfig of `mainstay server` names the address that this test takes away",
        &["address_change"],
    ),
    ("no server runs", &["harness"]),
    (
        "each of its many kills would be followed by the 14 seconds until another server may lead",
        &["csi::kills", "kills"],
    ),
];

/// A selection of the end-to-end tests on etcd.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// The tests of the list `CORE`.
    Core,
    /// All tests that can run on etcd.
    All,
}

impl Choice {
    /// Nextest's expression for the tests on etcd.
    pub fn filter(self) -> String {
        let without = test_names(&embedded_only());
        let end_to_end = format!("package(=end-to-end) and kind(test) and not {without}");
        match self {
            Self::All => end_to_end,
            Self::Core => format!("{end_to_end} and {}", test_names(CORE)),
        }
    }

    /// The arguments of the test program, which selects by parts of names.
    pub fn arguments(self) -> Vec<String> {
        let chosen: &[&str] = match self {
            Self::Core => CORE,
            Self::All => &[],
        };
        let part = |name: &&str| match name.contains("::") {
            true => (*name).to_owned(),
            false => format!("{name}::"),
        };
        let without = embedded_only();
        let skipped = without.iter().map(part);
        let skipped = skipped.flat_map(|part| ["--skip".to_owned(), part]);
        chosen.iter().map(part).chain(skipped).collect()
    }
}

/// Runs a command with the environment in which the tests' servers use etcd.
pub fn on_etcd(mut command: Command) -> Result<()> {
    let status = command.env(VARIABLE, "etcd").status()?;
    ensure!(status.success(), "the tests on etcd ended with {status}");
    Ok(())
}

fn embedded_only() -> Vec<&'static str> {
    let names = EMBEDDED_ONLY.iter().flat_map(|(_, names)| names.iter());
    names.copied().collect()
}

/// Nextest's matcher of tests with one of these names.
fn test_names(names: &[&str]) -> String {
    format!("test(/^({})(::|$)/)", names.join("|"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Whether a file or a folder has tests; with `test`, whether it has this test, or a file with this name.
    fn has_test(file: &str, test: Option<&str>) -> bool {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../end-to-end/tests");
        let folder = fs::read_dir(tests.join(file)).into_iter().flatten();
        let files = folder.filter_map(|entry| Some(entry.ok()?.path()));
        let text: String = [tests.join(format!("{file}.rs"))]
            .into_iter()
            .chain(files)
            .map(|path| fs::read_to_string(path).unwrap_or_default())
            .collect();
        match test {
            Some(test) => {
                let file = tests.join(file).join(format!("{test}.rs"));
                text.contains(&format!("\nfn {test}()")) || file.is_file()
            }
            None => text.contains("#[test]"),
        }
    }

    #[test]
    fn each_name_is_that_of_a_test() {
        let without = embedded_only();
        for name in CORE.iter().chain(&without) {
            let (file, test) = match name.split_once("::") {
                Some((file, test)) => (file, Some(test)),
                None => (*name, None),
            };
            assert!(has_test(file, test), "there is no test {name}");
        }
        let distinct: BTreeSet<_> = without.iter().chain(CORE).collect();
        assert_eq!(distinct.len(), without.len() + CORE.len());
    }

    #[test]
    fn the_core_is_chosen_by_file() {
        let filter = Choice::Core.filter();
        assert!(filter.contains("|stateful_set_order|"), "{filter}");
        assert!(filter.contains("not test(/^(backup|"), "{filter}");
        let arguments = Choice::Core.arguments().join(" ");
        assert!(arguments.contains(" stateful_set_order:: "), "{arguments}");
        assert!(arguments.ends_with(" --skip kills::"), "{arguments}");
        assert_eq!(Choice::All.arguments()[0], "--skip");
    }
}
