//! The text of a refusal: a unified diff of both versions as JSON.

use json_tree::Value;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

/// Number of unchanged lines around a change.
const CONTEXT: usize = 3;
/// Maximum number of line comparisons; a larger diff replaces the whole text.
const COMPARISONS_MAX: usize = 4_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Removed(&'a str),
    Added(&'a str),
}

/// The changes from one value to another as hunks; empty if the values are equal.
pub(super) fn unified(old: &Value, new: &Value) -> String {
    let (old, new) = (pretty(old), pretty(new));
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    let lines = compared(&old, &new);
    let changed: Vec<usize> = (0..lines.len())
        .filter(|index| !matches!(lines[*index], Line::Same(_)))
        .collect();
    let mut text = String::new();
    let mut rest = changed.as_slice();
    while let Some((&first, _)) = rest.split_first() {
        let near = |pair: &[usize]| pair[1] - pair[0] <= 2 * CONTEXT + 1;
        let count = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
        let (hunk, others) = rest.split_at(count);
        let last = hunk.last().copied().unwrap_or(first);
        let start = first.saturating_sub(CONTEXT);
        let end = (last + CONTEXT + 1).min(lines.len());
        write_hunk(&lines, start, end, &mut text);
        rest = others;
    }
    text
}

fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" "));
    // The serialisation of a value to memory cannot fail.
    if sorted(value).serialize(&mut serializer).is_err() {
        bytes.clear();
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// Sorts the fields, because their order is not a difference.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            let fields = fields.into_iter();
            Value::Object(
                fields
                    .map(|(name, field)| (name.clone(), sorted(field)))
                    .collect(),
            )
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        plain => plain.clone(),
    }
}

/// The lines of both versions; between common lines, removed lines are before added lines.
fn compared<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let before = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) = (&old[before..], &new[before..]);
    let pairs = old_rest.iter().rev().zip(new_rest.iter().rev());
    let after = pairs.take_while(same).count();
    let old_middle = &old_rest[..old_rest.len() - after];
    let new_middle = &new_rest[..new_rest.len() - after];
    let mut lines: Vec<Line<'a>> = old[..before].iter().map(|line| Line::Same(line)).collect();
    lines.extend(middle(old_middle, new_middle));
    let end = &old[old.len() - after..];
    lines.extend(end.iter().map(|line| Line::Same(line)));
    lines
}

fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let width = new.len() + 1;
    let mut common = Vec::new();
    if old.len().saturating_mul(new.len()) <= COMPARISONS_MAX {
        // The lengths of the longest common subsequences of all suffixes.
        common = vec![0_u32; (old.len() + 1) * width];
        for (i, left) in old.iter().enumerate().rev() {
            for (j, right) in new.iter().enumerate().rev() {
                common[i * width + j] = if left == right {
                    common[(i + 1) * width + j + 1] + 1
                } else {
                    common[(i + 1) * width + j].max(common[i * width + j + 1])
                };
            }
        }
    }
    let length = |i: usize, j: usize| common.get(i * width + j).copied().unwrap_or_default();
    let (mut lines, mut added) = (Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] && length(i, j) > 0 {
            lines.append(&mut added);
            lines.push(Line::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (j == new.len() || length(i + 1, j) >= length(i, j + 1)) {
            lines.push(Line::Removed(old[i]));
            i += 1;
        } else {
            added.push(Line::Added(new[j]));
            j += 1;
        }
    }
    lines.append(&mut added);
    lines
}

fn write_hunk(lines: &[Line<'_>], start: usize, end: usize, text: &mut String) {
    let of_old = |lines: &[Line<'_>]| count(lines, |line| !matches!(line, Line::Added(_)));
    let of_new = |lines: &[Line<'_>]| count(lines, |line| !matches!(line, Line::Removed(_)));
    let hunk = &lines[start..end];
    let old = range(of_old(&lines[..start]), of_old(hunk));
    let new = range(of_new(&lines[..start]), of_new(hunk));
    text.push_str(&format!("@@ -{old} +{new} @@\n"));
    for line in hunk {
        let (sign, content) = match line {
            Line::Same(content) => (' ', content),
            Line::Removed(content) => ('-', content),
            Line::Added(content) => ('+', content),
        };
        text.push(sign);
        text.push_str(content);
        text.push('\n');
    }
}

fn count(lines: &[Line<'_>], is_match: impl Fn(&Line<'_>) -> bool) -> usize {
    lines.iter().filter(|line| is_match(line)).count()
}

/// Line numbers of a hunk header: start at 1, without the count if it is 1; for an empty range, the number of the
/// line before.
fn range(before: usize, count: usize) -> String {
    match count {
        0 => format!("{before},0"),
        1 => format!("{}", before + 1),
        _ => format!("{},{count}", before + 1),
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn changes_are_shown_with_what_is_around_them() {
        let old = json!({"a": 1, "b": [1, 2], "c": {"d": "e"}});
        let mut new = old.clone();
        new["c"]["d"] = json!("f");
        assert_eq!(
            unified(&old, &new),
            "@@ -5,6 +5,6 @@\n   2\n  ],\n  \"c\": {\n-  \"d\": \"e\"\n+  \"d\": \"f\"\n  }\n }\n"
        );
        assert_eq!(unified(&old, &old), "");
        assert_eq!(
            unified(&old, &json!({"c": {"d": "e"}, "b": [1, 2], "a": 1})),
            ""
        );
        assert_eq!(unified(&json!(1), &json!(2)), "@@ -1 +1 @@\n-1\n+2\n");
    }

    #[test]
    fn changes_far_apart_are_shown_apart() {
        let old: Vec<u32> = (0..40).collect();
        let mut new = old.clone();
        new[2] = 100;
        new[30] = 200;
        let text = unified(&json!(old), &json!(new));
        assert_eq!(text.matches("@@ -").count(), 2, "{text}");
        new.truncate(20);
        let text = unified(&json!(old), &json!(new));
        assert_eq!(text.matches("\n-").count(), 22, "{text}");
        assert_eq!(text.matches("\n+").count(), 2, "{text}");
    }

    #[test]
    fn what_differs_too_much_is_replaced() {
        let old: Vec<String> = (0..3000).map(|n| format!("a{n}")).collect();
        let new: Vec<String> = (0..3000).map(|n| format!("b{n}")).collect();
        let text = unified(&json!(old), &json!(new));
        assert!(text.starts_with("@@ -1,3002 +1,3002 @@\n [\n- \"a0\",\n- \"a1\",\n"));
    }
}
