//! All unusual images start, and each process gets the environment that runc creates for it. runc starts
//! the bundle that umoci builds from the image. Each difference is a defect, or has an entry with its
//! reason below.

#[path = "../../../../image-store/tests/corpus/description.rs"]
mod description;
#[path = "../../../../image-store/tests/corpus/images.rs"]
mod images;
#[path = "../../../../image-store/tests/corpus/reasons.rs"]
mod reasons;
mod sight;
#[path = "../../../../image-store/tests/corpus/tree.rs"]
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use container_runtime::Sandbox;
use container_runtime::spec::{
    ContainerSpec, ContainerStatus, EnvVar, Mount, MountSource, Propagation, SandboxSpec,
};
use image_store::ImageStore;
use serde_json::{Value, json};

use description::Described;
use sight::{NOBODY, Sight};

use crate::harness::{Harness, copy_libraries, sandbox_spec};

/// If fewer containers start, the test is broken.
const STARTED_MIN: usize = 340;

/// Time in which the program of a container prints that it runs, on a busy machine.
const OUTPUT_MAX: Duration = Duration::from_secs(240);

/// Number of images that are tested concurrently.
const WORKERS: usize = 4;

/// The directory of the program that runs in each container.
const PROBE: &str = "/probe";

/// The files that an agent mounts into every container.
const FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

const VARIABLES: [(&str, &str); 2] = [("PATH", "/usr/bin:/bin"), ("TERM", "xterm")];

/// The reason for an intended difference of two processes.
fn reason(fact: &str, ours: &str, theirs: &str) -> Option<&'static str> {
    match fact {
        _ if ours == theirs => Some("no difference"),
        "process Groups" => Some("the user's own group is in its list, as with containerd"),
        "mount /" => Some("layers are merged by the kernel, not in one directory"),
        "device kcore" => Some("a link that containerd makes too"),
        _ if fact.starts_with("mount /sys/fs/cgroup") => {
            Some("the hierarchies are shown as the node has them")
        }
        _ if theirs == "-" && GUARDED.contains(&fact) => {
            Some("the kernel's files are guarded as by containerd")
        }
        // umoci requests no attributes for the kernel's file systems.
        _ if fact.starts_with("mount /proc") || fact == "mount /sys/firmware" => {
            let (ours, theirs) = (ours.split_once(' ')?, theirs.split_once(' ')?);
            let has = |option| ours.1.split(',').any(|difference| difference == option);
            let is_stricter = theirs
                .1
                .split(',')
                .all(|option| option.is_empty() || has(option));
            (ours.0 == theirs.0 && is_stricter).then_some("attributes as containerd sets them")
        }
        _ => None,
    }
}

/// The reason for an intended difference of a pod with a user namespace.
fn reason_with_own_users(difference: &tree::Difference) -> Option<&'static str> {
    let tree::Difference {
        path,
        fact,
        ours,
        theirs,
    } = difference;
    let is_nobodys = *ours == format!("{:?}", (NOBODY, NOBODY));
    match *fact {
        "owner" if is_nobodys && theirs == "(2097151, 2097151)" => {
            Some("the id does not exist there")
        }
        "owner"
            if is_nobodys && [Path::new("proc"), Path::new("sys")].contains(&path.as_path()) =>
        {
            Some("the kernel's files are those of the node's root")
        }
        "attributes" if ours.contains("security.capability") => {
            Some("from the node, a capability names the root for whom it counts")
        }
        _ => None,
    }
}

/// Mounts over files of the kernel that umoci does not cover.
const GUARDED: [&str; 4] = [
    "mount /proc/acpi",
    "mount /proc/interrupts",
    "mount /proc/keys",
    "mount /sys/devices/virtual/powercap",
];

/// The reason for an intended difference of two files.
fn reason_of_file(difference: &tree::Difference) -> Option<&'static str> {
    let tree::Difference { path, fact, .. } = difference;
    match *fact {
        "mode" if path == Path::new("dev") => {
            Some("0755 is asked for; runc gives the mount the mode of the image's directory")
        }
        _ => None,
    }
}

/// The directory with the program, and the files to mount.
struct Given {
    dir: PathBuf,
    command: Vec<String>,
}

