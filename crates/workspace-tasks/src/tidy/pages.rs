//! A test runs the commands on users' pages, or there is a reason why not: a block of commands
//! without a language is run, one with `sh` is not.

use super::checkout::{Finding, SourceFile};
use super::exceptions::Exceptions;

/// The directory of the tests that run pages.
const TESTS: &str = "crates/end-to-end/tests/";

/// Pages for contributors; `cargo xtask` runs their commands.
const OF_DEVELOPERS: &[&str] = &[
    "docs/benchmarks.md",
    "docs/contract/",
    "docs/contributing/",
    "docs/decisions/",
];

/// Blocks that are not run: page, prefix of their first command, reason.
const NOT_PASTED: &[(&str, &str, &str)] = &[
    (
        "README.md",
        "cargo build --release",
        "builds the program that the tests are run with",
    ),
    (
        "README.md",
        "sudo target/release/mainstay up",
        "keeps running; a test of the tour starts the same",
    ),
    ("README.md", "docker save", "tests need no container engine"),
    ("README.md", "cargo xtask test", "runs the tests themselves"),
    (
        "docs/high-availability.md",
        "mainstay server ",
        "needs several machines; tests/servers_on_etcd.rs has namespaces of one",
    ),
    (
        "docs/high-availability.md",
        "kubectl config get-contexts",
        "needs several servers; tests/servers_on_etcd.rs has them",
    ),
    (
        "docs/high-availability.md",
        "kubectl config set-cluster",
        "needs a name of several servers; tests/one_name.rs has one",
    ),
    (
        "docs/high-availability.md",
        "etcdctl compaction",
        "needs a full etcd; tests/degraded_etcd.rs has one",
    ),
    (
        "docs/high-availability.md",
        "mainstay store copy ",
        "needs an etcd; tests/store_copy.rs has one",
    ),
    (
        "docs/backup.md",
        "mainstay store ",
        "needs an etcd; tests/store_backup.rs has one",
    ),
    (
        "docs/troubleshooting.md",
        "kubectl delete --raw",
        "needs a damaged store; api-tests/tests/api/unreadable.rs has one",
    ),
    (
        "docs/images.md",
        "docker pull",
        "tests need no container engine",
    ),
    (
        "docs/images.md",
        "cargo xtask setup",
        "what the tests' own images are made with",
    ),
    (
        "docs/install.md",
        "cargo build --release",
        "builds the program that the tests are run with",
    ),
    (
        "docs/ceph.md",
        "kubectl create secret generic ceph-admin",
        "needs a Ceph; tests/network_storage/ceph.rs has one in the virtual machine",
    ),
    (
        "examples/ceph/README.md",
        "kubectl ",
        "needs a Ceph; tests/network_storage/ceph.rs has one in the virtual machine",
    ),
    (
        "examples/nfs/README.md",
        "kubectl ",
        "needs an NFS server; tests/network_storage/nfs.rs has one in the virtual machine",
    ),
    (
        "docs/storage.md",
        "mainstay volume move ",
        "needs two nodes; tests/volume_move.rs has them",
    ),
    (
        "docs/storage.md",
        "kubectl drain build-1 --ignore-daemonsets",
        "needs two nodes; tests/node_loss/planned_loss.rs has them",
    ),
    (
        "docs/many-machines.md",
        "sudo mainstay ",
        "needs several machines; tests/nodes.rs joins namespaces of one",
    ),
    (
        "docs/many-machines.md",
        "kubectl ",
        "needs several machines; tests/nodes.rs joins namespaces of one",
    ),
    (
        "docs/node-failure.md",
        "sudo mainstay node --watchdog",
        "needs a device that resets the machine; the tests of node-agent have a false one",
    ),
    (
        "docs/ecosystem.md",
        "cargo xtask setup",
        "runs the tests themselves",
    ),
    (
        "docs/ecosystem.md",
        "target/end-to-end-tools/python/",
        "tests/ecosystem runs both scripts",
    ),
    (
        "docs/ecosystem.md",
        "pip install dask-kubernetes",
        "hundreds of megabytes",
    ),
    (
        "docs/ecosystem.md",
        "crates/end-to-end/tests/ecosystem/spark.sh",
        "hundreds of megabytes",
    ),
    (
        "docs/storage.md",
        "mount -o prjquota",
        "takes a disk of the reader's; tests/volumes.rs makes such disks",
    ),
    (
        "examples/mariadb/README.md",
        "kubectl create configmap maria-new",
        "needs several nodes; tests/node_loss has them",
    ),
    (
        "examples/postgres/README.md",
        "kubectl create configmap pg-new",
        "needs several nodes; tests/node_loss has them",
    ),
    (
        "examples/zookeeper/README.md",
        "kubectl create configmap keeper-new",
        "needs several nodes; tests/node_loss has them",
    ),
    (
        "examples/cassandra/README.md",
        "cargo xtask setup",
        "what the tests' own images are made with",
    ),
];

