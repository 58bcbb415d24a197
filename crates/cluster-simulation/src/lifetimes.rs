//! Whole lives of StatefulSets without faults: the number of API writes, and the time from a pod's readiness to its
//! endpoint.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use json_tree::json;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::{
    Api, Client, DeleteParams, ListParams, Patch, PatchParams, PostParams, Resource, ResourceExt,
};
use kube_api_server::UserInfo;
use resource_kinds::annotations::NODE_FAILURE;
use tokio::time::{Instant, sleep};

use crate::control_plane::{Component, Server, supervise};
use crate::disk::Disk;
use crate::faults::{Faults, Machine};
use crate::instances::Instances;
use crate::link::{Conditions, Link, Weather};
use crate::node::{MachineLease, Settings};
use crate::tally::{self, Tally};
use crate::user::NAMESPACE;
use crate::{random, run};

/// The number of sets, and the number of pods of each set.
#[derive(Clone, Copy, Debug)]
pub struct Sets {
    /// The number of sets.
    pub number: usize,
    /// The pods of each set.
    pub replicas: usize,
}

const NODES: usize = 3;
/// Maximum latency of a request or a response between two programs of a machine.
const LATENCY_MILLIS: u64 = 1;
/// The time for a pod to become ready, and to end: short, so that changes come as quickly as a node allows.
const STARTUP_MILLIS: (u64, u64) = (2, 10);
/// A startup time that is longer than any window, so that no window is open when the pod becomes ready.
const SLOW_STARTUP_MILLIS: (u64, u64) = (5_000, 5_000);
const SHUTDOWN_MILLIS: (u64, u64) = (1, 5);
/// Maximum time of a step; longer than any step needs.
const STEP_WITHIN: Duration = Duration::from_secs(600);
/// The time between two changes of labels; longer than all work after one change.
const BETWEEN_CHANGES: Duration = Duration::from_millis(200);
/// The time after which no write follows any more, because all windows have ended.
const QUIET: Duration = Duration::from_secs(2);

/// A time that is longer than the retention of events, of their records and of the history of the store.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2 * 3600);

/// Creates sets with a Service each, updates all pods once, and deletes the sets. The writes of all clients are
/// counted, from the creation to the end of the last pod.
///
/// # Errors
///
/// A step does not end, or its final state is not reported.
pub fn count_writes(sets: Sets) -> Result<Tally> {
    let life = move || async move {
        let lives = Lives::prepare(sets, STARTUP_MILLIS, AtNodeLoss::Wait).await?;
        tally::begin();
        lives.create().await?;
        lives.update().await?;
        lives.delete().await?;
        Ok(tally::end())
    };
    run::run_on_thread(1, life)?
}

/// The simulated time between the report that a pod is ready and the last write of its EndpointSlice, in a cluster
/// without other changes.
///
/// # Errors
///
/// As [`count_writes`]; or the slice was not written after the report.
pub fn readiness_to_slice() -> Result<Duration> {
    let life = || async {
        let single_set = Sets {
            number: 1,
            replicas: 1,
        };
        let lives = Lives::prepare(single_set, SLOW_STARTUP_MILLIS, AtNodeLoss::Wait).await?;
        tally::begin();
        lives.create().await?;
        let tally = tally::end();
        let last = |kind: &str| tally.last.get(kind).copied().context("nothing was written");
        let (reported, written) = (last("pods/status")?, last("endpointslices")?);
        let time = written.checked_duration_since(reported);
        time.context("the slice is older than the report")
    };
    run::run_on_thread(1, life)?
}

/// Creates sets, and changes the labels of one pod `changes` times when the cluster is idle. Returns the growth of
/// `count` during the work of the API server, the controllers and the scheduler on these changes, minus the growth in
/// an equally long time without changes.
///
/// # Errors
///
/// As [`count_writes`].
pub fn work_of_changes(sets: Sets, changes: usize, count: fn() -> usize) -> Result<usize> {
    let life = move || async move {
        let lives = Lives::prepare(sets, STARTUP_MILLIS, AtNodeLoss::Wait).await?;
        lives.create().await?;
        let pods: Api<Pod> = lives.api();
        let start = count();
        for _ in 0..changes {
            sleep(BETWEEN_CHANGES).await;
        }
        let idle = count() - start;
        for change in 0..changes {
            let patch = json!({"metadata": {"labels": {"change": change.to_string()}}});
            let patch = Patch::Merge(&patch);
            pods.patch("set-0-0", &PatchParams::default(), &patch)
                .await?;
            sleep(BETWEEN_CHANGES).await;
        }
        Ok(count() - start - 2 * idle)
    };
    run::run_on_thread(1, life)?
}

