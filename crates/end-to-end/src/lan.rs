//! Machines on one link, for the roles `mainstay server` and `mainstay node`: each machine is a network namespace of
//! this test, connected to a bridge in a separate namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::ok;
use crate::{Kubectl, Network, wait_for};

/// The link, which is removed when this value is dropped.
pub struct Lan {
    switch: Network,
    machines: u8,
}

impl Default for Lan {
    fn default() -> Self {
        let switch = Network::isolated();
        switch.run(|| {
            ip("link add br0 type bridge");
            ip("link set br0 up");
        });
        Self {
            switch,
            machines: 0,
        }
    }
}

impl Lan {
    /// A new machine on the link, with the address 192.0.2.1, or the next one.
    ///
    /// # Panics
    /// The kernel refuses; root is needed.
    pub fn machine(&mut self) -> (Network, String) {
        let machine = Network::isolated();
        machine.run(|| ip("link set lo up"));
        let address = self.plug(&machine);
        (machine, address)
    }

    /// Adds to a machine the link `eth0` with the next address.
    ///
    /// # Panics
    /// The kernel refuses; root is needed.
    pub fn plug(&mut self, machine: &Network) -> String {
        self.machines += 1;
        let number = self.machines;
        let inside = machine.path();
        self.switch.run(|| {
            ip(&format!(
                "link add port{number} type veth peer name eth0 netns {inside}"
            ));
            ip(&format!("link set port{number} master br0 up"));
        });
        let address = format!("192.0.2.{number}");
        machine.run(|| {
            ip("link set eth0 up");
            ip(&format!("address add {address}/24 dev eth0"));
        });
        address
    }

    /// Connects the cable of a role's machine (`up`), or disconnects it (`down`).
    ///
    /// # Panics
    ///
    /// There is no such machine.
    pub fn set_link(&self, role: &Role, state: &str) {
        self.set_cable(role.machine(), state);
    }

    /// Connects the cable of a machine (`up`), or disconnects it (`down`).
    ///
    /// # Panics
    ///
    /// There is no such machine.
    pub fn set_cable(&self, machine: Machine<'_>, state: &str) {
        let number = machine.address.rsplit('.').next().unwrap_or_default();
        let command = format!("link set port{number} {state}");
        self.switch.run(|| ip(&command));
    }

    /// Drops a share of the packets to each machine at random, and delays an equal share, so that they arrive after
    /// later packets.
    ///
    /// # Panics
    ///
    /// The kernel refuses; the modules `sch_htb` and `cls_bpf` are needed.
    pub fn disturb(&self, percent: u32) {
        let (lost, late) = (share(percent), share(2 * percent));
        // A classic BPF program with `SKF_AD_RANDOM`: class 1:2 for a number from `lost` on, 1:3 for a number from
        // `late` on, otherwise the default class.
        let program = format!(
            "6,32 0 0 4294963256,53 2 0 {lost},53 2 0 {late},6 0 0 0,6 0 0 65538,6 0 0 65539"
        );
        self.at_each_port(|port| {
            tc(&format!("qdisc add dev {port} root handle 1: htb default 1"));
            let class = |number: u8, rate: &str, queue: &str| {
                tc(&format!(
                    "class add dev {port} parent 1: classid 1:{number} htb rate {rate} quantum 60000"
                ));
                tc(&format!("qdisc add dev {port} parent 1:{number} {queue}"));
            };
            class(1, "10gbit", "pfifo limit 1000");
            // A queue of one byte drops every packet.
            class(2, "10gbit", "bfifo limit 1");
            class(3, "1mbit", "pfifo limit 50");
            let filter = format!("filter add dev {port} parent 1: protocol all bpf bytecode");
            run("tc", filter.split(' ').chain([&*program]));
        });
    }

    /// Stops dropping and delaying packets.
    ///
    /// # Panics
    ///
    /// No packets were dropped before.
    pub fn calm(&self) {
        self.at_each_port(|port| tc(&format!("qdisc del dev {port} root")));
    }

