//! Modules import downwards: where the layers of a crate are listed, no module imports one of a layer
//! above its own, and in no crate more than [`CIRCLE_MAX`] modules import each other in a circle.
//!
//! The imports are those of [`super::imports`]. The modules of a folder that is one concept may form a
//! larger circle; [`CONCEPTS`] names these folders.

use std::collections::{BTreeMap, BTreeSet};

use super::checkout::{Finding, SourceFile};
use super::exceptions::{Exceptions, without_files};
use super::imports::{Imports, ModulePath, module_text, source};

/// The file of these lists.
const LIST: &str = "layers.rs";

/// Most modules of a circle that are not in the folder of one concept.
const CIRCLE_MAX: usize = 3;

/// The layers of crates, the lowest first. A layer is a folder or a file of the crate's `src`; modules
/// in no listed layer are above all of them.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "kube-api-server",
        &[
            "http",
            "catalog",
            "objects",
            "access",
            "admission",
            "handlers",
        ],
    ),
    (
        "container-runtime",
        &[
            "spec",
            "error",
            "id_range",
            "protocol",
            "state_dir",
            "stack",
            "propagation",
            "sealed",
            "accounting",
            "cgroup",
            "client",
            "shim",
        ],
    ),
    (
        "node-agent",
        &[
            "limits",
            "error",
            "response_cache",
            "config",
            "clock",
            "paths",
            "resource_limits",
            "api",
            "machine",
            "images",
            "probes",
            "csi_volumes",
            "devices",
            "volumes",
            "containers",
            "pods",
            "node_context",
            "worker",
            "node",
            "kubelet_api",
            "agent",
        ],
    ),
    (
        "pod-lifecycle",
        &[
            "limits",
            "monotonic",
            "spec",
            "record",
            "restart_policy",
            "messages",
            "environment",
            "resources",
            "node",
            "input",
            "status",
            "plan",
        ],
    ),
    (
        "resource-kinds",
        &[
            "well_known",
            "configuration",
            "json",
            "printing",
            "validation",
            "kind",
            "pod_view",
            "quota",
            "groups",
            "admission",
            "bootstrap",
        ],
    ),
];

/// Folders that are one concept, each with the reason: their modules may form a larger circle.
const CONCEPTS: &[(&str, &str)] = &[
    (
        "kube-api-server: handlers/subresources",
        "the sub-resources share one request, and a sub-resource calls another: eviction deletes, binding writes",
    ),
    (
        "kube-api-server: handlers/verbs",
        "the verbs share one request; a list can become a watch, and a collection is deleted by listing it",
    ),
    (
        "kube-api-server: objects/storage",
        "the form of a stored object: its parts are encoded and decoded by each other",
    ),
    (
        "csi-test-driver: sidecars",
        "the sidecars are loops over one cluster; the list of them starts all",
    ),
    (
        "fuzzing: targets",
        "the list of targets names all, and each has the type of the list",
    ),
    (
        "image-store: unpack",
        "a layer is unpacked above others: the archive, its entries, their directories and the layers below share one place",
    ),
    ("volume-transfer: ", "both ends of one transfer"),
    (
        "mvcc-store: published",
        "the readable state, its history, its watches and the bytes of each owner are published together",
    ),
    (
        "resource-kinds: admission/node_restriction",
        "one plug-in: its parts check one write of a node",
    ),
    ("controller-planners: daemon_set", PLANNER),
    ("controller-planners: deployment", PLANNER),
    (
        "diagnosis: ",
        "an explanation follows an object to others of any kind, and back",
    ),
    ("controller-planners: endpoints", PLANNER),
    (
        "pod-lifecycle: diagnosis",
        "the checks of one pod, each of which answers with the same diagnosis",
    ),
    ("controller-planners: stateful_set", PLANNER),
    (
        "resource-kinds: pod_view",
        "one view in three files, each of which shares equal parts of the others",
    ),
];

const PLANNER: &str = "one decision: the parts of the plan are made in files of their own";

