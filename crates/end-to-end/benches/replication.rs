//! The cost of a replica of a volume on another node: the time of random durable writes into a volume of `local-cow`
//! and into volumes with a replica, and the age of the last complete copy under these writes. Then the node of the pod
//! is killed: the phases of the time until the pod is ready on the other node.
//!
//! Machines are network namespaces on one bridge, with the disk of this machine. A thread of this process writes, in
//! the directory of the pod's container. Run the benchmark on an idle machine with `cargo xtask bench replication`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use end_to_end::api::first_match;
use end_to_end::cluster::is_ready;
use end_to_end::lan::{Lan, Role};
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, Kubectl, process, text, wait_for};
use http::Method;
use serde_json::{Value, json};

const CLAIM: &str = "/api/v1/namespaces/default/persistentvolumeclaims/data-db-0";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const PODS: &str = "/api/v1/namespaces/default/pods";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const RECORD: &str = "/metadata/annotations/node.mainstay.dev~1volume-replication";
const FENCED: &str = "/metadata/annotations/node.mainstay.dev~1fenced";

const PAGE: usize = 8 << 10;
/// The time from the start of one write to the start of the next write.
const PACE: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(600);

/// The classes, with the seconds between two copies.
const CLASSES: [(&str, Option<u64>); 3] = [
    ("local-cow", None),
    ("local-replicated", Some(10)),
    ("every-two-seconds", Some(2)),
];

const TWO_SECONDS: &str = r"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: every-two-seconds}
provisioner: mainstay.dev/local-cow
parameters: {replicas: '1', replicationIntervalSeconds: '2'}
volumeBindingMode: WaitForFirstConsumer
";

pub(crate) fn bench() {
    let mut machines = Machines::start();
    let mut costs = CLASSES.map(|_| Cost::default());
    // The measurements alternate in rounds, so that other work of the machine affects all of them.
    let rounds = sized(3, 1);
    for _ in 0..rounds {
        for ((class, interval), cost) in CLASSES.iter().zip(&mut costs) {
            machines.begin(class);
            measure(&machines, interval.is_some(), cost);
            machines.remove();
        }
    }
    println!(
        "{rounds} rounds with 1,000 random writes of 8 KiB with fsync per second in each class"
    );
    for ((class, interval), cost) in CLASSES.iter().zip(&costs) {
        let every = interval.map(|seconds| format!(", a copy every {seconds} s"));
        println!("{class}{}", every.unwrap_or_default());
        println!("  median of a write and fsync: {}", cost.medians);
        println!("  99th percentile: {}", cost.nearly_all);
        println!("  longest: {}", cost.longest);
        println!("  per second: {}", cost.rates);
        if interval.is_some() {
            println!(
                "  age of the last complete copy: {}",
                cost.lags.percentiles()
            );
        }
    }
    machines.begin("local-replicated");
    let mut failovers = Failovers::default();
    let rounds = sized(3, 1);
    for _ in 0..rounds {
        failovers.add(&mut machines);
    }
    println!("the node of the pod is killed, {rounds} rounds");
    for (part, times) in &failovers.parts {
        println!("  {part}: {times}");
    }
    machines.remove();
    machines.shut_down();
}

/// A server, and two nodes.
struct Machines {
    server: Role,
    nodes: Vec<Role>,
    api: Api,
    kubectl: Kubectl,
    _lan: Lan,
    _directory: tempfile::TempDir,
}

/// The options for the time in which a silent node is fenced: the default, or the shortest.
fn lease() -> [&'static str; 2] {
    ["--node-lease-duration", sized("38s", "12s")]
}