    fn at_each_port(&self, work: impl Fn(&str) + Sync) {
        let ports = 1..=self.machines;
        let all = || ports.for_each(|number| work(&format!("port{number}")));
        self.switch.run(all);
    }
}

/// The 32-bit number below which all numbers except this share are.
fn share(percent: u32) -> u32 {
    u32::MAX - u32::MAX / 100 * percent
}

/// A machine on the link.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    pub network: &'a Network,
    pub address: &'a str,
}

/// A hardware address that no machine has: frames to the address are lost without an error.
const NOBODY: &str = "02:00:00:00:00:01";

impl Machine<'_> {
    /// Drops all packets from this machine to the other machine from now on; packets in the opposite direction pass.
    ///
    /// # Panics
    ///
    /// The kernel refuses.
    pub fn lose(self, to: Machine<'_>) {
        let to = to.address;
        let command = format!("neighbour replace {to} lladdr {NOBODY} dev eth0 nud permanent");
        self.network.run(|| ip(&command));
    }

    /// Stops dropping packets to the other machine.
    ///
    /// # Panics
    ///
    /// No packets were dropped before.
    pub fn find(self, to: Machine<'_>) {
        let command = format!("neighbour del {} dev eth0", to.address);
        self.network.run(|| ip(&command));
    }
}

/// Cuts the link between two machines in both directions; other machines reach both.
///
/// # Panics
///
/// The kernel refuses.
pub fn cut(one: Machine<'_>, other: Machine<'_>) {
    one.lose(other);
    other.lose(one);
}

/// Repairs the link between two machines.
///
/// # Panics
///
/// The link is not cut.
pub fn mend(one: Machine<'_>, other: Machine<'_>) {
    one.find(other);
    other.find(one);
}

/// Runs `ip` in the network of this thread.
///
/// # Panics
/// The process fails.
pub fn ip(words: &str) {
    run("ip", words.split(' '));
}

fn tc(words: &str) {
    run("tc", words.split(' '));
}