impl Given {
    fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap();
        let places = ["/bin/busybox", "/usr/bin/busybox"];
        let program = places.iter().find(|path| Path::new(path).exists());
        let program = program.expect("these tests need busybox");
        fs::copy(program, dir.join("busybox")).unwrap();
        copy_libraries(program, &dir);
        let linked = Command::new("ldd").arg(program).output().unwrap().stdout;
        let linked = String::from_utf8(linked).unwrap();
        let mut words = linked.split_whitespace();
        let linker = words.find(|word| word.starts_with('/') && word.contains("/ld-"));
        let mut command: Vec<String> = match linker {
            None => Vec::new(),
            Some(linker) => vec![
                format!("{PROBE}{linker}"),
                "--library-path".to_owned(),
                format!("{PROBE}{}", Path::new(linker).parent().unwrap().display()),
            ],
        };
        // The script prints that it runs, and waits for a writer that never comes.
        let script = format!("echo runs; read line < {PROBE}/wait");
        let busybox = format!("{PROBE}/busybox");
        command.extend([busybox, "sh".to_owned(), "-c".to_owned(), script]);
        output(Command::new("mkfifo").arg(dir.join("wait")));
        for path in FILES {
            fs::write(dir.join(Path::new(path).file_name().unwrap()), path).unwrap();
        }
        Given { dir, command }
    }

    /// The mounts: destination and source.
    fn mounts(&self) -> Vec<(PathBuf, PathBuf)> {
        let files = FILES.iter().map(|path| {
            let name = Path::new(path).file_name().unwrap();
            (path.into(), self.dir.join(name))
        });
        let probe = [(PROBE.into(), self.dir.clone())];
        probe.into_iter().chain(files).collect()
    }
}

fn output(command: &mut Command) -> Output {
    let done = command.stdin(Stdio::null()).output();
    done.expect("cargo xtask setup installs runc and umoci")
}

