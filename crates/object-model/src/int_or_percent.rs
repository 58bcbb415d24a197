//! A number in the form of an integer or a percentage of a total (`IntOrString` in Kubernetes).

use std::fmt;

use json_tree::Value;

/// An absolute number or a percentage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrPercent {
    Int(i32),
    /// Percent of a total.
    Percent(u32),
}

impl IntOrPercent {
    /// Parses a JSON number, or a string such as `25%`; `None` for any other value.
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => i32::try_from(number.as_i64()?).ok().map(Self::Int),
            Value::String(text) => {
                let digits = text.strip_suffix('%')?;
                let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                if plain {
                    digits.parse().ok().map(Self::Percent)
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    /// The resulting number; `total` is 100 %.
    pub fn of(self, total: i32, round_up: bool) -> i32 {
        match self {
            Self::Int(value) => value,
            Self::Percent(percent) => {
                let product = i64::from(percent) * i64::from(total);
                let rounded = if round_up {
                    (product + 99) / 100
                } else {
                    product / 100
                };
                i32::try_from(rounded).unwrap_or(i32::MAX)
            }
        }
    }
}

impl fmt::Display for IntOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let quarter = IntOrPercent::from_json(&json!("25%")).unwrap();
        assert_eq!((quarter.of(10, false), quarter.of(10, true)), (2, 3));
        assert_eq!(IntOrPercent::from_json(&json!(3)).unwrap().of(10, true), 3);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "%", "a%", "-1%", "3", "1.5%"] {
            assert_eq!(IntOrPercent::from_json(&json!(text)), None, "{text}");
        }
    }
}
