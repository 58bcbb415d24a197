//! The lengths of documents that are read as a whole, in words.

use super::checkout::{Finding, SourceFile};
use super::decisions;

/// Documents with a limit, and the limit.
const LIMITS: &[(&str, usize)] = &[
    ("ARCHITECTURE.md", 4000),
    ("docs/contributing/performance.md", 4000),
];

/// The limit of a record in `docs/decisions`.
const RECORD_WORDS_MAX: usize = 250;

/// Checks the documents with a limit and each record of a decision.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let limited = files.iter().filter_map(|file| {
        let limit = limit_of(&file.path)?;
        let words = file.text.split_whitespace().count();
        (words > limit).then(|| Finding {
            file: file.path.clone(),
            text: format!("has {words} words, and the limit is {limit}: shorten it"),
        })
    });
    limited.collect()
}

fn limit_of(path: &str) -> Option<usize> {
    if decisions::is_record(path) {
        return Some(RECORD_WORDS_MAX);
    }
    let limit = LIMITS.iter().find(|(limited, _)| *limited == path);
    limit.map(|(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_above_their_limit_are_findings() {
        let words = |count: usize| "word\n".repeat(count);
        let findings = check(&[
            SourceFile::new("ARCHITECTURE.md", words(4001)),
            SourceFile::new("docs/contributing/performance.md", words(4000)),
            SourceFile::new("docs/decisions/001-a.md", words(251)),
            SourceFile::new("docs/decisions/README.md", words(251)),
            SourceFile::new("docs/storage.md", words(9000)),
        ]);
        let files: Vec<&str> = findings
            .iter()
            .map(|finding| finding.file.as_str())
            .collect();
        assert_eq!(files, ["ARCHITECTURE.md", "docs/decisions/001-a.md"]);
    }
}