impl Machines {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("mainstay-bench-").tempdir();
        let directory = directory.expect("make a directory");
        let mut lan = Lan::default();
        let mut server = Role::new(&mut lan, "server", directory.path());
        server.start(&["server"]);
        let (url, token) = (server.url(), server.token(&[]));
        let join = ["--server", &url, "--token", &token, "--node-name"];
        let nodes = ["n1", "n2"].map(|name| {
            let mut node = Role::new(&mut lan, name, directory.path());
            node.start(&[&["node"], &lease()[..], &join[..], &[name]].concat());
            node
        });
        let kubeconfig = Path::new(&server.data()).join("kubeconfig");
        let machines = Self {
            api: server.network.run(|| Api::with(kubeconfig)),
            kubectl: server.kubectl(),
            server,
            nodes: nodes.into(),
            _lan: lan,
            _directory: directory,
        };
        machines.server.network.run(|| {
            machines.kubectl.apply(TWO_SECONDS);
        });
        machines
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        let get = || self.api.request(Method::GET, path, None);
        let outcome = self.server.network.run(get);
        outcome.map_err(|error| error.to_string())
    }

    /// Starts a pod with a volume of the class, and fills its file.
    fn begin(&self, class: &str) {
        let container = json!({"name": "c", "image": "mainstay/hello",
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 1},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "db", "annotations": {"mainstay.dev/node-failure": "Failover"}},
            "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
                    "terminationGracePeriodSeconds": 1, "containers": [container]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                    "storageClassName": class, "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}}}]}});
        self.server.network.run(|| {
            self.kubectl.apply(&set.to_string());
            self.kubectl.wait_ready("db", 1);
        });
        let file = self.file();
        let chunk: Vec<u8> = (0..1 << 20).map(|_| rand::random()).collect();
        for at in 0..bytes() >> 20 {
            file.write_all_at(&chunk, at << 20).expect("write");
        }
        file.sync_all().expect("sync the file");
    }

    /// The file in the volume, through the root of the pod's process.
    fn file(&self) -> File {
        let pid = self
            .server
            .network
            .run(|| process::of_pod(&self.kubectl, "db-0", "mainstay"));
        let path = format!("/proc/{pid}/root/data/pages");
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(path);
        file.expect("open a file in the volume")
    }

    fn volume(&self) -> String {
        let claim = self.get(CLAIM).expect("the claim");
        format!("{VOLUMES}/{}", text(&claim, "/spec/volumeName"))
    }

    /// Removes the pod and its volume, on all nodes.
    fn remove(&self) {
        let volume = self.volume();
        self.server.network.run(|| {
            self.kubectl.ok(&["delete", "statefulset", "db"]);
            self.kubectl.ok(&["delete", "pvc", "data-db-0"]);
        });
        wait_for("the volume to be removed", 300, || {
            match self.get(&volume) {
                Ok(leftover) => Err(leftover),
                Err(_) => Ok(()),
            }
        });
    }

    /// Waits for a copy of the present contents of the volume.
    fn wait_for_copy(&self) {
        let (volume, begun) = (self.volume(), now());
        wait_for("a copy", 300, || {
            let record = record(&self.get(&volume)?);
            match record["last"].as_i64().is_some_and(|last| last >= begun) {
                true => Ok(()),
                false => Err(record.to_string()),
            }
        });
    }

    fn shut_down(mut self) {
        for node in &mut self.nodes {
            node.interrupt();
        }
        self.server.interrupt();
    }
}

/// The size of the file.
fn bytes() -> u64 {
    sized(256 << 20, 4 << 20)
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.expect("a time after 1970").as_millis();
    i64::try_from(since).expect("a time before the end")
}

/// The record of a volume, or null.
fn record(volume: &Value) -> Value {
    let record = volume.pointer(RECORD).and_then(Value::as_str);
    record.map_or(Value::Null, |record| {
        serde_json::from_str(record).expect("a record")
    })
}

/// The writes into volumes of a class.
struct Cost {
    medians: Sample,
    nearly_all: Sample,
    longest: Sample,
    rates: Sample,
    lags: Sample,
}

impl Default for Cost {
    fn default() -> Self {
        let [medians, nearly_all, longest, lags] = [(); 4].map(|()| Sample::new("ms"));
        Self {
            medians,
            nearly_all,
            longest,
            rates: Sample::new(""),
            lags,
        }
    }
}

