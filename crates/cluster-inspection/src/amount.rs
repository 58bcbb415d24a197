//! Sizes as users read them.

use object_model::quantity::Quantity;

/// `12Gi`, `3.4Mi`: three digits at most.
pub fn bytes(count: i64) -> String {
    const UNITS: [&str; 6] = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let mut rest = count as f64;
    let mut unit = 0;
    while rest >= 1000.0 && unit + 1 < UNITS.len() {
        rest /= 1024.0;
        unit += 1;
    }
    match rest < 10.0 && unit > 0 {
        true => format!("{rest:.1}{}", UNITS[unit]),
        false => format!("{rest:.0}{}", UNITS[unit]),
    }
}

/// A quantity in its written form; a number of bytes is converted to larger units, because a claim may request any
/// number of bytes.
pub fn size(text: &str) -> String {
    match text.parse::<Quantity>() {
        Ok(size) if text.chars().all(|c| c.is_ascii_digit()) => bytes(size.value()),
        _ => text.to_owned(),
    }
}
