//! Volumes that grow before they are full (rollouts.md D9).

use object_model::Quantity;
use serde::Deserialize;

/// `spec.claims.autogrow` of a StatefulSetPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Autogrow {
    /// The used part of the volume from which it grows, in percent.
    #[serde(default = "at_percent")]
    pub at_percent: u8,
    #[serde(default)]
    pub by: GrowthStep,
    /// The maximum size.
    pub max: Quantity,
    /// Minimum time between two growths of a volume, in seconds.
    #[serde(default = "cooldown_seconds")]
    pub cooldown_seconds: u32,
}

fn at_percent() -> u8 {
    80
}

fn cooldown_seconds() -> u32 {
    3600
}

/// The size of one growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum GrowthStep {
    /// Percent of the present size.
    Percent(u32),
    Bytes(u64),
}

impl Default for GrowthStep {
    fn default() -> Self {
        Self::Percent(20)
    }
}

/// The text is neither a percentage nor a positive quantity.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither a percentage nor a size")]
pub struct InvalidStep(String);

impl TryFrom<String> for GrowthStep {
    type Error = InvalidStep;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let step = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().map(Self::Percent),
            None => {
                let size = text.parse::<Quantity>().ok();
                let bytes = size.and_then(|size| u64::try_from(size.value()).ok());
                bytes.map(Self::Bytes)
            }
        };
        let step = step.filter(|step| !matches!(step, Self::Percent(0) | Self::Bytes(0)));
        step.ok_or(InvalidStep(text))
    }
}

impl GrowthStep {
    /// The size after one growth, in bytes: in whole MiB, so that the texts of sizes stay short.
    pub fn after(self, bytes: u64) -> u64 {
        const MIB: u64 = 1 << 20;
        let step = match self {
            Self::Percent(percent) => {
                let step = u128::from(bytes) * u128::from(percent) / 100;
                u64::try_from(step).unwrap_or(u64::MAX)
            }
            Self::Bytes(step) => step,
        };
        let sum = bytes.saturating_add(step.max(1));
        sum.div_ceil(MIB).saturating_mul(MIB)
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn fields_have_defaults() {
        let decode = |value| json_tree::from_value::<Autogrow>(value);
        let plain = decode(json!({"max": "10Gi"})).unwrap();
        assert_eq!(plain.at_percent, 80);
        assert_eq!(plain.by, GrowthStep::Percent(20));
        assert_eq!(plain.cooldown_seconds, 3600);
        let by = |text: &str| {
            decode(json!({"max": "1Gi", "by": text}))
                .map(|grow| grow.by)
                .ok()
        };
        assert_eq!(by("5%"), Some(GrowthStep::Percent(5)));
        assert_eq!(by("10Gi"), Some(GrowthStep::Bytes(10 << 30)));
        for text in ["", "0", "0%", "%", "-1Gi", "1.5%", "x"] {
            assert_eq!(by(text), None, "{text}");
        }
        assert!(decode(json!({})).is_err());
        // The definition allows ten characters.
        assert_eq!(by("999999999%"), Some(GrowthStep::Percent(999_999_999)));
        for text in ["99999999Ei", "9999999999", "1.5Gi", "1.1", "9e9"] {
            assert!(decode(json!({"max": text, "by": text})).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_growth_ends_at_a_whole_mebibyte() {
        let mib = |count: u64| count << 20;
        assert_eq!(GrowthStep::Percent(20).after(mib(100)), mib(120));
        assert_eq!(GrowthStep::Percent(1).after(mib(1)), mib(2));
        assert_eq!(GrowthStep::Percent(20).after(0), mib(1));
        assert_eq!(GrowthStep::Bytes(1).after(mib(5)), mib(6));
        assert_eq!(GrowthStep::Percent(u32::MAX).after(u64::MAX), u64::MAX);
        assert_eq!(GrowthStep::Bytes(mib(3)).after(mib(5)), mib(8));
    }
}
