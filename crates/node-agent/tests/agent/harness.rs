//! The world of these tests: a node with real containers, volumes and network, and an API server in memory.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use container_runtime::{Runtime, RuntimeOptions};
use http::Request;
use image_store::{ImageConfig, ImageStore, RegistriesConfig};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube_api_client::{Api, Body, Client, DeleteParams, ListParams, PostParams, Resource};
use kube_api_server::{ApiServer, NodeConnector, NodeService, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use node_agent::{
    Config, Eviction, ImageGcPolicy, KubeletApi, LeaseLength, LogLimits, NodeAgent, OnShutdown,
    ShutdownOrder, Thresholds,
};
use pod_network::{PodNetwork, PodNetworkOptions, Ranges, RequestedRanges, reserve_ranges};
use process_telemetry::{Health, SlowPolls};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub const IMAGE: &str = "test/busybox:1";
pub const NODE: &str = "node-a";

/// Time limit for a condition that must become true: a busy disk can delay each write for tens of seconds.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Maximum duration of one poll of an agent's task, in an unoptimised build.
const POLL_MAX: Duration = Duration::from_millis(250);

#[derive(Default)]
struct Connector(Mutex<Option<NodeService>>);

impl NodeConnector for Connector {
    fn connect(&self, _: &str) -> Option<NodeService> {
        self.0.lock().unwrap().clone()
    }
}

pub struct Harness {
    pub client: Client,
    pub server: Arc<ApiServer>,
    pub dir: PathBuf,
    pub runtime: Runtime,
    pub network: Arc<PodNetwork>,
    connector: Arc<Connector>,
    pub options: RuntimeOptions,
    pub images: ImageStore,
    ranges: Ranges,
    agent: Option<(NodeAgent, CancellationToken)>,
    pub node_ip: watch::Sender<IpAddr>,
    /// The order in which the next agent stops its pods.
    pub shutdown_order: ShutdownOrder,
    /// The eviction settings of the next agent; none by default, because other programs use the machine, too.
    pub eviction: Eviction,
    /// The image garbage collection settings of the next agent.
    pub image_gc: ImageGcPolicy,
    /// The network address of the next agent's kubelet API; `None` by default.
    pub kubelet_api: Option<KubeletApi>,
    /// The user of the next agent; an administrator by default.
    pub user: UserInfo,
    /// The duration of the next agent's Lease.
    pub lease_length: LeaseLength,
    /// Whether agents cannot reach the API server; the test still can.
    pub away: Arc<AtomicBool>,
    slow_polls: Arc<SlowPolls>,
}

/// A layer with busybox and the libraries that it needs.
pub fn layer() -> Vec<u8> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let program_path = busybox.iter().find(|path| Path::new(path).exists());
    let program_path = program_path.expect("these tests need busybox");
    let program = fs::read(program_path).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        archive
            .append_data(&mut header, dir, std::io::empty())
            .unwrap();
    }
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(program.len() as u64);
    archive
        .append_data(&mut header, "bin/busybox", program.as_slice())
        .unwrap();
    for library in libraries(Path::new(program_path)) {
        let bytes = fs::read(&library).unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        let inside = library.strip_prefix("/").unwrap();
        archive
            .append_data(&mut header, inside, bytes.as_slice())
            .unwrap();
    }
    for name in [
        "sh", "cat", "echo", "sleep", "hostname", "ls", "nc", "touch", "test", "head",
    ] {
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive
            .append_link(&mut header, format!("bin/{name}"), "busybox")
            .unwrap();
    }
    archive.into_inner().unwrap()
}

/// The libraries and the interpreter of a dynamically linked program.
pub fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = std::process::Command::new("ldd")
        .arg(program)
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let words = listed.split_whitespace();
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// Removes the files that all tests of this process share.
pub fn remove_shared() {
    for what in ["images", "pki"] {
        fs::remove_dir_all(shared(what)).ok();
    }
}

fn shared(what: &str) -> PathBuf {
    std::env::temp_dir().join(format!("mainstay-agent-{what}-{}", std::process::id()))
}

/// The image store that all tests of this process share.
fn images() -> ImageStore {
    static STORE: OnceLock<ImageStore> = OnceLock::new();
    let open = || {
        let store = ImageStore::open(shared("images")).unwrap();
        let config = ImageConfig {
            env: vec!["PATH=/bin".to_owned()],
            ..ImageConfig::default()
        };
        store.put_builtin(IMAGE, &layer(), &config, "1").unwrap();
        store
    };
    STORE.get_or_init(open).clone()
}

