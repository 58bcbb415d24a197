//! The server is killed again and again, at times that a seed decides, while pods are created, crash, are scaled down
//! and deleted: no container is started twice or forgotten, and no remains are left.
//!
//! Each container keeps a log that the test can read: it locks a file of its pod's UID and a file of its pod's name as
//! long as any of its processes lives, records a failure to lock, and writes a line for each start. A failed run is
//! repeated, except for the timing of the machine, with the seed that it prints: `MAINSTAY_KILLS_SEED=7`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use end_to_end::applications::busybox;
use end_to_end::image::{Image, Settings};
use end_to_end::{Api, Instance, Registry, process, text, wait_for};
use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const SEED: &str = "MAINSTAY_KILLS_SEED";
/// Three kills for each operation of [`UNDER_WAY`], and as many at other times.
const KILLS: usize = 45;
/// Pods without a set.
const PODS: [&str; 4] = ["p0", "p1", "p2", "p3"];
/// Maximum number of the set's pods.
const REPLICAS: u64 = 3;
/// The number of images, each of which is pulled separately.
const IMAGES: u64 = 6;
/// Maximum time of the start of a server, in milliseconds.
const BEGINNING: u64 = 800;

const POD: &str = "/api/v1/namespaces/default/pods";
const SET: &str = "/apis/apps/v1/namespaces/default/statefulsets";

/// The command of every container, with its name as argument.
const KEEP_BOOK: &str = r#"
exec 8>>/book/lock.$POD_NAME.$0 9>>/book/lock.$POD_UID.$0
for lock in 8 9; do flock -n $lock || echo "$POD_NAME $POD_UID $0 $lock" >> /book/twice; done
echo x >> /book/starts.$POD_UID.$0
[ $0 = init ] && exec sleep 0.1
trap 'exit 0' TERM
until [ -e /book/crash.$POD_NAME.$0 ]; do sleep 0.2 & wait $!; done
rm /book/crash.$POD_NAME.$0
exit 1
"#;

/// An operation that a kill may interrupt, with its mark in the node's record of a pod.
const UNDER_WAY: [(&str, &str); 9] = [
    ("sandbox made", r#""sandbox":"Creating""#),
    ("sandbox destroyed", r#""sandbox":"Destroying""#),
    ("volumes prepared", r#""volumes":"Preparing""#),
    ("volumes released", r#""volumes":"Releasing""#),
    ("image pulled", r#""Ensuring"#),
    ("container started", r#"{"Starting":"#),
    ("hook after start", r#""post_start":"Running""#),
    ("hook before stop", r#""pre_stop":"Running""#),
    ("container stopped", r#""signalled_at":""#),
];

struct Random(StdRng);

impl Random {
    fn of_this_run() -> Self {
        let from_environment = std::env::var(SEED)
            .ok()
            .map(|seed| seed.parse().expect("a seed"));
        let now = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("a time after 1970")
        };
        let seed = from_environment.unwrap_or_else(|| u64::from(now().subsec_nanos()) + 1);
        println!("{SEED}={seed}");
        Self(StdRng::seed_from_u64(seed))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0.random_range(0..bound)
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        let index = self.below(all.len() as u64);
        all[usize::try_from(index).expect("a small number")]
    }

    fn rest(&mut self, milliseconds: u64) {
        sleep(Duration::from_millis(self.below(milliseconds)));
    }
}

/// busybox, and the program of util-linux that locks files, with its libraries.
fn image(label: u64) -> Image {
    let root = tempfile::tempdir().expect("a directory");
    busybox().unpack(root.path());
    let listed = Command::new("ldd").arg("/usr/bin/flock").output();
    let listed = String::from_utf8(listed.expect("run ldd").stdout).expect("names of libraries");
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/usr/bin/flock"]) {
        let inside = root.path().join(file.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().expect("a parent")).expect("make a directory");
        fs::copy(file, inside).expect("copy a file of the machine");
    }
    fs::write(root.path().join("label"), label.to_string()).expect("write the label");
    Image::of_directory(root.path(), &Settings::default())
}

/// The pod: two main containers, one init container, hooks, and volumes of most types.
fn spec(image: u64, book: &Path) -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("keeper:{image}"),
            "command": ["sh", "-c", KEEP_BOOK, name],
            "env": [
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            ],
            "volumeMounts": [
                {"name": "book", "mountPath": "/book"},
                {"name": "data", "mountPath": "/data"},
                {"name": "fast", "mountPath": "/fast"},
                {"name": "about", "mountPath": "/about"},
            ],
        })
    };
    let mut side = container("side");
    side["restartPolicy"] = json!("Always");
    let mut main = container("main");
    main["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", "sleep 0.1; touch /hooked"]}},
        "preStop": {"exec": {"command": ["sleep", "0.2"]}},
    });
    // A ready container has run its hook, whichever server executed the hook.
    main["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/hooked"]}, "periodSeconds": 1});
    json!({
        "terminationGracePeriodSeconds": 2,
        "initContainers": [container("init"), side],
        "containers": [main],
        "volumes": [
            {"name": "book", "hostPath": {"path": book}},
            {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "about", "downwardAPI": {"items":
                [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ],
    })
}

fn pod(name: &str, image: u64, book: &Path) -> Value {
    let mut spec = spec(image, book);
    let volumes = spec["volumes"].as_array_mut().expect("volumes");
    volumes.push(json!({"name": "data", "emptyDir": {}}));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn set(book: &Path) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"},
        "spec": {
            "serviceName": "web", "replicas": REPLICAS, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": spec(0, book)},
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Mi"}}},
            }],
        },
    })
}

