//! Volumes that can hold more data than their size: the condition of the claim, and the annotation of a node.

/// The condition of a claim: `True` if its volume cannot hold more data than its size.
pub const CONDITION: &str = "mainstay.dev/SizeEnforced";

/// The value of [`crate::annotations::LOCAL_VOLUME_SIZE`] if quotas limit the volumes of a node.
pub const ENFORCED: &str = "Enforced";
/// The value of [`crate::annotations::LOCAL_VOLUME_SIZE`] if nothing limits the volumes of a node.
pub const NOT_ENFORCED: &str = "NotEnforced";

/// The mechanism that limits the size of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeLimit {
    /// A quota of the node's file system.
    Quota,
    /// The volume is a block device of its size.
    Device,
    /// No limit: the node's file system has no quotas.
    NoQuota,
    /// The limit of an NFS server, if the server has a limit.
    Server,
}

impl SizeLimit {
    /// The status of the condition.
    pub fn status(self) -> &'static str {
        match self {
            Self::Quota | Self::Device => "True",
            Self::NoQuota | Self::Server => "False",
        }
    }

    /// The reason of the condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Quota => "Quota",
            Self::Device => "Device",
            Self::NoQuota => "NoQuota",
            Self::Server => "ServerDecides",
        }
    }

    /// The message of the condition, for a volume on this node.
    pub fn message(self, node: &str) -> String {
        let text = match self {
            Self::Quota => "a quota limits the volume to its size",
            Self::Device => "the volume is a device of the requested size",
            Self::NoQuota => {
                "the volume can hold more than its size: it has no quota on the file system of the \
                 data directory. Classes of mainstay.dev/local-cow enforce sizes"
            }
            Self::Server => {
                return "the volume can hold more than its size: it is a directory of an NFS export, \
                        which the server may limit as a whole"
                    .to_owned();
            }
        };
        format!("{}{text}", start_of_message(node))
    }
}

/// The start of a message about a volume on this node.
pub fn start_of_message(node: &str) -> String {
    format!("On node {node:?}, ")
}