/// Creates and deletes sets `rounds` times, and after each round waits until events and history are removed. Returns
/// `count` after each round.
///
/// # Errors
///
/// As [`count_writes`].
pub fn count_after_rounds(sets: Sets, rounds: usize, count: fn() -> usize) -> Result<Vec<usize>> {
    let life = move || async move {
        let lives = Lives::prepare(sets, STARTUP_MILLIS, AtNodeLoss::Wait).await?;
        let mut counts = Vec::new();
        for _ in 0..rounds {
            lives.create().await?;
            lives.delete().await?;
            let services: Api<Service> = lives.api();
            for name in lives.names() {
                services.delete(&name, &DeleteParams::default()).await?;
            }
            sleep(FORGOTTEN_AFTER).await;
            counts.push(count());
        }
        Ok(counts)
    };
    run::run_on_thread(1, life)?
}

/// The effect of the loss of a node on the pods of all sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtNodeLoss {
    /// The pods wait for the node.
    Wait,
    /// The pods are replaced on another node.
    Failover,
}

pub(crate) struct Lives {
    pub(crate) client: Client,
    sets: Sets,
    at_node_loss: AtNodeLoss,
    /// The cluster; dropped with this value.
    pub(crate) cluster: Faults,
}

impl Lives {
    /// Starts a cluster, and waits until its nodes are ready for pods.
    pub(crate) async fn prepare(
        sets: Sets,
        startup_millis: (u64, u64),
        at_node_loss: AtNodeLoss,
    ) -> Result<Self> {
        random::begin(1);
        let (disk, spin) = Disk::new(|_| {});
        tokio::spawn(spin);
        let server = Server::new(disk.clone());
        server.start().await;
        let address = server.address.clone();
        let admin = UserInfo::new("admin", ["system:masters"]);
        let client = Link::new("user", admin, address.clone(), Arc::default()).client();
        let instances = Instances::default();
        let machine = |number| {
            let mut settings = Settings {
                startup_millis,
                shutdown_millis: SHUTDOWN_MILLIS,
                ..Settings::instant(format!("n{number}"))
            };
            if at_node_loss == AtNodeLoss::Failover {
                settings.lease = Some(MachineLease::new(100, &settings.clock, None));
            }
            Arc::new(Machine::new(settings, instances.clone(), address.clone()))
        };
        let machines: Vec<_> = (0..NODES).map(machine).collect();
        let (controllers, scheduler) = <(Arc<Conditions>, Arc<Conditions>)>::default();
        for (component, conditions) in [
            (Component::Controllers, &controllers),
            (Component::Scheduler, &scheduler),
        ] {
            tokio::spawn(supervise(component, address.clone(), conditions.clone()));
        }
        let cluster = Faults {
            server,
            disk,
            controllers,
            scheduler,
            machines,
            instances,
        };
        cluster.set_weather(Weather {
            latency_millis: LATENCY_MILLIS,
            ..Weather::default()
        });
        cluster.machines.iter().for_each(|machine| machine.start());
        let lives = Self {
            client,
            sets,
            at_node_loss,
            cluster,
        };
        let accounts: Api<ServiceAccount> = lives.api();
        wait_until("there is an account", async || {
            Ok(accounts.get_opt("default").await?.is_some())
        })
        .await?;
        // Nodes register and lose their initial taints.
        sleep(Duration::from_secs(10)).await;
        Ok(lives)
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        (0..self.sets.number).map(|number| format!("set-{number}"))
    }

