//! Async code makes no call that waits for the disk: the same threads answer requests, renew leases and
//! run probes.
//!
//! A call blocks if it is in [`WAITS`], or calls a non-async function of the project that blocks.
//! Functions are identified by name: one that is ambiguous in its crate, or in [`ORDINARY`], is not
//! followed.

use std::collections::{BTreeMap, BTreeSet};

use super::checkout::{Finding, SourceFile, is_whole};
use super::exceptions::{unneeded_finding, without_files};

/// The scope of the rule: code in the server's process.
const PLACES: &[&str] = &[
    "crates/kube-api-server/src/",
    "crates/container-runtime/src/client/",
    "crates/control-plane/src/",
    "crates/controllers/src/rbd_provisioner/",
    "crates/controllers/src/volume_provisioning/",
    "crates/data-directory/src/",
    "crates/image-store/src/",
    "crates/kubeconfig/src/",
    "crates/mainstay/src/node/",
    "crates/mainstay/src/node_parts/",
    "crates/mainstay/src/up/",
    "crates/mvcc-store/src/",
    "crates/node-agent/src/",
    "crates/node-identity/src/",
    "crates/node-membership/src/",
    "crates/pod-network/src/",
    "crates/process-telemetry/src/",
    "crates/rbd-images/src/",
    "crates/controller-framework/src/",
    "crates/service-proxy/src/",
    "crates/volume-transfer/src/",
    "crates/cluster-dns/src/",
    "crates/volume-storage/src/",
];

/// Further directories whose functions are called from there.
const CALLED: &[&str] = &["crates/container-runtime/src/", "crates/host-kernel/src/"];

/// A separate process, which may block.
const ELSEWHERE: &str = "crates/container-runtime/src/shim/";

/// Crates whose functions other crates call.
const SHARED: &[&str] = &[
    "crates/container-runtime/src/client/",
    "crates/image-store/src/",
];

/// Names that functions of the standard library have, too, of which a call says nothing.
const ORDINARY: &[&str] = &[
    "clear", "create", "drop", "end", "is_empty", "lock", "plan", "replace", "send",
];

/// The beginnings of calls that may wait.
const WAITS: &[&str] = &[
    "std::fs::",
    "fs::read",
    "fs::write",
    "fs::remove",
    "fs::create",
    "durable_file::replace",
    "fs::rename",
    "fs::copy",
    "fs::metadata",
    "fs::symlink_metadata",
    "fs::set_permissions",
    "fs::canonicalize",
    "File::open",
    "File::create",
    "OpenOptions::new",
    "fs::flock",
    "fs::syncfs",
    "tree::",
    "durable_file::",
    "recovery::store",
    "recovery::found",
    "images.get(",
    "images.list(",
];

/// Calls that move work off the runtime's threads.
const BESIDE: &[&str] = &[
    "beside(",
    "block_in_place(",
    "call_with_timeout(",
    "blocking(",
    "blocking_value(",
    "in_store(",
    ".change(",
    ".on(driver,",
    ".step(of,",
    ".replica_step(of,",
];

/// The file of these lists.
const LIST: &str = "blocking.rs";

/// Files that may all the same, each with its reason.
const ALLOWED: &[(&str, &str)] = &[
    (
        "crates/cluster-dns/src/upstreams.rs",
        "reads the number of a link, which no disk holds",
    ),
    (
        "crates/pod-network/src/forwarding.rs",
        "settings of the kernel, which are no files on a disk; its own file is written at the start and \
         at the end",
    ),
    (
        "crates/pod-network/src/host.rs",
        "reads a list of the kernel's",
    ),
    (
        "crates/pod-network/src/links.rs",
        "switches of the kernel's, which are no files on a disk",
    ),
    (
        "crates/pod-network/src/namespace.rs",
        "opens namespaces, which are no files on a disk",
    ),
    (
        "crates/process-telemetry/src/polls.rs",
        "one small file of the kernel, which no disk holds; measured polls only, in tests",
    ),
];

/// Checks the async code of the server's process.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let allowed: Vec<&str> = ALLOWED.iter().map(|(path, _)| *path).collect();
    let mut findings = judge(files, &allowed);
    if !is_whole(files) {
        return findings;
    }
    // An exception may be needed for callers in other files.
    let is_needed = |path: &&str| {
        let others: Vec<&str> = allowed
            .iter()
            .copied()
            .filter(|other| other != path)
            .collect();
        judge(files, &others).len() > findings.len()
    };
    let unneeded: Vec<Finding> = allowed
        .iter()
        .filter(|path| !is_needed(path))
        .map(|path| unneeded_finding(LIST, path))
        .collect();
    findings.extend(unneeded);
    let places = PLACES
        .iter()
        .chain(CALLED)
        .chain(SHARED)
        .chain([&ELSEWHERE]);
    findings.extend(without_files(LIST, places.copied(), files));
    findings
}

