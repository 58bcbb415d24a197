//! Kubeconfig files, with kubectl's rules, and the connection to the server in them.
//!
//! [`Kubeconfig`] is the content of one file, or of several merged files; [`read`] reads files.
//! [`Kubeconfig::select`] returns the [`Settings`] of a context. Both are pure, except for [`read`]. A [`Transport`]
//! sends requests to the server with the user's credentials: a client certificate, a token, a password, or the
//! credentials from a plug-in of `client.authentication.k8s.io`.

mod exec;
mod file;
mod merge;
mod plugin;
pub mod read;
mod select;
mod settings;
mod transport;

pub use exec::ExecError;
pub use file::{
    Cluster, Context, EnvironmentVariable, Exec, Extension, InteractiveMode, Kubeconfig,
    NamedCluster, NamedContext, NamedUser, User,
};
pub use plugin::{OutputError, PluginError};
pub use read::ReadError;
pub use select::{SelectError, SettingsError};
pub use settings::{Pem, Settings};
pub use transport::{Limits, Transport, TransportError};
