//! Forwarding of packets between the host's links, which pods need to reach anything but the host.
//!
//! The setting applies to the whole machine. If forwarding is disabled, the instance enables it and records
//! this in a file. Later, this instance disables forwarding again, unless another instance exists, or links
//! exist that probably need it (bridges, tunnels and veths of container engines or virtual machines).

use std::path::Path;

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

use crate::error::{Error, file};
use crate::host::Host;

const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
const REMEMBERED: &str = "forwarding-was-off";

/// Enables forwarding. If it was disabled, records that in a file.
pub(crate) fn enable(state_dir: &Path) -> Result<(), Error> {
    let before = std::fs::read_to_string(SWITCH).map_err(file("read", SWITCH))?;
    if before.trim() != "0" {
        return Ok(());
    }
    let path = state_dir.join(REMEMBERED);
    std::fs::write(&path, "").map_err(file("write", &path))?;
    std::fs::write(SWITCH, "1").map_err(file("write", SWITCH))?;
    tracing::info!("turned on IPv4 forwarding of this machine");
    Ok(())
}

/// Disables forwarding if this instance has enabled it and no other program seems to need it.
pub(crate) async fn restore(host: &Host, state_dir: &Path) -> Result<(), Error> {
    let path = state_dir.join(REMEMBERED);
    if !path.exists() {
        return Ok(());
    }
    let links = host.links().await?;
    let forwards = |kind: &InfoKind| {
        use InfoKind::{Bridge, IpVlan, MacVlan, Tun, Veth, Vxlan, Wireguard};
        matches!(
            kind,
            Bridge | IpVlan | MacVlan | Tun | Veth | Vxlan | Wireguard
        )
    };
    let needed = links
        .iter()
        .flat_map(|link| &link.attributes)
        .any(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos
                .iter()
                .any(|info| matches!(info, LinkInfo::Kind(kind) if forwards(kind))),
            _ => false,
        });
    if !needed && !host.has_instances().await? {
        std::fs::write(SWITCH, "0").map_err(file("write", SWITCH))?;
        tracing::info!("turned off IPv4 forwarding of this machine again");
    }
    std::fs::remove_file(&path).map_err(file("remove", &path))
}
