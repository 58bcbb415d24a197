//! The memory of the server under attack: accounts of namespaces try to make the server's process grow, one attack for
//! each row of `docs/contributing/budgets.md` about its memory. The memory stays below 300 MiB above that of the idle
//! server, and other clients get responses.

#![expect(clippy::unwrap_used, reason = "a test that finds nothing fails")]

mod agent;
mod answers;
mod bodies;
mod connections;
mod dns;
mod hollow_node;
mod images;
mod rules;
mod store;
mod tenant;
mod tunnels;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use end_to_end::process::memory;
use end_to_end::{Api, Instance, wait_for};
use http::Method;
use serde_json::{Value, json};
use tenant::{Connection, Server, Tenant};
use tokio::runtime::Runtime;

/// Maximum growth of the memory during an attack, compared with the idle server.
const GROWTH_MIB_MAX: u64 = 300;

/// Maximum number of concurrent requests of a connection.
const STREAMS: usize = 100;

/// An attack has reached its maximum when the server has not grown for this time.
const QUIET: Duration = Duration::from_secs(10);

/// A server, its tenants, and the maximum memory so far.
struct Scene {
    instance: Instance,
    api: Api,
    runtime: Runtime,
    tenants: Vec<Tenant>,
    server: Server,
    idle_mib: u64,
    most_mib: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

impl Scene {
    fn with_tenants(count: usize) -> Self {
        Self::on(Instance::start(&[]), count)
    }

    fn on(instance: Instance, count: usize) -> Self {
        let api = Api::new(&instance);
        let server = Server::of(&instance, &api);
        let tenants =
            (0..count).map(|number| Tenant::new(&server, &api, &format!("tenant-{number}")));
        let tenants = tenants.collect();
        let pid = instance.pid();
        let idle_mib = mib(pid);
        let (most_mib, is_over) = (Arc::new(AtomicU64::new(idle_mib)), Arc::default());
        let sampler = thread::spawn({
            let (most, is_over) = (Arc::clone(&most_mib), Arc::clone(&is_over));
            move || {
                while !AtomicBool::load(&is_over, Ordering::Relaxed) {
                    most.fetch_max(mib(pid), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(50));
                }
            }
        });
        Self {
            instance,
            api,
            runtime: Runtime::new().unwrap(),
            tenants,
            server,
            idle_mib,
            most_mib,
            is_over,
            sampler: Some(sampler),
        }
    }

    /// Stores 25 ConfigMaps of 900 kB, which all tenants may read, and returns their path. The ConfigMaps are not part
    /// of the attack.
    fn store_large_maps(&mut self) -> String {
        let path = "/api/v1/namespaces/default/configmaps";
        let maps: Vec<Value> = (0..25).map(|number| large_map(number, 900_000)).collect();
        self.api.create_all(path, &maps);
        let account = |tenant: &Tenant| json!({"kind": "ServiceAccount", "name": "default", "namespace": tenant.namespace});
        let binding = json!({
            "metadata": {"name": "view"},
            "subjects": self.tenants.iter().map(account).collect::<Vec<_>>(),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
        });
        let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
        self.api.create(bindings, &binding);
        self.begin_with_what_is_stored();
        path.to_owned()
    }

    /// Starts the measurement; the memory of stored objects, which the quota of the store bounds, is not part of the
    /// attack.
    fn begin_with_what_is_stored(&mut self) {
        // The server frees unused memory every half minute.
        thread::sleep(Duration::from_secs(40));
        self.idle_mib = mib(self.instance.pid());
        self.most_mib.store(self.idle_mib, Ordering::Relaxed);
    }

    /// Each tenant opens that many connections, and executes the work on each stream of them.
    fn on_each_stream(
        &self,
        connections: usize,
        open: impl AsyncFn(&Tenant) -> Connection,
        mut each: impl FnMut(&Tenant, &mut Connection),
    ) {
        self.runtime.block_on(async {
            for tenant in &self.tenants {
                for _ in 0..connections {
                    let mut connection = open(tenant).await;
                    for _ in 0..STREAMS {
                        each(tenant, &mut connection);
                    }
                }
            }
        });
    }

    /// Waits until the memory of the server has stopped growing for a while.
    fn wait_until_stable(&self) {
        let most = || self.most_mib.load(Ordering::Relaxed);
        let (mut highest, mut since) = (most(), Instant::now());
        while since.elapsed() < QUIET {
            thread::sleep(Duration::from_millis(200));
            if most() > highest {
                (highest, since) = (most(), Instant::now());
            }
        }
    }

    /// Checks that the growth of the server's memory is within its bound, and that the server responds to other
    /// clients.
    #[track_caller]
    fn assert_withstood(&mut self, attack: &str) {
        wait_for("a response to another client", 60, || {
            self.api
                .request(Method::GET, "/api/v1/namespaces/default", None)
        });
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            sampler.join().unwrap();
        }
        let most = self.most_mib.load(Ordering::Relaxed);
        let grown = most.saturating_sub(self.idle_mib);
        println!("{attack}: {} MiB idle, {most} MiB at most", self.idle_mib);
        assert!(grown < GROWTH_MIB_MAX, "{attack}: {grown} MiB more");
    }

    /// The number of refusals because of a budget.
    fn refusals(&self, budget: &str) -> u64 {
        let page = self.instance.kubectl().ok(&["get", "--raw", "/metrics"]);
        let name = format!("mainstay_refusals_total{{budget=\"{budget}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |number| number.parse().unwrap())
    }
}

/// The anonymous memory of a process.
fn mib(pid: i32) -> u64 {
    memory(pid).anonymous as u64
}

fn large_map(number: usize, bytes: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": format!("large-{number}")},
        "data": {"text": "x".repeat(bytes)},
    })
}