/// Starts the image in a container of runc.
fn theirs(layout: &Path, directory: &Path, given: &Given, begun: i64) -> Result<Sight, String> {
    let bundle = directory.join("bundle");
    let image = format!("{}:image", layout.display());
    let mut unpack = Command::new("umoci");
    let unpacked = output(unpack.args(["unpack", "--image", &image]).arg(&bundle));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !unpacked.status.success() {
        return Err(text(&unpacked.stderr));
    }
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(given.command);
    let variables = VARIABLES.map(|(name, value)| format!("{name}={value}"));
    config["process"]["env"] = json!(variables);
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.extend(given.mounts().into_iter().map(|(to, from)| {
        json!({"destination": to, "source": from, "type": "bind", "options": ["rbind", "ro"]})
    }));
    fs::write(&file, config.to_string()).unwrap();
    let name = directory.file_name().unwrap().display();
    let id = format!("mainstay-{}-{name}", std::process::id());
    let runc = || {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(directory.join("state"));
        runc
    };
    let log_path = directory.join("said");
    let log = || {
        fs::File::options()
            .append(true)
            .create(true)
            .open(&log_path)
    };
    let ran = runc()
        .args(["run", "--detach", "--pid-file"])
        .arg(directory.join("pid"))
        .arg("--bundle")
        .arg(&bundle)
        .arg(&id)
        .stdin(Stdio::null())
        .stdout(log().unwrap())
        .stderr(log().unwrap())
        .status();
    if !ran.expect("runc runs").success() {
        return Err(fs::read_to_string(log_path).unwrap());
    }
    while !fs::read_to_string(&log_path).unwrap().contains("runs\n") {
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = fs::read_to_string(directory.join("pid")).unwrap();
    let sight = Sight::of(pid.parse().unwrap(), begun);
    output(runc().args(["delete", "--force", &id]));
    Ok(sight)
}

/// Starts the image in a container of this runtime.
async fn ours(
    harness: &Harness,
    sandbox: &Sandbox,
    layers: Vec<PathBuf>,
    given: &Given,
    begun: i64,
) -> Result<Sight, String> {
    let mut spec = harness.container("a", &[]);
    spec.id = spec.log.path.as_ref().unwrap().display().to_string();
    spec.id = spec.id.rsplit('/').next().unwrap().replace(".log", "");
    spec.args = given.command.clone();
    spec.rootfs.lowerdirs = layers;
    let variables = VARIABLES.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let variables = variables.map(|(name, value)| EnvVar { name, value });
    spec.env = variables.to_vec();
    let mounts = given.mounts().into_iter().map(|(destination, path)| Mount {
        destination,
        source: MountSource::Bind {
            path,
            sub_path: None,
            recursive_read_only: false,
            propagation: Propagation::Private,
        },
        read_only: true,
    });
    spec.mounts = mounts.collect();
    let sight = look(sandbox, &spec, begun).await;
    sandbox.remove(&spec.id).await.ok();
    sight
}

async fn look(sandbox: &Sandbox, spec: &ContainerSpec, begun: i64) -> Result<Sight, String> {
    let created = sandbox.create_container(spec.clone()).await;
    created.map_err(|error| error.to_string())?;
    let started = sandbox.start(&spec.id).await;
    started.map_err(|error| error.to_string())?;
    let log = || crate::harness::logged(spec);
    let end = Instant::now() + OUTPUT_MAX;
    while log() != ["runs"] && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let state = sandbox.state().await.unwrap();
    match (&state.containers[&spec.id].status, log().as_slice()) {
        (ContainerStatus::Running { pid, .. }, [line]) if line == "runs" => {
            Ok(Sight::of(*pid, begun))
        }
        (other, log) => Err(format!("{other:?}, with the output {log:?}")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

/// The results of all images.
#[derive(Default)]
struct Results {
    /// Number of started containers without and with a user namespace.
    started: [AtomicUsize; 2],
    compared: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

/// The differences without a reason.
fn differences(
    image: &Described,
    ours: &Sight,
    theirs: &Sight,
    has_own_users: bool,
) -> Vec<String> {
    let is_wanted = |existing: &tree::Difference| {
        reasons::reason(image, existing).is_some()
            || reason_of_file(existing).is_some()
            || (has_own_users && reason_with_own_users(existing).is_some())
    };
    let files = tree::compare(&ours.files, &theirs.files);
    let files = files.iter().filter(|existing| !is_wanted(existing));
    let files = files.map(|existing| format!("{existing:?}"));
    let (ours, theirs) = (ours.other_facts(), theirs.other_facts());
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let others = names.into_iter().filter_map(|name| {
        let of = |facts: &BTreeMap<String, String>| {
            facts.get(name).cloned().unwrap_or_else(|| "-".to_owned())
        };
        let (ours, theirs) = (of(&ours), of(&theirs));
        let difference = format!("{name}: {ours:?} {theirs:?}");
        let is_mounted = name.starts_with("device ") || name.starts_with("mount /dev/");
        // A process in a user namespace cannot create device nodes, so the node's device nodes are mounted,
        // also over masked files.
        let is_wanted = reason(name, &ours, &theirs).is_some()
            || has_own_users && (is_mounted || ours == "devtmpfs ");
        (!is_wanted).then_some(difference)
    });
    files.chain(others).collect()
}

/// Starts an image in both runtimes and compares the results. Then starts it in a pod with a user
/// namespace, where only ids may differ.
async fn try_image(
    harness: &Harness,
    [plain, own_users]: [&Sandbox; 2],
    image: &Described,
    given: &Given,
    results: &Results,
) {
    let directory = harness.dir.join(&image.name);
    let layout = directory.join("layout");
    image.write(&layout);
    let begun = fs::metadata(&layout).unwrap().mtime();
    let theirs = theirs(&layout, &directory, given, begun);
    let store = ImageStore::open(directory.join("store")).unwrap();
    let layers = store.import(&layout).map_err(|error| chain(&error));
    let layers = layers.map(|names| store.get(&names[0]).unwrap().unwrap().layers);
    for sandbox in [plain, own_users] {
        let has_own_users = std::ptr::eq(sandbox, own_users);
        let ours = match layers.clone() {
            Err(error) => Err(error),
            Ok(layers) => ours(harness, sandbox, layers, given, begun).await,
        };
        let started = &results.started[usize::from(has_own_users)];
        started.fetch_add(usize::from(ours.is_ok()), Ordering::Relaxed);
        let difference = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => {
                results.compared.fetch_add(1, Ordering::Relaxed);
                differences(image, ours, theirs, has_own_users)
            }
            // runc follows a relative link at this path, and rejects an absolute link.
            (Err(ours), Ok(_)) if ours.starts_with("mount tmpfs to /dev: symbolic links") => {
                Vec::new()
            }
            (Err(ours), Ok(_)) => vec![ours.clone()],
            (Ok(_), Err(_)) => Vec::new(),
            (Err(ours), Err(theirs)) => {
                println!("{}: refused by both: {ours}; {}", image.name, theirs.trim());
                Vec::new()
            }
        };
        if !difference.is_empty() {
            let difference = difference.join("\n    ");
            let of = if has_own_users { "own users" } else { "" };
            let text = format!("{} {of}: {:?}\n    {difference}", image.name, image.layers);
            results.faults.lock().unwrap().push(text);
        }
    }
    fs::remove_dir_all(directory).unwrap();
}

/// findings-2 I2, I3, I5
#[test]
fn odd_images_start_as_in_another_implementation() {
    let images = images::all();
    let (next, results) = (AtomicUsize::new(0), Results::default());
    let (next, results, images) = (&next, &results, &images);
    std::thread::scope(|scope| {
        for number in 0..WORKERS {
            scope.spawn(move || {
                let executor = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                executor.unwrap().block_on(async {
                    let harness = Harness::new(&format!("oddimages{number}"));
                    let given = Given::new(harness.dir.join("given"));
                    let spec = SandboxSpec {
                        hostname: "odd".to_owned(),
                        ..sandbox_spec("p1")
                    };
                    let plain = harness.runtime.create_sandbox(spec.clone()).await.unwrap();
                    let own_users = SandboxSpec {
                        id: "p2".to_owned(),
                        own_users: true,
                        ..spec
                    };
                    let own_users = harness.runtime.create_sandbox(own_users).await.unwrap();
                    while let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let sandboxes = [&plain, &own_users];
                        try_image(&harness, sandboxes, image, &given, results).await;
                    }
                    harness.end().await;
                });
            });
        }
    });
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    let started = results.started.each_ref().map(count);
    let compared = count(&results.compared);
    let faults = results.faults.lock().unwrap();
    println!(
        "{started:?} of {} started, {compared} compared",
        images.len()
    );
    assert!(
        faults.is_empty(),
        "{} of {compared}:\n{}",
        faults.len(),
        faults.join("\n")
    );
    assert!(
        started.iter().all(|count| *count >= STARTED_MIN),
        "{started:?}"
    );
}
