//! A separate runtime for each test, with a root file system of Debian's busybox. Everything is removed at
//! the end, even if the test fails.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use container_runtime::spec::{
    ContainerSpec, ContainerStatus, EnvVar, ExecSpec, Exit, LogSpec, RootfsSpec, SandboxSpec,
};
use container_runtime::{Runtime, RuntimeOptions, Sandbox};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub struct Harness {
    pub runtime: Runtime,
    pub dir: PathBuf,
    options: RuntimeOptions,
}

const PERL: &str = "/usr/bin/perl";
pub const SHIM: &str = env!("CARGO_BIN_EXE_container-runtime-shim");

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "sleep", "id", "hostname", "ls", "true", "false", "kill", "dd", "head",
    "tail", "grep", "ps", "tty", "stty", "env", "pwd", "mkdir", "touch", "mount", "umount", "wc",
    "ip", "seq", "mknod", "chroot", "readlink", "stat", "printf", "nc", "sync", "yes", "unshare",
    "mkfifo",
];

/// A read-only layer that all tests share.
pub fn layer() -> &'static Path {
    static LAYER: OnceLock<PathBuf> = OnceLock::new();
    LAYER.get_or_init(|| {
        let done = Path::new(env!("CARGO_TARGET_TMPDIR")).join("busybox-layer-3");
        if done.exists() {
            return done;
        }
        let dir = done.with_extension(std::process::id().to_string());
        for sub in ["bin", "etc", "tmp", "proc", "dev", "sys"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .iter()
            .find(|p| Path::new(p).exists());
        let busybox = busybox.expect("these tests need busybox (or busybox-static)");
        fs::copy(busybox, dir.join("bin/busybox")).unwrap();
        copy_libraries(busybox, &dir);
        // Debian's perl can make any system call. The libraries of the shim are for tests that run its
        // program.
        fs::create_dir_all(dir.join("usr/bin")).unwrap();
        fs::copy(PERL, dir.join("usr/bin/perl")).expect("these tests need Debian's perl-base");
        copy_libraries(PERL, &dir);
        copy_libraries(SHIM, &dir);
        fs::write(dir.join("script"), "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(dir.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
        for applet in APPLETS {
            symlink("busybox", dir.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n\
             none:x:4294967295:1::/:/bin/sh\nmember:x:7:4294967295::/:/bin/sh\n";
        fs::write(dir.join("etc/passwd"), passwd).unwrap();
        fs::write(
            dir.join("etc/group"),
            "root:x:0:\napp:x:1001:\nlog:x:4:app\nnone:x:4294967295:\n",
        )
        .unwrap();
        fs::write(dir.join("etc/text"), "not a program\n").unwrap();
        fs::set_permissions(dir.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        // If another test process was faster, its layer is used.
        if fs::rename(&dir, &done).is_err() {
            fs::remove_dir_all(&dir).unwrap();
        }
        done
    })
}

/// The interpreter and the libraries of a dynamically linked program, as `ldd` lists them.
pub fn copy_libraries(program: &str, root: &Path) {
    let output = std::process::Command::new("ldd")
        .arg(program)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for path in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(&path[1..]);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

impl Drop for Harness {
    /// Cleans up, even if the test has failed.
    fn drop(&mut self) {
        let runtime = self.runtime.clone();
        let clean_up = move || {
            let executor = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            executor.unwrap().block_on(async {
                for sandbox in runtime.sandboxes().await.unwrap_or_default() {
                    sandbox.destroy().await.ok();
                }
                runtime.close().await.ok();
            });
        };
        if std::thread::panicking() {
            std::thread::spawn(clean_up).join().ok();
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

impl Harness {
    pub fn new(name: &str) -> Harness {
        let dir = std::env::temp_dir().join(format!("mainstay-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let options = RuntimeOptions {
            state_dir: dir.join("run"),
            instance_id: format!("test-{name}-{}", std::process::id()),
            shim_command: vec![SHIM.to_owned()],
            cgroup_parent: String::new(),
        };
        Harness {
            runtime: Runtime::open(options.clone()).unwrap(),
            dir,
            options,
        }
    }

    /// The runtime as a restarted agent opens it.
    pub fn reopened(&self) -> Runtime {
        Runtime::open(self.options.clone()).unwrap()
    }

    pub async fn sandbox(&self, id: &str) -> Sandbox {
        self.runtime.create_sandbox(sandbox_spec(id)).await.unwrap()
    }

    pub fn container(&self, id: &str, args: &[&str]) -> ContainerSpec {
        let writable = self.dir.join("writable").join(format!("{id}-{}", unique()));
        ContainerSpec {
            id: id.to_owned(),
            name: id.to_owned(),
            rootfs: RootfsSpec {
                lowerdirs: vec![layer().to_owned()],
                upper_dir: writable.join("upper"),
                work_dir: writable.join("work"),
                read_only: false,
            },
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![EnvVar {
                name: "PATH".into(),
                value: "/usr/bin:/bin".into(),
            }],
            log: LogSpec {
                path: Some(self.dir.join("logs").join(format!("{id}-{}.log", unique()))),
                ..LogSpec::default()
            },
            ..ContainerSpec::default()
        }
    }

    pub fn shell(&self, id: &str, script: &str) -> ContainerSpec {
        self.container(id, &["sh", "-c", script])
    }

    /// Destroys all sandboxes and checks that nothing is left.
    pub async fn end(self) {
        for sandbox in self.runtime.sandboxes().await.unwrap() {
            sandbox.destroy().await.unwrap();
        }
        self.runtime.close().await.unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.dir.to_str().unwrap();
        assert!(!mounts.contains(ours), "mounts are left:\n{mounts}");
        let groups = cgroup_dirs(&format!("mainstay-{}", self.options.instance_id));
        assert!(groups.is_empty(), "control groups are left: {groups:?}");
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Directories of a group in all hierarchies.
pub fn cgroup_dirs(group: &str) -> Vec<PathBuf> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        if entry.path().is_dir() {
            roots.push(entry.path());
        }
    }
    roots
        .into_iter()
        .map(|root| root.join(group))
        .filter(|dir| dir.exists())
        .collect()
}

/// The content of a group's file, with its version 1 or version 2 name.
pub fn cgroup_file(group: &str, names: &[&str]) -> String {
    let group = group.trim_start_matches('/');
    let mut paths = cgroup_dirs(group)
        .into_iter()
        .flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    let path = paths.find(|path| path.exists());
    let path = path.unwrap_or_else(|| panic!("no {names:?} in {group}"));
    fs::read_to_string(path).unwrap().trim().to_owned()
}

pub fn sandbox_spec(id: &str) -> SandboxSpec {
    SandboxSpec {
        id: id.to_owned(),
        hostname: "web-0".to_owned(),
        ..SandboxSpec::default()
    }
}

/// Creates and starts a container, and waits for its exit.
pub async fn run(sandbox: &Sandbox, spec: &ContainerSpec) -> Exit {
    sandbox.create_container(spec.clone()).await.unwrap();
    sandbox.start(&spec.id).await.unwrap();
    exit_of(sandbox, &spec.id).await
}

pub async fn start(sandbox: &Sandbox, spec: &ContainerSpec) {
    sandbox.create_container(spec.clone()).await.unwrap();
    sandbox.start(&spec.id).await.unwrap();
}

pub async fn exit_of(sandbox: &Sandbox, container: &str) -> Exit {
    let mut last = None;
    let until = Instant::now() + Duration::from_secs(240);
    while Instant::now() < until {
        let state = sandbox.state().await.unwrap();
        match &state.containers[container].status {
            ContainerStatus::Exited(exit) => return exit.clone(),
            other => last = Some(other.clone()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("container {container} does not end: {last:?}");
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(240);
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The texts of a log, without times and tags.
pub fn logged(spec: &ContainerSpec) -> Vec<String> {
    let text = fs::read_to_string(spec.log.path.as_ref().unwrap()).unwrap_or_default();
    text.lines()
        .map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned())
        .collect()
}

/// Runs a command and returns its output, error output and exit code.
pub async fn exec(
    sandbox: &Sandbox,
    spec: ExecSpec,
    input: &[u8],
) -> (String, String, Option<i32>) {
    let mut session = sandbox.exec(spec).await.unwrap();
    if let Some(mut stdin) = session.stdin.take() {
        stdin.write_all(input).await.unwrap();
        stdin.shutdown().await.unwrap();
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (a, b) = tokio::join!(
        session.stdout.read_to_end(&mut out),
        session.stderr.read_to_end(&mut err)
    );
    a.and(b).unwrap();
    let code = session.control.wait().await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(out), text(err), code)
}

pub fn command(container: &str, args: &[&str]) -> ExecSpec {
    ExecSpec {
        container: container.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..ExecSpec::default()
    }
}