/// A block of a page.
#[derive(Debug, PartialEq, Eq)]
struct Block<'t> {
    at: usize,
    language: &'t str,
    first: &'t str,
}

/// Checks README.md, docs and examples.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let tests = files
        .iter()
        .filter(|file| file.path.starts_with(TESTS) && file.path.ends_with(".rs"));
    let pasted: Vec<Vec<String>> = tests.flat_map(|file| pasted(&file.text)).collect();
    let pages = files.iter().filter(|file| {
        let page = &file.path;
        let of_users = page == "README.md"
            || (page.starts_with("docs/") || page.starts_with("examples/"))
                && page.ends_with(".md");
        of_users && !OF_DEVELOPERS.iter().any(|part| page.starts_with(part))
    });
    let mut findings = Vec::new();
    let keys = NOT_PASTED.iter().map(|(page, first, _)| key(page, first));
    let mut exceptions = Exceptions::new("pages.rs", keys);
    for page in pages {
        for block in blocks(&page.text) {
            let existing = match block.language {
                "" => pasted.iter().any(|call| covers(call, page, &block)),
                "sh" => NOT_PASTED
                    .iter()
                    .filter(|(of, first, _)| *of == page.path && block.first.starts_with(first))
                    .any(|(of, first, _)| exceptions.allow(&key(of, first))),
                _ => true,
            };
            if !existing {
                let text = format!(
                    "no test pastes the commands from `{}` on; have {TESTS}guides.rs do it, or say \
                     `sh` and give the reason in tidy/pages.rs",
                    block.first
                );
                findings.push(Finding {
                    file: page.path.clone(),
                    text,
                });
            }
        }
    }
    findings.extend(exceptions.unneeded(files));
    findings
}

fn key(page: &str, first: &str) -> String {
    format!("{page}: {first}")
}

/// The blocks of a page, in order.
fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut at = 0;
    for (position, part) in page.split("```").enumerate() {
        if position % 2 == 1 {
            let (language, body) = part.split_once('\n').unwrap_or((part, ""));
            blocks.push(Block {
                at,
                language: language.trim(),
                first: body.lines().next().unwrap_or_default().trim(),
            });
        }
        at += part.len() + "```".len();
    }
    blocks
}

/// The words of each call that pastes a page, or its part from one text to another. A `Page` checks that all of the
/// page was pasted.
fn pasted(test: &str) -> Vec<Vec<String>> {
    let calls = [
        (".page(", ")"),
        (".part(", ");"),
        (".keep_running(", ");"),
        ("Page::open(", ");"),
        ("Page::part(", ");"),
    ];
    let calls = calls.into_iter().flat_map(|(call, end)| {
        let offsets = test.match_indices(call);
        offsets.map(move |(at, _)| (at + call.len(), end))
    });
    let arguments = |(at, end): (usize, &str)| test.get(at..)?.split_once(end);
    let calls = calls.filter_map(arguments);
    calls.map(|(arguments, _)| words(arguments)).collect()
}

/// The texts in quotes.
fn words(arguments: &str) -> Vec<String> {
    let words = arguments.split('"').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

/// Whether the call pastes that block of the page.
fn covers(call: &[String], page: &SourceFile, block: &Block<'_>) -> bool {
    let [name, bounds @ ..] = call else {
        return false;
    };
    let from = bounds
        .first()
        .map_or(Some(0), |from| page.text.find(from.as_str()));
    let Some(from) = from else { return false };
    let rest = page.text.get(from..).unwrap_or_default();
    let to = bounds
        .get(1)
        .map_or(Some(rest.len()), |to| rest.find(to.as_str()));
    let to = to.map(|to| from + to);
    *name == page.path && (from..to.unwrap_or(from)).contains(&block.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings U7
    #[test]
    fn commands_that_no_test_pastes_are_found() {
        let page =
            "# A\n```\nfirst\n```\n## B\n```\nsecond\n```\n```yaml\na: 1\n```\n```sh\nthird\n```\n";
        let test = "pasted.part(\"docs/a.md\", \"# A\", Some(\"## B\"));";
        let findings = check(&[
            SourceFile::new("docs/a.md", page),
            SourceFile::new("docs/benchmarks.md", page),
            SourceFile::new("crates/end-to-end/tests/a.rs", test),
        ]);
        let texts: Vec<&str> = findings
            .iter()
            .map(|finding| finding.text.as_str())
            .collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            texts[0].contains("`second`") && texts[1].contains("`third`"),
            "{texts:?}"
        );
        let whole = "let page = Page::open(&instance, \"docs/a.md\");";
        let findings = check(&[
            SourceFile::new("docs/a.md", page),
            SourceFile::new("crates/end-to-end/tests/a.rs", whole),
        ]);
        assert_eq!(findings.len(), 1, "{findings:?}");
    }
}
