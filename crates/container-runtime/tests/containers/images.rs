//! Unusual images: many layers, links at mount points, and unusual configurations. Each result is compared
//! with the result of runc, which starts the root with the configuration that umoci writes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use container_runtime::Sandbox;
use container_runtime::spec::{
    ContainerSpec, EnvVar, Mount, MountSource, Propagation, SandboxSpec,
};
use serde_json::{Value, json};

use crate::harness::{Harness, layer, logged, run, sandbox_spec};

/// Layers with names as in an image store; each layer has a different file.
fn many_layers(harness: &Harness, count: u32) -> Vec<PathBuf> {
    let created = (0..count).map(|number| {
        let digits = number.wrapping_mul(2_654_435_761);
        let name = format!("images/layers/{digits:08x}{:056x}/fs", 0);
        let layer = harness.dir.join(name);
        fs::create_dir_all(layer.join("own")).unwrap();
        fs::write(layer.join("own").join(number.to_string()), "").unwrap();
        layer
    });
    created.collect()
}

/// findings-2 I1
#[tokio::test]
async fn images_of_five_hundred_layers_start() {
    let harness = Harness::new("manylayers");
    let layers = many_layers(&harness, 500);
    let own_users = SandboxSpec {
        own_users: true,
        ..sandbox_spec("p2")
    };
    let sandboxes = [
        harness.sandbox("p1").await,
        harness.runtime.create_sandbox(own_users).await.unwrap(),
    ];
    for sandbox in &sandboxes {
        for count in [39, 60, 130, 499] {
            let id = format!("a{count}");
            let mut spec =
                harness.shell(&id, "ls /own | wc -l; ls /v/own | wc -l; touch /own/made");
            spec.rootfs.lowerdirs.extend_from_slice(&layers[..count]);
            spec.mounts = vec![Mount {
                destination: "/v".into(),
                source: MountSource::Layers {
                    lowerdirs: layers[..=count].to_vec(),
                    sub_path: None,
                },
                read_only: true,
            }];
            run(sandbox, &spec).await;
            assert_eq!(logged(&spec), [count.to_string(), (count + 1).to_string()]);
            // Other processes can recognise the layer in use by the options of the mount.
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let upper = spec.rootfs.upper_dir.to_str().unwrap();
            let root = format!("{id}/bundle/rootfs ");
            let mount = table
                .lines()
                .find(|line| line.contains(&root) || line.contains(upper));
            let mount = mount.unwrap();
            for layer in &layers[..count] {
                let name = layer
                    .parent()
                    .unwrap()
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap();
                assert!(mount.contains(&name[..6]), "{name} {mount}");
            }
            sandbox.remove(&id).await.unwrap();
        }
    }
    let mut more = harness.shell("more", "true");
    more.rootfs.lowerdirs.extend(layers);
    let refused = sandboxes[0]
        .create_container(more)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("501 layers") && refused.contains("500 at most"),
        "{refused}"
    );
    harness.end().await;
}

/// An image without layers has no command, but it is not rejected for having no layers.
#[tokio::test]
async fn an_image_may_have_no_layer() {
    let harness = Harness::new("nolayer");
    let sandbox = harness.sandbox("p1").await;
    let mut spec = harness.container("a", &["/app"]);
    spec.rootfs.lowerdirs.clear();
    sandbox.create_container(spec).await.unwrap();
    let refused = sandbox.start("a").await.unwrap_err().to_string();
    assert!(refused.contains("stat /app: no such file"), "{refused}");
    harness.end().await;
}

/// A container of runc with the layers and a separate upper directory.
struct Bundle {
    dir: PathBuf,
    config: Value,
}