    pub(crate) async fn create(&self) -> Result<()> {
        for name in self.names() {
            let service = json!({
                "metadata": {"name": name},
                "spec": {"clusterIP": "None", "selector": {"app": name},
                    "ports": [{"port": 80}]},
            });
            let service: Service = json_tree::from_value(service)?;
            let services: Api<Service> = self.api();
            services.create(&PostParams::default(), &service).await?;
            let annotations = match self.at_node_loss {
                AtNodeLoss::Wait => json!({}),
                AtNodeLoss::Failover => json!({ NODE_FAILURE: "Failover" }),
            };
            let set = json!({
                "metadata": {"name": name, "annotations": annotations},
                "spec": {
                    "replicas": self.sets.replicas,
                    "serviceName": name,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {"containers": [{"name": "c", "image": "v1"}]},
                    },
                },
            });
            let set: StatefulSet = json_tree::from_value(set)?;
            let sets: Api<StatefulSet> = self.api();
            sets.create(&PostParams::default(), &set).await?;
        }
        self.settle("v1").await
    }

    async fn update(&self) -> Result<()> {
        let containers = json!([{"name": "c", "image": "v2"}]);
        let template = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        let sets: Api<StatefulSet> = self.api();
        for name in self.names() {
            let patch = Patch::Strategic(&template);
            sets.patch(&name, &PatchParams::default(), &patch).await?;
        }
        self.settle("v2").await
    }

    async fn delete(&self) -> Result<()> {
        let sets: Api<StatefulSet> = self.api();
        for name in self.names() {
            sets.delete(&name, &DeleteParams::default()).await?;
        }
        let pods: Api<Pod> = self.api();
        wait_until("all pods are gone", async || {
            Ok(pods.list(&ListParams::default()).await?.items.is_empty())
        })
        .await?;
        sleep(QUIET).await;
        self.check_addresses(0).await
    }

    /// Waits until all pods run that image; then the final state must be reported.
    async fn settle(&self, image: &str) -> Result<()> {
        let (pods, expected): (Api<Pod>, _) = (self.api(), self.sets.number * self.sets.replicas);
        wait_until("all pods are ready", async || {
            let pods = pods.list(&ListParams::default()).await?.items;
            let ready = pods.iter().filter(|pod| is_ready_with(pod, image)).count();
            Ok(ready == expected && pods.len() == expected)
        })
        .await?;
        sleep(QUIET).await;
        self.check_addresses(expected).await?;
        let sets: Api<StatefulSet> = self.api();
        for set in sets.list(&ListParams::default()).await? {
            let replicas = i32::try_from(self.sets.replicas).ok();
            let status = set.status.clone().unwrap_or_default();
            let counts = [
                Some(status.replicas),
                status.ready_replicas,
                status.available_replicas,
                status.updated_replicas,
            ];
            let is_current = status.observed_generation == set.metadata.generation
                && status.current_revision == status.update_revision;
            if !is_current || counts.iter().any(|count| *count != replicas) {
                bail!("the last status was not written: {status:?}");
            }
        }
        Ok(())
    }

    /// Whether slices and Endpoints have that number of addresses.
    async fn check_addresses(&self, expected: usize) -> Result<()> {
        let slices: Api<EndpointSlice> = self.api();
        let endpoints: Api<Endpoints> = self.api();
        let mut sliced = slices.list(&ListParams::default()).await?.items;
        sliced.retain(|slice| slice.name_any().starts_with("set-"));
        let sliced = sliced
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = sliced.filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.is_some_and(|conditions| conditions.ready == Some(true))
        });
        let mut listed = endpoints.list(&ListParams::default()).await?.items;
        listed.retain(|endpoints| endpoints.name_any().starts_with("set-"));
        let listed = listed
            .iter()
            .flat_map(|endpoints| endpoints.subsets.iter().flatten());
        let listed = listed.flat_map(|subset| subset.addresses.iter().flatten());
        let (ready, listed) = (ready.count(), listed.count());
        if (ready, listed) != (expected, expected) {
            bail!("{expected} pods, {ready} endpoints in slices, {listed} in Endpoints");
        }
        Ok(())
    }
}

pub(crate) fn is_ready_with(pod: &Pod, image: &str) -> bool {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let status = pod.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|status| status.conditions.iter().flatten());
    container.is_some_and(|container| container.image.as_deref() == Some(image))
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn wait_until(
    what: &str,
    condition: impl AsyncFn() -> kube_api_client::Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < STEP_WITHIN {
        if condition().await.context("ask the API server")? {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    bail!("it does not come true that {what}")
}
