//! The page, parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// `docs/contributing/reach.md`.
#[derive(Default)]
pub struct Page {
    pub principals: BTreeSet<String>,
    pub metadata: Section,
    /// Labels and annotations, by their keys.
    pub keys: BTreeSet<String>,
    keyed: Vec<Row>,
    pub sections: BTreeMap<String, Section>,
    /// The kinds whose fields have no effect outside of their object.
    pub without_reach: BTreeSet<String>,
    acting: Vec<Row>,
}

/// A kind and its fields.
#[derive(Default)]
pub struct Section {
    /// The default roles whose users may write the kind.
    pub writers: BTreeSet<String>,
    rows: Vec<Row>,
}

/// A row of a table: fields, their effect, the limits for their writers, and the tests of these limits.
pub struct Row {
    pub text: String,
    patterns: Vec<Pattern>,
    reach: String,
    pub stops: String,
    pub tests: Vec<String>,
}

/// A field, or all fields below one or several fields, with their number.
enum Pattern {
    Field(String),
    Below { starts: Vec<String>, number: usize },
}

impl Page {
    /// Parses the page. The top of the page describes the format.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut page = Self::default();
        let (mut chapter, mut kinds) = (String::new(), Vec::new());
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                title.clone_into(&mut chapter);
                kinds.clear();
            } else if let Some(title) = line.strip_prefix("### ") {
                kinds = title.split(", ").map(str::to_owned).collect();
                for kind in &kinds {
                    page.sections.entry(kind.clone()).or_default();
                }
            } else if let Some(writers) = line.strip_prefix("Roles that may write it: ") {
                for kind in &kinds {
                    let section = page.sections.get_mut(kind).unwrap();
                    section.writers = quoted(writers).map(str::to_owned).collect();
                }
            }
            let Some(cells) = cells(line) else {
                continue;
            };
            page.take(&chapter, &kinds, &cells);
        }
        page
    }

    fn take(&mut self, chapter: &str, kinds: &[String], cells: &[&str]) {
        match chapter {
            "Principals" => {
                self.principals.insert(cells[0].to_owned());
                self.acting.push(Row::of(cells));
            }
            "Metadata" => self.metadata.rows.push(Row::of(cells)),
            "Labels and annotations" => {
                self.keys.extend(quoted(cells[0]).map(str::to_owned));
                self.keyed.push(Row::of(cells));
            }
            "Kinds" => {
                for kind in kinds {
                    let section = self.sections.get_mut(kind).unwrap();
                    section.rows.push(Row::of(cells));
                }
            }
            "Kinds without reach" => {
                self.without_reach
                    .extend(quoted(cells[0]).map(str::to_owned));
            }
            _ => {}
        }
    }

    /// All rows, each with its section.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &Row)> {
        let of_kinds = self.sections.iter();
        let of_kinds =
            of_kinds.flat_map(|(kind, section)| section.rows.iter().map(move |row| (&**kind, row)));
        let metadata = self.metadata.rows.iter().map(|row| ("metadata", row));
        let keyed = self.keyed.iter().map(|row| ("labels and annotations", row));
        let acting = self.acting.iter().map(|row| ("principals", row));
        of_kinds.chain(metadata).chain(keyed).chain(acting)
    }
}

impl Section {
    /// The differences between the rows and the served fields.
    pub fn differences(&self, served: &BTreeSet<String>) -> impl Iterator<Item = String> {
        let patterns = || self.rows.iter().flat_map(|row| &row.patterns);
        let mut differences = Vec::new();
        for field in served {
            match patterns().filter(|pattern| pattern.covers(field)).count() {
                1 => {}
                0 => differences.push(format!("{field} has no row")),
                _ => differences.push(format!("{field} has several rows")),
            }
        }
        for pattern in patterns() {
            let number = served.iter().filter(|field| pattern.covers(field)).count();
            let (expected, name) = (pattern.number(), pattern.name());
            if expected != number {
                differences.push(format!(
                    "{name}: {number} fields are served, {expected} expected"
                ));
            }
        }
        differences.into_iter()
    }
}

impl Row {
    fn of(cells: &[&str]) -> Self {
        let cell = |index: usize| match cells.get(index).copied() {
            None | Some("–") => "",
            Some(text) => text,
        };
        Self {
            text: cells[0].to_owned(),
            patterns: patterns(cells[0]),
            reach: cell(1).to_owned(),
            stops: cell(2).to_owned(),
            tests: quoted(cell(3)).map(str::to_owned).collect(),
        }
    }

    pub fn has_reach(&self) -> bool {
        !self.reach.is_empty()
    }
}

impl Pattern {
    fn covers(&self, field: &str) -> bool {
        match self {
            Self::Field(name) => name == field,
            Self::Below { starts, .. } => starts.iter().any(|start| field.starts_with(start)),
        }
    }

    /// The number of fields that the pattern must cover.
    fn number(&self) -> usize {
        match self {
            Self::Field(_) => 1,
            Self::Below { number, .. } => *number,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Field(name) => name.clone(),
            Self::Below { starts, .. } => starts.join(", "),
        }
    }
}

/// The cells of a table row; `None` for the head of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let cells: Vec<&str> = inner.split(" | ").map(str::trim).collect();
    let is_head = ["field", "principal", "key", "kinds"].contains(&cells[0]);
    (!is_head).then_some(cells)
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The fields of a cell: `` `a`, `b[].{c,d}`, `e.**` (12) ``.
fn patterns(cell: &str) -> Vec<Pattern> {
    let parts: Vec<&str> = cell.split('`').collect();
    let texts = parts.iter().enumerate().skip(1).step_by(2);
    let all = texts.flat_map(|(index, text)| {
        let after = parts.get(index + 1).copied().unwrap_or_default();
        let number = after.trim_start().strip_prefix('(');
        let number = number.and_then(|rest| rest.split(')').next()?.parse().ok());
        let starts = text.strip_suffix("**").map(expanded);
        match (starts, number) {
            (Some(starts), Some(number)) => vec![Pattern::Below { starts, number }],
            _ => expanded(text).into_iter().map(Pattern::Field).collect(),
        }
    });
    all.collect()
}

/// A path with each alternative of `{a,b}`. `{}` marks a map.
fn expanded(text: &str) -> Vec<String> {
    let without_marks = text.replace("{}", "##");
    let choice = without_marks.find('{').and_then(|start| {
        let length = without_marks[start..].find('}')?;
        Some((start, start + length))
    });
    let Some((start, end)) = choice else {
        return vec![text.to_owned()];
    };
    let (before, after) = (&text[..start], &text[end + 1..]);
    text[start + 1..end]
        .split(',')
        .flat_map(|one| expanded(&format!("{before}{one}{after}")))
        .collect()
}
