//! Pods per second of the real control plane, on simulated nodes whose pods are ready at once.
//!
//! `cargo bench -p cluster-simulation --bench stateful_sets`. In real time: sets are created until all their pods are
//! ready, then updated until all pods are replaced and ready, then deleted until all pods are removed; over the store
//! on disk and over the store in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cluster_simulation::{Instances, node, start_server};
use controller_framework::Cache;
use json_tree::json;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube_api_client::{Api, Client, DeleteParams, Patch, PatchParams, PostParams};
use kube_api_server::{ApiServer, UserInfo};
use mvcc_store::Store;
use mvcc_store::embedded::{EmbeddedOptions, EmbeddedStore};
use tokio_util::sync::{CancellationToken, DropGuard};

const NODES: usize = 10;

/// A number of sets, and the number of replicas of each.
struct Case {
    name: &'static str,
    sets: usize,
    replicas: i64,
    policy: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "100 x 3 OrderedReady",
        sets: 100,
        replicas: 3,
        policy: "OrderedReady",
    },
    Case {
        name: "100 x 3 Parallel",
        sets: 100,
        replicas: 3,
        policy: "Parallel",
    },
    Case {
        name: "1 x 200 OrderedReady",
        sets: 1,
        replicas: 200,
        policy: "OrderedReady",
    },
];

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo passes --bench.
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let matches = |case: &&Case| filter.as_ref().is_none_or(|word| case.name.contains(word));
    for case in CASES.iter().filter(matches) {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("make a directory")?;
        measure(case, "disk", on_disk(dir.path())?).await?;
        measure(case, "memory", EmbeddedStore::in_memory()).await?;
    }
    Ok(())
}

fn on_disk(dir: &Path) -> Result<Arc<EmbeddedStore>> {
    EmbeddedStore::open(EmbeddedOptions::new(dir.join("store"))).context("open the store")
}

async fn measure(case: &Case, store_name: &str, store: Arc<EmbeddedStore>) -> Result<()> {
    let cluster = Cluster::start(store).await?;
    let created = cluster.create(case).await?;
    let updated = cluster.update(case).await?;
    let deleted = cluster.delete(case).await?;
    let pods = case.sets as f64 * case.replicas as f64;
    let show = |name: &str, time: Duration| {
        let (rate, millis) = (pods / time.as_secs_f64(), time.as_millis());
        println!(
            "{}, {store_name}, {name}: {millis} ms, {rate:.0} pods/s",
            case.name
        );
    };
    show("create", created);
    show("update", updated);
    show("delete", deleted);
    Ok(())
}

struct Cluster {
    server: Arc<ApiServer>,
    sets: Cache<StatefulSet>,
    pods: Cache<Pod>,
    shutdown: CancellationToken,
    _end: DropGuard,
}

impl Cluster {
    async fn start(store: Arc<dyn Store>) -> Result<Self> {
        let server = start_server(store).await.context("start the server")?;
        let shutdown = CancellationToken::new();
        let admin = as_user(&server, "admin", "system:masters");
        let cluster = Self {
            sets: node::cache(&admin, &shutdown),
            pods: node::cache(&admin, &shutdown),
            server,
            _end: shutdown.clone().drop_guard(),
            shutdown,
        };
        let user = |name| as_user(&cluster.server, name, "system:authenticated");
        let stop = cluster.shutdown.clone();
        let client = user("system:kube-controller-manager");
        tokio::spawn(controllers::run_all(
            client,
            Default::default(),
            stop.clone(),
        ));
        let client = user("system:kube-scheduler");
        tokio::spawn(pod_scheduler::run(client, Default::default(), stop.clone()));
        for number in 0..NODES {
            let name = format!("n{number}");
            let clients = node::Clients {
                agent: as_user(
                    &cluster.server,
                    &format!("system:node:{name}"),
                    "system:nodes",
                ),
                provisioner: as_user(&cluster.server, node::PROVISIONER, "system:serviceaccounts"),
            };
            let settings = node::Settings::instant(name);
            tokio::spawn(node::run(
                settings,
                Instances::default(),
                clients,
                stop.clone(),
            ));
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin(), "default");
        while accounts.get_opt("default").await?.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Nodes register and lose their initial taints.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(cluster)
    }

    fn admin(&self) -> Client {
        as_user(&self.server, "admin", "system:masters")
    }

    fn api(&self) -> Api<StatefulSet> {
        Api::namespaced(self.admin(), "default")
    }

    async fn create(&self, case: &Case) -> Result<Duration> {
        let started = Instant::now();
        for number in 0..case.sets {
            let name = format!("set-{number}");
            let set = json_tree::from_value(json!({
                "metadata": {"name": name},
                "spec": {
                    "replicas": case.replicas,
                    "serviceName": name,
                    "podManagementPolicy": case.policy,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {"containers": [{"name": "c", "image": "v1"}]},
                    },
                },
            }))?;
            self.api().create(&PostParams::default(), &set).await?;
        }
        self.all_ready(case, "v1").await;
        Ok(started.elapsed())
    }

    async fn update(&self, case: &Case) -> Result<Duration> {
        let started = Instant::now();
        let containers = json!([{"name": "c", "image": "v2"}]);
        let template = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        for number in 0..case.sets {
            let patch = Patch::Strategic(&template);
            let name = format!("set-{number}");
            self.api()
                .patch(&name, &PatchParams::default(), &patch)
                .await?;
        }
        self.all_ready(case, "v2").await;
        Ok(started.elapsed())
    }

    async fn delete(&self, case: &Case) -> Result<Duration> {
        let started = Instant::now();
        for number in 0..case.sets {
            let name = format!("set-{number}");
            self.api().delete(&name, &DeleteParams::default()).await?;
        }
        let mut changes = self.pods.subscribe();
        while !self.pods.is_empty() {
            changes.next().await;
        }
        Ok(started.elapsed())
    }

    /// Waits until every set's status reports all its pods as ready and updated.
    async fn all_ready(&self, case: &Case, image: &str) {
        let mut changes = self.sets.subscribe();
        loop {
            let sets = self.sets.list();
            if sets.len() == case.sets && sets.iter().all(|set| is_ready(set, case, image)) {
                return;
            }
            changes.next().await;
        }
    }
}

fn is_ready(set: &StatefulSet, case: &Case, image: &str) -> bool {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let containers = template.and_then(|template| Some(&template.spec.as_ref()?.containers));
    // The cached set may be older than the change.
    if containers.is_none_or(|all| all.iter().all(|c| c.image.as_deref() != Some(image))) {
        return false;
    }
    set.status.as_ref().is_some_and(|status| {
        let all = |number: Option<i32>| number.is_some_and(|n| i64::from(n) == case.replicas);
        status.observed_generation == set.metadata.generation
            && all(status.ready_replicas)
            && all(status.updated_replicas)
            && status.current_revision == status.update_revision
    })
}

fn as_user(server: &Arc<ApiServer>, name: &str, group: &str) -> Client {
    let user = UserInfo::new(name, ["system:authenticated", group]);
    Client::new(server.local(user), "default")
}
