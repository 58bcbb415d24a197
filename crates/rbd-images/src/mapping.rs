//! The map of an image as a device, by a line for the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use nix::libc::{EACCES, EEXIST, EINVAL, EIO, ENOENT, ENXIO, EPERM, EROFS, ETIMEDOUT};

use crate::bus::Bus;
use crate::image::Image;
use crate::source::RbdSource;

/// The port of a monitor without a port.
const MONITOR_PORT: u16 = 6789;

/// The access to a mapped image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageAccess {
    /// Nothing is written.
    ReadOnly,
    /// Other nodes may write at the same time.
    Shared,
    /// No other client may have its lock.
    Locked,
}

/// The line for `/sys/bus/rbd/add` (`Documentation/ABI/testing/sysfs-bus-rbd` of Linux).
pub(crate) fn line(image: &Image, user: &str, key: Option<&str>, access: ImageAccess) -> String {
    let mut options = format!("name={user}");
    if let Some(key) = key {
        options += &format!(",secret={key}");
    }
    options += match access {
        ImageAccess::ReadOnly => ",ro",
        ImageAccess::Shared => "",
        ImageAccess::Locked => ",lock_on_read,exclusive",
    };
    let monitors = image.monitors.join(",");
    format!("{monitors} {options} {} {} -", image.pool, image.name)
}

/// The message for the user if the kernel or the cluster refuses to map an image.
#[derive(Debug, thiserror::Error)]
#[error("map {image}: {reason}: {source}")]
pub struct MapError {
    image: String,
    reason: String,
    source: io::Error,
}

impl MapError {
    fn new(image: &Image, volume: &RbdSource, has_key: bool, source: io::Error) -> Self {
        let no_key = match has_key {
            true => String::new(),
            false => format!(
                "; there is no secretRef, and no key of client.{} in {}",
                volume.user, volume.keyring
            ),
        };
        let reason = match source.raw_os_error() {
            Some(ENOENT) => "the cluster has no such pool or image".to_owned(),
            Some(EACCES | EPERM | EINVAL) => {
                format!("the cluster refuses the user {:?}{no_key}", volume.user)
            }
            Some(ETIMEDOUT | EIO) => {
                let monitors = image.monitors.join(", ");
                format!("no monitor answers at {monitors}")
            }
            Some(ENXIO) => "the image has features that the kernel of this node lacks".to_owned(),
            Some(EROFS | EEXIST) => "another machine has the lock of the image".to_owned(),
            _ => "the kernel refuses".to_owned(),
        };
        Self {
            image: image.full_name(),
            reason,
            source,
        }
    }
}

impl Bus {
    /// Maps the image of a volume with the key of its user.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn map_image(
        &self,
        image: &Image,
        volume: &RbdSource,
        key: Option<&str>,
        access: ImageAccess,
    ) -> Result<(), MapError> {
        let add = |access| self.add(&line(image, &volume.user, key, access));
        let mapped = match access {
            // An image without the feature `exclusive-lock` is refused so.
            ImageAccess::Locked => match add(ImageAccess::Locked) {
                Err(error) if error.raw_os_error() == Some(EINVAL) => add(ImageAccess::Shared),
                result => result,
            },
            ImageAccess::ReadOnly | ImageAccess::Shared => add(access),
        };
        mapped.map_err(|error| MapError::new(image, volume, key.is_some(), error))
    }
}

/// No monitor of a volume has an address.
#[derive(Debug, thiserror::Error)]
pub enum MonitorsError {
    #[error("the volume names no monitor")]
    None,
    #[error("the node cannot resolve the monitor {monitor:?}: {source}")]
    Unresolved { monitor: String, source: io::Error },
}

/// The addresses of monitors, `HOST:PORT`. Names are resolved by the node, and those without an address are left
/// out. A resolver may be slow.
///
/// # Errors
/// No monitor is left.
pub fn monitor_addresses(named: &[String]) -> Result<Vec<String>, MonitorsError> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut last = MonitorsError::None;
    for monitor in named {
        if let Some(address) = address(monitor) {
            addresses.push(address);
            continue;
        }
        let resolved = match monitor.contains(':') {
            true => monitor.to_socket_addrs(),
            false => (monitor.as_str(), MONITOR_PORT).to_socket_addrs(),
        };
        match resolved {
            Ok(resolved) => addresses.extend(resolved),
            Err(source) => {
                last = MonitorsError::Unresolved {
                    monitor: monitor.clone(),
                    source,
                }
            }
        }
    }
    match addresses.is_empty() {
        true => Err(last),
        false => Ok(addresses.iter().map(SocketAddr::to_string).collect()),
    }
}

/// The address of a monitor; `None` if the monitor is given by name.
fn address(monitor: &str) -> Option<SocketAddr> {
    let bare = monitor.trim_matches(['[', ']']);
    let with_port = || Some(SocketAddr::new(bare.parse::<IpAddr>().ok()?, MONITOR_PORT));
    monitor.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_has_a_port() {
        let address_text = |monitor| address(monitor).map(|address| address.to_string());
        assert_eq!(address_text("10.0.0.1").unwrap(), "10.0.0.1:6789");
        assert_eq!(address_text("10.0.0.1:1").unwrap(), "10.0.0.1:1");
        assert_eq!(address_text("[fd00::1]").unwrap(), "[fd00::1]:6789");
        assert_eq!(address_text("fd00::1").unwrap(), "[fd00::1]:6789");
        assert_eq!(address_text("mon.example:6789"), None);
    }

    #[test]
    fn monitors_are_addresses_or_names() {
        let named = |monitors: &[&str]| {
            let named: Vec<String> = monitors
                .iter()
                .map(|monitor| (*monitor).to_owned())
                .collect();
            monitor_addresses(&named)
        };
        assert_eq!(
            named(&["10.0.0.1", "[::1]:1"]).unwrap(),
            ["10.0.0.1:6789", "[::1]:1"]
        );
        assert!(named(&["localhost"]).unwrap()[0].ends_with(":6789"));
        assert!(named(&[]).is_err());
    }

    #[test]
    fn the_kernels_errors_are_told_in_terms_of_the_cluster() {
        let source = k8s_openapi::api::core::v1::RBDVolumeSource {
            image: "foo".to_owned(),
            ..Default::default()
        };
        let source = RbdSource::inline(&source, "shop");
        let image = Image {
            monitors: vec!["10.0.0.1:6789".to_owned()],
            pool: "kube".to_owned(),
            name: "foo".to_owned(),
        };
        let text = |code, has_key| {
            let error = io::Error::from_raw_os_error(code);
            MapError::new(&image, &source, has_key, error).to_string()
        };
        assert!(text(ENOENT, true).contains("no such pool or image"));
        assert!(text(ETIMEDOUT, true).contains("10.0.0.1:6789"));
        assert!(text(EACCES, false).contains("no key of client.admin in /etc/ceph/keyring"));
    }
}
