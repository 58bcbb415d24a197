//! The allowed dependencies between crates (ARCHITECTURE.md, "Invariants").

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::checkout::{Finding, SourceFile};
use super::exceptions::Exceptions;
use crate::test_programs::TEST_PROGRAMS;

/// Crates that decide: pure functions over plain data.
pub const DECISIONS: &[&str] = &[
    "controller-planners",
    "diagnosis",
    "pod-placement",
    "pod-lifecycle",
    "service-routing",
    "dns-records",
];

/// Crates that hold the vocabulary and pure engines.
pub const VOCABULARY: &[&str] = &[
    "json-tree",
    "json-text",
    "cel-checker",
    "cel-evaluator",
    "object-decoders",
    "object-model",
    "resource-kinds",
    "openapi-documents",
    "structured-merge",
    "custom-resources",
    "admission-rules",
];

/// Libraries that pure crates may use.
const PURE_LIBRARIES: &[&str] = &[
    "cov-mark",
    "flate2",
    "hashbrown",
    "k8s-openapi",
    "serde",
    "serde_json",
    "serde-saphyr",
    "jiff",
    "ipnet",
    "base64",
    "cel",
    "indexmap",
    "memchr",
    "percent-encoding",
    "regex",
    "thiserror",
    "x509-parser",
];

/// The file of these lists.
const LIST: &str = "dependencies.rs";

/// Layers from the bottom up; a crate may only depend on crates of lower or equal layers, and on
/// an equal one only where `EQUALS` says so.
const LAYERS: &[(&str, u8)] = &[
    ("json-tree", 0),
    ("cel-checker", 1),
    ("cel-evaluator", 2),
    ("json-text", 1),
    ("object-decoders", 1),
    ("object-model", 1),
    ("kube-api-client", 2),
    ("command-output", 1),
    ("btrfs-send-stream", 1),
    ("rpc-channel", 1),
    ("service-protocols", 2),
    ("connection-limits", 1),
    ("outbound-http", 3),
    ("kubeconfig", 4),
    ("process-telemetry", 1),
    ("host-kernel", 2),
    ("schema-validation", 1),
    ("csi-test-driver", 5),
    ("resource-kinds", 2),
    ("openapi-documents", 3),
    ("structured-merge", 4),
    ("custom-resources", 4),
    ("admission-rules", 5),
    ("controller-planners", 5),
    ("diagnosis", 6),
    ("pod-placement", 5),
    ("pod-lifecycle", 4),
    ("service-routing", 5),
    ("dns-records", 5),
    ("model-check", 6),
    ("mvcc-store", 5),
    ("etcd-store", 6),
    ("data-directory", 6),
    ("controller-framework", 5),
    ("node-lease", 6),
    ("leader-election", 6),
    ("container-runtime", 6),
    ("image-store", 6),
    ("file-archive", 6),
    ("certificates", 6),
    ("pod-network", 6),
    ("node-tunnel", 6),
    ("rbd-images", 6),
    ("spdy", 6),
    ("csi-client", 6),
    ("debug-tools", 6),
    ("volume-storage", 6),
    ("kube-api-server", 7),
    ("controllers", 7),
    ("pod-scheduler", 7),
    ("node-agent", 7),
    ("node-identity", 7),
    ("service-proxy", 7),
    ("cluster-dns", 7),
    ("node-routes", 7),
    ("builtin-images", 7),
    ("cluster-inspection", 7),
    ("manifest-apply", 7),
    ("program-installation", 7),
    ("stateful-set-progress", 8),
    ("rollout-forecast", 8),
    ("node-drain", 8),
    ("volume-transfer", 8),
    ("instance-removal", 8),
    ("api-tests", 8),
    ("control-plane", 8),
    ("instance-backup", 9),
    ("node-membership", 9),
    ("mainstay", 10),
    ("load-generator", 8),
    ("cluster-simulation", 9),
    ("fuzzing", 9),
    ("end-to-end", 9),
    ("workspace-tasks", 9),
];

/// Crates that may depend on the store: the server, the programs that open it, and the other engine.
const OPEN_THE_STORE: &[&str] = &[
    "kube-api-server",
    "control-plane",
    "data-directory",
    "etcd-store",
    "instance-backup",
    "cluster-simulation",
];

/// The crates that may open the store.
pub fn store_openers() -> BTreeSet<String> {
    OPEN_THE_STORE
        .iter()
        .map(|name| (*name).to_owned())
        .collect()
}