/// Sends a request that may be too late, or name an object that does not exist.
fn try_to(api: &Api, method: Method, path: &str, object: Option<&Value>) {
    match api.request(method, path, object) {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
        Err(error) => panic!("{path}: {error}"),
    }
}

fn scale(api: &Api, replicas: u64) {
    let scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": replicas},
    });
    let path = format!("{SET}/web/scale");
    api.request(Method::PUT, &path, Some(&scale))
        .expect("scale the set");
}

/// A random action of a user, or a random event.
fn act(random: &mut Random, api: &Api, book: &Path) {
    let name = random.of(&PODS);
    let of_set = random.of(&["web-0", "web-1", "web-2"]);
    match random.below(10) {
        0..4 => {
            let new = pod(name, random.below(IMAGES), book);
            try_to(api, Method::POST, POD, Some(&new));
        }
        4 => try_to(api, Method::DELETE, &format!("{POD}/{name}"), None),
        5 => {
            let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
                "gracePeriodSeconds": random.below(2)});
            try_to(
                api,
                Method::DELETE,
                &format!("{POD}/{name}"),
                Some(&options),
            );
        }
        6 => try_to(api, Method::DELETE, &format!("{POD}/{of_set}"), None),
        7 => scale(api, random.below(REPLICAS + 1)),
        _ => {
            let name = random.of(&[name, of_set]);
            let part = random.of(&["main", "side"]);
            File::create(book.join(format!("crash.{name}.{part}"))).expect("request a crash");
        }
    }
}

/// The time of a kill.
enum Moment {
    /// After this number of milliseconds, whether the server is ready or not.
    Early(u64),
    /// This number of milliseconds after an action.
    Any(u64),
    /// As soon as a pod's record has this mark of a running operation, if the mark appears soon.
    During(&'static str),
}

impl Moment {
    fn choose(random: &mut Random, number: usize) -> Self {
        match number % 5 {
            0 => Self::Early(random.below(BEGINNING)),
            1 => Self::Any(random.below([100, 400, 1500][number / 5 % 3])),
            _ => {
                let aimed = number / 5 * 3 + number % 5 - 2;
                Self::During(UNDER_WAY[aimed % UNDER_WAY.len()].1)
            }
        }
    }
}

/// Lets a server work for a while, and kills it.
fn live_and_die(random: &mut Random, instance: &mut Instance, book: &Path, at: Moment) {
    instance.launch();
    if let Moment::Early(milliseconds) = at {
        sleep(Duration::from_millis(milliseconds));
        return instance.kill();
    }
    instance.wait_ready();
    let api = Api::new(instance);
    for _ in 0..=random.below(3) {
        act(random, &api, book);
        random.rest(60);
    }
    match at {
        Moment::During(sign) => {
            for attempt in 0..400 {
                if cut_off(&instance.data(), sign) > 0 {
                    break;
                }
                if attempt % 80 == 79 {
                    act(random, &api, book);
                }
                sleep(Duration::from_millis(2));
            }
        }
        Moment::Early(milliseconds) | Moment::Any(milliseconds) => {
            sleep(Duration::from_millis(milliseconds));
        }
    }
    instance.kill();
}

/// The number of pods in which the operation was interrupted by the kill.
fn cut_off(data: &Path, sign: &str) -> usize {
    let records = entries(&data.join("pods")).into_iter();
    let records = records.map(|pod| fs::read_to_string(pod.join(".state/record.json")));
    records
        .filter(|record| record.as_ref().is_ok_and(|text| text.contains(sign)))
        .count()
}

/// Requests all pods, and waits until they are ready.
fn settle(api: &Api, book: &Path) -> Vec<Value> {
    for request_file in entries(book) {
        if request_file
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("crash."))
        {
            // The container that reads the file may be removing it.
            drop(fs::remove_file(request_file));
        }
    }
    scale(api, REPLICAS);
    wait_for("all pods to be ready", 90, || {
        for name in PODS {
            try_to(api, Method::POST, POD, Some(&pod(name, 0, book)));
        }
        let pods = list(api);
        let unready: Vec<&Value> = pods.iter().filter(|pod| !is_ready(pod)).collect();
        if unready.is_empty() && pods.len() as u64 == PODS.len() as u64 + REPLICAS {
            return Ok(pods);
        }
        let named = |pod: &&Value| format!("{} {}", pod["metadata"], pod["status"]);
        Err(unready.iter().map(named).collect::<Vec<_>>())
    })
}

