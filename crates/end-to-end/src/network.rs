//! Work in a pod's network, done by this process: each thread can be in another network.

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
    /// When the kernel does not tell.
    pub fn of_machine() -> Self {
        Self::open("/proc/thread-self/ns/net")
    }

    /// A network of its own, that of a machine without links.
    ///
    /// # Panics
    /// When the kernel gives none; root is needed.
    pub fn isolated() -> Self {
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace");
                Self::of_machine()
            });
            made.join().expect("the thread that makes the network")
        })
    }

    /// A path of the namespace, while this value exists.
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
    /// When it does not run.
    #[track_caller]
    pub fn of_pod(kubectl: &Kubectl, pod: &str, program: &str) -> Self {
        let pid = process::of_pod(kubectl, pod, program);
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    /// The network with a file of its own.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn at(path: &std::path::Path) -> Self {
        Self::open(&path.to_string_lossy())
    }

    fn open(path: &str) -> Self {
        let namespace = File::open(path).expect("open a network namespace");
        Self { namespace }
    }

    /// Does the work in a thread that is in this network. Sockets that it opens, and threads that
    /// it starts, stay there.
    ///
    /// # Panics
    /// When the work does.
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
