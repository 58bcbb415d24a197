//! The table "Where do I find" of `docs/contributing/README.md`: each row has a behaviour and the one path
//! of its code, which exists.

use super::checkout::{Finding, SourceFile, is_whole};

const PAGE: &str = "docs/contributing/README.md";
const HEADING: &str = "## Where do I find …";

/// The fewest rows.
const ROWS_MIN: usize = 20;

/// Checks the table.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else {
        return Vec::new();
    };
    let section = page.text.split_once(HEADING).map_or("", |(_, rest)| rest);
    let section = section
        .split_once("\n## ")
        .map_or(section, |(part, _)| part);
    let rows = section.lines().filter(|line| line.starts_with("| "));
    // Without the head of the table.
    let rows: Vec<&str> = rows.skip(1).collect();
    let mut texts = Vec::new();
    let mut named = Vec::new();
    for row in &rows {
        let paths: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let [path] = paths[..] else {
            texts.push(format!("the row `{row}` has not exactly one path"));
            continue;
        };
        if named.contains(&path) {
            texts.push(format!("two rows name `{path}`"));
        }
        named.push(path);
        let folder = format!("{}/", path.trim_end_matches('/'));
        if !files
            .iter()
            .any(|file| file.path == path || file.path.starts_with(&folder))
        {
            texts.push(format!("a row names `{path}`, which does not exist"));
        }
    }
    if is_whole(files) && rows.len() < ROWS_MIN {
        texts.push(format!(
            "the table has {} rows, and at least {ROWS_MIN} are needed",
            rows.len()
        ));
    }
    let finding = |text: String| Finding {
        file: PAGE.to_owned(),
        text,
    };
    texts.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_one_existing_path_are_findings() {
        let page = "## Where do I find …\n\n| behaviour | path |\n|---|---|\n\
                    | a file | `crates/a/src/b.rs` |\n| a folder | `crates/a/src` |\n\
                    | gone | `crates/a/src/c.rs` |\n| twice | `crates/a/src` |\n\
                    | two | `crates/a` `crates/a/src/b.rs` |\n\n## Later\n\n| x | `y` |\n";
        let findings = check(&[
            SourceFile::new(PAGE, page),
            SourceFile::new("crates/a/src/b.rs", ""),
        ]);
        let texts: Vec<&str> = findings
            .iter()
            .map(|finding| finding.text.as_str())
            .collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].contains("c.rs") && texts[1].contains("two rows"));
        assert!(texts[2].contains("exactly one path"));
    }

    #[test]
    fn a_short_table_is_a_finding() {
        let findings = check(&[
            SourceFile::new(PAGE, HEADING),
            SourceFile::new("Cargo.toml", ""),
        ]);
        assert_eq!(findings.len(), 1, "{findings:?}");
    }
}
