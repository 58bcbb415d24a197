//! The cost of `mainstay volume move` of a gigabyte, for each class: the time of the command, and the time without the
//! pod. For comparison: the time of plain copies of the files to the same file system (`cp -a`, and for `local-cow`
//! `btrfs send` into `btrfs receive`, if that program is installed), and of a move without files.
//!
//! Both nodes are on this machine (`mainstay up --nodes 2`) and share its disk. Run the benchmark on an idle machine
//! with `cargo xtask bench volume-move`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use end_to_end::api::first_match;
use end_to_end::cluster::is_ready;
use end_to_end::program::{ok, text as path_text};
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, Instance, Kubectl, text, wait_for};
use serde_json::{Value, json};

const CLASSES: [&str; 2] = ["local", "local-cow"];
const PODS: &str = "/api/v1/namespaces/default/pods";
const LIMIT: Duration = Duration::from_secs(600);
/// The number of files in the volume.
const FILES: u64 = 4;

pub(crate) fn bench() {
    let instance = Instance::start(&["--nodes", "2"]);
    let machine = Machine {
        kubectl: instance.kubectl(),
        api: Api::new(&instance),
        data: instance.data(),
    };
    let rounds = sized(5, 1);
    let mut costs = CLASSES.map(|_| Costs::default());
    for class in CLASSES {
        machine.start(class);
    }
    // The measurements alternate in rounds, so that other work of the machine affects all of them.
    for _ in 0..rounds {
        for (class, costs) in CLASSES.iter().zip(&mut costs) {
            machine.move_and_copy(class, costs);
        }
    }
    let size = sized("1 GiB", "4 MiB");
    println!("moves of a volume with {size} of random data in {FILES} files, {rounds} rounds");
    for (class, costs) in CLASSES.iter().zip(&costs) {
        println!("{class}");
        println!("  the command: {}", costs.command);
        println!("  without the pod: {}", costs.away);
        println!("  the command, no files: {}", costs.empty_command);
        println!("  without the pod, no files: {}", costs.empty_away);
        println!("  cp -a and sync: {}", costs.copy);
        if *class == "local-cow" {
            println!(
                "  btrfs send into btrfs receive, and sync: {}",
                costs.stream
            );
        }
    }
}

struct Costs {
    command: Sample,
    away: Sample,
    empty_command: Sample,
    empty_away: Sample,
    copy: Sample,
    stream: Sample,
}

impl Default for Costs {
    fn default() -> Self {
        let [command, away, empty_command, empty_away, copy, stream] =
            [(); 6].map(|()| Sample::new("s"));
        Self {
            command,
            away,
            empty_command,
            empty_away,
            copy,
            stream,
        }
    }
}

struct Machine {
    kubectl: Kubectl,
    api: Api,
    data: PathBuf,
}

