//! Eviction thresholds of memory and disks (kubelet's `evictionHard`).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use object_model::quantity::{Format, Quantity};
use serde::{Deserialize, Deserializer};

use super::pressure::Condition;

/// An eviction signal, in the order in which shortages are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Available memory of the node, in bytes.
    MemoryAvailable,
    /// Free bytes of the file system for pods.
    NodefsAvailable,
    /// Free inodes of the file system for pods.
    NodefsInodesFree,
    /// Free bytes of the file system for images.
    ImagefsAvailable,
    /// Free inodes of the file system for images.
    ImagefsInodesFree,
}

/// The resource of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bytes of memory.
    Memory,
    /// Bytes of disk.
    EphemeralStorage,
    Inodes,
}

impl Signal {
    pub const ALL: [Self; 5] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
    ];

    /// The name of the signal in kubelet.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
        }
    }

    /// The resource that the signal measures.
    pub fn resource(self) -> Resource {
        match self {
            Self::MemoryAvailable => Resource::Memory,
            Self::NodefsAvailable | Self::ImagefsAvailable => Resource::EphemeralStorage,
            Self::NodefsInodesFree | Self::ImagefsInodesFree => Resource::Inodes,
        }
    }

    /// The condition of the node while the signal is below its threshold.
    pub fn condition(self) -> Condition {
        match self.resource() {
            Resource::Memory => Condition::MemoryPressure,
            Resource::EphemeralStorage | Resource::Inodes => Condition::DiskPressure,
        }
    }
}

impl Resource {
    /// The name in resource lists and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
        }
    }

    /// An amount in the form of a quantity, for messages.
    pub fn quantity(self, amount: i64) -> Quantity {
        match self {
            Self::Memory | Self::EphemeralStorage => Quantity::from_bytes(amount),
            Self::Inodes => Quantity::new(amount, Format::Decimal),
        }
    }
}

/// The amount of a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// A fixed amount.
    Quantity(Quantity),
    /// A share of the capacity, in thousandths of a percent.
    Share(i64),
    /// A share of the capacity, in thousandths of a percent, up to a fixed amount.
    ShareUpTo(i64, Quantity),
}

impl Amount {
    /// The amount for a capacity.
    pub fn for_capacity(self, capacity: i64) -> i64 {
        match self {
            Self::Quantity(quantity) => quantity.value(),
            Self::Share(share) => {
                let part = i128::from(capacity) * i128::from(share) / 100_000;
                i64::try_from(part).unwrap_or(i64::MAX)
            }
            Self::ShareUpTo(share, most) => {
                Self::Share(share).for_capacity(capacity).min(most.value())
            }
        }
    }
}

/// The minimum of each signal; other signals have no threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds(BTreeMap<Signal, Amount>);

/// An eviction threshold that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidThreshold {
    /// The text of the threshold, for instance `memory.available<100Mi`.
    pub text: String,
    pub reason: &'static str,
}

impl fmt::Display for InvalidThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eviction threshold {:?}: {}", self.text, self.reason)
    }
}

impl std::error::Error for InvalidThreshold {}

impl Default for Thresholds {
    /// kubelet's defaults, but at most 2 GiB on a large disk.
    fn default() -> Self {
        let share = |percent: i64| Amount::Share(percent * 1000);
        let of_disk =
            |percent: i64| Amount::ShareUpTo(percent * 1000, Quantity::from_bytes(2 << 30));
        Self(BTreeMap::from([
            (
                Signal::MemoryAvailable,
                Amount::Quantity(Quantity::from_bytes(100 << 20)),
            ),
            (Signal::NodefsAvailable, of_disk(10)),
            (Signal::NodefsInodesFree, share(5)),
            (Signal::ImagefsAvailable, of_disk(15)),
            (Signal::ImagefsInodesFree, share(5)),
        ]))
    }
}

impl Thresholds {
    /// No thresholds: no pod is evicted.
    pub fn none() -> Self {
        Self(BTreeMap::new())
    }

    pub fn iter(&self) -> impl Iterator<Item = (Signal, Amount)> {
        self.0.iter().map(|(signal, amount)| (*signal, *amount))
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), InvalidThreshold> {
        let wrong = |reason| InvalidThreshold {
            text: format!("{name}<{value}"),
            reason,
        };
        let signal = Signal::ALL.into_iter().find(|signal| signal.name() == name);
        let signal = signal.ok_or_else(|| {
            wrong(
                "the signals are memory.available, nodefs.available, nodefs.inodesFree, \
                 imagefs.available and imagefs.inodesFree",
            )
        })?;
        match amount(value).map_err(wrong)? {
            Some(amount) => self.0.insert(signal, amount),
            None => self.0.remove(&signal),
        };
        Ok(())
    }
}

