//! The allowed dependencies between crates (ARCHITECTURE.md, "Invariants").

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::checkout::{Finding, SourceFile};
use super::exceptions::Exceptions;
use crate::test_programs::TEST_PROGRAMS;

/// Crates that decide: pure functions over plain data.
pub const DECISIONS: &[&str] = &[
    "planners",
    "diagnosis",
    "placement",
    "pod-lifecycle",
    "service-routing",
    "dns-records",
];

/// Crates that hold the vocabulary and pure engines.
pub const VOCABULARY: &[&str] = &[
    "json-text",
    "object-decoders",
    "object-model",
    "resource-kinds",
    "openapi-schema",
    "structured-merge",
    "custom-resources",
    "admission-rules",
];

/// Libraries that pure crates may use.
const PURE_LIBRARIES: &[&str] = &[
    "flate2",
    "k8s-openapi",
    "serde",
    "serde_json",
    "serde-saphyr",
    "jiff",
    "ipnet",
    "cel",
    "chrono",
    "indexmap",
    "json-patch",
    "memchr",
    "regex",
    "thiserror",
    "x509-parser",
];

/// The file of these lists.
const LIST: &str = "dependencies.rs";

/// Layers from the bottom up; a crate may only depend on crates of lower or equal layers, and on
/// an equal one only where `EQUALS` says so.
const LAYERS: &[(&str, u8)] = &[
    ("json-text", 0),
    ("object-decoders", 0),
    ("object-model", 0),
    ("api-client", 1),
    ("console", 0),
    ("btrfs-stream", 0),
    ("rpc-channel", 0),
    ("service-protocols", 1),
    ("connection-limits", 0),
    ("http-client", 2),
    ("kubeconfig", 3),
    ("process-telemetry", 0),
    ("host-kernel", 1),
    ("schema-check", 0),
    ("chrono-tz", 0),
    ("indexmap", 0),
    ("csi-test-driver", 4),
    ("resource-kinds", 1),
    ("openapi-schema", 2),
    ("structured-merge", 3),
    ("custom-resources", 3),
    ("admission-rules", 4),
    ("planners", 4),
    ("diagnosis", 5),
    ("placement", 4),
    ("pod-lifecycle", 3),
    ("service-routing", 4),
    ("dns-records", 4),
    ("model-check", 5),
    ("mvcc-store", 4),
    ("etcd-store", 5),
    ("data-directory", 5),
    ("reconcile", 4),
    ("node-lease", 5),
    ("leader-election", 5),
    ("container-runtime", 5),
    ("image-store", 5),
    ("file-archive", 5),
    ("certificates", 5),
    ("pod-network", 5),
    ("node-tunnel", 5),
    ("rbd-images", 5),
    ("spdy", 5),
    ("csi", 5),
    ("debug-tools", 5),
    ("volume-storage", 5),
    ("api-server", 6),
    ("controllers", 6),
    ("scheduler", 6),
    ("node-agent", 6),
    ("node-identity", 6),
    ("service-proxy", 6),
    ("dns-server", 6),
    ("node-routes", 6),
    ("builtin-images", 6),
    ("cluster-inspection", 6),
    ("manifest-apply", 6),
    ("program-installation", 6),
    ("node-drain", 7),
    ("volume-transfer", 7),
    ("instance-removal", 7),
    ("api-tests", 7),
    ("control-plane", 7),
    ("instance-backup", 8),
    ("node-membership", 8),
    ("mainstay", 9),
    ("load-generator", 7),
    ("simulation", 8),
    ("fuzzing", 8),
    ("end-to-end", 8),
    ("xtask", 8),
];

/// Crates that may depend on the store: the server, the programs that open it, and the other engine.
const OPEN_THE_STORE: &[&str] = &[
    "api-server",
    "control-plane",
    "data-directory",
    "etcd-store",
    "instance-backup",
    "simulation",
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
        let files = [manifest("planners", "tokio = \"1\"")];
        assert!(check(&files).unwrap()[0].text.contains("pure"));
    }

    #[test]
    fn each_library_has_a_build_of_its_unit_tests() {
        let library = |lines: &str| check(&[manifest("planners", lines)]).unwrap();
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
        let mut file = manifest("reconcile", "");
        file.text.push_str(text);
        assert!(check(&[file]).unwrap()[0].text.contains("lonely"));
    }

    #[test]
    fn arrows_never_go_upwards() {
        let files = [manifest("reconcile", "controllers.workspace = true")];
        assert!(check(&files).unwrap()[0].text.contains("upwards"));
    }
}
