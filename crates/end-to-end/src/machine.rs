//! A test's own machine, as far as namespaces provide one: with separate `/etc`, `/usr/local`, `/var/lib`, network,
//! processes and control groups, so that pages about the whole machine can be pasted. systemd runs on the machine if
//! the test requests it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::kubectl::finish;
use crate::lan::{Lan, ip};
use crate::{Network, Output, mounts, wait_for};

/// A machine; its processes are stopped when this value is dropped.
#[derive(Debug)]
pub struct Machine {
    directory: tempfile::TempDir,
    outside: Child,
    first: String,
    /// Name of the machine's control group in each tree.
    group: String,
}

/// The mount point of the trees of control groups; with version 2 alone it is the tree.
const GROUPS: &str = "/sys/fs/cgroup";

/// The trees of control groups that systemd uses: version 1, version 2 mounted together with version 1, and version 2
/// alone.
const TREES: [&str; 3] = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", GROUPS];

/// Enters the control groups of the machine, then its namespaces. `$1` is the group, `$2` the first program; the trees
/// follow.
const ENTER: &str = r#"
set -e
group="$1" first="$2"
shift 2
for tree; do
    [ -e "$tree/cgroup.procs" ] || continue
    mkdir "$tree/$group"
    echo "$$" > "$tree/$group/cgroup.procs"
done
exec unshare --mount --net --uts --pid --cgroup --fork --mount-proc --kill-child sh -c "$first" "$0" "$group"
"#;

/// Prepares the directories, the control groups and the network of the machine. `$0` is a directory of the test, `$1`
/// the control group.
///
/// All machines have their data in `/var/lib/mainstay`, and the path decides the names of control groups. So each
/// machine mounts its own group of each tree in place of the tree.
const MAKE: &str = r#"
set -e
mount --make-rprivate /
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    umount /sys/fs/cgroup
    mount -t cgroup2 machine /sys/fs/cgroup
