//! Quantities of a resource, such as `500m`, `1.5Gi` or `1e3`, stored exactly.
//!
//! A quantity is a whole number of billionths (upstream's limit of precision), and the family of suffixes of its
//! text; the formatted text is upstream's canonical form.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use json_tree::Value;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANOS: i128 = 1_000_000_000;
/// As upstream, parsed values are limited to the largest 64-bit integer.
const NANOS_MAX: i128 = i64::MAX as i128 * NANOS;
/// Maximum number of digits: those of the maximum in billionths, and one more.
const DIGITS_MAX: usize = 29;
/// Number of bits by which a number with this many digits can be shifted within 128 bits.
const SHIFT_MAX: u32 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The whole text has the wrong form.
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number is valid, the suffix is not.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The family of suffixes in the text of a quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n`, `u`, `m`, none, `k`, `M`, `G`, `T`, `P`, `E`.
    #[default]
    Decimal,
    /// `Ki`, `Mi`, `Gi`, `Ti`, `Pi`, `Ei`.
    Binary,
    /// An exponent such as `e3`.
    Exponent,
}

/// An exact amount. The comparison ignores the format: `1024Mi == 1Gi`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// A whole number, formatted with this family of suffixes.
    pub fn new(value: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(value) * NANOS,
            format,
        }
    }

    /// Thousandths, for instance of a CPU.
    pub fn from_milli(milli: i64) -> Self {
        Self {
            nanos: i128::from(milli) * (NANOS / 1000),
            format: Format::Decimal,
        }
    }

    /// Bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self::new(bytes, Format::Binary)
    }

    /// Parses a quantity from JSON: a string or a number.
    ///
    /// # Errors
    /// As [`FromStr`]; other JSON types have the wrong form.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    /// The amount rounded up to whole thousandths, the precision of resource lists.
    #[must_use]
    pub fn round_up_to_milli(&self) -> Self {
        let unit = NANOS / 1000;
        Self {
            nanos: round_away(self.nanos, unit) * unit,
            format: self.format,
        }
    }

    /// The amount in whole units, rounded up; bytes, for memory and disk.
    pub fn value(&self) -> i64 {
        self.scaled(NANOS)
    }

    /// The amount in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANOS / 1000)
    }

    /// The nearest floating-point number.
    pub fn approximate(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// Whether the amount is a whole number.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANOS == 0
    }

    /// Whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether the amount is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// The sum, in this quantity's family of suffixes (the other's if this quantity is zero).
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        Self {
            nanos: (self.nanos + other.nanos).clamp(-NANOS_MAX, NANOS_MAX),
            format,
        }
    }

    /// The difference, in this quantity's family of suffixes (the other's if this quantity is zero).
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.plus(&Self {
            nanos: -other.nanos,
            format: other.format,
        })
    }

    fn scaled(&self, unit: i128) -> i64 {
        let rounded = round_away(self.nanos, unit);
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }
}

/// `value / unit`, rounded away from zero.
fn round_away(value: i128, unit: i128) -> i128 {
    let quotient = value / unit;
    if value % unit == 0 {
        quotient
    } else {
        quotient + value.signum()
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The digits of a number, and its power of ten.
struct Digits {
    mantissa: i128,
    exponent: i32,
    /// Whether non-zero digits at the end were dropped.
    inexact: bool,
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let digits = digits(&rest[..end])?;
        let (format, power_of_ten, power_of_two) = suffix(&rest[end..])?;
        let nanos = nanos(&digits, power_of_ten, power_of_two);
        let format = if format == Format::Binary && nanos > 0 && nanos < NANOS {
            Format::Decimal
        } else {
            format
        };
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }
}

fn digits(text: &str) -> Result<Digits, QuantityError> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(QuantityError::Format);
    }
    let mut result = Digits {
        mantissa: 0,
        exponent: 0,
        inexact: false,
    };
    let mut count = 0;
    let all = whole.bytes().map(|d| (d, false));
    for (digit, is_fraction) in all.chain(fraction.bytes().map(|d| (d, true))) {
        let digit = i128::from(digit - b'0');
        if count < DIGITS_MAX {
            result.mantissa = result.mantissa * 10 + digit;
            count += usize::from(result.mantissa != 0);
            result.exponent -= i32::from(is_fraction);
        } else {
            result.inexact |= digit != 0;
            result.exponent = result.exponent.saturating_add(i32::from(!is_fraction));
        }
    }
    Ok(result)
}

fn suffix(text: &str) -> Result<(Format, i32, u32), QuantityError> {
    let decimal = |power| Ok((Format::Decimal, power, 0));
    let binary = |power| Ok((Format::Binary, 0, power));
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        other => match other.strip_prefix(['e', 'E']) {
            Some(number) => match number.parse::<i32>() {
                Ok(power) => Ok((Format::Exponent, power, 0)),
                Err(_) => Err(QuantityError::Suffix),
            },
            None if other
                .chars()
                .all(|c| "inumkKMGTPeE+-0123456789".contains(c)) =>
            {
                Err(QuantityError::Suffix)
            }
            None => Err(QuantityError::Format),
        },
    }
}

/// The powers of ten that fit into 128 bits.
const POWERS_OF_TEN: [i128; 39] = {
    let mut powers = [1; 39];
    let mut power = 1;
    while power < powers.len() {
        powers[power] = powers[power - 1] * 10;
        power += 1;
    }
    powers
};

fn whole_power_of_ten(power: u32) -> Option<i128> {
    POWERS_OF_TEN.get(power as usize).copied()
}

/// The amount in billionths: rounded up, limited to the maximum.
fn nanos(digits: &Digits, power_of_ten: i32, power_of_two: u32) -> i128 {
    let power = digits
        .exponent
        .saturating_add(power_of_ten)
        .saturating_add(9);
    let nanos = if power < 0 {
        divided(digits, power.unsigned_abs(), power_of_two)
    } else {
        let factor = whole_power_of_ten(power.unsigned_abs());
        let factor = factor.and_then(|factor| factor.checked_mul(1 << power_of_two));
        factor.and_then(|factor| digits.mantissa.checked_mul(factor))
    };
    match nanos {
        Some(nanos) => nanos.min(NANOS_MAX),
        None if digits.mantissa == 0 => 0,
        None => NANOS_MAX,
    }
}

/// The mantissa times 2^`power_of_two`, divided by 10^`power_of_ten`, rounded up; `None` if it exceeds 128 bits.
fn divided(digits: &Digits, mut power_of_ten: u32, mut power_of_two: u32) -> Option<i128> {
    let (mut mantissa, mut inexact) = (digits.mantissa, digits.inexact);
    while power_of_ten as usize > DIGITS_MAX && mantissa != 0 {
        inexact |= mantissa % 10 != 0;
        mantissa /= 10;
        power_of_ten -= 1;
    }
    if mantissa == 0 {
        return Some(i128::from(inexact));
    }
    let divisor = whole_power_of_ten(power_of_ten)?;
    let (mut quotient, mut rest) = (mantissa / divisor, mantissa % divisor);
    while power_of_two > 0 {
        let bits = power_of_two.min(SHIFT_MAX);
        rest <<= bits;
        quotient = quotient.checked_mul(1 << bits)? + rest / divisor;
        rest %= divisor;
        power_of_two -= bits;
    }
    Some(quotient + i128::from(rest != 0 || inexact))
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANOS;
        if self.format == Format::Binary && !small && self.is_integer() {
            return write_binary(f, self.nanos / NANOS);
        }
        write_decimal(f, self.nanos, self.format == Format::Exponent)
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut value: i128) -> fmt::Result {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut index = 0;
    while value % 1024 == 0 && index + 1 < SUFFIXES.len() {
        value /= 1024;
        index += 1;
    }
    write!(f, "{value}{}", SUFFIXES[index])
}

fn write_decimal(f: &mut fmt::Formatter<'_>, nanos: i128, exponential: bool) -> fmt::Result {
    const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let mut value = nanos;
    let mut index = 0;
    while value % 1000 == 0 && index + 1 < SUFFIXES.len() {
        value /= 1000;
        index += 1;
    }
    match (exponential, index) {
        (true, 3) => write!(f, "{value}"),
        (true, _) => write!(f, "{value}e{}", index as i32 * 3 - 9),
        (false, _) => write!(f, "{value}{}", SUFFIXES[index]),
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(&value).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().unwrap().to_string()
    }

    #[test]
    fn prints_upstreams_canonical_form() {
        for (text, expected) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("1", "1"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("2000m", "2"),
            ("0.1m", "100u"),
            ("0.1n", "1n"),
            ("1e3", "1e3"),
            ("1e0", "1"),
            ("12E2", "1200"),
            ("1E", "1E"),
            ("-1.5", "-1500m"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("100Ki", "100Ki"),
            ("1023", "1023"),
            ("9223372036854775808", "9223372036854775807"),
            ("1e99", "9223372036854775807"),
            ("123456789012345678901234567890", "9223372036854775807"),
            ("0.00000000000000000000000000000000001", "1n"),
            ("0.00000000000000000000000000000000001Ei", "1n"),
            ("1127.5429496729667296672966Gi", "1210690023420191499805n"),
            ("1210690023420191499733n", "1210690023420191499733n"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in ["", "-", "abc", "1 Gi", "1..2", "1.2.3", ".", "١"] {
            assert_eq!(
                text.parse::<Quantity>(),
                Err(QuantityError::Format),
                "{text}"
            );
        }
        for text in ["1GiB", "1Kii", "1K", "1e", "1ee3", "1mm", "1e3k"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        assert_eq!("1K".parse::<Quantity>(), Err(QuantityError::Suffix));
    }

    #[test]
    fn rounds_up_to_the_unit_asked_for() {
        let quantity: Quantity = "1500u".parse().unwrap();
        assert_eq!((quantity.milli_value(), quantity.value()), (2, 1));
        let negative: Quantity = "-1500u".parse().unwrap();
        assert_eq!(negative.milli_value(), -2);
        assert_eq!(quantity.round_up_to_milli().to_string(), "2m");
    }

    proptest! {
        #[test]
        fn canonical_form_reads_back_as_the_same_amount(
            whole in any::<i64>(), fraction in 0_u32..1_000_000_000, index in 0_usize..17
        ) {
            let suffix = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti",
                "Pi", "Ei", "e3"][index];
            let quantity: Quantity = format!("{whole}.{fraction:09}{suffix}").parse().unwrap();
            let again: Quantity = quantity.to_string().parse().unwrap();
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(quantity.to_string(), again.to_string());
        }

        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn orders_like_the_numbers(a in any::<i32>(), b in any::<i32>()) {
            let (x, y) = (Quantity::from_milli(a.into()), Quantity::from_milli(b.into()));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x.plus(&y).minus(&y), x);
        }
    }
}
