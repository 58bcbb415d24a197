//! An image of a Ceph cluster, and the device that the kernel has mapped it as.

use serde::{Deserialize, Serialize};

/// An image, by the facts that do not change while it is mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Addresses of the monitors, `HOST:PORT`.
    pub monitors: Vec<String>,
    /// Name of the RADOS pool.
    pub pool: String,
    /// Name of the image in the pool.
    pub name: String,
}

impl Image {
    /// Whether both values name one image: equal pools, equal names, and clusters with a common monitor.
    pub fn is(&self, other: &Image) -> bool {
        self.pool == other.pool
            && self.name == other.name
            && self
                .monitors
                .iter()
                .any(|monitor| other.monitors.contains(monitor))
    }

    /// `POOL/IMAGE`, the form of the program `rbd`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.pool, self.name)
    }
}

/// An RBD device that the kernel has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The number of the device: `/dev/rbdN`.
    pub id: u32,
    /// The image that it shows.
    pub image: Image,
    /// Whether it was mapped with the lock.
    pub is_locked: bool,
    /// The kernel's address in the cluster.
    pub client: String,
}

/// Attributes of a device that the kernel shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a> {
    /// `config_info`: the line that it was mapped by.
    pub config: &'a str,
    /// `pool`: name of the pool.
    pub pool: &'a str,
    /// `name`: name of the image.
    pub name: &'a str,
    /// `current_snap`: name of the snapshot, or `-`.
    pub snapshot: &'a str,
    /// `client_addr`: address of the kernel in the cluster.
    pub client: &'a str,
}

impl Device {
    /// The device of an image; `None` for the device of a snapshot.
    pub(crate) fn from_attributes(id: u32, attributes: Attributes<'_>) -> Option<Self> {
        let mut words = attributes.config.split_whitespace();
        let monitors = words.next().unwrap_or_default().split(',');
        let mut options = words.next().unwrap_or_default().split(',');
        let image = Image {
            monitors: monitors.map(str::to_owned).collect(),
            pool: attributes.pool.trim().to_owned(),
            name: attributes.name.trim().to_owned(),
        };
        (attributes.snapshot.trim() == "-").then(|| Self {
            id,
            image,
            is_locked: options.any(|option| option == "exclusive"),
            client: attributes.client.trim().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{ImageAccess, line};

    fn image(monitors: &[&str]) -> Image {
        Image {
            monitors: monitors
                .iter()
                .map(|monitor| (*monitor).to_owned())
                .collect(),
            pool: "kube".to_owned(),
            name: "foo".to_owned(),
        }
    }

    #[test]
    fn a_mapped_image_is_known_by_pool_name_and_a_monitor() {
        let requested = image(&["10.0.0.1:6789", "10.0.0.2:6789"]);
        let text = line(&requested, "kube", Some("AQ=="), ImageAccess::Locked);
        assert_eq!(
            text,
            "10.0.0.1:6789,10.0.0.2:6789 name=kube,secret=AQ==,lock_on_read,exclusive kube foo -"
        );
        let attributes = Attributes {
            config: &text.replace("AQ==", "<hidden>"),
            pool: "kube\n",
            name: "foo\n",
            snapshot: "-\n",
            client: "10.0.2.15:0/77\n",
        };
        let device = Device::from_attributes(3, attributes).unwrap();
        assert!(device.is_locked && device.image.is(&image(&["10.0.0.2:6789"])));
        assert!(!device.image.is(&image(&["10.9.9.9:6789"])));
        let of_snapshot = Attributes {
            snapshot: "snap1\n",
            ..attributes
        };
        assert_eq!(Device::from_attributes(3, of_snapshot), None);
        assert!(
            line(&requested, "kube", None, ImageAccess::ReadOnly).contains(" name=kube,ro kube ")
        );
    }
}
