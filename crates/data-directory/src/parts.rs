//! The entries of a data directory, by name. Entries without a name here belong to other programs, so each new entry
//! must be added here.

/// A file or directory at the root of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryPart {
    /// The file name or directory name.
    pub name: &'static str,
    /// The owner, which decides when the part is deleted.
    pub of: PartOwner,
    /// Whether the nonempty part proves that a cluster existed.
    pub is_trace: bool,
}

/// The owner of a file or directory, which decides when the part is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartOwner {
    /// The cluster: its objects, and their data. `down --volumes` deletes the part.
    Cluster,
    /// The instance: images, the server token, and files of the user. `down --all` deletes the part.
    Instance,
}

const fn of_cluster(name: &'static str) -> DirectoryPart {
    DirectoryPart {
        name,
        of: PartOwner::Cluster,
        is_trace: false,
    }
}

const fn trace(name: &'static str) -> DirectoryPart {
    DirectoryPart {
        is_trace: true,
        ..of_cluster(name)
    }
}

const fn of_instance(name: &'static str) -> DirectoryPart {
    DirectoryPart {
        of: PartOwner::Instance,
        ..of_cluster(name)
    }
}

impl DirectoryPart {
    /// All parts in the order of deletion. The store is first, so that an interrupted deletion never leaves objects
    /// without their data.
    pub const ALL: [Self; 34] = [
        of_cluster("store"),
        of_cluster("store.unfinished"),
        trace("volumes"),
        trace("snapshots"),
        trace("pool"),
        trace("pods"),
        of_cluster("kubelet"),
        trace("sandboxes"),
        trace("certificates"),
        trace("nodes"),
        of_cluster("namespaces"),
        of_cluster("node"),
        of_cluster("cluster.json"),
        of_cluster("network"),
        of_cluster("node-lease"),
        of_cluster("node-clock.json"),
        of_cluster(".node-clock.json.new"),
        of_cluster("node-clock.new"),
        of_cluster("node-silence.json"),
        of_cluster(".node-silence.json.new"),
        of_cluster("kubeconfig"),
        of_cluster(".kubeconfig.new"),
        of_cluster("kubeconfig.new"),
        of_cluster("process"),
        of_cluster("log"),
        of_cluster("admin.sock"),
        of_instance("images"),
        of_instance("seccomp"),
        of_instance("registries.yaml"),
        // The token encrypts the keys in an etcd and in the files of `mainstay store backup`.
        of_instance("server-token"),
        of_instance(".server-token.new"),
        of_instance("restored"),
        of_instance(".instance.new"),
        of_instance("instance.new"),
    ];
}
