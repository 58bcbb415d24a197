//! Modules import downwards: where the layers of a crate are listed, no module imports one of a layer
//! above its own, and in no crate more than [`CIRCLE_MAX`] modules import each other in a circle.
//!
//! A module is a file. Its imports are the paths in its code that begin with `crate`, `super` or
//! `self`; tests are left out. The modules of one folder may form a larger cycle, since such a
//! folder is one concept.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, SourceFile};

/// Most modules of a circle that are not in one folder.
const CIRCLE_MAX: usize = 3;

/// The layers of crates, the lowest first. A layer is a folder or a file of the crate's `src`; modules
/// in no listed layer are above all of them.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "api-server",
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
        "node-agent",
        &[
            "limits",
            "error",
            "blocking",
            "answer_cache",
            "config",
            "clock",
            "paths",
            "resource_limits",
            "api",
            "machine",
            "images",
            "probes",
            "csi_volumes",
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

/// Checks the modules of all crates.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let crates: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| source(file))
        .map(|(name, _)| name)
        .collect();
    let mut findings = Vec::new();
    for name in crates {
        let graph = Graph::of(name, files);
        let layers = LAYERS.iter().find(|(layered, _)| *layered == name);
        let layers = layers.map_or(&[][..], |(_, layers)| *layers);
        findings.extend(graph.upward(layers));
        findings.extend(graph.circles(layers));
    }
    findings
}

/// The crate of a source file, and the file's path below `src`.
fn source(file: &SourceFile) -> Option<(&str, &str)> {
    let (name, inside) = file.path.strip_prefix("crates/")?.split_once("/src/")?;
    let is_rust = inside.ends_with(".rs") && !inside.starts_with("bin/") && !name.contains('/');
    is_rust.then_some((name, inside))
}

/// A module by its path in the crate; the root is empty.
type Path = Vec<String>;

/// The imports between the modules of a crate.
struct Graph<'a> {
    files: BTreeMap<Path, &'a str>,
    imports: BTreeMap<Path, BTreeSet<Path>>,
}

impl<'a> Graph<'a> {
    fn of(name: &str, files: &'a [SourceFile]) -> Self {
        let own = files.iter().filter_map(|file| {
            let (of, inside) = source(file)?;
            (of == name).then(|| (module(inside), file))
        });
        let own: BTreeMap<Path, &SourceFile> = own.collect();
        let imports = own.iter().map(|(path, file)| {
            let mut found: BTreeSet<Path> = paths(&file.text)
                .into_iter()
                .filter_map(|words| target(path, &words, &own))
                .collect();
            found.remove(path);
            (path.clone(), found)
        });
        Self {
            imports: imports.collect(),
            files: own
                .iter()
                .map(|(path, file)| (path.clone(), file.path.as_str()))
                .collect(),
        }
    }

    fn finding(&self, path: &Path, text: String) -> Finding {
        let file = self.files.get(path).copied().unwrap_or_default();
        Finding {
            file: file.to_owned(),
            text,
        }
    }

    /// Imports of modules in a higher layer.
    fn upward(&self, layers: &[&str]) -> Vec<Finding> {
        let level = |path: &Path| {
            let folder = path.first().map_or("", String::as_str);
            let place = layers.iter().position(|layer| *layer == folder);
            place.unwrap_or(layers.len())
        };
        let pairs = self.imports.iter().flat_map(|(path, imports)| {
            let above = imports.iter().filter(|other| level(other) > level(path));
            above.map(move |other| (path, other))
        });
        let text = |other: &Path| {
            format!(
                "imports {}, which is in a layer above its own (tidy/layers.rs): take what both need \
                 as a parameter, or move it down",
                shown(other)
            )
        };
        pairs
            .map(|(path, other)| self.finding(path, text(other)))
            .collect()
    }

    /// Circles of more than [`CIRCLE_MAX`] modules that are not in one folder.
    fn circles(&self, layers: &[&str]) -> Vec<Finding> {
        let circles = self.connected().into_iter().filter(|circle| {
            let folder = self.folder(circle);
            let is_layer = matches!(&folder[..], [layer] if layers.contains(&layer.as_str()));
            circle.len() > CIRCLE_MAX && (folder.is_empty() || is_layer)
        });
        let finding = |circle: Vec<Path>| {
            let names: Vec<String> = circle.iter().map(shown).collect();
            let text = format!(
                "{} modules import each other in a circle: {}. Let one of them take what it needs as \
                 a parameter, or move what both need to a module below",
                circle.len(),
                names.join(", ")
            );
            circle.first().map(|first| self.finding(first, text))
        };
        circles.filter_map(finding).collect()
    }

