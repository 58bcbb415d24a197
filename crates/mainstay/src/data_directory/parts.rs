//! The entries of a data directory, by name. What is not named here is not ours: whoever puts something
//! new there names it here.

/// A file or directory at the root of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Whose it is.
    pub of: Of,
    /// Whether it shows, when there is something in it, that there was a cluster.
    pub is_trace: bool,
}

/// Whose a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The cluster's: its objects, and what belongs to them. It goes with `down --volumes`.
    Cluster,
    /// The instance's, whatever the cluster: images, and what the user has written. It goes with
    /// `down --all`.
    Instance,
}

const fn of_cluster(name: &'static str) -> Part {
    Part {
        name,
        of: Of::Cluster,
        is_trace: false,
    }
}

const fn trace(name: &'static str) -> Part {
    Part {
        is_trace: true,
        ..of_cluster(name)
    }
}

const fn of_instance(name: &'static str) -> Part {
    Part {
        of: Of::Instance,
        ..of_cluster(name)
    }
}

impl Part {
    /// All parts, in the order in which they are deleted: the store before all else, so that when the
    /// deletion is cut off nobody finds objects there whose data are gone.
    pub const ALL: [Self; 24] = [
        of_cluster("store"),
        of_cluster("store.unfinished"),
        trace("volumes"),
        trace("snapshots"),
        trace("pool"),
        trace("pods"),
        trace("sandboxes"),
        trace("certificates"),
        of_cluster("network"),
        of_cluster("node-clock.json"),
        of_cluster(".node-clock.json.new"),
        of_cluster("node-clock.new"),
        of_cluster("kubeconfig"),
        of_cluster(".kubeconfig.new"),
        of_cluster("kubeconfig.new"),
        of_cluster("process"),
        of_cluster("log"),
        of_cluster("admin.sock"),
        of_instance("images"),
        of_instance("seccomp"),
        of_instance("registries.yaml"),
        of_instance("restored"),
        of_instance(".instance.new"),
        of_instance("instance.new"),
    ];
}
