//! The table as a page of the documentation.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use json_tree::Value;
use serde::Deserialize;

use super::{Chapter, Deed, RequestRow, Row, StoredValues};

const INTRODUCTION: &str = "\
# Requests and replies

This page lists requests to the API server, the replies, and the rule for each reply. It is generated from the rows in
`crates/api-tests/tests/api/requests`. Every run of the tests sends these requests to the whole server
(`cargo test -p api-tests --test api requests`). `UPDATE_DOCUMENTS=1` generates the page again.

A reply may have more fields than shown. `*` is any value, `…` any text, `null` a missing field, and `$name` a value from an
earlier reply.
";

/// A document that contains rules.
#[derive(Deserialize)]
struct Source {
    title: String,
    url: String,
}

/// Fails if the page in `docs` differs from the chapters; if requested, rewrites the page instead.
pub fn compare(chapters: &[Chapter]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/requests.md");
    let page = page(chapters);
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let existing = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        existing == page,
        "docs/requests.md is out of date; UPDATE_DOCUMENTS=1 makes it anew"
    );
}

fn page(chapters: &[Chapter]) -> String {
    let sources: BTreeMap<String, Source> =
        serde_saphyr::from_str(include_str!("sources.yaml")).unwrap();
    let names = StoredValues::new();
    let mut page = INTRODUCTION.to_owned();
    for chapter in chapters {
        write!(page, "\n## {}\n\n", chapter.title).unwrap();
        for setup in &chapter.setup {
            writeln!(page, "Given `{}`  ", names.fill(setup)).unwrap();
        }
        if !chapter.setup.is_empty() {
            page.push('\n');
        }
        page.push_str("| request | content | reply | rule |\n|---|---|---|---|\n");
        for row in &chapter.rows {
            match row {
                Row::Do(Deed::Compact) => page.push_str("| | *all history is forgotten* | | |\n"),
                Row::Request(row_request) => {
                    let cells = [
                        request(row_request, &names),
                        row_request.says.clone(),
                        reply(row_request),
                        rule(&row_request.rule, &sources),
                    ];
                    writeln!(page, "| {} |", cells.join(" | ")).unwrap();
                }
            }
        }
    }
    page
}

fn request(request: &RequestRow, names: &StoredValues) -> String {
    let mut lines = vec![code(
        &names
            .fill(&request.request)
            .replace(&"x".repeat(129), "xxx…"),
    )];
    lines.extend(request.user.iter().map(|user| format!("as {user}")));
    let mut header = |name: &str, value: &str| lines.push(code(&format!("{name}: {value}")));
    if let Some(accept) = &request.accept {
        header("accept", accept);
    }
    if let Some(content_type) = &request.content_type {
        header("content-type", content_type);
    }
    for (name, value) in &request.with {
        header(name, value);
    }
    if let Some(json) = &request.json {
        lines.push(code(&json.to_string()));
    }
    if let Some(text) = request.text_sent.as_ref().filter(|text| !text.is_empty()) {
        lines.push(code(&text.escape_debug().to_string()));
    }
    lines.extend(request.padding.map(|bytes| format!("{bytes} bytes")));
    lines.join("<br>")
}

fn reply(request: &RequestRow) -> String {
    let mut lines = vec![request.code.to_string()];
    for (name, value) in &request.head {
        lines.push(match value {
            Some(value) => code(&format!("{name}: {value}")),
            None => format!("no `{name}`"),
        });
    }
    if !request.reply.is_null() {
        lines.push(code(&request.reply.to_string()));
    }
    for event in request.events.iter().flatten() {
        lines.push(code(&event.to_string()));
    }
    if request.events.as_ref().is_some_and(Vec::is_empty) {
        lines.push("no events".to_owned());
    }
    match request.text.as_deref() {
        None => {}
        Some("") => lines.push("no body".to_owned()),
        Some(text) => lines.push(code(&Value::from(text).to_string())),
    }
    lines.join("<br>")
}

fn rule(rule: &str, sources: &BTreeMap<String, Source>) -> String {
    let (source, part) = rule.split_once('#').expect("a source and a part of it");
    let Source { title, url } = sources
        .get(source)
        .unwrap_or_else(|| panic!("no source {source}"));
    if part.is_empty() {
        return format!("[{title}]({url})");
    }
    let words = part.replace('-', " ").replace("section ", "section\u{a0}");
    format!("[{title}: {words}]({url}#{part})")
}

/// Code in a cell of a table.
fn code(text: &str) -> String {
    let text = text.replace('|', "\\|");
    if text.contains('`') {
        format!("`` {text} ``")
    } else {
        format!("`{text}`")
    }
}