impl Harness {
    pub async fn new(name: &str) -> Self {
        // The id is unique, so that the remains of a failed test do not disturb other tests.
        static CREATED: AtomicUsize = AtomicUsize::new(0);
        let number = CREATED.fetch_add(1, Ordering::Relaxed) % 128;
        let unique = format!("{:06x}", std::process::id() as usize * 128 + number);
        let instance_id = unique[unique.len() - 6..].to_owned();
        let dir =
            std::env::temp_dir().join(format!("mainstay-agent-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let requested_ranges = RequestedRanges {
            pod: "10.213.0.0/24".parse().unwrap(),
            service: "10.214.0.0/16".parse().unwrap(),
            pod_fixed: false,
            service_fixed: false,
        };
        let net = dir.join("network");
        fs::create_dir_all(&net).unwrap();
        let ranges = reserve_ranges(
            &instance_id,
            &net,
            &requested_ranges,
            &net.join("instances"),
        )
        .await
        .unwrap();
        let network = PodNetwork::open(PodNetworkOptions {
            instance_id: instance_id.clone(),
            state_dir: net,
            pod_cidr: ranges.pod,
            service_cidr: ranges.service,
            encryption: None,
        });
        let options = RuntimeOptions {
            state_dir: dir.join("sandboxes"),
            instance_id,
            shim_command: vec![
                std::env::current_exe()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
                "shim".to_owned(),
            ],
            cgroup_parent: String::new(),
        };
        let connector = Arc::new(Connector::default());
        let api = api(connector.clone()).await;
        let admin = UserInfo::new("admin", ["system:masters"]);
        let harness = Self {
            client: Client::new(api.local(admin.clone()), "default"),
            user: admin,
            server: api,
            runtime: Runtime::open(options.clone()).unwrap(),
            network: Arc::new(network.await.unwrap()),
            images: images(),
            agent: None,
            node_ip: watch::Sender::new(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            shutdown_order: ShutdownOrder::default(),
            eviction: Eviction {
                thresholds: Thresholds::none(),
                ..Eviction::default()
            },
            image_gc: ImageGcPolicy {
                high_percent: 100,
                ..ImageGcPolicy::default()
            },
            kubelet_api: None,
            dir,
            connector,
            options,
            ranges,
            lease_length: LeaseLength::DEFAULT,
            away: Arc::default(),
            slow_polls: SlowPolls::new(POLL_MAX),
        };
        harness
            .create::<k8s_openapi::api::core::v1::ServiceAccount>(json!({"metadata":
            {"name": "default", "namespace": "default"}}))
            .await;
        harness
    }

    pub async fn started(name: &str) -> Self {
        let mut harness = Self::new(name).await;
        harness.start(OnShutdown::StopPods).await;
        harness
    }

    pub async fn start(&mut self, on_shutdown: OnShutdown) {
        let config = Config {
            node_name: NODE.to_owned(),
            data_dir: self.dir.clone(),
            runtime: self.options.clone(),
            images: self.images.clone(),
            registries: RegistriesConfig::default(),
            network: self.network.clone(),
            node_ip: self.node_ip.subscribe(),
            pod_cidr: Some(self.ranges.pod.to_string()),
            cluster_dns: vec!["10.96.0.10".to_owned()],
            resolv_conf: "/etc/resolv.conf".into(),
            cluster_domain: "cluster.local".to_owned(),
            kubelet_version: "v1.36.0".to_owned(),
            labels: Default::default(),
            annotations: Default::default(),
            lease_length: self.lease_length,
            pods_max: 110,
            taints: Vec::new(),
            pod_pids_max: 200,
            admission: Default::default(),
            eviction: self.eviction.clone(),
            image_gc: self.image_gc,
            logs: LogLimits {
                file_bytes_max: 1 << 20,
                files_max: 3,
            },
            kubelet_api: self.kubelet_api.clone(),
            on_shutdown: watch::Sender::new(on_shutdown).subscribe(),
            shutdown_order: self.shutdown_order.clone(),
            volume_usages: watch::Sender::default().subscribe(),
            volume_moves: None,
        };
        let stop = CancellationToken::new();
        let component = Health::watched_by(self.slow_polls.clone());
        let component = component.component("node agent", stop.clone());
        let client = self.agent_client();
        let agent = NodeAgent::start(config, client, component).await.unwrap();
        *self.connector.0.lock().unwrap() = Some(agent.kubelet_api());
        self.agent = Some((agent, stop));
    }

    /// The client of an agent, which cannot connect while the server is away.
    fn agent_client(&self) -> Client {
        let (server, away) = (self.server.local(self.user.clone()), self.away.clone());
        let respond = move |request: Request<Body>| {
            let (server, away) = (server.clone(), away.clone());
            async move {
                if away.load(Ordering::Relaxed) {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
                }
                server.oneshot(request).await
            }
        };
        Client::new(tower::service_fn(respond), "default")
    }

    /// The configuration of a service proxy for the agent's node.
    pub fn proxy_config(&self) -> service_proxy::Config {
        service_proxy::Config {
            instance_id: self.options.instance_id.clone(),
            node_name: NODE.to_owned(),
            pod_cidr: self.ranges.pod,
            cluster_cidr: self.ranges.pod,
            service_cidr: self.ranges.service,
            further_ranges: watch::Sender::default().subscribe(),
            unmanaged: Default::default(),
            pod_link_prefix: pod_network::link_prefix(&self.options.instance_id),
            encrypted_link: None,
            switch: None,
            tunnel: self.network.tunnel(),
            host_ports: self.network.published(),
            listening: self.network.listening(),
            pods: None,
            remove_on_shutdown: watch::Sender::new(true).subscribe(),
        }
    }

    /// Shuts the agent down in an orderly way.
    pub async fn stop(&mut self) {
        if let Some((agent, stop)) = self.agent.take() {
            stop.cancel();
            agent.finished().await;
        }
    }

    /// Ends the test. Nothing of the test may stay on the machine.
    pub async fn end(mut self) {
        self.stop().await;
        assert!(
            self.runtime.sandboxes().await.unwrap().is_empty(),
            "sandboxes are left"
        );
        // An agent that leaves its pods also leaves the parent control groups.
        self.runtime.close().await.unwrap();
        self.network.close(true).await.unwrap();
        fs::remove_dir_all(&self.dir).unwrap();
        // findings A9: the agent blocks no other task on its threads.
        assert_eq!(self.slow_polls.recorded(), Vec::<String>::new());
    }

    /// From now on, the API server reaches the node only over the network.
    pub fn forget_service(&self) {
        *self.connector.0.lock().unwrap() = None;
    }

    pub fn node(&self) -> NodeService {
        self.connector.0.lock().unwrap().clone().unwrap()
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let object = json_tree::from_value(object).unwrap();
        self.api::<K>()
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    /// Creates a pod that is bound to the node. `spec` is completed with the fields that all pods of the
    /// tests have.
    pub async fn pod(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = json!(NODE);
        self.unplaced_pod(name, spec).await
    }

    /// Creates a pod without a node, which a scheduler has to bind.
    pub async fn unplaced_pod(&self, name: &str, mut spec: Value) -> Pod {
        if spec.get("automountServiceAccountToken").is_none() {
            spec["automountServiceAccountToken"] = json!(false);
        }
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                if container.get("image").is_none() {
                    container["image"] = json!(IMAGE);
                }
            }
        }
        self.create(json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": spec}))
            .await
    }

    pub async fn delete(&self, name: &str) {
        self.api::<Pod>()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Waits until the pod satisfies `condition`.
    pub async fn until(&self, name: &str, what: &str, condition: impl Fn(&Pod) -> bool) -> Pod {
        let begun = Instant::now();
        loop {
            let stored = self.api::<Pod>().get_opt(name).await.unwrap();
            if let Some(pod) = stored.as_ref().filter(|pod| condition(pod)) {
                return pod.clone();
            }
            if begun.elapsed() > PATIENCE {
                let status = stored.map(|pod| serde_json::to_string_pretty(&pod.status).unwrap());
                let events = self.events(name).await;
                panic!(
                    "{name} is not {what}: {} {events:#?}",
                    status.unwrap_or_default()
                );
            }
            pause(begun).await;
        }
    }

    pub async fn ready(&self, name: &str) -> Pod {
        self.until(name, "ready", is_ready).await
    }

    pub async fn wait_deleted(&self, name: &str) {
        let begun = Instant::now();
        while let Some(pod) = self.api::<Pod>().get_opt(name).await.unwrap() {
            assert!(
                begun.elapsed() < PATIENCE,
                "{name} does not go: {:?}",
                pod.status
            );
            pause(begun).await;
        }
    }

    /// Waits for an event that contains `text`.
    pub async fn event(&self, pod: &str, text: &str) {
        let begun = Instant::now();
        loop {
            let events = self.events(pod).await;
            if events.iter().any(|event| event.contains(text)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "no event {text:?}: {events:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn events(&self, pod: &str) -> Vec<String> {
        let only = ListParams::default().fields(&format!("involvedObject.name={pod}"));
        let list = self.api::<Event>().list(&only).await.unwrap();
        let text = |event: Event| {
            let or_empty = |text: Option<String>| text.unwrap_or_default();
            format!(
                "{} {} {}",
                or_empty(event.type_),
                or_empty(event.reason),
                or_empty(event.message)
            )
        };
        list.items.into_iter().map(text).collect()
    }

    pub async fn logs(&self, name: &str, container: &str) -> String {
        self.try_logs(name, container).await.unwrap()
    }

    /// The log of a container. Fails for a pod that is not yet on the node, or a container that has not
    /// started.
    async fn try_logs(&self, name: &str, container: &str) -> kube_api_client::Result<String> {
        let params = kube_api_client::LogParams {
            container: Some(container.to_owned()),
            ..Default::default()
        };
        self.api::<Pod>().logs(name, &params).await
    }

    /// Waits until the log contains `text`. Returns the log.
    pub async fn logged(&self, name: &str, container: &str, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let log = self.try_logs(name, container).await;
            match log {
                Ok(log) if log.contains(text) => return log,
                Ok(_) | Err(kube_api_client::Error::Api(_)) if begun.elapsed() < PATIENCE => {}
                log => panic!("log of {name} has no {text:?}: {log:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Sleeps between two reads of a pod for an eighth of the time so far, because each read slows other tests.
async fn pause(begun: Instant) {
    let [least, most] = [2, 40].map(Duration::from_millis);
    tokio::time::sleep((begun.elapsed() / 8).clamp(least, most)).await;
}

impl Drop for Harness {
    /// Cleans up, even if the test has failed.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Some((_, stop)) = &self.agent {
            // The agent is stopped first, because it would create removed objects again.
            stop.cancel();
        }
        let (runtime, network) = (self.runtime.clone(), self.network.clone());
        let clean_up = move || {
            let executor = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            executor.unwrap().block_on(async {
                for sandbox in runtime.sandboxes().await.unwrap_or_default() {
                    sandbox.destroy().await.ok();
                }
                runtime.close().await.ok();
                network.close(true).await.ok();
            });
        };
        std::thread::spawn(clean_up).join().ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}

async fn api(nodes: Arc<Connector>) -> Arc<ApiServer> {
    let authority = certificates::Authority::open_or_create(&shared("pki")).unwrap();
    let cluster = resource_kinds::ClusterConfig {
        service_range: "10.214.0.0/16".parse().unwrap(),
        pod_ranges: None,
    };
    let config = kube_api_server::Config {
        store: EmbeddedStore::in_memory(),
        kinds: resource_kinds::all(&cluster),
        admission: resource_kinds::admission::plugins(),
        admission_configuration: kube_api_server::AdmissionConfiguration::default(),
        default_objects: resource_kinds::bootstrap::default_objects(),
        tls: None,
        tokens: Some(Arc::new(authority.token_signer().unwrap())),
        token_audiences: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
        front_proxy: None,
        service_ip: "10.214.0.1".parse().unwrap(),
        advertise: vec!["192.0.2.1:6443".parse().unwrap()],
        nodes,
        limits: kube_api_server::Limits::default(),
    };
    ApiServer::new(config).await.unwrap()
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").starts_with("True")
}

/// `status reason message` of a condition.
pub fn condition(pod: &Pod, type_: &str) -> String {
    let status = pod.status.iter();
    let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
    let condition = conditions.find(|condition| condition.type_ == type_);
    condition.map_or_else(String::new, |c| {
        let text = [Some(&c.status), c.reason.as_ref(), c.message.as_ref()];
        let text: Vec<String> = text.into_iter().flatten().cloned().collect();
        text.join(" ")
    })
}

pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// The waiting reason, or the exit reason and code, or `running`, of a main container; and the number of
/// its restarts.
pub fn state(pod: &Pod, container: &str) -> (String, i32) {
    let status = pod.status.as_ref().unwrap();
    let main = status.container_statuses.iter().flatten();
    let mut all = main.chain(status.init_container_statuses.iter().flatten());
    let Some(container_status) = all.find(|status| status.name == container) else {
        return (String::new(), 0);
    };
    let state = container_status.state.clone().unwrap_or_default();
    let text = match (state.waiting, state.terminated) {
        (Some(waiting), _) => waiting.reason.unwrap_or_default(),
        (None, Some(ended)) => format!("{} {}", ended.reason.unwrap_or_default(), ended.exit_code),
        (None, None) => "running".to_owned(),
    };
    (text, container_status.restart_count)
}
