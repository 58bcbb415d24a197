//! The store over an etcd cluster, which several servers share.
//!
//! Every read and every watch is answered by a copy of all keys in memory (`mirror`), so the load on
//! etcd does not depend on the number of clients. Writes are etcd's transactions (`txn`). A write is
//! acknowledged when the copy has it; after a write without an answer, its outcome is read from the store before
//! the caller gets an answer (`writer`). The newest revision of all servers is asked for once for all that wait
//! (`read_index`). `service-protocols` has etcd's messages.

mod compaction;
mod connections;
pub mod copy;
pub mod decoders;
mod keys;
mod leases;
mod messages;
mod mirror;
mod options;
mod origin;
mod quota;
mod read_index;
mod revision;
mod session;
mod store;
mod tls;
mod txn;
mod value;
mod version;
mod writer;

pub use options::{Call, CallObserver, ConnectError, Connection, Dialer, EtcdOptions, is_endpoint};
pub use store::EtcdStore;