    /// The innermost folder that holds all these modules; empty for the crate itself.
    fn folder(&self, modules: &[Path]) -> Path {
        let home = |path: &Path| {
            let has_folder = self
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
    fn connected(&self) -> Vec<Vec<Path>> {
        let reached: BTreeMap<&Path, BTreeSet<&Path>> = self
            .imports
            .keys()
            .map(|path| (path, self.reach(path)))
            .collect();
        let mut groups: BTreeSet<Vec<Path>> = BTreeSet::new();
        for (path, all) in &reached {
            let back =
                |other: &&&Path| reached.get(**other).is_some_and(|from| from.contains(path));
            let group: Vec<Path> = all
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
    fn reach(&self, from: &Path) -> BTreeSet<&Path> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&Path> = self.imports.get(from).into_iter().flatten().collect();
        while let Some(path) = open.pop() {
            if found.insert(path) {
                open.extend(self.imports.get(path).into_iter().flatten());
            }
        }
        found
    }
}

fn shown(path: &Path) -> String {
    match path.is_empty() {
        true => "the crate's root".to_owned(),
        false => path.join("/"),
    }
}

/// The module that a file below `src` is.
fn module(inside: &str) -> Path {
    let stem = inside.trim_end_matches(".rs");
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    match stem {
        "lib" | "main" => Path::new(),
        stem => stem.split('/').map(str::to_owned).collect(),
    }
}

/// The module that a path in a module's code leads into.
fn target(from: &Path, words: &[&str], known: &BTreeMap<Path, &SourceFile>) -> Option<Path> {
    let mut words = words;
    let mut full = match words.first() {
        Some(&"crate") => Path::new(),
        _ => from.clone(),
    };
    while let Some((first @ ("crate" | "self" | "super"), rest)) =
        words.split_first().map(|(first, rest)| (*first, rest))
    {
        if first == "super" {
            full.pop();
        }
        words = rest;
    }
    full.extend(words.iter().map(|word| (*word).to_owned()));
    (0..=full.len())
        .rev()
        .map(|length| full[..length].to_vec())
        .find(|path| known.contains_key(path))
}

/// The paths in the code of a file that begin with `crate`, `super` or `self`.
fn paths(text: &str) -> Vec<Vec<&str>> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut found = Vec::new();
    let starts = ["crate::", "super::", "self::"];
    for line in statements(code) {
        for start in starts {
            for (at, _) in line.match_indices(start) {
                let before = line[..at].chars().next_back();
                let is_start =
                    before.is_none_or(|mark| !is_word(mark) && mark != ':' && mark != '$');
                if is_start {
                    tree(&line[at..], Vec::new(), &mut found);
                }
            }
        }
    }
    found
}

/// The code without comments, in pieces that end where a statement does.
fn statements(code: &str) -> impl Iterator<Item = &str> {
    let mut rest = code;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let line = rest.split_inclusive('\n').next().unwrap_or(rest);
            if line.trim_start().starts_with("//") {
                rest = &rest[line.len()..];
                continue;
            }
            // A list of imports spans several lines.
            let is_use = line.contains("use ") && !line.contains(';');
            let end = match is_use {
                true => rest.find(';').map_or(rest.len(), |end| end + 1),
                false => line.len(),
            };
            let piece = &rest[..end];
            rest = &rest[end..];
            return Some(piece);
        }
    })
}

fn is_word(mark: char) -> bool {
    mark.is_alphanumeric() || mark == '_'
}

/// Parses a path, or a list of paths in braces; returns the rest.
fn tree<'t>(text: &'t str, before: Vec<&'t str>, found: &mut Vec<Vec<&'t str>>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            match rest.chars().next() {
                None => return rest,
                Some('}') => return &rest[1..],
                Some(_) => rest = tree(rest, before.clone(), found),
            }
            // A path may be followed by an alias, and a separator.
            let end = rest.find([',', '}']).unwrap_or(rest.len());
            rest = rest[end..].strip_prefix(',').unwrap_or(&rest[end..]);
        }
    }
    let end = text.find(|mark| !is_word(mark)).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let mut path = before;
    if !word.is_empty() {
        path.push(word);
    }
    match rest.strip_prefix("::") {
        Some(next) if !word.is_empty() => tree(next, path, found),
        _ => {
            found.push(path);
            rest
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<SourceFile> = files
            .iter()
            .map(|(path, text)| SourceFile::new(*path, *text))
            .collect();
        let found = check(&files).into_iter();
        found
            .map(|found| format!("{}: {}", found.file, found.text))
            .collect()
    }

    #[test]
    fn paths_are_read_out_of_lists_and_code() {
        let text = "use crate::{a, b::{self as x, c::D}};\n// crate::not\nuse super::e::*;\n\
                    fn f() { crate::g::h(); }\n#[cfg(test)]\nmod tests { use crate::i; }";
        let paths: Vec<String> = paths(text).iter().map(|path| path.join("::")).collect();
        assert_eq!(
            paths,
            [
                "crate::a",
                "crate::b::self",
                "crate::b::c::D",
                "super::e",
                "crate::g::h"
            ]
        );
    }

    #[test]
    fn an_import_of_a_higher_layer_is_found() {
        let files = [
            ("crates/api-server/src/lib.rs", "mod http;"),
            (
                "crates/api-server/src/http/body.rs",
                "use crate::objects::storage::{\n    self, X,\n};",
            ),
            (
                "crates/api-server/src/objects/storage/mod.rs",
                "use crate::http::body::Y;\nuse crate::server::Z;",
            ),
            (
                "crates/api-server/src/server.rs",
                "use crate::objects::storage::X;",
            ),
        ];
        let found = found(&files);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("crates/api-server/src/http/body.rs: imports objects/storage,")
        );
        assert!(
            found[1].starts_with("crates/api-server/src/objects/storage/mod.rs: imports server,")
        );
    }

    #[test]
    fn a_large_circle_is_found_unless_it_is_in_one_folder() {
        let circle = |folder: &str, names: &[&str]| {
            let next = names.iter().cycle().skip(1);
            let files = names.iter().zip(next).map(|(name, next)| {
                let text = format!("use super::{next}::A;");
                (format!("crates/a/src/{folder}{name}.rs"), text)
            });
            let mut files: Vec<(String, String)> = files.collect();
            files.push((format!("crates/a/src/{folder}mod.rs"), String::new()));
            let files: Vec<(&str, &str)> = files
                .iter()
                .map(|(path, text)| (path.as_str(), text.as_str()))
                .collect();
            found(&files).len()
        };
        assert_eq!(circle("", &["b", "c", "d"]), 0);
        assert_eq!(circle("", &["b", "c", "d", "e"]), 1);
        assert_eq!(circle("f/", &["b", "c", "d", "e"]), 0);
    }
}
