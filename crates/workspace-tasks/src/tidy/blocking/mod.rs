//! Async code makes no call that waits for the disk or a process: its threads also respond to requests, renew leases
//! and run probes.
//!
//! A function blocks if it is not async, and calls a primitive that waits ([`primitives`]) or a function that blocks.
//! Calls are resolved by paths, imports and the types of receivers. A call that is not resolved (a trait object, a
//! generic parameter, an unknown type) is not followed. A closure runs where the function that gets it runs it.

mod body;
mod index;
mod primitives;
mod select;
mod wrappers;

use std::collections::BTreeSet;

use self::body::{Body, Call, Callee};
use self::index::Index;
use super::checkout::{AROUND, Finding, SourceFile, is_whole};
use super::exceptions::{Exceptions, unneeded_finding, without_files};

/// The scope of the rule: code in the server's process.
const FOLDERS: &[&str] = &[
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

/// A separate process, which may block.
const ELSEWHERE: &str = "crates/container-runtime/src/shim/";

/// The file of these lists.
const LIST: &str = "blocking/mod.rs";

/// Files whose functions read what no disk holds, each with its reason.
const NO_DISK: &[(&str, &str)] = &[
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

/// Functions whose async code is allowed to wait, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("control_plane::server::Server::start_in_order", STARTS),
    ("control_plane::store::open", STARTS),
    (
        "image_store::pull::Pull::download_and_unpack",
        "the free space of a file system, which the kernel has in memory",
    ),
    (
        "kube_api_server::routing::page",
        "figures of the process, which no disk holds",
    ),
    ("kubeconfig::transport::Connector::new", STARTS),
    ("mainstay::node::run", STARTS),
    ("mainstay::node::start", STARTS),
    ("mainstay::node_parts::network::tear_down", STOPS),
    ("mainstay::up::Cluster::start", STARTS),
    ("mainstay::up::Cluster::start_server", STARTS),
    ("mainstay::up::run", STARTS),
    ("mainstay::up::several::Several::run", STARTS),
    ("mainstay::up::several::start", STARTS),
    ("mainstay::up::several::tear_down", STOPS),
    (
        "node_agent::worker::instance::Start::spec",
        "the host name of the machine, which no disk holds",
    ),
    (
        "node_agent::worker::pod_sandbox::create",
        "the host name of the machine, which no disk holds",
    ),
    ("pod_network::network::PodNetwork::open", STARTS),
    ("pod_network::ranges::reserve_cluster_ranges", STARTS),
    ("pod_network::ranges::reserve_ranges", STARTS),
];

const STARTS: &str = "before the parts start whose work could be late";
const STOPS: &str = "after the parts have stopped";

/// Checks the async code of the server's process.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let index = Index::new(files.iter().filter(|file| is_product(file)).map(|file| {
        let text = file.product_text();
        (file.path.as_str(), text)
    }));
    let mut graph = Graph::new(&index);
    graph.mark();
    let mut findings = Vec::new();
    let mut exceptions = Exceptions::new(LIST, EXCEPTIONS.iter().map(|(caller, _)| *caller));
    for (number, callee) in &graph.calls_in_async_code() {
        let caller = &index.functions[*number];
        if exceptions.allow(&caller.path) {
            continue;
        }
        findings.push(Finding {
            file: caller.file.clone(),
            text: format!(
                "async code of `{}` may wait for the disk or a process in {}: call it in \
                 `host_kernel::blocking` or `host_kernel::block_in_place`, or give the reason in \
                 tidy/{LIST}",
                caller.path,
                graph.chain(callee).join(" → "),
            ),
        });
    }
    findings.extend(exceptions.unneeded(files));
    if is_whole(files) {
        let unneeded = NO_DISK
            .iter()
            .filter(|(file, _)| !graph.excepted.contains(*file));
        findings.extend(unneeded.map(|(file, _)| unneeded_finding(LIST, file)));
        let folders = FOLDERS.iter().chain([&ELSEWHERE]);
        findings.extend(without_files(LIST, folders.copied(), files));
    }
    findings
}

/// Whether a file has code of the server's process.
fn is_product(file: &SourceFile) -> bool {
    let of = file.path.split('/').nth(1).unwrap_or_default();
    let is_code = !file.code.trim().is_empty() && file.path.contains("/src/");
    is_code && !AROUND.contains(&of) && !file.path.starts_with(ELSEWHERE)
}

fn has_no_disk(file: &str) -> bool {
    NO_DISK.iter().any(|(path, _)| *path == file)
}

/// The calls of all functions.
struct Graph<'i> {
    index: &'i Index,
    bodies: Vec<Body>,
    /// Whether the function runs a closure that it gets.
    runs_closure: Vec<bool>,
    /// The call for which the function blocks.
    blocks_by: Vec<Option<Callee>>,
    /// The files of [`NO_DISK`] with functions that would block otherwise.
    excepted: BTreeSet<&'i str>,
}

