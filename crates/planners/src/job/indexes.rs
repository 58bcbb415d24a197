//! Sets of indexes, written as `0-2,5`.

use std::collections::BTreeSet;

/// Reads what [`write`] wrote; what cannot be read, or is not below `end`, is left out.
pub(super) fn read(text: &str, end: u32) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>()) {
            all.extend(from..to.saturating_add(1).min(end));
        }
    }
    all
}

/// Writes indexes; three and more that follow each other as a range, two as two.
pub(super) fn write(indexes: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &index in indexes {
        match ranges.last_mut() {
            Some((_, to)) if to.saturating_add(1) == index => *to = index,
            _ => ranges.push((index, index)),
        }
    }
    let texts: Vec<String> = ranges
        .into_iter()
        .map(|(from, to)| match to - from {
            0 => from.to_string(),
            1 => format!("{from},{to}"),
            _ => format!("{from}-{to}"),
        })
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_ranges() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7,8"] {
            assert_eq!(write(&read(text, 100)), text);
        }
        assert_eq!(write(&read("0-99,x,3-", 2)), "0,1");
    }
}
