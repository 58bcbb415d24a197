//! The name servers of nodes in network namespaces.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The name servers of this machine.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The name servers that systemd-resolved uses; it listens on the loopback only
/// (systemd-resolved.service(8)).
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The file with name servers that other network namespaces can reach; the choice is that of kubeadm for
/// kubelet.
pub fn for_namespaces() -> PathBuf {
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let behind = Path::new(BEHIND_RESOLVED);
    match is_on_loopback(&text) && behind.exists() {
        true => behind.to_owned(),
        false => RESOLV_CONF.into(),
    }
}

/// Whether all name servers of the file are on the loopback of the machine.
fn is_on_loopback(text: &str) -> bool {
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
    let mut servers = text.lines().filter_map(server).peekable();
    servers.peek().is_some() && servers.all(|server: IpAddr| server.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_the_loopback_are_told_from_others() {
        for (text, expected) in [
            ("nameserver 127.0.0.53\noptions edns0\n", true),
            ("nameserver 127.0.0.1\nnameserver ::1\n", true),
            ("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", false),
            ("nameserver 192.0.2.1", false),
            ("search example\n", false),
            ("", false),
        ] {
            assert_eq!(is_on_loopback(text), expected, "{text}");
        }
    }
}
