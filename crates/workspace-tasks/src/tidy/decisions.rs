//! The records of decisions in `docs/decisions`: their numbers have no gap, each has a date and the three
//! parts, and the index page lists each with its title and date.

use super::checkout::{Finding, SourceFile, is_whole};

const FOLDER: &str = "docs/decisions/";
const INDEX: &str = "docs/decisions/README.md";

/// The parts of a record, in this order.
const PARTS: [&str; 3] = ["\n## Context\n", "\n## Decision\n", "\n## Consequence\n"];

/// Whether the file is a record, and not the index page.
pub fn is_record(path: &str) -> bool {
    path.starts_with(FOLDER) && path.ends_with(".md") && path != INDEX
}

/// Checks the records and their index.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let index = files.iter().find(|file| file.path == INDEX);
    let index = index.map_or("", |file| file.text.as_str());
    let mut findings = Vec::new();
    let mut rows = Vec::new();
    let mut report = |file: &str, text: String| {
        findings.push(Finding {
            file: file.to_owned(),
            text,
        });
    };
    let records = files.iter().filter(|file| is_record(&file.path));
    for (position, file) in records.enumerate() {
        let name = file.path.trim_start_matches(FOLDER);
        let number = format!("{:03}", position + 1);
        if !name.starts_with(&format!("{number}-")) {
            report(&file.path, format!("is not named {number}-TITLE.md"));
        }
        match row(name, &file.text) {
            Ok(row) => {
                if !index.lines().any(|line| line == row) {
                    report(INDEX, format!("has no row `{row}`"));
                }
                rows.push(row);
            }
            Err(reason) => report(&file.path, reason.to_owned()),
        }
    }
    if is_whole(files) && rows.is_empty() {
        report(INDEX, "lists no record".to_owned());
    }
    findings
}

/// The row of a record in the index page.
fn row(name: &str, text: &str) -> Result<String, &'static str> {
    let (title, rest) = text
        .strip_prefix("# ")
        .and_then(|text| text.split_once("\n\n"))
        .ok_or("starts with no title")?;
    let date = rest
        .strip_prefix("Date: ")
        .and_then(|rest| rest.get(..10))
        .filter(|date| is_date(date))
        .ok_or("has no line `Date: YYYY-MM-DD` after the title")?;
    let mut after = rest;
    for part in PARTS {
        after = after
            .split_once(part)
            .map(|(_, after)| after)
            .ok_or("lacks one of the parts Context, Decision, Consequence, in this order")?;
    }
    let number = name.get(..3).unwrap_or_default();
    Ok(format!("| {number} | [{title}]({name}) | {date} |"))
}

fn is_date(text: &str) -> bool {
    let shape = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c });
    shape.eq("0000-00-00".chars())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "# A title\n\nDate: 2026-11-20\n\n## Context\n\na\n\n## Decision\n\nb\n\n## Consequence\n\nc\n";

    fn texts(files: &[SourceFile]) -> Vec<String> {
        check(files)
            .into_iter()
            .map(|finding| finding.text)
            .collect()
    }

    #[test]
    fn a_whole_record_with_its_row_is_no_finding() {
        let files = [
            SourceFile::new("docs/decisions/001-a.md", RECORD),
            SourceFile::new(INDEX, "| 001 | [A title](001-a.md) | 2026-11-20 |\n"),
        ];
        assert_eq!(texts(&files), Vec::<String>::new());
    }

    #[test]
    fn faults_of_records_are_findings() {
        for (name, text) in [
            ("001-a.md", RECORD.replace("Date: 2026-11-20", "2026-11-20")),
            ("001-a.md", RECORD.replace("## Decision", "## Decided")),
            ("001-a.md", RECORD.replace("# A title", "A title")),
            ("001-a.md", RECORD.to_owned()),
            ("002-a.md", RECORD.to_owned()),
        ] {
            let record = SourceFile::new(format!("docs/decisions/{name}"), text.as_str());
            let index = SourceFile::new(INDEX, "| 002 | [A title](002-a.md) | 2026-11-20 |\n");
            assert_eq!(texts(&[record, index]).len(), 1, "{name}: {text}");
        }
    }
}
