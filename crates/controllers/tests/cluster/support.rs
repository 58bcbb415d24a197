//! A cluster in this process.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controller_framework::{Cache, ObjectChange, WatchConfig};
use controllers::NodeReach;
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube_api_client::{
    Api, Client, DeleteParams, Patch, PatchParams, PostParams, Resource, ResourceExt,
};
use kube_api_server::{ApiServer, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use process_telemetry::{Health, SlowPolls};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};

pub struct Cluster {
    /// A client with all rights.
    pub client: Client,
    server: Arc<ApiServer>,
    pub store: Arc<EmbeddedStore>,
    pub shutdown: CancellationToken,
    /// The certificate authority, if there is one.
    pub authority: Option<Arc<certificates::Authority>>,
    slow_polls: Arc<SlowPolls>,
    _end: DropGuard,
}

/// Maximum duration of a poll of a controller, in a build without optimisation.
const POLL_MAX: Duration = Duration::from_millis(250);

/// findings A9: a test fails if a controller blocked its thread for too long.
impl Drop for Cluster {
    fn drop(&mut self) {
        let slow = self.slow_polls.recorded();
        if !slow.is_empty() && !std::thread::panicking() {
            panic!("slow on the runtime's threads: {slow:?}");
        }
    }
}

impl Cluster {
    /// A server with controllers and no node.
    pub async fn without_node() -> Self {
        let cluster = Self::without_controllers().await;
        cluster.start_controllers(&cluster.shutdown);
        // No pod can be created before its service account exists.
        let has_account = |accounts: &[ServiceAccount]| (!accounts.is_empty()).to_string();
        wait_for(&cluster, "true", has_account).await;
        cluster
    }

    /// A server without controllers and without a node.
    pub async fn without_controllers() -> Self {
        let store = EmbeddedStore::in_memory();
        let server = ApiServer::new(kube_api_server::Config {
            tokens: Some(Arc::new(certificates::TokenSigner::ephemeral().unwrap())),
            ..kube_api_server::Config::in_process(store.clone())
        })
        .await
        .unwrap();
        let shutdown = CancellationToken::new();
        let client = client(&server, UserInfo::new("admin", ["system:masters"]));
        Self {
            client,
            server,
            store,
            authority: None,
            slow_polls: SlowPolls::new(POLL_MAX),
            _end: shutdown.clone().drop_guard(),
            shutdown,
        }
    }

    /// A server with controllers and a node. All pods become ready, except pods with the image `bad`; pods with the
    /// images `done` and `fails` end at once.
    pub async fn new() -> Self {
        let cluster = Self::without_node().await;
        tokio::spawn(play_node(cluster.client.clone(), cluster.shutdown.clone()));
        cluster
    }

    /// A client for another user.
    pub fn client_of(&self, user: UserInfo) -> Client {
        client(&self.server, user)
    }

    /// Starts (more) controllers, which end with `shutdown` or with the cluster; their task ends a little later.
    pub fn start_controllers(&self, shutdown: &CancellationToken) -> JoinHandle<()> {
        self.start_controllers_with(None, shutdown)
    }

    /// Starts the controllers with connections to nodes of other machines.
    pub fn start_controllers_with(
        &self,
        node_reach: Option<NodeReach>,
        shutdown: &CancellationToken,
    ) -> JoinHandle<()> {
        let user = UserInfo::new("system:kube-controller-manager", ["system:authenticated"]);
        let client = client(&self.server, user);
        let config = controllers::Config {
            root_ca_pem: "certificates".to_owned(),
            authority: self.authority.clone(),
            node_reach,
            ..controllers::Config::default()
        };
        let health = Health::watched_by(self.slow_polls.clone());
        let component = health.component("controllers", shutdown.clone());
        tokio::spawn(async move {
            controllers::run_all(client, config, component)
                .await
                .unwrap()
        })
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + Serialize + DeserializeOwned,
    {
        let object: K = json_tree::from_value(object).unwrap();
        self.api()
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    pub async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        let patch = Patch::Strategic(patch);
        self.api()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap()
    }

    pub async fn delete<K>(&self, name: &str, how: DeleteParams)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().delete(name, &how).await.unwrap();
    }
}