/// The findings with these exceptions.
fn judge(files: &[SourceFile], allowed: &[&str]) -> Vec<Finding> {
    let files: Vec<&SourceFile> = files
        .iter()
        .filter(|file| {
            let is_ours = PLACES
                .iter()
                .chain(CALLED)
                .any(|at| file.path.starts_with(at));
            is_ours && !file.path.starts_with(ELSEWHERE)
        })
        .collect();
    let functions = Functions::of(&files, allowed);
    let mut findings = Vec::new();
    for file in files {
        let is_ruled = PLACES.iter().any(|place| file.path.starts_with(place));
        if !is_ruled || allowed.contains(&file.path.as_str()) {
            continue;
        }
        let calls: BTreeSet<&str> = async_parts(&file.code)
            .flat_map(|part| {
                let part = without_beside(part);
                let own = functions.called(&file.path, &part);
                own.into_iter().chain(waiting(&part)).collect::<Vec<_>>()
            })
            .collect();
        findings.extend(calls.into_iter().map(|call| Finding {
            file: file.path.clone(),
            text: format!(
                "{call}… in async code may wait for the disk: do it in `host_kernel::blocking` or \
                 `host_kernel::block_in_place`, or give the reason in tidy/blocking.rs"
            ),
        }));
    }
    findings
}

/// Functions that wait: of which crate, their names, and whether other crates call them.
struct Functions {
    waiting: BTreeMap<String, BTreeMap<String, bool>>,
    /// All names of functions, by crate.
    defined: BTreeMap<String, BTreeMap<String, usize>>,
}

struct Function {
    name: String,
    is_async: bool,
    is_shared: bool,
    /// Its own code.
    body: String,
}

fn crate_of(path: &str) -> &str {
    path.split('/').nth(1).unwrap_or_default()
}

impl Functions {
    fn of(files: &[&SourceFile], allowed: &[&str]) -> Self {
        let mut all: BTreeMap<String, Vec<Function>> = BTreeMap::new();
        for file in files {
            let is_shared = SHARED.iter().any(|place| file.path.starts_with(place));
            let mut found = functions(&file.code, is_shared);
            if allowed.contains(&file.path.as_str()) {
                found.iter_mut().for_each(|function| function.body.clear());
            }
            all.entry(crate_of(&file.path).to_owned())
                .or_default()
                .extend(found);
        }
        let mut known = Self {
            waiting: BTreeMap::new(),
            defined: BTreeMap::new(),
        };
        for (of, functions) in &all {
            let defined = known.defined.entry(of.clone()).or_default();
            for function in functions {
                *defined.entry(function.name.clone()).or_default() += 1;
            }
        }
        for (of, functions) in &all {
            while known.add_callers(of, functions) {}
        }
        known
    }

    /// Adds functions that block, directly or by known ones; `false` if there are none.
    fn add_callers(&mut self, of: &str, functions: &[Function]) -> bool {
        let waits = |function: &&Function| {
            !function.is_async
                && self.is_told(of, &function.name)
                && !self.of_crate(of).any(|(name, _)| *name == function.name)
                && (!waiting(&function.body).is_empty()
                    || self
                        .of_crate(of)
                        .any(|(name, _)| calls(&function.body, name)))
        };
        let found: Vec<(String, bool)> = functions
            .iter()
            .filter(waits)
            .map(|function| (function.name.clone(), function.is_shared))
            .collect();
        let is_more = !found.is_empty();
        self.waiting.entry(of.to_owned()).or_default().extend(found);
        is_more
    }

    fn of_crate(&self, of: &str) -> impl Iterator<Item = (&String, &bool)> {
        self.waiting.get(of).into_iter().flatten()
    }

    /// Whether the name identifies one function of the crate.
    fn is_told(&self, of: &str, name: &str) -> bool {
        let times = self.defined.get(of).and_then(|defined| defined.get(name));
        times == Some(&1) && !ORDINARY.contains(&name)
    }

    /// The functions called in a part of a file.
    fn called(&self, path: &str, part: &str) -> Vec<&str> {
        let own = crate_of(path);
        let here = |name: &str| {
            self.defined
                .get(own)
                .is_some_and(|all| all.contains_key(name))
        };
        let each = self.waiting.iter().flat_map(|(of, all)| {
            let mine = of == own;
            let reachable = all.iter().filter(move |(_, shared)| mine || **shared);
            reachable.map(move |(name, _)| (mine, name.as_str()))
        });
        each.filter(|(mine, name)| (*mine || !here(name)) && calls(part, name))
            .map(|(_, name)| name)
            .collect()
    }
}