/// Checks every crate's manifest.
pub fn check(files: &[SourceFile]) -> Result<Vec<Finding>> {
    let layers: BTreeMap<&str, u8> = LAYERS.iter().copied().collect();
    let mut findings = Vec::new();
    let mut crates = Exceptions::new(LIST, layers.keys().copied());
    let mut pure_libraries = Exceptions::new(LIST, PURE_LIBRARIES.iter().copied());
    let mut open_the_store = Exceptions::new(LIST, OPEN_THE_STORE.iter().copied());
    for file in files {
        let Some(name) = manifest_of(&file.path) else {
            continue;
        };
        let mut report = |text: String| {
            findings.push(Finding {
                file: file.path.clone(),
                text,
            })
        };
        let Some(layer) = layers.get(name) else {
            report(format!(
                "crate {name} has no layer: give it one in tidy's list"
            ));
            continue;
        };
        crates.allow(name);
        let manifest: toml::Table = file
            .text
            .parse()
            .with_context(|| format!("parse {}", file.path))?;
        if manifest.get("lints").is_none() {
            report("the crate does not take the workspace's lints".to_owned());
        }
        if has_no_unit_tests(&manifest) {
            report(
                "clippy examines a library with its unit tests: remove `test = false`".to_owned(),
            );
        }
        for test in tests_without_harness(&manifest) {
            if !TEST_PROGRAMS.contains(&(name, test.as_str())) {
                report(format!(
                    "test {test} has no harness: name it in xtask's list of programs"
                ));
            }
        }
        let dependencies = table_keys(&manifest, "dependencies");
        for dependency in &dependencies {
            if layers
                .get(dependency.as_str())
                .is_some_and(|other| other >= layer)
            {
                report(format!(
                    "{name} may not depend on {dependency}: arrows never go upwards"
                ));
            }
            let pure = DECISIONS.contains(&name) || VOCABULARY.contains(&name);
            let is_pure = VOCABULARY.contains(&dependency.as_str())
                || DECISIONS.contains(&dependency.as_str());
            if pure && !is_pure && !pure_libraries.allow(dependency) {
                report(format!("{name} is pure and may not depend on {dependency}"));
            }
            if dependency == "mvcc-store" && !open_the_store.allow(name) {
                report(format!(
                    "{name} may not depend on mvcc-store: only the API server does"
                ));
            }
        }
    }
    for list in [crates, pure_libraries, open_the_store] {
        findings.extend(list.unneeded(files));
    }
    Ok(findings)
}

pub fn manifest_of(path: &str) -> Option<&str> {
    path.strip_prefix("crates/")?
        .strip_suffix("/Cargo.toml")
        .filter(|name| !name.contains('/'))
}

/// Whether cargo builds no unit tests of the library.
fn has_no_unit_tests(manifest: &toml::Table) -> bool {
    let library = manifest.get("lib").and_then(toml::Value::as_table);
    let test = library.and_then(|library| library.get("test"));
    test == Some(&toml::Value::Boolean(false))
}

/// Names of the tests that are programs of their own.
fn tests_without_harness(manifest: &toml::Table) -> Vec<String> {
    let tests = manifest.get("test").and_then(toml::Value::as_array);
    let without = |test: &&toml::Value| test.get("harness") == Some(&toml::Value::Boolean(false));
    tests
        .into_iter()
        .flatten()
        .filter(without)
        .filter_map(|test| {
            test.get("name")
                .and_then(toml::Value::as_str)
                .map(str::to_owned)
        })
        .collect()
}

/// The keys of a table of a manifest.
pub fn table_keys(manifest: &toml::Table, name: &str) -> Vec<String> {
    manifest
        .get(name)
        .and_then(toml::Value::as_table)
        .map(|table| table.keys().cloned().collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, dependencies: &str) -> SourceFile {
        SourceFile::new(
            format!("crates/{name}/Cargo.toml"),
            format!("[lints]\nworkspace = true\n[dependencies]\n{dependencies}\n"),
        )
    }

    #[test]
    fn a_decision_crate_may_not_do_io() {
        let files = [manifest("controller-planners", "tokio = \"1\"")];
        assert!(check(&files).unwrap()[0].text.contains("pure"));
    }

    #[test]
    fn each_library_has_a_build_of_its_unit_tests() {
        let library = |lines: &str| check(&[manifest("controller-planners", lines)]).unwrap();
        assert!(library("[lib]\ntest = false")[0].text.contains("clippy"));
        assert!(library("[lib]\ndoctest = false").is_empty());
        assert!(library("[[bin]]\nname = \"a\"\ntest = false").is_empty());
    }

    #[test]
    fn only_the_api_server_knows_the_store() {
        let files = [manifest("controllers", "mvcc-store.workspace = true")];
        assert!(
            check(&files).unwrap()[0]
                .text
                .contains("only the API server")
        );
    }

    #[test]
    fn a_test_without_harness_must_be_listed() {
        let text = "[[test]]\nname = \"lonely\"\nharness = false";
        let mut file = manifest("controller-framework", "");
        file.text.push_str(text);
        assert!(check(&[file]).unwrap()[0].text.contains("lonely"));
    }

    #[test]
    fn arrows_never_go_upwards() {
        let files = [manifest(
            "controller-framework",
            "controllers.workspace = true",
        )];
        assert!(check(&files).unwrap()[0].text.contains("upwards"));
    }
}
