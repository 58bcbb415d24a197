//! A machine of a test's own, as far as namespaces make one: with its own `/etc`, `/usr/local`, `/var/lib`,
//! network and processes, so that pages about the whole machine can be pasted. systemd does not run there.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::kubectl::finish;
use crate::{Output, wait_for};

/// A machine; its processes end with this value.
#[derive(Debug)]
pub struct Machine {
    directory: tempfile::TempDir,
    outside: Child,
    first: String,
}

/// Runs as the first process there. `$0` is a directory of the test's.
const START: &str = r#"
set -e
mount --make-rprivate /
mkdir -p "$0/layers" "$0/lib" "$0/bin" "$0/home"
mount -t tmpfs machine "$0/layers"
for place in etc usr/local; do
    mkdir -p "$0/layers/$place/upper" "$0/layers/$place/work"
    mount -t overlay machine "/$place" \
        -o "lowerdir=/$place,upperdir=$0/layers/$place/upper,workdir=$0/layers/$place/work"
done
mount --bind "$0/lib" /var/lib
if [ -d /run/systemd ]; then mount -t tmpfs machine /run/systemd; fi
ip link set lo up
ip link add uplink type veth peer name beyond
ip link set beyond up
ip address add 192.0.2.7/24 dev uplink
ip link set uplink up
ip route add default via 192.0.2.1
# Root follows the pages.
printf '#!/bin/sh\nexec "$@"\n' > "$0/bin/sudo"
chmod +x "$0/bin/sudo"
touch "$0/started"
# The first process collects those that others have left.
while :; do sleep 3600 & wait "$!"; done
"#;

impl Machine {
    /// Starts a machine.
    ///
    /// # Panics
    /// When the kernel gives no namespaces; root is needed.
    #[track_caller]
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let outside = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--mount-proc"])
            .args(["--kill-child", "sh", "-c", START])
            .arg(directory.path())
            .stdin(Stdio::null())
            .spawn()
            .expect("start unshare");
        let mut machine = Self {
            directory,
            outside,
            first: String::new(),
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

    /// A directory that the machine and the test share; also the home directory there is in it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A command that runs there, in a directory.
    pub fn command(&self, directory: &Path, program: &str) -> Command {
        let usual = std::env::var("PATH").unwrap_or_default();
        let (own, tools) = (self.directory().join("bin"), crate::tools());
        let path = format!(
            "{}:{}:/usr/local/bin:{usual}",
            own.display(),
            tools.display()
        );
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.first, "--mount", "--net", "--pid", "--"])
            .args(["sh", "-c", r#"cd "$0" && exec "$@""#])
            .args([directory.as_os_str(), program.as_ref()])
            .env("PATH", path)
            .env("HOME", self.directory().join("home"))
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null());
        command
    }

    /// Runs a line in a shell there.
    ///
    /// # Panics
    /// When it fails.
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
        // Control groups are no part of a namespace.
        let mut down = self.command(self.directory(), "sh");
        let line = "if [ -e /var/lib/mainstay/instance ]; then \
                    \"$0\" down --data-dir /var/lib/mainstay; fi";
        down.arg("-c").arg(line).arg(crate::binary());
        drop(down.stdout(Stdio::null()).stderr(Stdio::null()).status());
        drop(self.outside.kill());
        drop(self.outside.wait());
    }
}