impl Bundle {
    fn new(dir: PathBuf, layers: &[PathBuf]) -> Self {
        for part in ["rootfs", "upper", "work"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        let layers: Vec<_> = layers
            .iter()
            .rev()
            .map(|layer| layer.to_str().unwrap())
            .collect();
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let (lower, upper, work) = (layers.join(":"), upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let root = dir.join("rootfs");
        let kind = Some("overlay");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(kind, &root, kind, flags, Some(options.as_str())).unwrap();
        output(Command::new("runc").arg("spec").current_dir(&dir));
        let text = fs::read_to_string(dir.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        Bundle { dir, config }
    }

    /// Runs the container, and returns its output, or the error of runc.
    fn run(&self) -> Result<Vec<String>, String> {
        fs::write(self.dir.join("config.json"), self.config.to_string()).unwrap();
        // The control group has this name, too, so the name must be unique in this process.
        let names = [self.dir.parent().unwrap(), &self.dir];
        let names = names.map(|path| path.file_name().unwrap().to_str().unwrap());
        let id = names.join("-");
        let ran = Command::new("runc")
            .arg("--root")
            .arg(self.dir.join("state"))
            .args(["run", &id])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .expect("runc runs (cargo xtask setup installs it)");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match ran.stderr.is_empty() {
            true => Ok(text(&ran.stdout).lines().map(str::to_owned).collect()),
            false => Err(text(&ran.stderr)),
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let root = self.dir.join("rootfs");
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

fn output(command: &mut Command) -> String {
    let done = command
        .output()
        .expect("cargo xtask setup installs runc and umoci");
    assert!(done.status.success(), "{command:?} {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// Runs a container, and returns its output or the error of its start.
async fn ours(sandbox: &Sandbox, spec: &ContainerSpec) -> Result<Vec<String>, String> {
    let created = sandbox.create_container(spec.clone()).await;
    created.map_err(|error| error.to_string())?;
    let started = sandbox.start(&spec.id).await;
    started.map_err(|error| error.to_string())?;
    crate::harness::exit_of(sandbox, &spec.id).await;
    Ok(logged(spec))
}

/// The files below a directory: their owners, and the modes of directories.
fn files(root: &Path) -> BTreeMap<PathBuf, (u32, Option<u32>)> {
    let mut result = BTreeMap::new();
    let mut unread = vec![root.to_owned()];
    while let Some(dir) = unread.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let facts = entry.metadata().unwrap();
            if facts.is_dir() {
                unread.push(entry.path());
            }
            let path = entry.path().strip_prefix(root).unwrap().to_owned();
            result.insert(path, (facts.uid(), facts.is_dir().then(|| facts.mode())));
        }
    }
    result
}

/// The links of an image: their paths and their targets.
type Links = Vec<(&'static str, &'static str)>;

/// The forms of a path `P`, with the parent `D`, in an image.
fn shapes(path: &'static str) -> Vec<Links> {
    let (parent, _) = path.rsplit_once('/').unwrap();
    vec![
        vec![],
        vec![(path, "../run/systemd/resolve/stub-resolv.conf")],
        vec![(path, "/run/resolve/stub")],
        vec![(path, "beside")],
        vec![(path, "../../../../../../climbed/out")],
        vec![
            (path, "/chain/one"),
            ("/chain/one", "two"),
            ("/chain/two", "/end/of/it"),
        ],
        vec![(path, "/chain/one"), ("/chain/one", "../gone/../end")],
        vec![(parent, "/moved"), ("/unused", "x")],
        vec![(parent, "moved/away")],
        vec![(path, "/tmp/../tmp/there")],
        vec![(path, "/loop"), ("/loop", "/loop")],
        vec![(path, "/bin/busybox/below-a-file")],
    ]
}

fn image_with(links: &Links, dir: &Path) {
    for (directory, target) in links {
        let directory = dir.join(&directory[1..]);
        fs::create_dir_all(directory.parent().unwrap()).unwrap();
        symlink(target, directory).unwrap();
    }
    fs::create_dir_all(dir).unwrap();
}

/// findings-2 I2
#[tokio::test]
async fn mounts_go_where_the_links_of_the_image_lead() {
    let harness = Harness::new("danglinglinks");
    let sandbox = harness.sandbox("p1").await;
    let (file, directory) = (harness.dir.join("file"), harness.dir.join("directory"));
    fs::write(&file, "mounted\n").unwrap();
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("f"), "mounted\n").unwrap();
    let mut number = 0;
    for (source, path) in [
        (&file, "/cfg/resolv.conf"),
        (&file, "/cfg/deep/hosts"),
        (&directory, "/data/volume"),
        (&directory, "/srv/www/html"),
    ] {
        for links in shapes(path) {
            number += 1;
            let image = harness.dir.join(format!("image-{number}"));
            image_with(&links, &image);
            let read = match source == &file {
                true => format!("cat {path}"),
                false => format!("cat {path}/f"),
            };
            let mut spec = harness.shell(&format!("c{number}"), &read);
            spec.rootfs.lowerdirs.push(image);
            spec.mounts = vec![Mount {
                destination: path.into(),
                source: MountSource::Bind {
                    path: source.clone(),
                    sub_path: None,
                    recursive_read_only: false,
                    propagation: Propagation::Private,
                },
                read_only: false,
            }];
            let mut bundle = Bundle::new(
                harness.dir.join(format!("b{number}")),
                &spec.rootfs.lowerdirs,
            );
            bundle.config["process"]["args"] = json!(spec.args);
            let mounts = bundle.config["mounts"].as_array_mut().unwrap();
            mounts.push(
                json!({"destination": path, "source": source, "type": "bind",
                "options": ["rbind", "rw"]}),
            );
            let theirs = bundle.run();
            let ours = ours(&sandbox, &spec).await;
            if links.iter().any(|(_, target)| target.contains("gone/..")) {
                // runc ignores the difference, and its container cannot use the path.
                assert!(theirs.is_err(), "{links:?} {theirs:?}");
                assert_eq!(ours, Ok(vec!["mounted".to_owned()]), "{links:?} {path}");
                continue;
            }
            assert_eq!(
                ours.is_ok(),
                theirs.is_ok(),
                "{links:?} {path} {ours:?} {theirs:?}"
            );
            if ours.is_ok() {
                assert_eq!(ours, Ok(vec!["mounted".to_owned()]), "{links:?} {path}");
                assert_eq!(theirs, ours, "{links:?} {path}");
                let (created, their) = (
                    files(&spec.rootfs.upper_dir),
                    files(&bundle.dir.join("upper")),
                );
                assert_eq!(created, their, "{links:?} {path}");
            }
            sandbox.remove(&spec.id).await.ok();
        }
    }
    harness.end().await;
}

/// A configuration of an image, as options of umoci.
struct Config {
    user: &'static str,
    directory: &'static str,
    entrypoint: &'static [&'static str],
    command: &'static [&'static str],
    variables: &'static [&'static str],
}

const SHOW: &str = "id -u; id -g; id -G; pwd; echo $A:$B:$HOME:$#";

fn configs() -> Vec<Config> {
    let base = || Config {
        user: "",
        directory: "",
        entrypoint: &[],
        command: &["sh", "-c", SHOW],
        variables: &["PATH=/usr/bin:/bin"],
    };
    let users = [
        "",
        "0",
        "root",
        "app",
        "1000",
        "1000:1001",
        "1000:log",
        "app:log",
        "app:0",
        "1234",
        "1234:5678",
        "nobody",
        "app:nogroup",
    ];
    let directories = [
        "/",
        "/tmp",
        "/missing",
        "/missing/deep",
        "/dangling",
        "/tmp/../etc",
        "/etc/passwd",
    ];
    let commands: [(&[&str], &[&str]); 5] = [
        (&["sh", "-c", SHOW], &[]),
        (&["sh", "-c", SHOW, "name"], &["one", "two"]),
        (&["/bin/sh"], &["-c", SHOW]),
        (&["nosuch"], &[]),
        (&["/etc/passwd"], &[]),
    ];
    let variables: [&[&str]; 4] = [
        &["PATH=/usr/bin:/bin", "A=1", "B=2", "A=3"],
        &["PATH=/usr/bin:/bin", "A=x=y"],
        &["PATH=/usr/bin:/bin", "A="],
        &["PATH=/usr/bin:/bin", "HOME=/elsewhere"],
    ];
    let mut all: Vec<Config> = users.map(|user| Config { user, ..base() }).into();
    all.extend(directories.map(|directory| Config {
        directory,
        ..base()
    }));
    all.extend(commands.map(|(entrypoint, command)| Config {
        entrypoint,
        command,
        ..base()
    }));
    all.extend(variables.map(|variables| Config {
        variables,
        ..base()
    }));
    all
}

#[tokio::test]
async fn configurations_mean_the_same_to_another_implementation() {
    let harness = Harness::new("configs");
    let sandbox = harness.sandbox("p1").await;
    let links = harness.dir.join("links");
    image_with(&vec![("/dangling", "/run/made")], &links);
    let layers = vec![layer().to_owned(), links];
    let store = harness.dir.join("layout");
    output(Command::new("umoci").args(["init", "--layout"]).arg(&store));
    for (number, config) in configs().into_iter().enumerate() {
        let image = format!("{}:i{number}", store.display());
        output(Command::new("umoci").args(["new", "--image", &image]));
        let mut command = Command::new("umoci");
        command.args(["config", "--image", &image, "--config.user", config.user]);
        command.args(["--config.workingdir", config.directory]);
        for (flag, values) in [
            ("--config.entrypoint", config.entrypoint),
            ("--config.cmd", config.command),
            ("--config.env", config.variables),
        ] {
            command.args(values.iter().flat_map(|value| [flag, *value]));
        }
        output(&mut command);
        let mut bundle = Bundle::new(harness.dir.join(format!("b{number}")), &layers);
        let created = bundle.dir.join("umoci.json");
        let described = Command::new("umoci")
            .args(["raw", "runtime-config", "--image", &image, "--rootfs"])
            .args([bundle.dir.join("rootfs"), created.clone()])
            .output()
            .unwrap();
        let theirs = match described.status.success() {
            false => Err(String::from_utf8_lossy(&described.stderr).into_owned()),
            true => {
                let text = fs::read_to_string(&created).unwrap();
                let described: Value = serde_json::from_str(&text).unwrap();
                for part in ["args", "env", "cwd", "user"] {
                    bundle.config["process"][part] = described["process"][part].clone();
                }
                bundle.run()
            }
        };
        let args = [config.entrypoint, config.command].concat();
        let mut spec = harness.container(&format!("c{number}"), &args);
        spec.rootfs.lowerdirs = layers.clone();
        spec.user.name = config.user.to_owned();
        spec.cwd = config.directory.to_owned();
        let variables = config
            .variables
            .iter()
            .map(|text| text.split_once('=').unwrap());
        let variables = variables.map(|(name, value)| EnvVar {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        spec.env = variables.collect();
        let (mut ours, mut theirs) = (ours(&sandbox, &spec).await, theirs);
        for printed in [&mut ours, &mut theirs].into_iter().flatten() {
            if config.user.contains(':') {
                // With a named group, containerd adds the other groups of the user, too; umoci does not.
                printed.remove(2);
            }
            if config.variables.contains(&"HOME=/elsewhere") {
                // The image decides, as with containerd; umoci uses the user's home directory.
                printed.remove(4);
            }
        }
        let what = (config.user, config.directory, args, config.variables);
        match (&ours, &theirs) {
            (Err(_), Err(_)) => {}
            // runc creates a missing directory, but not the missing target of a link.
            (Ok(_), Err(_)) if config.directory == "/dangling" => {}
            _ => assert_eq!(ours, theirs, "{what:?}"),
        }
        sandbox.remove(&spec.id).await.ok();
    }
    harness.end().await;
}
