use std::path::PathBuf;

use object_model::cidr::Cidr;

/// A configured range is in use, and no other range is free or allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{purpose} range {range} is used by {by}")]
pub struct NoFreeRange {
    /// The purpose of the range: `pod` or `service`.
    pub purpose: &'static str,
    /// The configured range.
    pub range: Cidr,
    /// The user of the range, for instance `route via eth0`.
    pub by: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel rejected a change of links, addresses or routes.
    #[error("{doing}")]
    Kernel {
        doing: String,
        /// The kernel's error.
        #[source]
        source: rtnetlink::Error,
    },
    /// The network namespace of the pod does not exist.
    #[error("enter network namespace {}", path.display())]
    Namespace {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file could not be read or written.
    #[error("{doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// All addresses of the node's range are in use. A new pod gets an address after another pod is
    /// removed.
    #[error("no free pod address in {range}")]
    AddressesExhausted {
        /// The node's range.
        range: object_model::cidr::Cidr,
    },
    /// The UID is not valid as a file name.
    #[error("pod uid {uid:?} has characters other than letters, digits, '-', '_' and '.'")]
    InvalidUid { uid: String },
    /// No range could be chosen.
    #[error(transparent)]
    NoFreeRange(#[from] NoFreeRange),
    /// Another program uses the Service range of this instance.
    #[error(
        "service range {range} of this instance is now used by {by}; \
         stop that first (Services keep their addresses, so the range cannot change)"
    )]
    ServiceRangeTaken {
        /// The stored range.
        range: object_model::cidr::Cidr,
        /// The user of the range.
        by: String,
    },
    /// The range is too small for the node's address and a pod.
    #[error("range {range} is too small: at least 8 addresses are needed")]
    RangeTooSmall { range: object_model::cidr::Cidr },
    /// The filters of a pod's connections were not created in time.
    #[error("the network policies of the pod were not in force within {seconds} s")]
    NotGuarded {
        /// The time limit, in seconds.
        seconds: u64,
    },
    /// The kernel has no WireGuard.
    #[error(
        "the kernel of this machine has no WireGuard, which --encrypt-pod-traffic needs: load its module \
         `wireguard` (`modprobe wireguard`), or start without --encrypt-pod-traffic"
    )]
    NoWireGuard,
    /// The kernel rejected a change of the encrypted tunnel.
    #[error("{doing}")]
    WireGuard {
        doing: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// The file of the private key does not contain a key.
    #[error(
        "{} has no private key of WireGuard (base64 of 32 bytes); delete the file, and the next start \
         makes another key",
        path.display()
    )]
    PrivateKey { path: PathBuf },
    /// The system provides no random numbers.
    #[error("the system gives no random numbers for a private key")]
    Random,
    /// A link of this instance does not exist although it was expected.
    #[error("link {name} has vanished")]
    LinkVanished { name: String },
}

/// Adds the operation to an error of the kernel.
pub(crate) fn kernel(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Kernel { doing, source }
}

/// The error with its causes, in one line.
pub(crate) fn cause(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        text = format!("{text}: {next}");
        source = next.source();
    }
    text
}

/// Adds the operation and the path to an error of a file.
pub(crate) fn file(
    doing: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::File {
        doing,
        path,
        source,
    }
}
