//! A rule on the English of documents and of documentation comments: no sentence starts with a free
//! relative clause ("What …", "Whoever …"), and the first one of a module with no other clause in
//! place of a noun ("How …", "Which …"). Such a sentence has no noun that a reader can search for. The
//! documentation of a public item makes sense without that of the item before it: it does not start
//! with "The same …" or "Those …".

use super::checkout::{Finding, SourceFile};

/// The first words of a free relative clause.
const WORDS: [&str; 5] = ["what", "who", "whoever", "whatever", "whichever"];

/// The first words of other clauses in place of a noun. A module's first sentence has none of them.
const QUESTION_WORDS: [&str; 9] = [
    "how", "that", "when", "where", "whether", "which", "whom", "whose", "why",
];

/// The first words of documentation that refers to the item before it.
const REFERENCES: [&str; 3] = ["The same", "Those ", "One of them"];

/// Checks all documents, the documentation of each module, and that of each item.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let is_source = file.path.ends_with(".rs");
        let (first, texts) = match file.path.rsplit_once('.') {
            Some((_, "md")) => (String::new(), blocks(&file.text)),
            Some((_, "rs")) => (first_sentence(&file.text), comments(&file.text)),
            _ => continue,
        };
        findings.extend(references(file).into_iter().map(|text| Finding {
            file: file.path.clone(),
            text,
        }));
        let in_first = |word: &str| is_source && QUESTION_WORDS.contains(&word);
        let in_all = |word: &str| WORDS.contains(&word);
        let clauses_of = clauses(&first, in_first).into_iter();
        for sentence in clauses_of.chain(texts.iter().flat_map(|text| clauses(text, in_all))) {
            let start: String = sentence.chars().take(60).collect();
            findings.push(Finding {
                file: file.path.clone(),
                text: format!(
                    "a sentence starts with a free relative clause: \"{start}\"; name the thing"
                ),
            });
        }
    }
    findings
}

/// The documentation of public items that refers to the item before it.
fn references(file: &SourceFile) -> Vec<String> {
    let mut clauses_of = Vec::new();
    let mut first: Option<&str> = None;
    for line in file.text.lines().map(str::trim_start) {
        if let Some(text) = line.strip_prefix("/// ") {
            first.get_or_insert(text);
            continue;
        }
        if line.starts_with("///") || line.starts_with("#[") {
            continue;
        }
        let text = first.take().unwrap_or_default();
        let is_reference = REFERENCES.iter().any(|words| text.starts_with(words));
        if is_reference && is_item(line) {
            clauses_of.push(format!(
                "documentation starts with \"{text}\"; say what the item is, without the one before it"
            ));
        }
    }
    clauses_of
}

/// Whether a public function, type or constant is declared in this line.
fn is_item(line: &str) -> bool {
    let mut words = line.split(' ');
    let is_public = words.next().is_some_and(|word| word.starts_with("pub"));
    let declaring = ["const", "enum", "fn", "static", "struct", "trait", "type"];
    is_public && words.take(3).any(|word| declaring.contains(&word))
}

/// The first sentence of a module's documentation; empty if there is none.
fn first_sentence(source: &str) -> String {
    let lines = source.lines().filter_map(|line| line.strip_prefix("//!"));
    let paragraph: Vec<&str> = lines
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let paragraph = paragraph.join(" ");
    let end = end_of_sentence(&paragraph).unwrap_or(paragraph.len());
    paragraph.get(..end).unwrap_or_default().to_owned()
}

/// The paragraphs and list items of the documentation comments of a source file.
fn comments(source: &str) -> Vec<String> {
    let lines = source.lines().map(|line| {
        let line = line.trim_start();
        let text = line.strip_prefix("///").or(line.strip_prefix("//!"));
        text.unwrap_or_default()
    });
    blocks(&lines.collect::<Vec<_>>().join("\n"))
}

/// The paragraphs, list items, headings and table cells of a document, without code.
fn blocks(document: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    let mut in_code = false;
    for line in document.lines().map(str::trim) {
        if line.starts_with("```") {
            in_code = !in_code;
            blocks.push(String::new());
        } else if in_code {
            continue;
        } else if line.starts_with('|') {
            blocks.extend(line.trim_matches('|').split('|').map(str::to_owned));
            blocks.push(String::new());
        } else if line.is_empty() || line.starts_with(['#', '-', '*', '+']) || is_numbered(line) {
            blocks.push(line.trim_start_matches(['#', '-', '+', ' ']).to_owned());
        } else if let Some(block) = blocks.last_mut() {
            block.push(' ');
            block.push_str(line);
        }
    }
    blocks
}

