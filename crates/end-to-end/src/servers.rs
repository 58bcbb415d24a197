//! Machines for servers that share an etcd.

use tempfile::TempDir;

use crate::Kubectl;
use crate::etcd::Etcd;
use crate::lan::{Lan, Role};

/// The machines, which are removed when this value is dropped.
pub struct ServersOnEtcd {
    /// The servers, which are not started yet.
    pub servers: Vec<Role>,
    /// The running etcd.
    pub etcd: Etcd,
    /// The directory around all data.
    pub directory: TempDir,
    /// The link of the machines.
    pub lan: Lan,
}

impl ServersOnEtcd {
    /// Creates the machines of two servers, and starts etcd.
    ///
    /// # Panics
    ///
    /// The machines cannot be created.
    #[expect(
        clippy::new_without_default,
        reason = "it starts processes, which no default does"
    )]
    pub fn new() -> Self {
        Self::of(&["a", "b"])
    }

    /// Creates the machines of the servers with these names, and starts etcd.
    ///
    /// # Panics
    ///
    /// The machines cannot be created.
    pub fn of(names: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mainstay-test-")
            .tempdir()
            .expect("make a directory");
        let mut lan = Lan::default();
        let servers = names.iter();
        let servers = servers.map(|name| Role::new(&mut lan, name, directory.path()));
        let servers = servers.collect();
        let etcd = Etcd::start(&mut lan, directory.path());
        Self {
            servers,
            etcd,
            directory,
            lan,
        }
    }

    /// The arguments with the certificates for etcd clients.
    pub fn certificates(&self) -> [String; 3] {
        [
            format!("--etcd-cafile={}", self.etcd.file("ca.pem")),
            format!("--etcd-certfile={}", self.etcd.file("client.pem")),
            format!("--etcd-keyfile={}", self.etcd.file("client.key")),
        ]
    }

    /// The arguments of a server that connects to one of the members first.
    pub fn arguments(&self, first: usize) -> Vec<String> {
        let mut arguments = vec!["server".to_owned(), "--store".to_owned()];
        arguments.push(self.etcd.url(first));
        arguments.extend(self.certificates());
        arguments
    }

    /// Starts a server that connects to one of the members first, with further arguments.
    ///
    /// # Panics
    ///
    /// The server does not become ready.
    pub fn start(&mut self, server: usize, first: usize, further: &[String]) {
        let mut arguments = self.arguments(first);
        arguments.extend_from_slice(further);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.servers[server].start(&arguments);
    }

    /// Starts a server that connects to the member with its own number first; all servers except the first need the
    /// server token of the first.
    ///
    /// # Panics
    ///
    /// The server does not become ready.
    pub fn start_as_member(&mut self, server: usize) {
        let token = format!(
            "--server-token-file={}/server-token",
            self.servers[0].data()
        );
        let further = if server > 0 { vec![token] } else { Vec::new() };
        self.start(server, server, &further);
    }

    /// Runs work with a kubectl for one of the servers.
    pub fn at<T: Send>(&self, server: usize, work: impl FnOnce(&Kubectl) -> T + Send) -> T {
        let kubectl = self.servers[server].kubectl();
        self.servers[server].network.run(|| work(&kubectl))
    }
}
