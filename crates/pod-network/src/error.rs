//! Errors of the pod network.

use std::path::PathBuf;

use object_model::cidr::Cidr;

/// A wanted range is in use and there is no other, or none other was allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{purpose} range {range} is used by {by}")]
pub struct NoFreeRange {
    /// The purpose of the range: `pod` or `service`.
    pub purpose: &'static str,
    /// The range that was asked for.
    pub range: Cidr,
    /// The user of the range, for instance `route via eth0`.
    pub by: String,
}

/// The error of an operation on the pod network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a change of links, addresses or routes.
    #[error("{doing}")]
    Kernel {
        /// The operation.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// The pod's network namespace could not be entered: it does not exist.
    #[error("enter network namespace {}", path.display())]
    Namespace {
        /// The namespace's path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be read or written.
    #[error("{doing} {}", path.display())]
    File {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Every address of the node's range is in use; pods must go before others can come.
    #[error("no free pod address in {range}")]
    AddressesExhausted {
        /// The node's range.
        range: object_model::cidr::Cidr,
    },
    /// A uid that cannot name a file was given.
    #[error("pod uid {uid:?} has characters other than letters, digits, '-', '_' and '.'")]
    InvalidUid { uid: String },
    /// No range could be chosen.
    #[error(transparent)]
    NoFreeRange(#[from] NoFreeRange),
    /// The Service range of this instance is in use by something else.
    #[error(
        "service range {range} of this instance is now used by {by}; \
         stop that first (Services keep their addresses, so the range cannot change)"
    )]
    ServiceRangeTaken {
        /// The persisted range.
        range: object_model::cidr::Cidr,
        /// The user of the range.
        by: String,
    },
    /// The range is too small to hold the node's address and a pod.
    #[error("range {range} is too small: at least 8 addresses are needed")]
    RangeTooSmall { range: object_model::cidr::Cidr },
    /// The filters of a pod's connections were not made in time.
    #[error("the network policies of the pod were not in force within {seconds} s")]
    NotGuarded {
        /// The time.
        seconds: u64,
    },
    /// The kernel has no WireGuard.
    #[error(
        "the kernel of this machine has no WireGuard, which --encrypt-pod-traffic needs: load its module \
         `wireguard` (`modprobe wireguard`), or start without --encrypt-pod-traffic"
    )]
    NoWireGuard,
    /// The kernel refused a change of the encrypted tunnel.
    #[error("{doing}")]
    WireGuard {
        /// The operation.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file of the private key has something else.
    #[error(
        "{} has no private key of WireGuard (base64 of 32 bytes); delete the file, and the next start \
         makes another key",
        path.display()
    )]
    PrivateKey {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a private key")]
    Random,
    /// A link that belongs to this instance was expected but is not there.
    #[error("link {name} has vanished")]
    LinkVanished {
        /// The link's name.
        name: String,
    },
}

/// Turns a kernel error into an error with the operation.
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

/// Turns a failure with a file into an error that says which.
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
