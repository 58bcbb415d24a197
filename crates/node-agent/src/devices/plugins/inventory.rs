//! The devices of one extended resource, and the amounts that the node reports. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use service_protocols::deviceplugin_v1beta1::ListAndWatchResponse;
use tokio::time::Instant;

/// Time after the end of a plugin in which its devices are still part of the node's capacity; kubelet's value.
pub const GRACE: Duration = Duration::from_secs(300);
/// Maximum number of devices of one resource.
pub const DEVICES_MAX: usize = 10_000;
/// The health of a device that may be allocated.
const HEALTHY: &str = "Healthy";

/// The devices by their ids; `true` for healthy devices.
pub type Devices = BTreeMap<String, bool>;

/// The capacity and the allocatable amount of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAmounts {
    pub capacity: usize,
    pub allocatable: usize,
}

/// The reported amounts, by the name of the resource.
pub type ReportedDevices = BTreeMap<String, DeviceAmounts>;

/// The state of a resource that a plugin has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inventory {
    /// The plugin is connected; no devices until its first list.
    Connected(Devices),
    /// The plugin has ended, or its list is not valid.
    Lost { since: Instant, devices: usize },
    /// A former agent had the resource, and its plugin has not registered again.
    Former,
}

impl Inventory {
    /// The amounts at a time: devices of a lost plugin are not allocatable, and after [`GRACE`] there are none.
    pub fn amounts(&self, now: Instant) -> DeviceAmounts {
        match self {
            Self::Connected(devices) => DeviceAmounts {
                capacity: devices.len(),
                allocatable: devices.values().filter(|healthy| **healthy).count(),
            },
            Self::Lost { since, devices } if now < *since + GRACE => DeviceAmounts {
                capacity: *devices,
                allocatable: 0,
            },
            Self::Lost { .. } | Self::Former => DeviceAmounts::default(),
        }
    }

    /// The state after the end of the plugin.
    pub fn lost(&self, now: Instant) -> Self {
        match self {
            Self::Connected(devices) => Self::Lost {
                since: now,
                devices: devices.len(),
            },
            ended => ended.clone(),
        }
    }

    /// The devices that may be allocated.
    pub fn healthy(&self) -> BTreeSet<&str> {
        let Self::Connected(devices) = self else {
            return BTreeSet::new();
        };
        let healthy = devices.iter().filter(|(_, healthy)| **healthy);
        healthy.map(|(id, _)| id.as_str()).collect()
    }
}

/// A list of a plugin that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error("the plugin lists {0} devices; a resource may have {DEVICES_MAX}")]
    TooMany(usize),
    #[error("the plugin lists a device without an id")]
    NoId,
}

/// The devices of a list.
///
/// # Errors
/// The list is too long, or a device has no id.
pub fn devices(list: ListAndWatchResponse) -> Result<Devices, ListError> {
    if list.devices.len() > DEVICES_MAX {
        return Err(ListError::TooMany(list.devices.len()));
    }
    let device = |device: service_protocols::deviceplugin_v1beta1::Device| match device.id {
        id if id.is_empty() => Err(ListError::NoId),
        id => Ok((id, device.health == HEALTHY)),
    };
    list.devices.into_iter().map(device).collect()
}

#[cfg(test)]
mod tests {
    use service_protocols::deviceplugin_v1beta1::Device;

    use super::*;

    fn list(devices: &[(&str, &str)]) -> ListAndWatchResponse {
        let device = |(id, health): &(&str, &str)| Device {
            id: (*id).to_owned(),
            health: (*health).to_owned(),
            topology: None,
        };
        ListAndWatchResponse {
            devices: devices.iter().map(device).collect(),
        }
    }

    fn amounts(capacity: usize, allocatable: usize) -> DeviceAmounts {
        DeviceAmounts {
            capacity,
            allocatable,
        }
    }

    #[test]
    fn healthy_devices_are_allocatable_and_those_of_a_lost_plugin_stay_for_a_while() {
        let now = Instant::now();
        let listed = devices(list(&[
            ("a", "Healthy"),
            ("b", "Unhealthy"),
            ("c", "Healthy"),
        ]));
        let connected = Inventory::Connected(listed.unwrap());
        assert_eq!(connected.amounts(now), amounts(3, 2));
        assert_eq!(connected.healthy(), BTreeSet::from(["a", "c"]));
        let lost = connected.lost(now);
        assert!(lost.healthy().is_empty());
        let before = now + GRACE - Duration::from_secs(1);
        assert_eq!(lost.amounts(before), amounts(3, 0));
        assert_eq!(lost.amounts(now + GRACE), amounts(0, 0));
        // A second loss does not extend the time.
        assert_eq!(lost.lost(before).amounts(now + GRACE), amounts(0, 0));
        assert_eq!(Inventory::Former.amounts(now), amounts(0, 0));
    }

    #[test]
    fn lists_that_are_too_long_or_have_no_ids_are_refused() {
        assert_eq!(devices(list(&[("", "Healthy")])), Err(ListError::NoId));
        let one = ("x", "Healthy");
        let long = list(&vec![one; DEVICES_MAX + 1]);
        assert_eq!(devices(long), Err(ListError::TooMany(DEVICES_MAX + 1)));
        assert_eq!(devices(list(&vec![one; DEVICES_MAX])).unwrap().len(), 1);
    }
}