impl<'i> Graph<'i> {
    fn new(index: &'i Index) -> Self {
        let bodies: Vec<Body> = index
            .functions
            .iter()
            .map(|function| body::read(index, function))
            .collect();
        let runs_closure = bodies.iter().map(|body| body.runs_closure).collect();
        Self {
            index,
            runs_closure,
            blocks_by: vec![None; bodies.len()],
            bodies,
            excepted: BTreeSet::new(),
        }
    }

    /// Finds the functions that run closures, and those that block, until no function is added.
    fn mark(&mut self) {
        loop {
            let mut is_more = false;
            for (number, body) in self.bodies.iter().enumerate() {
                let runs = body
                    .hands_closure_to
                    .iter()
                    .any(|to| self.runs_closure[*to]);
                if runs && !self.runs_closure[number] {
                    self.runs_closure[number] = true;
                    is_more = true;
                }
            }
            if !is_more {
                break;
            }
        }
        loop {
            let mut is_more = false;
            for number in 0..self.bodies.len() {
                let function = &self.index.functions[number];
                let is_async = function.signature.asyncness.is_some();
                if is_async || self.blocks_by[number].is_some() {
                    continue;
                }
                let calls = self.bodies[number].calls.iter();
                let call = calls
                    .filter(|call| !call.is_async)
                    .find(|call| self.waits(call));
                let Some(callee) = call.map(|call| call.callee.clone()) else {
                    continue;
                };
                if has_no_disk(&function.file) {
                    self.excepted.insert(&function.file);
                } else {
                    self.blocks_by[number] = Some(callee);
                    is_more = true;
                }
            }
            if !is_more {
                break;
            }
        }
    }

    /// Whether the function makes the call, and the call waits.
    fn waits(&self, call: &Call) -> bool {
        let is_called = call.closures_of.iter().all(|of| self.runs_closure[*of]);
        is_called
            && match &call.callee {
                Callee::Primitive(_) => true,
                Callee::Indexed(number) => self.blocks_by[*number].is_some(),
            }
    }

    /// The calls in async code that wait, each with the number of its function.
    fn calls_in_async_code(&mut self) -> Vec<(usize, Callee)> {
        let mut calls = BTreeSet::new();
        for (number, body) in self.bodies.iter().enumerate() {
            let file = self.index.functions[number].file.as_str();
            let waiting = body
                .calls
                .iter()
                .filter(|call| call.is_async && self.waits(call));
            let waiting = waiting.map(|call| (number, call.callee.clone()));
            if has_no_disk(file) {
                if waiting.count() > 0 {
                    self.excepted.insert(file);
                }
            } else if FOLDERS.iter().any(|key| file.starts_with(key)) {
                calls.extend(waiting);
            }
        }
        calls.into_iter().collect()
    }

    fn path<'c>(&'c self, callee: &'c Callee) -> &'c str {
        match callee {
            Callee::Indexed(number) => &self.index.functions[*number].path,
            Callee::Primitive(path) => path,
        }
    }

