//! Published facts beside the definitions: how lists and maps merge, and defaults. `cargo xtask tables` writes them as
//! tables (`data/*.tsv`); this module reads the tables.

use std::collections::BTreeMap;

const TABLE: &str = include_str!("../data/merge_facts.tsv");
const DEFAULTS: &str = include_str!("../data/defaults.tsv");

/// The published facts about one field (or about a whole type); empty if a fact is absent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    pub list_type: &'static str,
    pub list_map_keys: &'static str,
    pub map_type: &'static str,
    pub patch_strategy: &'static str,
    pub patch_merge_key: &'static str,
    pub default: &'static str,
}

/// All facts, by definition and field. The field name is empty for the type itself.
pub(crate) fn rows() -> BTreeMap<(&'static str, &'static str), Row> {
    let mut rows = BTreeMap::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line
            .split('\t')
            .map(|cell| if cell == "-" { "" } else { cell });
        let mut next = || columns.next().unwrap_or_default();
        let key = (next(), next());
        let row = Row {
            list_type: next(),
            list_map_keys: next(),
            map_type: next(),
            patch_strategy: next(),
            patch_merge_key: next(),
            default: "",
        };
        rows.insert(key, row);
    }
    for line in DEFAULTS.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or_default();
        let row = rows.entry((next(), next())).or_default();
        row.default = next();
    }
    rows
}