fn measure(machines: &Machines, is_replicated: bool, cost: &mut Cost) {
    if is_replicated {
        machines.wait_for_copy();
    }
    let (file, volume) = (machines.file(), machines.volume());
    let span = Duration::from_secs(sized(30, 5));
    let times = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_pages(&file, span));
        while is_replicated && !writer.is_finished() {
            let moved_volume = machines.get(&volume).expect("the volume");
            let last = record(&moved_volume)["last"].as_i64().expect("a copy");
            let lag = u64::try_from(now() - last).unwrap_or_default();
            cost.lags.push_time(Duration::from_millis(lag));
            std::thread::sleep(Duration::from_millis(100));
        }
        writer.join().expect("the writes")
    });
    cost.rates.push(times.len() as f64 / span.as_secs_f64());
    let times = Sample::of_times(times);
    for (percent, sample) in [
        (50, &mut cost.medians),
        (99, &mut cost.nearly_all),
        (100, &mut cost.longest),
    ] {
        sample.push(times.percentile(percent).expect("a write"));
    }
}

/// Writes pages at random offsets and syncs each, at a fixed pace, or as fast as possible if that is slower.
fn write_pages(file: &File, span: Duration) -> Vec<Duration> {
    let page: Vec<u8> = (0..PAGE).map(|_| rand::random()).collect();
    let pages = bytes() / PAGE as u64;
    let mut times = Vec::new();
    let started = Instant::now();
    let mut due = Duration::ZERO;
    while due < span && started.elapsed() < span {
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        let offset = rand::random::<u64>() % pages * PAGE as u64;
        let begun = Instant::now();
        file.write_all_at(&page, offset).expect("write");
        file.sync_all().expect("sync the file");
        times.push(begun.elapsed());
        due += PACE;
    }
    times
}

/// The phases of the time without the pod.
struct Failovers {
    parts: [(&'static str, Sample); 6],
}

impl Default for Failovers {
    fn default() -> Self {
        let names = [
            "from the death of the node until it is fenced",
            "until the promotion begins, with a pod that waits",
            "until the copy is the volume",
            "until the pod is ready",
            "all of it",
            "writes lost: from the recovery point to the death",
        ];
        Self {
            parts: names.map(|name| (name, Sample::new("s"))),
        }
    }
}

impl Failovers {
    /// Kills the node of the pod during writes, and restarts it.
    fn add(&mut self, machines: &mut Machines) {
        machines.wait_for_copy();
        let volume = machines.volume();
        let before = record(&machines.get(&volume).expect("the volume"));
        let epoch = before["epoch"].as_u64().expect("an epoch");
        let pod = machines.get(&format!("{PODS}/db-0")).expect("the pod");
        let (name, uid) = (text(&pod, "/spec/nodeName"), text(&pod, "/metadata/uid"));
        let [leases, volumes, pods] = machines
            .server
            .network
            .run(|| [LEASES, VOLUMES, PODS].map(|path| machines.api.watch(path)));
        // The time is not a multiple of the interval, so that the age of the copy differs between the rounds.
        let span = Duration::from_millis(sized(17_300, 3_000));
        write_pages(&machines.file(), span);
        let number: usize = name[1..].parse().expect("a number");
        let node = &mut machines.nodes[number - 1];
        let (died, died_at) = (Instant::now(), now());
        node.kill();
        process::kill_shims(Path::new(&node.data()));
        let (fenced, _) = first_match(&leases, LIMIT, |_, lease| {
            lease["metadata"]["name"] == name && lease.pointer(FENCED).is_some()
        });
        let reached = |stage: &str| {
            first_match(&volumes, LIMIT, |_, volume| {
                let record = record(volume);
                let is_later = record["epoch"].as_u64() > Some(epoch);
                is_later && record["stage"] == stage
            })
        };
        let (begun, _) = reached("Promoting");
        let (promoted, volume) = reached("Replicating");
        let (ready, _) = first_match(&pods, LIMIT, |_, pod| {
            pod["metadata"]["uid"] != uid && is_ready(pod)
        });
        let point = record(&volume)["recovery"]["time"].as_i64();
        let lost = u64::try_from(died_at - point.expect("a recovery point")).unwrap_or_default();
        let times = [
            fenced - died,
            begun - fenced,
            promoted - begun,
            ready.saturating_duration_since(promoted),
            ready - died,
            Duration::from_millis(lost),
        ];
        for ((_, sample), time) in self.parts.iter_mut().zip(times) {
            sample.push(time.as_secs_f64());
        }
        node.start(&[&["node"], &lease()[..]].concat());
    }
}
