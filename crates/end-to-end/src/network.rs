//! Work of this process in the network of a pod: each thread can be in another network.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, setns, unshare};

use crate::{Kubectl, process};

/// The network of a pod, or of this machine.
pub struct Network {
    namespace: File,
}

impl Network {
    /// The network of this machine.
    ///
    /// # Panics
    ///
    /// The kernel does not report it.
    pub fn of_machine() -> Self {
        Self::open("/proc/thread-self/ns/net")
    }

    /// A separate network, like that of a machine without links.
    ///
    /// # Panics
    ///
    /// The kernel refuses; root is needed.
    pub fn isolated() -> Self {
        std::thread::scope(|scope| {
            let namespace = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace");
                Self::of_machine()
            });
            namespace.join().expect("the thread that makes the network")
        })
    }

    /// A path of the namespace, valid while this value exists.
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.namespace.as_raw_fd()
        )
    }

    /// The network of the pod in which that program runs.
    ///
    /// # Panics
    ///
    /// The program does not run.
    #[track_caller]
    pub fn of_pod(kubectl: &Kubectl, pod: &str, program: &str) -> Self {
        let pid = process::of_pod(kubectl, pod, program);
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    /// The network at a file.
    ///
    /// # Panics
    ///
    /// There is no such file.
    #[track_caller]
    pub fn at(path: &std::path::Path) -> Self {
        Self::open(&path.to_string_lossy())
    }

    fn open(path: &str) -> Self {
        let namespace = File::open(path).expect("open a network namespace");
        Self { namespace }
    }

    /// Runs the work in a thread in this network. Sockets that the work opens, and threads that it starts, stay in the
    /// network.
    ///
    /// # Panics
    ///
    /// The work panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("enter the network");
                work()
            });
            inside.join().expect("the work in the network")
        })
    }
}