else
    mkdir "$0/trees"
    mount -t tmpfs machine "$0/trees"
    for tree in /sys/fs/cgroup/*/; do
        target="$0/trees/$(basename "$tree")"
        mkdir -p "$target" "$tree$1"
        # A new group of this controller accepts no processes before it has processors and memory nodes.
        for file in cpuset.cpus cpuset.mems; do
            if [ -e "$tree$file" ]; then cat "$tree$file" > "$tree$1/$file"; fi
        done
        mount --bind "$tree$1" "$target"
    done
    umount --recursive --lazy /sys/fs/cgroup
    mount --rbind "$0/trees" /sys/fs/cgroup
fi
mkdir -p "$0/layers" "$0/lib" "$0/bin" "$0/home"
mount -t tmpfs machine "$0/layers"
for directory in etc usr/local; do
    mkdir -p "$0/layers/$directory/upper" "$0/layers/$directory/work"
    mount -t overlay machine "/$directory" \
        -o "lowerdir=/$directory,upperdir=$0/layers/$directory/upper,workdir=$0/layers/$directory/work"
done
mount --bind "$0/lib" /var/lib
ip link set lo up
ip link add uplink type veth peer name beyond
ip link set beyond up
ip address add 192.0.2.7/24 dev uplink
ip link set uplink up
ip route add default via 192.0.2.1
# Root follows the pages.
printf '#!/bin/sh\nexec "$@"\n' > "$0/bin/sudo"
chmod +x "$0/bin/sudo"
"#;

/// The first process of a machine without systemd: it reaps orphaned processes.
const IDLE: &str = r#"
if [ -d /run/systemd ]; then mount -t tmpfs machine /run/systemd; fi
touch "$0/started"
while :; do sleep 3600 & wait "$!"; done
"#;

/// systemd as the first process. It knows only the units that are written here and the units of `/etc`, which belong to
/// the test: units of the distribution would clear `/tmp` and set parameters of the kernel.
const SYSTEMD: &str = r#"
mount -t tmpfs machine /run
mkdir /run/lock
units="$0/units"
mkdir "$units" "$0/generators"
rm -rf /etc/systemd/system
mkdir -p /etc/systemd/system
for target in default sysinit basic multi-user shutdown umount final poweroff network-online time-sync; do
    printf '[Unit]\nDefaultDependencies=no\n' > "$units/$target.target"
done
printf 'Requires=systemd-poweroff.service\nAfter=systemd-poweroff.service\n' >> "$units/poweroff.target"
printf '[Unit]\nDefaultDependencies=no\nRequires=shutdown.target umount.target final.target\n' \
    > "$units/systemd-poweroff.service"
printf 'After=shutdown.target umount.target final.target\nSuccessAction=poweroff-force\n' \
    >> "$units/systemd-poweroff.service"
mount --bind /bin/false /usr/bin/systemd-tmpfiles
touch "$0/started"
exec env -i container=namespaces PATH="$PATH" SYSTEMD_UNIT_PATH="$units:/etc/systemd/system" \
    SYSTEMD_GENERATOR_PATH="$0/generators" /lib/systemd/systemd --system --log-target=console
"#;

impl Machine {
    /// Starts a machine.
    ///
    /// # Panics
    ///
    /// The kernel provides no namespaces; root is needed.
    #[track_caller]
    pub fn start() -> Self {
        Self::with_first(IDLE)
    }

    /// Starts a machine whose first process is systemd.
    ///
    /// # Panics
    /// As [`start`](Self::start), or when systemd does not start.
    #[track_caller]
    pub fn with_systemd() -> Self {
        let machine = Self::with_first(SYSTEMD);
        let line = "for i in $(seq 3000); do systemctl is-system-running && exit 0; sleep 0.1; done; exit 1";
        machine.ok(line);
        machine
    }

    #[track_caller]
    fn with_first(first: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let name = directory.path().file_name().unwrap_or_default();
        let group = format!("machine-{}", name.to_string_lossy().trim_start_matches('.'));
        let mut enter = Command::new("sh");
        enter
            .args(["-c", ENTER])
            .arg(directory.path())
            .args([&group, &format!("{MAKE}{first}")])
            .args(TREES)
            .stdin(Stdio::null());
        let start = || {
            mounts::separate();
            enter.spawn().expect("start unshare")
        };
        let started = thread::scope(|scope| scope.spawn(start).join());
        let outside = started.expect("the thread that starts the machine");
        let mut machine = Self {
            directory,
            outside,
            first: String::new(),
            group,
        };
        let started = machine.directory.path().join("started");
        wait_for("the machine", 60, || {
            started.exists().then_some(()).ok_or(())
        });
        let unshare = machine.outside.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let children = fs::read_to_string(children).expect("the processes of unshare");
        machine.first = children.trim().to_owned();
        machine
    }

    /// Gives the machine a name, and replaces its link by a link to other machines.
    ///
    /// # Panics
    ///
    /// The kernel refuses.
    #[must_use]
    #[track_caller]
    pub fn plugged(self, lan: &mut Lan, name: &str) -> Self {
        let network = Network::at(Path::new(&format!("/proc/{}/ns/net", self.first)));
        network.run(|| ip("link delete uplink"));
        lan.plug(&network);
        self.ok(&format!("echo {name} >/proc/sys/kernel/hostname"));
        self
    }

    /// Waits until the machine has been switched off.
    ///
    /// # Panics
    ///
    /// The machine is still on after four minutes.
    #[track_caller]
    pub fn wait_off(&mut self) {
        let outside = &mut self.outside;
        wait_for("the end of the machine", 60, || match outside.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// A directory that the machine and the test share; it contains the home directory of the machine.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A command that runs on the machine, in a directory.
    pub fn command(&self, directory: &Path, program: &str) -> Command {
        let usual = std::env::var("PATH").unwrap_or_default();
        let (programs, tools) = (self.directory().join("bin"), crate::tools());
        let path = format!(
            "{}:{}:/usr/local/bin:{usual}",
            programs.display(),
            tools.display()
        );
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.first,
                "--mount",
                "--net",
                "--uts",
                "--pid",
                "--",
            ])
            .args(["sh", "-c", r#"cd "$0" && exec "$@""#])
            .args([directory.as_os_str(), program.as_ref()])
            .env("PATH", path)
            .env("HOME", self.directory().join("home"))
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null());
        command
    }

    /// Runs a line in a shell on the machine.
    ///
    /// # Panics
    ///
    /// The line fails.
    #[track_caller]
    pub fn ok(&self, line: &str) -> Output {
        let mut command = self.command(self.directory(), "sh");
        command.args(["-c", line]).stdout(Stdio::piped());
        let output = finish(command.stderr(Stdio::piped()).spawn(), None);
        assert_eq!(output.code, 0, "{line}: {output:#?}");
        output
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Control groups are not part of a namespace, so they remain after the machine.
        let mut down = self.command(self.directory(), "sh");
        let line = "if [ -e /var/lib/mainstay/instance ]; then \
                    \"$0\" down --data-dir /var/lib/mainstay; fi";
        down.arg("-c").arg(line).arg(crate::binary());
        drop(down.stdout(Stdio::null()).stderr(Stdio::null()).status());
        drop(self.outside.kill());
        drop(self.outside.wait());
        let trees = fs::read_dir(GROUPS).into_iter().flatten().flatten();
        let trees = trees.map(|entry| entry.path());
        for tree in trees.chain([GROUPS.into()]) {
            remove_groups(&tree.join(&self.group));
        }
    }
}

/// Removes control groups whose processes are ending.
fn remove_groups(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&below.path());
        }
    }
    for _ in 0..600 {
        if !group.exists() || fs::remove_dir(group).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}
