//! The listening address of the API server.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use data_directory::process;
use host_kernel::block_in_place;
use tokio::net::TcpListener;

/// Binds the address; the error for a port in use contains advice.
pub async fn bind(address: SocketAddr, data: &Path) -> Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let instances = Path::new(pod_network::INSTANCES);
            bail!(block_in_place(|| in_use(address, data, instances)))
        }
        Err(error) => Err(error).with_context(|| format!("listen on {address}")),
    }
}

/// The error for a port in use: the mainstay process that uses it, if any, and the advice.
fn in_use(address: SocketAddr, data: &Path, instances: &Path) -> String {
    if let Some(server) = process::serving(data) {
        return process::runs_already(data, server);
    }
    let list = std::fs::read_to_string(instances).unwrap_or_default();
    let port = format!(":{}", address.port());
    let has_port = |directory: &Path| {
        let served = std::fs::read_to_string(directory.join("kubeconfig")).unwrap_or_default();
        // The server's address is first, before those of other servers.
        let local_server = served.lines().find(|line| line.contains("server: "));
        let has_port = local_server.is_some_and(|line| line.trim_end().ends_with(&port));
        process::serving(directory).is_some() && has_port
    };
    let other = data_directory::directories(&list)
        .into_iter()
        .find(|directory| has_port(directory));
    if other.is_some() {
        cov_mark::hit!(findings_u5);
    }
    match other {
        Some(other) => format!(
            "{address} is in use by another mainstay, that of {other}: `mainstay down --data-dir \
             {other}` stops it; beside it, choose another address with --listen, or let --listen \
             127.0.0.1:0 find a free one",
            other = other.display()
        ),
        None => format!(
            "{address} is in use by another program; choose another with --listen, or let --listen \
             127.0.0.1:0 find a free one"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings U5: the message names the process that uses the port, if it is mainstay itself.
    #[test]
    fn another_mainstay_on_the_port_is_recognised() {
        cov_mark::check!(findings_u5);
        let around = tempfile::tempdir().unwrap();
        let (local, other) = (around.path().join("own"), around.path().join("other"));
        std::fs::create_dir_all(other.join("network")).unwrap();
        let list = around.path().join("list");
        std::fs::write(&list, format!("{}/network/ranges.json\n", other.display())).unwrap();
        let address: SocketAddr = "127.0.0.1:6443".parse().unwrap();
        let foreign = in_use(address, &local, &list);
        assert!(foreign.contains("by another program"), "{foreign}");
        process::note(&other).unwrap();
        let line = "    server: https://127.0.0.1:6443\n";
        std::fs::write(other.join("kubeconfig"), line).unwrap();
        let mainstay = in_use(address, &local, &list);
        assert!(
            mainstay.contains("by another mainstay, that of"),
            "{mainstay}"
        );
        std::fs::create_dir(&local).unwrap();
        process::note(&local).unwrap();
        let itself = in_use(address, &local, &list);
        assert!(itself.starts_with("mainstay already runs on"), "{itself}");
    }
}