/// The amount of a threshold. `None` for 0% and 100%, with which kubelet disables a threshold.
fn amount(value: &str) -> Result<Option<Amount>, &'static str> {
    const NEITHER: &str = "neither a quantity nor a percentage";
    if let Some(percent) = value.strip_suffix('%') {
        let percent: Quantity = percent.parse().map_err(|_| NEITHER)?;
        return match percent.milli_value() {
            0 | 100_000 => Ok(None),
            share @ 0..100_000 => Ok(Some(Amount::Share(share))),
            _ => Err("a percentage is from 0 to 100"),
        };
    }
    let quantity: Quantity = value.parse().map_err(|_| NEITHER)?;
    if quantity.is_negative() || quantity.is_zero() {
        return Err("a quantity is more than nothing");
    }
    Ok(Some(Amount::Quantity(quantity)))
}

impl FromStr for Thresholds {
    type Err = InvalidThreshold;

    /// Parses `memory.available<100Mi,nodefs.available<10%`; an empty text has no thresholds.
    fn from_str(text: &str) -> Result<Self, InvalidThreshold> {
        let mut thresholds = Self::none();
        let each = text.split(',').map(str::trim);
        for threshold in each.filter(|threshold| !threshold.is_empty()) {
            let (name, value) = threshold.split_once('<').ok_or_else(|| InvalidThreshold {
                text: threshold.to_owned(),
                reason: "it has the form signal<quantity",
            })?;
            thresholds.add(name.trim(), value.trim())?;
        }
        Ok(thresholds)
    }
}

impl<'de> Deserialize<'de> for Thresholds {
    /// Parses `{memory.available: 100Mi}`, as in kubelet's configuration.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<String, String>::deserialize(deserializer)?;
        let mut thresholds = Self::none();
        for (name, value) in map {
            thresholds
                .add(&name, &value)
                .map_err(serde::de::Error::custom)?;
        }
        Ok(thresholds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(&'static str, i64)> {
        let thresholds: Thresholds = text.parse().unwrap();
        let each = thresholds.iter();
        each.map(|(signal, amount)| (signal.name(), amount.for_capacity(10_000)))
            .collect()
    }

    #[test]
    fn thresholds_are_read_as_kubelet_reads_them() {
        // statefulset.md 12.16
        assert_eq!(
            parsed("memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<12.5%"),
            [
                ("memory.available", 100 << 20),
                ("nodefs.available", 1000),
                ("nodefs.inodesFree", 1250)
            ]
        );
        assert_eq!(parsed(""), []);
        assert_eq!(parsed("nodefs.available<0%,imagefs.available<100%"), []);
        let from_file: Thresholds =
            serde_json::from_str(r#"{"memory.available": "1Gi", "imagefs.available": "15%"}"#)
                .unwrap();
        assert_eq!(
            from_file,
            "imagefs.available<15%,memory.available<1Gi"
                .parse()
                .unwrap()
        );
    }

    #[test]
    fn kubelets_defaults_hold_on_small_disks() {
        // statefulset.md 12.16
        let text = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,\
                    imagefs.available<15%,imagefs.inodesFree<5%";
        let kubelets: Thresholds = text.parse().unwrap();
        let at = |thresholds: &Thresholds, capacity: i64| -> Vec<(Signal, i64)> {
            let each = thresholds.iter();
            each.map(|(signal, amount)| (signal, amount.for_capacity(capacity)))
                .collect()
        };
        let ours = Thresholds::default();
        assert_eq!(at(&ours, 10 << 30), at(&kubelets, 10 << 30));
        for (signal, amount) in at(&ours, 4 << 40) {
            let of_space = matches!(signal, Signal::NodefsAvailable | Signal::ImagefsAvailable);
            assert!(!of_space || amount == 2 << 30, "{signal:?} {amount}");
        }
    }

    #[test]
    fn what_is_no_threshold_is_refused() {
        for text in [
            "memory.available",
            "memory<1Gi",
            "memory.available<much",
            "memory.available<-1Gi",
            "memory.available<0",
            "nodefs.available<101%",
            "nodefs.available<-1%",
            "pid.available<10%",
        ] {
            let error = text.parse::<Thresholds>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn shares_of_large_disks_are_exact() {
        assert_eq!(
            Amount::Share(15_000).for_capacity(i64::MAX),
            i64::MAX / 20 * 3 + 1
        );
    }
}
