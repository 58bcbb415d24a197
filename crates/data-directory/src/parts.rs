//! The entries of a data directory, by name. Entries without a name here belong to other programs, so each new entry
//! must be added here.

/// A file or directory at the root of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryPart {
    /// The file name or directory name.
    pub name: &'static str,
    /// The owner, which decides when the part is deleted.
    pub owner: PartOwner,
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

const fn cluster_part(name: &'static str) -> DirectoryPart {
    DirectoryPart {
        name,
        owner: PartOwner::Cluster,
        is_trace: false,
    }
}

const fn trace(name: &'static str) -> DirectoryPart {
    DirectoryPart {
        is_trace: true,
        ..cluster_part(name)
    }
}

const fn instance_part(name: &'static str) -> DirectoryPart {
    DirectoryPart {
        owner: PartOwner::Instance,
        ..cluster_part(name)
    }
}

impl DirectoryPart {
    /// All parts in the order of deletion. The store is first, so that an interrupted deletion never leaves objects
    /// without their data.
    pub const ALL: [Self; 34] = [
        cluster_part("store"),
        cluster_part("store.unfinished"),
        trace("volumes"),
        trace("snapshots"),
        trace("pool"),
        trace("pods"),
        cluster_part("kubelet"),
        trace("sandboxes"),
        trace("certificates"),
        trace("nodes"),
        cluster_part("namespaces"),
        cluster_part("node"),
        cluster_part("cluster.json"),
        cluster_part("network"),
        cluster_part("node-lease"),
        cluster_part("node-clock.json"),
        cluster_part(".node-clock.json.new"),
        cluster_part("node-clock.new"),
        cluster_part("node-silence.json"),
        cluster_part(".node-silence.json.new"),
        cluster_part("kubeconfig"),
        cluster_part(".kubeconfig.new"),
        cluster_part("kubeconfig.new"),
        cluster_part("process"),
        cluster_part("log"),
        cluster_part("admin.sock"),
        instance_part("images"),
        instance_part("seccomp"),
        instance_part("registries.yaml"),
        // The token encrypts the keys in an etcd and in the files of `mainstay store backup`.
        instance_part("server-token"),
        instance_part(".server-token.new"),
        instance_part("restored"),
        instance_part(".instance.new"),
        instance_part("instance.new"),
    ];
}