fn client(server: &Arc<ApiServer>, user: UserInfo) -> Client {
    Client::new(server.local(user), "default")
}

/// Waits until `shows` returns the text `expected` for all objects of a kind in `default`.
pub async fn wait_for<K>(cluster: &Cluster, expected: &str, shows: impl Fn(&[K]) -> String)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + Debug + DeserializeOwned,
{
    let mut last = String::new();
    for _ in 0..12_000 {
        let listed = cluster.api::<K>().list(&Default::default()).await.unwrap();
        last = shows(&listed.items);
        if last == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("wanted {expected}, last seen {last}");
}

/// Names, in order.
pub fn names<K: Resource>(objects: &[K]) -> String {
    let mut names: Vec<String> = objects
        .iter()
        .map(|object| object.meta().name.clone().unwrap_or_default())
        .collect();
    names.sort();
    names.join(" ")
}

/// `web-0:a web-1:b!`: names and images; `!` means not Ready.
pub fn pods(pods: &[Pod]) -> String {
    let mut printed: Vec<String> = pods
        .iter()
        .map(|pod| {
            let image = pod.spec.as_ref().unwrap().containers[0]
                .image
                .clone()
                .unwrap();
            let status = pod.status.as_ref();
            let mut conditions = status
                .into_iter()
                .flat_map(|s| s.conditions.iter().flatten());
            let ready = conditions.any(|c| c.type_ == "Ready" && c.status == "True");
            format!("{}:{image}{}", pod.name_any(), if ready { "" } else { "!" })
        })
        .collect();
    printed.sort();
    printed.join(" ")
}

/// Simulates a node and the scheduler: every pod is bound to the node, starts and, after its deletion, ends.
pub async fn play_node(client: Client, shutdown: CancellationToken) {
    let cache: Cache<Pod> =
        Cache::spawn(Api::all(client.clone()), WatchConfig::default(), shutdown);
    let mut changes = cache.subscribe();
    let mut address = 1;
    while let Some(change) = changes.next().await {
        let ObjectChange::Applied(pod, _) = change else {
            continue;
        };
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            let _deleted = api
                .delete(&name, &DeleteParams::default().grace_period(0))
                .await;
        } else if pod.spec.as_ref().unwrap().node_name.is_none() {
            let binding = json!({ "apiVersion": "v1", "kind": "Binding",
                "metadata": { "name": name }, "target": { "kind": "Node", "name": "n1" } });
            let params = PostParams::default();
            let bound: kube_api_client::Result<Value> = api
                .create_subresource("binding", &name, &params, &binding)
                .await;
            let _ = bound.map_err(|error| eprintln!("bind {name}: {error}"));
        } else if pod
            .status
            .as_ref()
            .is_none_or(|status| status.pod_ip.is_none())
        {
            address += 1;
            start(&api, &pod, address).await;
        }
    }
}

async fn start(api: &Api<Pod>, pod: &Pod, address: u32) {
    let image = pod.spec.as_ref().unwrap().containers[0]
        .image
        .clone()
        .unwrap();
    let good = image != "bad";
    let phase = match image.as_str() {
        "bad" => "Pending",
        "done" => "Succeeded",
        "fails" => "Failed",
        _ => "Running",
    };
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let status = json!({
        "phase": phase,
        "podIP": format!("10.244.0.{address}"),
        "podIPs": [{ "ip": format!("10.244.0.{address}") }],
        "startTime": now,
        "conditions": [{ "type": "Ready", "status": if good { "True" } else { "False" },
            "lastTransitionTime": now }],
    });
    let patch = Patch::Strategic(json!({ "status": status }));
    let _ = api
        .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
        .await;
}

/// Waits until `holds` returns true.
pub async fn eventually(holds: impl AsyncFn() -> bool) {
    for _ in 0..12_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not come to hold");
}

/// Collects the warnings and errors that are logged.
#[derive(Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub fn found(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            text.push_str(&format!("{}={value:?} ", field.name()));
        });
        self.0.lock().unwrap().push(text);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
