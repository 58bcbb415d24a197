//! The store over an etcd cluster, which several servers share.
//!
//! A copy of all keys in memory (`mirror`) serves every read and every watch, so the load on etcd does not depend on
//! the number of clients. Writes are etcd's transactions (`txn`). A write is acknowledged when the copy contains it. If
//! a write gets no response, its outcome is read from etcd before the caller gets a result (`writer`). The newest
//! revision of all servers is read once for all waiting callers (`read_index`). `service-protocols` has etcd's
//! messages.

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
