//! Two machines for servers that share an etcd.

use tempfile::TempDir;

use crate::Kubectl;
use crate::etcd::Etcd;
use crate::lan::{Lan, Role};

/// The machines, which end with this value.
pub struct ServersOnEtcd {
    /// The servers, which do not run yet.
    pub servers: [Role; 2],
    /// The etcd, which runs.
    pub etcd: Etcd,
    /// The directory around all data.
    pub directory: TempDir,
    /// The link of the machines.
    pub lan: Lan,
}

impl ServersOnEtcd {
    /// Makes the machines and starts etcd.
    ///
    /// # Panics
    /// When they cannot be made.
    #[expect(
        clippy::new_without_default,
        reason = "it starts processes, which no default does"
    )]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mainstay-test-")
            .tempdir()
            .expect("make a directory");
        let mut lan = Lan::default();
        let servers = ["a", "b"].map(|name| Role::new(&mut lan, name, directory.path()));
        let etcd = Etcd::start(&mut lan, directory.path());
        Self {
            servers,
            etcd,
            directory,
            lan,
        }
    }

    /// The arguments with the certificates of a client of etcd.
    pub fn certificates(&self) -> [String; 3] {
        [
            format!("--etcd-cafile={}", self.etcd.file("ca.pem")),
            format!("--etcd-certfile={}", self.etcd.file("client.pem")),
            format!("--etcd-keyfile={}", self.etcd.file("client.key")),
        ]
    }

    /// The arguments of a server that uses one of the members first.
    pub fn arguments(&self, first: usize) -> Vec<String> {
        let mut arguments = vec!["server".to_owned(), "--store".to_owned()];
        arguments.push(self.etcd.url(first));
        arguments.extend(self.certificates());
        arguments
    }

    /// Starts a server that uses one of the members first, with further arguments.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start(&mut self, server: usize, first: usize, further: &[String]) {
        let mut arguments = self.arguments(first);
        arguments.extend_from_slice(further);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.servers[server].start(&arguments);
    }

    /// Runs kubectl at a server.
    pub fn at<T: Send>(&self, server: usize, work: impl FnOnce(&Kubectl) -> T + Send) -> T {
        let kubectl = self.servers[server].kubectl();
        self.servers[server].network.run(|| work(&kubectl))
    }
}