fn list(api: &Api) -> Vec<Value> {
    let mut list = api.request(Method::GET, POD, None).expect("list the pods");
    serde_json::from_value(list["items"].take()).expect("a list")
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Compares the statuses of the pods with the logs of their containers.
fn check_book(book: &Path, pods: &[Value]) {
    let twice = fs::read_to_string(book.join("twice")).unwrap_or_default();
    assert_eq!(twice, "", "containers of one identity at once");
    for pod in pods {
        let uid = text(pod, "/metadata/uid");
        let statuses = ["initContainerStatuses", "containerStatuses"];
        let statuses = statuses.map(|field| pod["status"][field].as_array().cloned());
        for status in statuses.into_iter().flatten().flatten() {
            let starts = book.join(format!("starts.{uid}.{}", text(&status, "/name")));
            let starts = fs::read_to_string(starts)
                .unwrap_or_default()
                .lines()
                .count();
            let restarts = status["restartCount"].as_u64().expect("a number");
            assert_eq!(starts as u64, restarts + 1, "{uid}: {status}");
            let image = text(&status, "/imageID");
            assert!(image.contains("@sha256:"), "{uid}: {status}");
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// The objects of the pods on the machine: directories, mounts, cgroups, links, shims, locks.
fn left_of_pods(instance: &Instance, book: &Path) -> Vec<String> {
    let data = instance.data();
    let digest = Sha256::digest(data.to_string_lossy().as_bytes());
    let id: String = digest
        .iter()
        .take(3)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let display = |path: PathBuf| path.display().to_string();
    let mut left: Vec<String> = ["pods", "sandboxes"]
        .iter()
        .flat_map(|directory| entries(&data.join(directory)))
        .map(display)
        .collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let of_instance = mounts
        .lines()
        .filter(|line| line.contains(&*data.to_string_lossy()));
    left.extend(of_instance.map(str::to_owned));
    let root = Path::new("/sys/fs/cgroup");
    let groups = entries(root).into_iter().chain([root.to_owned()]);
    let groups = groups.flat_map(|controller| entries(&controller.join(format!("mainstay-{id}"))));
    let of_pod = |group: &PathBuf| {
        group
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("pod"))
    };
    left.extend(groups.filter(of_pod).map(display));
    let links = Command::new("ip").args(["-o", "link"]).output();
    let links = String::from_utf8_lossy(&links.expect("run ip").stdout).into_owned();
    let alias = format!("mainstay/{id}/");
    let of_pods = links.lines().filter(|line| line.contains(&alias));
    left.extend(of_pods.map(str::to_owned));
    left.extend(
        process::shims(&data)
            .iter()
            .map(|pid| format!("shim {pid}")),
    );
    let is_locked = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("lock."))
            && File::open(path).is_ok_and(|file| file.try_lock().is_err())
    };
    left.extend(entries(book).into_iter().filter(is_locked).map(display));
    left
}

#[test]
fn a_kill_at_any_instant_neither_forgets_a_container_nor_starts_it_twice() {
    let mut random = Random::of_this_run();
    let registry = Registry::start();
    for label in 0..IMAGES {
        registry.push("library/keeper", &label.to_string(), &image(label));
    }
    let mirrors = registry.registries_yaml();
    let mut instance = Instance::start_prepared(&[], |data| {
        fs::write(data.join("registries.yaml"), mirrors).expect("write");
    });
    let directory = tempfile::tempdir().expect("a directory");
    let book = directory.path();
    Api::new(&instance).create(SET, &set(book));

    let mut cut: BTreeMap<&str, usize> = BTreeMap::new();
    random.rest(500);
    instance.kill();
    for number in 0..KILLS {
        let at = Moment::choose(&mut random, number);
        live_and_die(&mut random, &mut instance, book, at);
        for (what, sign) in UNDER_WAY {
            *cut.entry(what).or_default() += cut_off(&instance.data(), sign);
        }
    }
    println!("{KILLS} kills cut off: {cut:?}");
    // The shortest operations sometimes end faster than a kill takes.
    let kinds = cut.values().filter(|count| **count > 0).count();
    assert!(
        kinds + 2 >= UNDER_WAY.len(),
        "too little was cut off: {cut:?}"
    );

    instance.start_again();
    let api = Api::new(&instance);
    let pods = settle(&api, book);
    check_book(book, &pods);
    let leftovers = left_of_pods(&instance, book);
    assert!(
        leftovers
            .iter()
            .any(|left| left.contains("lock.web-0.main")),
        "{leftovers:#?}"
    );
    for name in PODS {
        api.delete(&format!("{POD}/{name}"));
    }
    api.delete(&format!("{SET}/web"));
    wait_for("the end of all pods", 60, || {
        let pods = list(&api);
        let left = left_of_pods(&instance, book);
        if pods.is_empty() && left.is_empty() {
            return Ok(());
        }
        let named = pods
            .iter()
            .map(|pod| text(pod, "/metadata/name").to_owned());
        Err(named.chain(left).collect::<Vec<_>>())
    });
    check_book(book, &[]);
}