#[track_caller]
fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) {
    let mut command = Command::new(program);
    let output = command.args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A role of the program on a machine, with its data directory.
pub struct Role {
    /// The network of its machine.
    pub network: Network,
    pub address: String,
    name: String,
    directory: PathBuf,
    program: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
    child: Option<Child>,
    starts: u32,
}

impl Role {
    /// A role that does not run yet, with its data below `around`.
    ///
    /// # Panics
    ///
    /// There is no machine for the role.
    pub fn new(lan: &mut Lan, name: &str, around: &Path) -> Self {
        let (network, address) = lan.machine();
        Self {
            network,
            address,
            name: name.to_owned(),
            directory: around.join(name),
            program: crate::binary(),
            environment: Vec::new(),
            child: None,
            starts: 0,
        }
    }

    /// The program of the next starts, instead of the release binary.
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// A variable of the environment, for the next starts.
    pub fn set_variable(&mut self, variable: (&'static str, &'static str)) {
        self.environment.push(variable);
    }

    pub fn machine(&self) -> Machine<'_> {
        Machine {
            network: &self.network,
            address: &self.address,
        }
    }

    /// The data directory, as an argument.
    pub fn data(&self) -> String {
        self.directory.display().to_string()
    }

    /// The administrator's client of a server.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.directory.join("kubeconfig"))
    }

    /// The URL of a server.
    pub fn url(&self) -> String {
        format!("https://{}:6443", self.address)
    }

    /// A token that `mainstay token create` prints, with further arguments, on the machine of a server.
    ///
    /// # Panics
    /// The process fails.
    #[track_caller]
    pub fn token(&self, more: &[&str]) -> String {
        let data = self.data();
        let create = [&["token", "create", "--data-dir", &data], more].concat();
        self.network.run(|| ok(&create)).trim().to_owned()
    }

    fn log(&self) -> PathBuf {
        let name = format!("{}-output-{}", self.name, self.starts);
        self.directory.with_file_name(name)
    }

    /// The output of the newest process.
    pub fn output(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Starts `mainstay` with these arguments on the machine, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// The program does not become ready.
    #[track_caller]
    pub fn start(&mut self, arguments: &[&str]) {
        self.spawn(arguments);
        wait_for(&format!("{} to be ready", self.name), 60, || {
            let output = self.output();
            match output.contains("mainstay: ready") {
                true => Ok(()),
                false => Err(output),
            }
        });
    }

    /// Starts `mainstay` with these arguments when it cannot run, and returns its output.
    ///
    /// # Panics
    ///
    /// The program does not exit by itself with a failure.
    #[track_caller]
    pub fn refused(&mut self, arguments: &[&str]) -> String {
        self.spawn(arguments);
        let mut child = self.child.take().expect("it was started");
        let status = wait_for("the refusal", 60, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(self.output()),
        });
        assert!(!status.success(), "{}", self.output());
        self.output()
    }

    /// Starts `mainstay` with these arguments on the machine.
    ///
    /// # Panics
    /// There is no such program.
    pub fn spawn(&mut self, arguments: &[&str]) {
        self.starts += 1;
        let log = File::create(self.log()).expect("make a log file");
        let errors = log.try_clone().expect("share the log file");
        let mut command = Command::new(&self.program);
        command
            .envs(self.environment.iter().copied())
            .args(arguments)
            .args(["--data-dir", &self.data()])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let child = self.network.run(|| command.spawn());
        self.child = Some(child.expect("start mainstay"));
    }

    /// Kills the process; its pods continue.
    ///
    /// # Panics
    ///
    /// The process does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("send SIGKILL");
        child.wait().expect("reap the process");
    }

    /// The process id.
    ///
    /// # Panics
    /// The process does not run.
    pub fn pid(&self) -> i32 {
        let child = self.child.as_ref().expect("it runs");
        i32::try_from(child.id()).expect("a pid")
    }

    /// Sends a signal to the process.
    ///
    /// # Panics
    /// The process does not run.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("send a signal");
    }

    /// Sends SIGINT, as Ctrl-C does, and waits for the exit.
    ///
    /// # Panics
    /// The process does not exit, or exits with a failure.
    #[track_caller]
    pub fn interrupt(&mut self) {
        self.signal(Signal::SIGINT);
        let mut child = self.child.take().expect("it runs");
        let status = wait_for("mainstay to exit", 60, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(self.output()),
        });
        assert!(status.success(), "{}", self.output());
    }
}

impl Role {
    /// Runs a command on the machine that stops the process, and waits for both.
    ///
    /// # Panics
    ///
    /// The process exits with a failure.
    #[track_caller]
    pub fn stop_by<T: Send>(&mut self, stop: impl FnOnce() -> T + Send) -> T {
        let mut child = self.child.take().expect("it runs");
        // The process exists until its parent waits for it.
        let reaped = std::thread::spawn(move || child.wait());
        let result = self.network.run(stop);
        let status = reaped.join().expect("the thread ends");
        let status = status.expect("reap the process");
        assert!(status.success(), "{}", self.output());
        result
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- output of {}:\n{}", self.name, self.output());
        }
        let mut down = Command::new(crate::binary());
        down.args(["down", "--data-dir", &self.data()]);
        if self.child.is_some() {
            // A suspended process exits only after it is continued.
            self.signal(Signal::SIGCONT);
        }
        if let Some(mut child) = self.child.take() {
            // The process exists until its parent waits for it.
            let reaped = std::thread::spawn(move || child.wait());
            drop(self.network.run(|| down.output()));
            drop(reaped.join());
        } else if self.directory.join("sandboxes").exists() {
            drop(self.network.run(|| down.output()));
        }
    }
}