/// Whether a line begins an item of a numbered list.
fn is_numbered(line: &str) -> bool {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    rest.len() < line.len() && rest.starts_with(". ")
}

/// The sentences of a text that start with a wrong word and are not questions.
fn clauses(text: &str, is_wrong: impl Fn(&str) -> bool) -> Vec<&str> {
    sentences(text)
        .into_iter()
        .filter(|sentence| {
            let bare = sentence.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '`');
            let word: String = bare.chars().take_while(|c| c.is_alphabetic()).collect();
            is_wrong(&word.to_lowercase()) && !sentence.trim_end().ends_with('?')
        })
        .collect()
}

/// Splits a text into sentences, with their final marks.
fn sentences(text: &str) -> Vec<&str> {
    let mut rest = text;
    let mut sentences = Vec::new();
    while let Some(end) = end_of_sentence(rest) {
        let (sentence, after) = rest.split_at(end);
        sentences.push(sentence);
        rest = after;
    }
    sentences.push(rest);
    sentences
}

/// The index after the first mark that ends a sentence and is followed by a space or a closing
/// mark.
fn end_of_sentence(text: &str) -> Option<usize> {
    text.char_indices().find_map(|(at, mark)| {
        let behind = at + mark.len_utf8();
        let next = text.get(behind..)?.chars().next()?;
        (".?!".contains(mark) && (next.is_whitespace() || "*)\"".contains(next))).then_some(behind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clauses_of(document: &str) -> Vec<String> {
        let file = SourceFile::new("docs/a.md", document);
        check(&[file]).into_iter().map(|f| f.text).collect()
    }

    #[test]
    fn free_relative_clauses_are_found() {
        for document in [
            "What is kept stays.",
            "It works.\nWhoever asks gets 401.",
            "- one\n- What is left goes",
            "1. What is left goes",
            "**What memory is available, the kernel says.** It is `MemAvailable`.",
            "**A title.** What follows is a reason.",
            "| a | b |\n|---|---|\n| x | what it does |",
            "## What is needed",
        ] {
            assert_eq!(
                clauses_of(document).len(),
                1,
                "{document}: {:?}",
                clauses_of(document)
            );
        }
    }

    #[test]
    fn questions_code_and_other_sentences_are_not() {
        for document in [
            "What may a user do?",
            "The page says what is kept.",
            "```\nWhat is code\n```",
            "Whole sets are measured.",
            "Version 1.2. The rest.",
        ] {
            assert_eq!(clauses_of(document), Vec::<String>::new(), "{document}");
        }
    }

    #[test]
    fn documentation_comments_count() {
        let source = |text: &str| SourceFile::new("crates/a/src/b.rs", text);
        for wrong in [
            "//! What a store\n//! does. The rest.\n\nfn f() {}\n",
            "//! How a store works.\n",
            "//! The work of a store. What follows counts too.\n",
            "struct A {\n    /// Who\n    /// asks.\n    pub user: String,\n}\n",
            "/// A list:\n/// - What is first\nfn f() {}\n",
            "/// The same in JSON.\n///\n/// # Errors\n/// None.\n#[inline]\npub(crate) async fn f() {}\n",
            "/// Those of a node.\npub struct F;\n",
        ] {
            assert_eq!(check(&[source(wrong)]).len(), 1, "{wrong}");
        }
        for right in [
            "//! The work of a store.\n",
            "/// How many there are.\nfn f() {}\n",
            "/// The same in JSON.\nfn f() {}\n",
            "pub struct A {\n    /// The same in JSON.\n    pub json: String,\n}\n",
            "// What is no documentation is not looked at.\nfn f() {}\n",
        ] {
            assert_eq!(check(&[source(right)]), Vec::new(), "{right}");
        }
    }

    #[test]
    fn contracts_are_judged() {
        let file = SourceFile::new("docs/contract/a.md", "What is quoted.");
        assert_eq!(check(&[file]).len(), 1);
    }
}