impl Machine {
    /// Starts a set with a full volume of the class, and a set with an empty volume.
    fn start(&self, class: &str) {
        let container = json!({"name": "c", "image": "mainstay/debug", "command": ["sleep", "infinity"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
        for set in [class.to_owned(), format!("{class}-empty")] {
            let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
                "metadata": {"name": set}, "spec": {"serviceName": set,
                    "selector": {"matchLabels": {"app": set}},
                    "template": {"metadata": {"labels": {"app": set}}, "spec": {
                        "terminationGracePeriodSeconds": 1, "containers": [container]}},
                    "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                        "storageClassName": class, "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "2Gi"}}}}]}});
            self.kubectl.apply(&object.to_string());
            self.kubectl.wait_ready(&set, 1);
        }
        let bytes = sized(1_u64 << 30, 4 << 20) / FILES;
        let fill = format!(
            "for n in $(seq {FILES}); do head -c {bytes} /dev/urandom >/data/$n; done; sync"
        );
        let pod = format!("{class}-0");
        self.kubectl.ok(&["exec", &pod, "--", "sh", "-c", &fill]);
    }

    fn move_and_copy(&self, class: &str, costs: &mut Costs) {
        let former = self.node_of(class);
        let (command, away) = self.move_volume(class);
        costs.command.push(command.as_secs_f64());
        costs.away.push(away.as_secs_f64());
        let (command, away) = self.move_volume(&format!("{class}-empty"));
        costs.empty_command.push(command.as_secs_f64());
        costs.empty_away.push(away.as_secs_f64());
        // The move back, as plain copies.
        let from = self.directory_of(class);
        let mut to = match former.ends_with("-2") {
            true => self.data.join("nodes/2"),
            false => self.data.clone(),
        };
        if class == "local-cow" {
            to.push("pool/mount");
        }
        costs.copy.push(copy(&from, &to).as_secs_f64());
        if class == "local-cow" {
            costs.stream.push(stream(&from, &to).as_secs_f64());
        }
    }

    /// Moves the volume of a set's pod to the other node. Returns the time of the command, and the time from the end of
    /// the pod's readiness to the readiness of the next pod.
    fn move_volume(&self, set: &str) -> (Duration, Duration) {
        let pod = self.kubectl.pod(&format!("{set}-0"));
        let (name, uid) = (text(&pod, "/metadata/name"), text(&pod, "/metadata/uid"));
        let list = self.kubectl.json(&["get", "nodes"]);
        let nodes = list["items"].as_array().into_iter().flatten();
        let mut nodes = nodes.map(|node| text(node, "/metadata/name"));
        let to = nodes.find(|node| pod["spec"]["nodeName"] != **node);
        let pods = self.api.watch(PODS);
        let claim = format!("data-{name}");
        let to = to.expect("another node");
        let data = path_text(&self.data);
        let begun = Instant::now();
        ok(&["volume", "move", &claim, "--to", to, "--data-dir", data]);
        let command = begun.elapsed();
        let time_of = |holds: &dyn Fn(&Value) -> bool| {
            let (at, _) = first_match(&pods, LIMIT, |_, event_object| {
                event_object["metadata"]["name"] == name && holds(event_object)
            });
            at
        };
        let is_old = |pod: &Value| pod["metadata"]["uid"] == uid;
        let ended = time_of(&|pod| is_old(pod) && !pod["metadata"]["deletionTimestamp"].is_null());
        let ready = time_of(&|pod| !is_old(pod) && is_ready(pod));
        (command, ready - ended)
    }

    fn node_of(&self, set: &str) -> String {
        let pod = self.kubectl.pod(&format!("{set}-0"));
        text(&pod, "/spec/nodeName").to_owned()
    }

    /// The directory of the volume, on its node.
    fn directory_of(&self, set: &str) -> PathBuf {
        let claim = self.kubectl.json(&["get", "pvc", &format!("data-{set}-0")]);
        let volume = self
            .kubectl
            .json(&["get", "pv", text(&claim, "/spec/volumeName")]);
        let path = PathBuf::from(text(&volume, "/spec/local/path"));
        wait_for("the directory", 60, || match path.is_dir() {
            true => Ok(path.clone()),
            false => Err(path.clone()),
        })
    }
}

fn copy(from: &Path, to: &Path) -> Duration {
    let to = to.join("plain-copy");
    let duration = timed("cp -a \"$0\" \"$1\" && sync -f \"$1\"", from, &to);
    std::fs::remove_dir_all(&to).expect("remove the copy");
    duration
}

/// The time of the stream; the snapshot is not part of it, because a snapshot takes milliseconds.
fn stream(from: &Path, to: &Path) -> Duration {
    let name = "plain-stream";
    let pool = from.parent().and_then(Path::parent).expect("a pool");
    let (snapshot, received) = (pool.join(name), to.join(name));
    run(
        "btrfs -q subvolume snapshot -r \"$0\" \"$1\" && sync -f \"$1\"",
        from,
        &snapshot,
    );
    let duration = timed(
        "btrfs -q send \"$0\" | btrfs -q receive \"$1\" && sync -f \"$1\"",
        &snapshot,
        to,
    );
    for subvolume in [&snapshot, &received] {
        run("btrfs -q subvolume delete \"$0\"", subvolume, Path::new(""));
    }
    duration
}

fn timed(script: &str, from: &Path, to: &Path) -> Duration {
    let begun = Instant::now();
    run(script, from, to);
    begun.elapsed()
}

fn run(script: &str, from: &Path, to: &Path) {
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", script]).args([from, to]).output();
    let output = output.expect("run a shell");
    assert!(output.status.success(), "{script}: {output:?}");
}