/// The crates whose modules have layers.
pub fn layered_crates() -> BTreeSet<String> {
    LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// Checks the modules of all crates.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let crates: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| source(file))
        .map(|(name, _)| name)
        .collect();
    let mut concepts = Exceptions::new(LIST, CONCEPTS.iter().map(|(folder, _)| *folder));
    let mut findings = Vec::new();
    for name in crates {
        let graph = Graph(Imports::of(name, files));
        let layers = LAYERS.iter().find(|(layered, _)| *layered == name);
        let layers = layers.map_or(&[][..], |(_, layers)| *layers);
        findings.extend(graph.upward(layers));
        findings.extend(graph.circles(name, &mut concepts));
        let paths = layers
            .iter()
            .map(|layer| format!("crates/{name}/src/{layer}"));
        let paths: Vec<String> = paths.collect();
        findings.extend(without_files(LIST, paths.iter().map(String::as_str), files));
    }
    findings.extend(concepts.unneeded(files));
    findings
}

/// The imports between the modules of a crate.
struct Graph<'a>(Imports<'a>);

impl Graph<'_> {
    fn finding(&self, path: &ModulePath, text: String) -> Finding {
        let file = self.0.files.get(path).copied().unwrap_or_default();
        Finding {
            file: file.to_owned(),
            text,
        }
    }

    /// Imports of modules in a higher layer.
    fn upward(&self, layers: &[&str]) -> Vec<Finding> {
        let level = |path: &ModulePath| {
            let folder = path.first().map_or("", String::as_str);
            let position = layers.iter().position(|layer| *layer == folder);
            position.unwrap_or(layers.len())
        };
        let pairs = self.0.imported.iter().flat_map(|(path, imports)| {
            let above = imports.iter().filter(|other| level(other) > level(path));
            above.map(move |other| (path, other))
        });
        let text = |other: &ModulePath| {
            format!(
                "imports {}, which is in a layer above its own (tidy/layers.rs): take what both need \
                 as a parameter, or move it down",
                module_text(other)
            )
        };
        pairs
            .map(|(path, other)| self.finding(path, text(other)))
            .collect()
    }

    /// Circles of more than [`CIRCLE_MAX`] modules that are not in the folder of one concept.
    fn circles(&self, name: &str, concepts: &mut Exceptions) -> Vec<Finding> {
        let mut findings = Vec::new();
        for circle in self.connected() {
            let folder = self.folder(&circle).join("/");
            if circle.len() <= CIRCLE_MAX || concepts.allow(&format!("{name}: {folder}")) {
                continue;
            }
            let names: Vec<String> = circle.iter().map(module_text).collect();
            let text = format!(
                "{} modules import each other in a circle: {}. Let one of them take what it needs as \
                 a parameter, or move what both need to a module below",
                circle.len(),
                names.join(", ")
            );
            findings.extend(circle.first().map(|first| self.finding(first, text)));
        }
        findings
    }

    /// The innermost folder that holds all these modules; empty for the crate itself.
    fn folder(&self, modules: &[ModulePath]) -> ModulePath {
        let home = |path: &ModulePath| {
            let has_folder = self
                .0
                .files
                .keys()
                .any(|other| other.len() > path.len() && other.starts_with(path));
            match has_folder {
                true => path.clone(),
                false => path[..path.len().saturating_sub(1)].to_vec(),
            }
        };
        let mut homes = modules.iter().map(home);
        let first = homes.next().unwrap_or_default();
        homes.fold(first, |folder, home| {
            let same = folder
                .iter()
                .zip(&home)
                .take_while(|(one, other)| one == other);
            let length = same.count();
            folder[..length].to_vec()
        })
    }

    /// The groups of modules that reach each other.
    fn connected(&self) -> Vec<Vec<ModulePath>> {
        let modules = self.0.imported.keys();
        let reached: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> =
            modules.map(|path| (path, self.reach(path))).collect();
        let mut groups: BTreeSet<Vec<ModulePath>> = BTreeSet::new();
        for (path, all) in &reached {
            let back =
                |other: &&&ModulePath| reached.get(**other).is_some_and(|from| from.contains(path));
            let group: Vec<ModulePath> = all
                .iter()
                .filter(back)
                .map(|other| (*other).clone())
                .collect();
            if group.len() > 1 {
                groups.insert(group);
            }
        }
        groups.into_iter().collect()
    }

    /// All modules that one imports, directly or indirectly.
    fn reach(&self, from: &ModulePath) -> BTreeSet<&ModulePath> {
        let imported = |path: &ModulePath| self.0.imported.get(path).into_iter().flatten();
        let mut texts = BTreeSet::new();
        let mut open: Vec<&ModulePath> = imported(from).collect();
        while let Some(path) = open.pop() {
            if texts.insert(path) {
                open.extend(imported(path));
            }
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(files: &[SourceFile]) -> Vec<String> {
        let texts = check(files).into_iter();
        texts
            .map(|texts| format!("{}: {}", texts.file, texts.text))
            .collect()
    }

    #[test]
    fn an_import_of_a_higher_layer_is_found() {
        let files = [
            ("lib.rs", "mod http;\nmod objects;\nmod server;"),
            ("http/mod.rs", "pub mod body;"),
            ("objects/mod.rs", "pub mod storage;"),
            (
                "http/body.rs",
                "use crate::objects::storage::{\n    self, X,\n};\npub struct Y;",
            ),
            (
                "objects/storage/mod.rs",
                "use crate::http::body::Y;\nuse crate::server::Z;\npub struct X;",
            ),
            (
                "server.rs",
                "use crate::objects::storage::X;\npub struct Z;",
            ),
        ];
        let files = files.map(|(path, text)| {
            SourceFile::new(format!("crates/kube-api-server/src/{path}"), text)
        });
        let texts = texts(&files);
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            texts[0]
                .starts_with("crates/kube-api-server/src/http/body.rs: imports objects/storage,")
        );
        assert!(
            texts[1]
                .starts_with("crates/kube-api-server/src/objects/storage/mod.rs: imports server,")
        );
    }

    #[test]
    fn a_large_circle_is_found_unless_it_is_in_the_folder_of_one_concept() {
        let circle = |folder: &str, names: &[&str]| {
            let next = names.iter().cycle().skip(1);
            let files = names.iter().zip(next).map(|(name, next)| {
                let text = format!("use super::{next}::Of{next};\npub struct Of{name};");
                SourceFile::new(format!("crates/a/src/{folder}{name}.rs"), text)
            });
            let mut files: Vec<SourceFile> = files.collect();
            files.push(SourceFile::new("crates/a/src/lib.rs", ""));
            if !folder.is_empty() {
                files.push(SourceFile::new(format!("crates/a/src/{folder}mod.rs"), ""));
            }
            let mut concepts = Exceptions::new(LIST, ["a: f"]);
            let graph = Graph(Imports::of("a", &files));
            graph.circles("a", &mut concepts).len()
        };
        assert_eq!(circle("", &["b", "c", "d"]), 0);
        assert_eq!(circle("", &["b", "c", "d", "e"]), 1);
        assert_eq!(circle("f/", &["b", "c", "d", "e"]), 0);
        assert_eq!(circle("g/", &["b", "c", "d", "e"]), 1);
    }

    #[test]
    fn a_circle_behind_re_exports_is_found() {
        let text = |local: &str, name: &str| format!("use crate::{name};\npub fn {}() {{}}", local);
        let files = [
            SourceFile::new(
                "crates/a/src/lib.rs",
                "pub use b::b;\npub use c::c;\npub use d::d;\npub use e::e;",
            ),
            SourceFile::new("crates/a/src/b.rs", text("b", "c")),
            SourceFile::new("crates/a/src/c.rs", text("c", "d")),
            SourceFile::new("crates/a/src/d.rs", text("d", "e")),
            SourceFile::new("crates/a/src/e.rs", text("e", "b")),
        ];
        let texts = texts(&files);
        assert!(
            texts.len() == 1 && texts[0].contains("4 modules"),
            "{texts:?}"
        );
    }
}