/// The functions of a text that have a body.
fn functions(text: &str, is_shared: bool) -> Vec<Function> {
    let starts = text.match_indices("fn ").filter(|(at, _)| {
        let before = text[..*at].chars().next_back();
        before.is_none_or(char::is_whitespace)
    });
    let read = |(at, _): (usize, &str)| {
        let rest = &text[at + "fn ".len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        let opens = rest.find('{')?;
        if rest[..opens].contains(';') {
            return None;
        }
        let line = text[..at].lines().next_back().unwrap_or_default();
        Some(Function {
            name: rest[..end].to_owned(),
            is_async: line.split_whitespace().any(|word| word == "async"),
            is_shared,
            body: without_beside(enclosed(rest, '{', '}')?),
        })
    };
    starts.filter_map(read).collect()
}

/// Whether a function of that name is called.
fn calls(text: &str, name: &str) -> bool {
    let call = format!("{name}(");
    text.match_indices(&call).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}

/// The bodies of async functions, and async blocks.
fn async_parts(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("async ").filter_map(|(at, _)| {
        let rest = text.get(at..)?;
        let is_code = ["async fn", "async move", "async {", "async |"];
        is_code.iter().find(|start| rest.starts_with(**start))?;
        enclosed(rest, '{', '}')
    })
}

/// The text from the first opening mark to its closing one.
fn enclosed(text: &str, open: char, close: char) -> Option<&str> {
    let start = text.find(open)?;
    let mut depth = 0usize;
    for (at, mark) in text[start..].char_indices() {
        if mark == open {
            depth += 1;
        } else if mark == close {
            depth -= 1;
            if depth == 0 {
                return text.get(start..=start + at);
            }
        }
    }
    None
}

/// A text without the parts that run off the runtime's threads.
fn without_beside(text: &str) -> String {
    let mut own = text.to_owned();
    for beside in BESIDE {
        while let Some(call) = own.find(beside) {
            let opens = call + own[call..].find('(').unwrap_or_default();
            let end = opens + enclosed(&own[opens..], '(', ')').map_or(0, str::len);
            own.replace_range(call..end.max(call + beside.len()), "");
        }
    }
    // Functions of tokio move the work themselves.
    own.replace("tokio::fs::File::", "tokio::")
        .replace("tokio::fs::", "tokio::")
}

/// The calls of a text that may wait.
fn waiting(text: &str) -> Vec<&'static str> {
    let calls = WAITS.iter().filter(|call| has_word(text, call));
    calls.copied().collect()
}

/// Whether the text has the call, and not as the end of a longer name (`json_tree::` is not `tree::`).
fn has_word(text: &str, call: &str) -> bool {
    text.match_indices(call).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings A9
    #[test]
    fn calls_in_async_code_are_found_unless_they_are_made_beside() {
        let found = |text: &str| {
            let file = SourceFile::new("crates/node-agent/src/agent/mod.rs", text);
            !check(&[file]).is_empty()
        };
        assert!(found("async fn a() { if x { std::fs::read(path)?; } }"));
        assert!(found("let task = async move { File::open(path) };"));
        assert!(found("async fn a() { tree::remove(path)?; }"));
        assert!(!found("async fn a() { json_tree::from_value(value)?; }"));
        assert!(!found(
            "fn a() { std::fs::read(path)?; }\nasync fn b() { c().await }"
        ));
        assert!(!found(
            "async fn a() { beside(|| fs::read((path)))?; done(); }"
        ));
        assert!(found(
            "async fn a() { beside(|| fs::read(path))?; fs::write(path); }"
        ));
        assert!(!found("async fn a() { tokio::fs::read(path).await }"));
        assert!(!found("async fn a() { tokio::fs::File::open(path).await }"));
        assert!(!found(
            "#[cfg(test)]\nmod tests { async fn a() { fs::read(path); } }"
        ));
    }

    // findings-2 R35
    #[test]
    fn every_crate_of_the_servers_process_is_ruled_and_common_names_are_followed() {
        for place in [
            "control-plane",
            "data-directory",
            "node-identity",
            "kubeconfig",
            "mvcc-store",
        ] {
            let text = "fn load() { std::fs::read(path)?; }\nasync fn a() { load() }";
            let file = SourceFile::new(format!("crates/{place}/src/lib.rs"), text);
            assert_eq!(check(&[file]).len(), 1, "{place}");
        }
    }

    // findings A9
    #[test]
    fn functions_that_wait_are_found_by_their_names() {
        let found = |texts: &[(&str, &str)]| {
            let file =
                |(path, text): &(&str, &str)| SourceFile::new(format!("crates/{path}"), *text);
            let files: Vec<SourceFile> = texts.iter().map(file).collect();
            check(&files).len()
        };
        let reads = "pub fn sizes() { std::fs::read(path)?; }\nfn all_sizes() { sizes() }";
        let (own, other) = ("node-agent/src/a.rs", "node-agent/src/b.rs");
        for (called, times) in [
            ("sizes()", 1),
            ("self.all_sizes()", 1),
            ("beside(|| sizes())", 0),
            ("resizes()", 0),
        ] {
            let caller = format!("async fn b() {{ {called} }}");
            assert_eq!(found(&[(own, reads), (other, &caller)]), times, "{called}");
        }
        let caller = "async fn b() { sizes() }";
        assert_eq!(
            found(&[("kube-api-server/src/a.rs", reads), (other, caller)]),
            0
        );
        let of_client = "container-runtime/src/client/a.rs";
        assert_eq!(found(&[(of_client, reads), (other, caller)]), 1);
        let twice = "fn sizes() {}";
        assert_eq!(
            found(&[
                (own, reads),
                ("node-agent/src/c.rs", twice),
                (other, caller)
            ]),
            0
        );
    }
}
