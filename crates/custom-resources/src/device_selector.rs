//! Expressions that select devices: `device.attributes['dra.example.com'].model == 'a100'`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cel_evaluator::{Key, Value as Cel};
use json_tree::Value;
use object_model::{Quantity, Semver};

use crate::expression::{Expression, Values};
use crate::expression_error::ExpressionError;

#[derive(Clone, Debug)]
pub struct DeviceSelector {
    expression: Expression,
    /// The attribute domains that the expression accesses. A domain that a device lacks is an empty map.
    domains: BTreeSet<String>,
}

impl DeviceSelector {
    /// Compiles an expression.
    ///
    /// # Errors
    /// As of [`Expression::compile`].
    pub fn compile(source: &str) -> Result<Self, ExpressionError> {
        let expression = Expression::compile_with(source, &["device"])?;
        let domains = expression.literal_keys().clone();
        Ok(Self {
            expression,
            domains,
        })
    }

    /// Whether the expression selects a driver's device, which has the form of a ResourceSlice device.
    ///
    /// # Errors
    /// An attribute does not exist, or the result is not a boolean.
    pub fn selects(&self, driver: &str, device: &Value) -> Result<bool, ExpressionError> {
        let attributes = self.by_domain(driver, &device["attributes"], attribute);
        let capacity = self.by_domain(driver, &device["capacity"], |entry| {
            let quantity = entry["value"].as_str()?.parse::<Quantity>();
            quantity.ok().map(Cel::Quantity)
        });
        let shared = device["allowMultipleAllocations"].as_bool() == Some(true);
        let entries = [
            ("driver", Cel::text(driver)),
            ("attributes", attributes),
            ("capacity", capacity),
            ("allowMultipleAllocations", Cel::Bool(shared)),
        ];
        let mut values = Values::default();
        values.add_value("device", map(entries));
        let result = self.expression.evaluate(&values)?;
        let result = result.as_bool();
        result.ok_or_else(|| {
            cov_mark::hit!(findings_c46);
            ExpressionError::NotBoolean
        })
    }

    /// Attributes or capacities by domain; the domain of a name without a domain is the driver's name.
    fn by_domain(
        &self,
        driver: &str,
        entries: &Value,
        value: impl Fn(&Value) -> Option<Cel>,
    ) -> Cel {
        let mut domains: BTreeMap<&str, Vec<(&str, Cel)>> = self
            .domains
            .iter()
            .map(|domain| (domain.as_str(), Vec::new()))
            .collect();
        for (name, entry) in entries.as_object().into_iter().flatten() {
            let (domain, id) = name.split_once('/').unwrap_or((driver, name));
            if let Some(value) = value(entry) {
                domains.entry(domain).or_default().push((id, value));
            }
        }
        let domains = domains.into_iter();
        map(domains.map(|(domain, entries)| (domain, map(entries))))
    }
}

fn attribute(entry: &Value) -> Option<Cel> {
    if let Some(number) = entry["int"].as_i64() {
        return Some(Cel::Int(number));
    }
    if let Some(flag) = entry["bool"].as_bool() {
        return Some(Cel::Bool(flag));
    }
    if let Some(text) = entry["string"].as_str() {
        return Some(Cel::text(text));
    }
    let version = Semver::parse(entry["version"].as_str()?)?;
    Some(Cel::Version(Arc::new(version)))
}

fn map<'e>(entries: impl IntoIterator<Item = (&'e str, Cel)>) -> Cel {
    let entries = entries.into_iter();
    Cel::map(
        entries
            .map(|(key, value)| (Key::text(key), value))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn selects(source: &str) -> Result<bool, ExpressionError> {
        let device = json!({"name": "gpu-0",
            "attributes": {"model": {"string": "a100"}, "index": {"int": 3},
                "ecc": {"bool": true}, "other.example.com/driver": {"version": "1.10.0"}},
            "capacity": {"memory": {"value": "40Gi"}}});
        DeviceSelector::compile(source)?.selects("dra.example.com", &device)
    }

    /// findings C46
    #[test]
    fn a_device_is_selected_by_what_its_driver_says_of_it() {
        for yes in [
            "device.driver == 'dra.example.com'",
            "device.attributes['dra.example.com'].model == 'a100'",
            "device.attributes['dra.example.com'].index > 2 && device.attributes['dra.example.com'].ecc",
            "device.capacity['dra.example.com'].memory.compareTo(quantity('40Gi')) >= 0",
            "device.attributes['other.example.com'].driver.isGreaterThan(semver('1.9.0'))",
            "semver('2.1.3').major() == 2 && isSemver('1.0.0') && !isSemver('1')",
            "!('x' in device.attributes['nobody.example.com'])",
            "!has(device.attributes['nobody.example.com'].x)",
            "cel.bind(dra, device.attributes['dra.example.com'], dra.ecc && dra.model == 'a100')",
            "!device.allowMultipleAllocations",
        ] {
            assert_eq!(selects(yes), Ok(true), "{yes}");
        }
        assert_eq!(
            selects("device.capacity['dra.example.com'].memory.isLessThan(quantity('1Gi'))"),
            Ok(false)
        );
    }

    /// findings C46
    #[test]
    fn what_a_device_does_not_have_is_an_error() {
        cov_mark::check!(findings_c46);
        assert!(selects("device.attributes['dra.example.com'].missing == 1").is_err());
        assert!(selects("device.attributes['nobody.example.com'].x == 1").is_err());
        assert!(
            selects("device.driver")
                .unwrap_err()
                .to_string()
                .contains("neither true nor false")
        );
        assert!(DeviceSelector::compile("other.driver == ''").is_err());
        assert!(DeviceSelector::compile("device.driver ==").is_err());
    }
}
