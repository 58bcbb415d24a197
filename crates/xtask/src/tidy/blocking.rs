//! Async code makes no call that waits for the disk: the same threads answer requests, renew leases and
//! run probes.
//!
//! What is seen are calls that stand in an async function or block themselves. A synchronous function
//! that reads files belongs into a call of one of [`BESIDE`] too; no text shows who calls it.

use super::{Finding, SourceFile};

/// Where the rule holds: what runs in the process of the server.
const PLACES: &[&str] = &[
    "crates/api-server/src/",
    "crates/container-runtime/src/client/",
    "crates/image-store/src/",
    "crates/mainstay/src/up/",
    "crates/node-agent/src/",
    "crates/pod-network/src/",
    "crates/reconcile/src/",
    "crates/service-proxy/src/",
    "crates/dns-server/src/",
    "crates/volume-provisioner/src/",
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
    "recovery::store",
    "recovery::found",
    "images.get(",
    "images.list(",
];

/// What is done elsewhere than on the runtime's threads.
const BESIDE: &[&str] = &["spawn_blocking(", "beside(", "blocking("];

/// Files that may all the same, each with its reason.
const ALLOWED: &[(&str, &str)] = &[
    (
        "crates/container-runtime/src/client/runtime.rs",
        "lists sandboxes at the start, and reads the log of a shim that did not start",
    ),
    (
        "crates/mainstay/src/up/node.rs",
        "removes a socket when everything else has ended",
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
        "crates/pod-network/src/namespace.rs",
        "opens namespaces, which are no files on a disk",
    ),
    (
        "crates/pod-network/src/ranges.rs",
        "takes a lock at the start, before anything is served",
    ),
];

/// Checks the async code of the server's process.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let ruled = files.iter().filter(|file| {
        PLACES.iter().any(|place| file.path.starts_with(place))
            && !file.path.ends_with("tests.rs")
            && !ALLOWED.iter().any(|(path, _)| *path == file.path)
    });
    let mut findings = Vec::new();
    for file in ruled {
        let text = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        let mut calls: Vec<&str> = async_parts(text).flat_map(waiting).collect();
        calls.sort_unstable();
        calls.dedup();
        findings.extend(calls.into_iter().map(|call| Finding {
            file: file.path.clone(),
            text: format!(
                "{call}… in async code may wait for the disk: do it in `spawn_blocking` or \
                 `blocking::beside`, or give the reason in tidy/blocking.rs"
            ),
        }));
    }
    findings
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

/// The text from the first opening mark to the one that closes it.
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

/// The calls of a text that may wait, but for those that are made beside.
fn waiting(text: &str) -> Vec<&'static str> {
    let mut own = text.to_owned();
    for beside in BESIDE {
        while let Some(call) = own.find(beside) {
            let arguments = enclosed(&own[call..], '(', ')').map_or(0, str::len);
            let end = call + beside.len() - 1 + arguments;
            own.replace_range(call..end.max(call + beside.len()), "");
        }
    }
    // Those of tokio do it beside by themselves.
    let own = own
        .replace("tokio::fs::File::", "tokio::")
        .replace("tokio::fs::", "tokio::");
    let calls = WAITS.iter().filter(|call| own.contains(**call));
    calls.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings A9
    #[test]
    fn calls_in_async_code_are_found_unless_they_are_made_beside() {
        let found = |text: &str| {
            let file = SourceFile {
                path: "crates/node-agent/src/agent/mod.rs".to_owned(),
                text: text.to_owned(),
            };
            !check(&[file]).is_empty()
        };
        assert!(found("async fn a() { if x { std::fs::read(path)?; } }"));
        assert!(found("let task = async move { File::open(path) };"));
        assert!(!found(
            "fn a() { std::fs::read(path)?; }\nasync fn b() { a().await }"
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
}