    /// The paths of the functions from a call to the primitive.
    fn chain<'c>(&'c self, callee: &'c Callee) -> Vec<&'c str> {
        let mut chain = vec![self.path(callee)];
        let mut callee = callee;
        while let Callee::Indexed(number) = callee
            && let Some(next) = &self.blocks_by[*number]
        {
            chain.push(self.path(next));
            callee = next;
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(texts: &[(&str, &str)]) -> usize {
        let files = texts
            .iter()
            .map(|(path, text)| SourceFile::new(format!("crates/{path}"), *text));
        check(&files.collect::<Vec<_>>()).len()
    }

    fn of_agent(text: &str) -> usize {
        let host_kernel = "pub fn blocking(work: impl FnOnce()) {}\npub fn block_in_place(work: impl FnOnce()) {}";
        findings(&[
            ("host-kernel/src/lib.rs", host_kernel),
            ("node-agent/src/agent/mod.rs", text),
        ])
    }

    // findings A9
    #[test]
    fn primitives_in_async_code_are_found_unless_they_run_on_other_threads() {
        for (text, count) in [
            ("async fn a() { if x { std::fs::read(path)?; } }", 1),
            (
                "use std::fs::File; fn a() { let task = async move { File::open(path) }; }",
                1,
            ),
            (
                "use std::fs; async fn a() { select! { x = b() => fs::read(x), } }",
                1,
            ),
            (
                "use std::fs; async fn a() { assert!(fs::read(x).is_ok()); }",
                1,
            ),
            (
                "use std::path::Path; async fn a(path: &Path) { path.exists() }",
                1,
            ),
            (
                "fn a() { std::fs::read(path)?; }\nasync fn b() { c().await }",
                0,
            ),
            (
                "use host_kernel::blocking; use std::fs; async fn a() { blocking(move || fs::read(x)).await }",
                0,
            ),
            (
                "use std::fs; async fn a() { host_kernel::block_in_place(|| fs::read(x)); fs::write(x); }",
                1,
            ),
            (
                "use std::fs; async fn a() { let work = || fs::read(x); host_kernel::blocking(work).await }",
                0,
            ),
            (
                "use std::fs; async fn a() { let work = || fs::read(x); work() }",
                1,
            ),
            (
                "async fn a() { std::thread::spawn(|| std::fs::read(x)); }",
                0,
            ),
            ("async fn a() { tokio::fs::read(path).await }", 0),
            (
                "use tokio::fs; async fn a() { fs::File::open(path).await }",
                0,
            ),
            ("async fn a() { tree::remove(path)?; }", 0),
            (
                "#[cfg(test)]\nmod tests { async fn a() { std::fs::read(path); } }",
                0,
            ),
        ] {
            assert_eq!(of_agent(text), count, "{text}");
        }
    }

    // findings-2 R35
    #[test]
    fn every_crate_of_the_servers_process_is_checked() {
        for key in [
            "control-plane",
            "data-directory",
            "node-identity",
            "kubeconfig",
            "mvcc-store",
        ] {
            let text = "fn load() { std::fs::read(path)?; }\nasync fn a() { load() }";
            assert_eq!(
                findings(&[(&format!("{key}/src/lib.rs"), text)]),
                1,
                "{key}"
            );
        }
    }

    // findings A9
    #[test]
    fn functions_that_block_are_followed_by_types_and_imports() {
        let store = "pub struct Store { dir: u8 }\n\
            impl Store {\n\
              pub fn open() -> io::Result<Self> { std::fs::read(x)?; }\n\
              pub fn get(&self) { self.sizes() }\n\
              pub fn len(&self) {}\n\
              fn sizes(&self) { std::fs::read(x); }\n\
            }\n\
            pub fn sizes() { std::fs::read(x); }\n\
            pub fn quick() -> Store {}";
        for (text, count) in [
            ("use crate::store::Store; async fn a() { Store::open() }", 1),
            (
                "use crate::store::Store; async fn a() { let s = Store::open; s.get() }",
                0,
            ),
            (
                "use crate::store::Store; async fn a(s: &Store) { s.get() }",
                1,
            ),
            (
                "use crate::store::Store; async fn a(s: Option<Arc<Store>>) { if let Some(s) = s { s.get() } }",
                1,
            ),
            (
                "use crate::store::Store; async fn a(s: &Store) { s.len() }",
                0,
            ),
            ("use crate::store::*; async fn a() { quick().get() }", 1),
            ("use crate::store; async fn a() { store::sizes() }", 1),
            ("async fn a(s: Other) { s.get() }", 0),
            ("async fn a() { sizes() }", 0),
            (
                "use crate::store::Store; struct B { s: Store } impl B { async fn a(&self) { self.s.get() } }",
                1,
            ),
            (
                "use crate::store::Store; struct B { s: Store } impl B { fn c(&self) { self.s.get() } async fn a(&self) { self.c() } }",
                1,
            ),
        ] {
            let files = [
                ("node-agent/src/store.rs", store),
                ("node-agent/src/a.rs", text),
            ];
            assert_eq!(findings(&files), count, "{text}");
        }
        let other = (
            "image-store/src/lib.rs",
            "pub fn sizes() { std::fs::read(x); }",
        );
        let caller = "async fn a() { image_store::sizes() }";
        assert_eq!(findings(&[other, ("node-agent/src/a.rs", caller)]), 1);
    }

    #[test]
    fn a_closure_runs_where_its_function_runs_it() {
        let functions = "fn here(work: impl FnOnce()) { work() }\n\
            fn further(work: impl FnOnce()) { here(work) }\n\
            fn boxed(work: impl FnOnce()) { stored(Box::new(work)) }\n\
            fn wrapped(work: impl FnOnce()) { stored(move || work()) }\n\
            fn stored(work: impl FnOnce()) { Stored { work } }\n\
            async fn beside(work: impl FnOnce()) { host_kernel::blocking(move || work()).await }\n";
        for (call, count) in [
            ("here(|| std::fs::read(x))", 1),
            ("further(|| std::fs::read(x))", 1),
            ("x.map(|x| std::fs::read(x))", 1),
            ("x.map(std::fs::read)", 1),
            ("stored(|| std::fs::read(x))", 0),
            ("boxed(|| std::fs::read(x))", 0),
            ("wrapped(|| std::fs::read(x))", 0),
            ("beside(|| std::fs::read(x)).await", 0),
        ] {
            let text = format!("{functions}async fn a() {{ {call} }}");
            assert_eq!(of_agent(&text), count, "{call}");
        }
    }
}
